# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Where NVRTC is. Nothing is loaded here, except to ask the loader."""

import ctypes
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

INSTALL = (
    "pip install 'jax[cuda13]' (or 'jax[cuda12]'), or the compiler alone: "
    "pip install nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12"
)
_TOOLKIT = Path("/usr", "local", "cuda")
_SONAMES = ("libnvrtc.so.13", "libnvrtc.so.12")


class NvrtcUnavailable(RuntimeError):  # noqa: N818
    """NVRTC is missing, does not load, or is a version with a known defect."""


def find_nvrtc() -> str:
    """The path of libnvrtc, from the first of these places that has one.

    1. JAXINFER_NVRTC, a path, and then nothing else
    2. pip's packages: nvidia/cu13/lib, nvidia/cuda_nvrtc/lib
    3. the toolkits CUDA_HOME and CUDA_PATH
    4. the toolkit's default folder
    5. whatever the dynamic loader finds

    Raises:
      NvrtcUnavailable: if there is none, with the places and how to install it.
    """
    explicit = os.environ.get("JAXINFER_NVRTC")
    if explicit:
        if not Path(explicit).is_file():
            raise NvrtcUnavailable(
                "JAXINFER_NVRTC must be the path of libnvrtc.so.13 or .12, got "
                f"{explicit!r}, which is not a file"
            )
        return explicit
    looked = []
    for place, folders in _places():
        looked.append(place)
        for folder in folders:
            files = folder.glob("libnvrtc.so*")
            best = max(files, key=_numbers, default=None)
            if best is not None:
                return str(best)
    for soname in _SONAMES:
        looked.append(f"the dynamic loader's {soname}")
        path = _ask_loader(soname)
        if path is not None:
            return path
    places = "".join(f"\n  {place}" for place in looked)
    raise NvrtcUnavailable(
        "NVRTC, the compiler of jaxinfer's CUDA kernels, was not found. Install it: "
        f"{INSTALL}; or set JAXINFER_NVRTC to the path of libnvrtc. Looked in:{places}"
    )


def _places() -> Iterator[tuple[str, list[Path]]]:
    """(name for the error text, folders that may hold libnvrtc), best first."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in (spec and spec.submodule_search_locations) or []]
    if not roots:
        yield "pip's nvidia packages (none is installed)", []
    for root in roots:
        newest_first = sorted(root.glob("cu[0-9]*"), key=_numbers, reverse=True)
        folders = [version / "lib" for version in newest_first]
        yield (
            f"{root}, in cu13/lib and cuda_nvrtc/lib",
            [
                *folders,
                root / "cuda_nvrtc/lib",
            ],
        )
    home, path = os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")
    for name, value in (("CUDA_HOME", home), ("CUDA_PATH", path)):
        if value:
            yield f"{name}={value}", _libraries_of(Path(value))
        else:
            yield f"{name} (not set)", []
    yield str(_TOOLKIT), _libraries_of(_TOOLKIT)


def _libraries_of(toolkit: Path) -> list[Path]:
    return [toolkit / "lib64", toolkit / "lib", *toolkit.glob("targets/*/lib")]


def _numbers(path: Path) -> tuple[int, ...]:
    """libnvrtc.so.13.0.88 -> (13, 0, 88)."""
    return tuple(map(int, re.findall(r"\d+", path.name)))


def _ask_loader(soname: str) -> str | None:
    """The file behind a name that the loader knows. Loads it."""
    try:
        ctypes.CDLL(soname)
    except OSError:
        return None
    stem = soname.rpartition(".so")[0]
    mapped = Path("/proc/self/maps").read_text()
    found = re.search(rf"\s(/\S*/{re.escape(stem)}\.so[.\d]*)$", mapped, re.M)
    return found[1] if found else soname
