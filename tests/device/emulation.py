# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Builds a CUDA handler and its kernel for the host, and calls them as FFI targets."""

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@functools.cache
def build(op: str, *macros: str) -> ctypes.CDLL:
    """tests/device/emulated_<op>.cc as a library; built once a process."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, f"{op}.so")
        includes = [f"-I{ROOT}", f"-I{HERE}", f"-I{jax.ffi.include_dir()}"]
        flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE"]
        flags += [f"-D{macro}" for macro in macros]
        command = [os.environ.get("CXX", "g++"), *flags, *includes]
        source = HERE / f"emulated_{op}.cc"
        subprocess.run([*command, source, "-o", library], check=True)
        return ctypes.CDLL(str(library))


@functools.cache
def target(op: str) -> str:
    """Registers the emulated target of an op for the CPU."""
    name = f"emulated_{op}"
    library = build("rope" if op.startswith("rope") else op)
    handler = library["Emulated" + op.title().replace("_", "")]
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return name


def call(op, results, *operands, aliases=None, seed=0, **attributes):
    """Calls it; `seed` decides in which order threads run."""
    call = jax.ffi.ffi_call(target(op), results, input_output_aliases=aliases or {})
    return call(*operands, seed=np.int32(seed), **attributes)
