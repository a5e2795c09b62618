# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Loaders of pages that are no groups of eight, on the host (csrc/hopper_rows.cuh)."""

import emulation
import pytest

# Head dims of keys and of values, page size, the form of page lists, one layer or two.
KERNELS = (
    (128, 128, 1, "table", "one layer"),
    (64, 64, 5, "csr", "one layer"),
    (96, 96, 1, "table", "stacked"),
    (192, 128, 3, "csr", "stacked"),
    (256, 256, 1, "table", "stacked"),
)


@pytest.mark.parametrize(
    "kernel", KERNELS, ids=lambda kernel: "-".join(map(str, kernel))
)
def test_every_row_comes_in_time(kernel):
    """And no other is read: with pages that do not exist, in any order of threads."""
    head_dim, head_dim_v, page_size, form, layers = kernel
    check = emulation.build(
        "hopper_rows",
        f"HEAD_DIM={head_dim}",
        f"HEAD_DIM_V={head_dim_v}",
        f"PAGE_SIZE={page_size}",
        f"IS_CSR={form == 'csr':d}",
        f"IS_STACKED={layers == 'stacked':d}",
    ).check_hopper_rows
    assert [check(seed) for seed in range(200)] == [0] * 200
