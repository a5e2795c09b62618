# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Runs the benchmark of a peer in PyTorch in its own process, for a limited time."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import failure
from benchmarks.mixed_cells import MIXED
from benchmarks.prefill_cells import PREFILL


@dataclasses.dataclass(frozen=True)
class Peer:
    """A benchmark that runs apart.

    Attributes:
      impl: its name in a record that says why there is none.
      benchmark: the same.
      module: of benchmarks.peers, to be run.
      packages: that it needs.
    """

    impl: str
    benchmark: str
    module: str
    packages: tuple[str, ...]


FLASHINFER = Peer("flashinfer", "decode", "flashinfer", ("torch", "flashinfer"))
FLASHINFER_PREFILL = dataclasses.replace(FLASHINFER, benchmark=PREFILL)
FLASHINFER_MIXED = dataclasses.replace(FLASHINFER, benchmark=MIXED)
FLEX_ATTENTION = Peer("flex_attention", "variants", "flex_attention", ("torch",))
FLEX_PREFILL = dataclasses.replace(FLEX_ATTENTION, benchmark=PREFILL)
TORCH_CUDNN = Peer("torch cudnn", PREFILL, "torch_cudnn", ("torch",))


def peer_records(
    peer: Peer, arguments: Sequence[str], seconds: float
) -> Iterator[dict[str, Any]]:
    """Its records as it prints them; one more that says why, if it ends badly.

    Args:
      peer: which.
      arguments: of its module.
      seconds: after which it is ended.
    """
    for package in peer.packages:
        if importlib.util.find_spec(package) is None:
            missing = ModuleNotFoundError(f"No module named {package!r}")
            yield failure(peer.benchmark, "", peer.impl, missing)
            return
    with tempfile.TemporaryDirectory() as folder:
        yield from _run(peer, arguments, seconds, folder)


def flashinfer_records(
    arguments: Sequence[str], seconds: float
) -> Iterator[dict[str, Any]]:
    """peer_records of FlashInfer."""
    return peer_records(FLASHINFER, arguments, seconds)


def _run(
    peer: Peer, arguments: Sequence[str], seconds: float, folder: str
) -> Iterator[dict]:
    defaults = {
        "FLASHINFER_WORKSPACE_BASE": os.environ.get("TMPDIR", tempfile.gettempdir()),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "TORCH_CUDA_ARCH_LIST": "9.0a",
        "FLASHINFER_LOGLEVEL": "0",
        "MAX_JOBS": str(os.cpu_count() or 1),
    }
    forced = {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    with open(Path(folder, "stderr"), "w+") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.peers.{peer.module}", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=defaults | os.environ | forced,
            cwd=Path(__file__).parents[2],
        )
        timer = threading.Timer(max(seconds, 1.0), child.kill)
        timer.start()
        assert child.stdout is not None
        noise: deque[str] = deque(maxlen=1)
        try:
            for line in child.stdout:
                try:
                    made = json.loads(line)
                except ValueError:
                    noise.append(line)  # compilers and libraries talk, too
                    continue
                if isinstance(made, dict) and "benchmark" in made:
                    yield made
        finally:
            late = not timer.is_alive()
            timer.cancel()
            child.kill()
            status = child.wait()
        if late:
            stopped = TimeoutError(f"stopped after {seconds:.0f} s")
            yield failure(peer.benchmark, "", peer.impl, stopped)
        elif status:
            errors.seek(0)
            last = deque((line for line in errors if line.strip()), maxlen=1)
            why = RuntimeError("".join(last) or f"exit status {status}")
            yield failure(peer.benchmark, "", peer.impl, why)
