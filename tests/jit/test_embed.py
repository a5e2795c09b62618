# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Kernels inside programs: when, and in which form."""

import threading

import jax
import numpy as np
import pytest

from jaxinfer import jit


@pytest.mark.parametrize("size", [1, 4, 7, 4096])
def test_the_bytes_come_back(size):
    cubin = np.random.default_rng(size).bytes(size)
    words = jit.encode_cubin(cubin)
    assert words.dtype == np.int32
    assert words[0] == size
    assert len(words) == 1 + -(-size // 4)
    assert words[1:].astype("<i4").tobytes() == cubin + bytes(-size % 4)


def test_no_kernel():
    assert jit.encode_cubin(None).tolist() == [0]
    assert jit.encode_cubin(None).dtype == np.int32


def test_inside_and_outside():
    assert not jit.is_embedding()
    with jit.embed_kernels():
        assert jit.is_embedding()
    assert not jit.is_embedding()


def test_an_exception_ends_it():
    with pytest.raises(ZeroDivisionError), jit.embed_kernels():
        _ = 1 / 0
    assert not jit.is_embedding()


def test_other_threads_are_outside():
    seen = []
    with jit.embed_kernels():
        thread = threading.Thread(target=lambda: seen.append(jit.is_embedding()))
        thread.start()
        thread.join()
    assert seen == [False]


def test_a_program_that_was_lowered_outside_is_lowered_again():
    seen = []

    @jax.jit
    def step(x):
        seen.append(jit.is_embedding())
        return x + 1

    step.lower(1.0)
    with jit.embed_kernels():
        step.lower(1.0)
        step.lower(1.0)
    step.lower(1.0)
    assert seen == [False, True]
