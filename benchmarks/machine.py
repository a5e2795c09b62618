# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The machine that a run was measured on: what its records must be read with."""

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer
from benchmarks.decode_pool import normal
from benchmarks.gpu_timing import Chain, Settings
from benchmarks.harness import measure
from jaxinfer import _native

PEERS = (
    "flashinfer-python",
    "flash-attn3-jax",
    "torch",
    "triton",
    "flax",
    "nvidia-cudnn-cu13",
    "nvidia-cublas",
)


def is_gpu() -> bool:
    """Whether programs run on an NVIDIA GPU unless told otherwise."""
    return jax.default_backend() == "gpu"


def own_implementation() -> str:
    """The name of our kernels here; asked for by name, they run or raise."""
    return "cuda" if is_gpu() else "cpu"


def machine(commit: str | None = None) -> dict[str, Any]:
    """Versions, names and the read bandwidth.

    Args:
      commit: of the sources; None = asks git, which a copy of the files has not.
    """
    device = jax.devices()[0]
    meta = {
        "commit": commit or _commit(),
        "device": device.device_kind if is_gpu() else _cpu_name(),
        "cores": os.cpu_count(),
        "isa": _native.cpu_isa,
        "python": platform.python_version(),
        "jaxinfer": jaxinfer.__version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if is_gpu():
        meta |= _nvidia()
        meta["peers"] = {name: v for name in PEERS if (v := _version(name))}
        meta["read_tbps"] = round(device_read_bandwidth(), 4)
    else:
        meta["read_tbps"] = round(read_bandwidth(), 4)
    return meta


def read_bandwidth() -> float:
    """TB/s at which this machine reads memory: a dot product far larger than caches."""
    x = np.ones(2**27, np.float32)
    best = min(measure(lambda _: np.dot(x, x), repeats=10)["us_min"] for _ in range(2))
    return x.nbytes / best / 1e6


def device_read_bandwidth(size: int = 2**30) -> float:
    """TB/s at which XLA reduces an array far larger than the L2."""
    x = normal(jax.random.key(0), (size,), 1.0, "bfloat16")

    def call(state, x, _):
        return jnp.maximum(x, state).max()  # differs from call to call

    start = jnp.zeros((), jnp.bfloat16)
    chain = Chain(call, start, x, [()], Settings())
    return x.nbytes / chain.measure(start, [()])["us"] / 1e6


def _commit() -> str:
    return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "-s") else "")


def _git(*arguments: str) -> str:
    return _output("git", "-C", str(Path(__file__).parent), *arguments)


def _nvidia() -> dict[str, Any]:
    fields = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    query = f"--query-gpu={fields}"
    text = _output("nvidia-smi", query, "--format=csv,noheader", "--id=0")
    values = [value.strip() for value in text.split(",")]
    if len(values) != 5:
        values = [""] * 5
    names = ("sm at the start", "memory", "most of sm", "power limit")
    return {
        "driver": values[0],
        "cuda": _version("nvidia-cuda-runtime") or _version("jax-cuda12-plugin"),
        "clocks": dict(zip(names, values[1:], strict=True)),
    }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
