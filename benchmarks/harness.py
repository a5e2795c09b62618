# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Timing, and the records that a run is stored as."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxinfer
from jaxinfer import _native


def measure(call: Callable[[int], Any], repeats: int = 20) -> dict[str, float]:
    """Wall time of call(i), in microseconds; i counts up, so that inputs may rotate."""
    for i in range(3):
        jax.block_until_ready(call(i))
    times = []
    for i in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call(i))
        times.append(1e6 * (time.perf_counter() - begin))
    return {
        "us": round(statistics.median(times), 2),
        "us_min": round(min(times), 2),
        "us_max": round(max(times), 2),
    }


def read_bandwidth() -> float:
    """TB/s at which this machine reads memory: a dot product far larger than caches."""
    x = np.ones(2**27, np.float32)
    best = min(measure(lambda _: np.dot(x, x), repeats=10)["us_min"] for _ in range(2))
    return x.nbytes / best / 1e6


def machine() -> dict[str, Any]:
    """What a record must be read with."""
    device = jax.devices()[0]
    return {
        "commit": _git("rev-parse", "HEAD")
        + ("-dirty" if _git("status", "-s") else ""),
        "device": _cpu_name() if device.platform == "cpu" else device.device_kind,
        "cores": os.cpu_count(),
        "isa": _native.cpu_isa,
        "python": platform.python_version(),
        "jaxinfer": jaxinfer.__version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "read_tbps": round(read_bandwidth(), 4),
    }


def _git(*arguments: str) -> str:
    root = Path(__file__).parent
    done = subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
