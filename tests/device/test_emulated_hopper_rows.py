# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Loaders of pages that are no groups of eight, on the host (csrc/hopper_rows.cuh)."""

import emulation
import pytest

FLAGS = ("IS_CSR", "IS_STACKED", "HAS_BLOCK_MAP")
# Head dims of keys and of values, page size, and the flags that are set.
KERNELS = (
    (128, 128, 1, ()),
    (128, 128, 5, ("HAS_BLOCK_MAP", "IS_CSR")),
    (64, 64, 5, ("IS_CSR",)),
    (96, 96, 1, ("IS_STACKED",)),
    (192, 128, 3, ("IS_CSR", "IS_STACKED")),
    (256, 256, 1, ("IS_STACKED", "HAS_BLOCK_MAP")),
)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_every_row_comes_in_time(kernel):
    """And no other is read: with pages that do not exist, in any order of threads."""
    head_dim, head_dim_v, page_size, flags = kernel
    check = emulation.build(
        "hopper_rows",
        f"HEAD_DIM={head_dim}",
        f"HEAD_DIM_V={head_dim_v}",
        f"PAGE_SIZE={page_size}",
        *(f"{flag}={flag in flags:d}" for flag in FLAGS),
    ).check_hopper_rows
    assert [check(seed) for seed in range(200)] == [0] * 200
