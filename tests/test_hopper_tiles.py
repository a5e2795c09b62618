# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The benchmark of the tiles and the parts of the prefill kernel for sm_90a."""

import pytest

from benchmarks import hopper_tiles
from jaxinfer import _native, jit


@pytest.mark.parametrize("name", hopper_tiles.PARTS)
def test_parts_are_found(name):
    """The sources have what it leaves out, once."""
    with hopper_tiles.edited(hopper_tiles.PARTS[name]):
        sources = jit.DEFAULT.sources
    changed = {n for n, text in sources.items() if text != jit.device_sources()[n]}
    assert changed == {file for file, _, _ in hopper_tiles.PARTS[name]}


def test_a_part_that_is_gone_is_missed():
    with (
        pytest.raises(ValueError, match=r"csrc/ptx\.cuh must have this once: nothing"),
        hopper_tiles.edited([("csrc/ptx.cuh", "nothing like this", "")]),
    ):
        pass


@pytest.mark.parametrize("head_dim", hopper_tiles.HEAD_DIMS)
def test_the_chosen_tiles_are_among_them(head_dim):
    assert _native.hopper_tiles(head_dim) in hopper_tiles.fitting(head_dim)
