# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Kernels inside programs: for exported programs that run on other machines."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

# Not a ContextVar: jit would give a program back that it lowered outside. A change of
# this one lowers again.
_is_embedding = jax.make_user_context(default_value=False)


@contextlib.contextmanager
def embed_kernels() -> Iterator[None]:
    """Programs lowered inside this context carry their kernels.

    They run where neither NVRTC nor the kernel cache is, and are larger by 50 to 100
    KB per kernel.

    Example:
      with jaxinfer.jit.embed_kernels():
          exported = jax.export.export(jax.jit(step), platforms=["cuda"])(*args)
    """
    with _is_embedding(True):
        yield


def is_embedding() -> bool:
    """Whether the current thread is inside embed_kernels(). Asked while lowering."""
    return _is_embedding.value


def encode_cubin(cubin: bytes | None) -> np.ndarray:
    """A cubin as an attribute of an FFI call.

    Args:
      cubin: None = the program does not carry it.

    Returns:
      i32[1 + words]: the size in bytes, then the bytes, padded to words with zeros, in
      the order of a little-endian machine. [0] for None.
    """
    if cubin is None:
        return np.zeros(1, np.int32)
    padded = cubin + bytes(-len(cubin) % 4)
    words = np.frombuffer(padded, "<i4").astype(np.int32)
    return np.concatenate([np.array([len(cubin)], np.int32), words])
