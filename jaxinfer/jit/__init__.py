# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Run-time compilation of CUDA kernels.

A KernelSpec is rendered to text and named by a digest of everything that the result
depends on. Lowering calls load(spec) and puts the digest into the program; the handler
finds the kernel by it. Nothing is compiled while tracing, and nothing while running.
"""

import os
from collections.abc import Iterable, Mapping

from jaxinfer.jit.collect import collect_specs, collected
from jaxinfer.jit.disk import CacheEntry, DiskCache, default_cache_dir
from jaxinfer.jit.embed import embed_kernels, encode_cubin, is_embedding
from jaxinfer.jit.locate import NvrtcUnavailable, find_nvrtc
from jaxinfer.jit.nvrtc import OPTIONS, Compiled, CompileError, Nvrtc
from jaxinfer.jit.sources import SourceFolder, device_sources, transitive_headers
from jaxinfer.jit.spec import KernelSpec, kernel_digest
from jaxinfer.jit.store import DEFAULT, KernelNotFound, KernelStore
from jaxinfer.jit.warm_up import read_specs, warmup

__all__ = [
    "DEFAULT",
    "OPTIONS",
    "CacheEntry",
    "CompileError",
    "Compiled",
    "DiskCache",
    "KernelNotFound",
    "KernelSpec",
    "KernelStore",
    "Nvrtc",
    "NvrtcUnavailable",
    "SourceFolder",
    "collect_specs",
    "compile_source",
    "default_cache_dir",
    "device_sources",
    "embed_kernels",
    "encode_cubin",
    "find",
    "find_nvrtc",
    "is_embedding",
    "kernel_digest",
    "load",
    "load_all",
    "read_specs",
    "resolve",
    "transitive_headers",
    "warmup",
]


def load(spec: KernelSpec) -> str:
    """Makes a kernel ready to run: in the extension, compiled if it has to be.

    Inside collect_specs() it is only listed.

    Args:
      spec: what to compile.

    Returns:
      Its digest, 32 hexadecimal digits.

    Raises:
      CompileError: naming the kernel, with the compiler's log.
      NvrtcUnavailable: if there is no compiler, or a defective one.
      ValueError: if a source that the kernel includes does not exist.
    """
    return load_all([spec])[spec]


def load_all(specs: Iterable[KernelSpec]) -> dict[KernelSpec, str]:
    """load() of kernels that are needed together: they are compiled side by side.

    Args:
      specs: what to compile.

    Returns:
      The digest of each.

    Raises:
      CompileError, NvrtcUnavailable, ValueError: as load() does.
    """
    specs = list(specs)
    return collected(specs) or DEFAULT.load_all(specs)


def find(digest: str) -> bytes | None:
    """The cubin of a kernel in memory or on disk; None if it is in neither.

    Args:
      digest: from load().
    """
    return DEFAULT.find(digest)


def resolve(digest: str) -> bytes:
    """find(), for the extension: programs whose lowering ran elsewhere ask through it.

    Args:
      digest: from the program.

    Raises:
      KernelNotFound: telling how to bring the kernel here.
    """
    return DEFAULT.resolve(digest)


def compile_source(
    spec: KernelSpec, sources: Mapping[str, str] | None = None
) -> Compiled:
    """Compiles a kernel, whatever is cached, to look at its code or log.

    Args:
      spec: what to compile.
      sources: "csrc/<file>" -> text; None = those of this jaxinfer.

    Returns:
      The cubin, the log and the time; the log knows registers and spills.

    Raises:
      CompileError: naming the kernel, with the compiler's log.
      NvrtcUnavailable: if there is no compiler, or a defective one.
      ValueError: if a source that the kernel includes does not exist.
    """
    return (DEFAULT if sources is None else KernelStore(sources=sources)).compile(spec)


os.register_at_fork(after_in_child=DEFAULT.after_fork)
