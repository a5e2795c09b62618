# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""FlashInfer's plan, append and rotary embedding, and what an empty launch costs."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks import op_cells
from benchmarks.gpu_timing import Settings
from benchmarks.harness import record
from benchmarks.op_cells import TokenCell
from benchmarks.peers import flashinfer as peer
from jaxinfer.testing.cases import AttentionCase

torch, flashinfer = peer.torch, peer.flashinfer
CALLS = 192  # short calls need long programs

Job = tuple[str, str, str, Callable[[], Iterator[dict]]]


def jobs(settings: Settings) -> list[Job]:
    """All of them, as main() of flashinfer.py runs them."""
    long = settings.with_calls(CALLS)
    made: list[Job] = [("floor", "empty", "torch", lambda: floor(long))]
    for cell in op_cells.TOKENS:
        made += [
            ("append", cell.name, "flashinfer", lambda cell=cell: append(cell, long)),
            ("rope", cell.name, "flashinfer", lambda cell=cell: rope(cell, long)),
        ]
    for case in op_cells.plan_cells():
        impl = "flashinfer fa2, host"
        made.append(("plan", case.name, impl, lambda case=case: plan(case)))
    return made


def floor(settings: Settings) -> Iterator[dict]:
    """A node of a CUDA graph that does next to nothing."""
    x = torch.zeros(1, device="cuda")
    times = peer.time_graph([lambda: x.add_(1)] * settings.calls, settings)
    yield record("floor", "empty", "torch", times)


def append(cell: TokenCell, settings: Settings) -> Iterator[dict]:
    """One token for each of many sequences, each in a page of its own."""
    shape = (cell.num_pages, cell.page_size, cell.num_kv_heads, cell.head_dim)
    options = {"dtype": torch.bfloat16, "device": "cuda"}
    k_pages, v_pages = (torch.zeros(shape, **options) for _ in "kv")
    key, value = (torch.randn((cell.num_tokens, *shape[2:]), **options) for _ in "kv")
    rows = torch.arange(cell.num_tokens + 1, dtype=torch.int32, device="cuda")

    def call(slots):
        pages, offset = (
            torch.from_numpy(x.astype(np.int32)).cuda()
            for x in (slots // cell.page_size, slots % cell.page_size)
        )
        return lambda: flashinfer.append_paged_kv_cache(
            key,
            value,
            rows[:-1],
            offset,
            (k_pages, v_pages),
            pages,
            rows,
            offset + 1,
        )

    slots = cell.slots(settings.calls)
    call(slots[0])()
    flat = k_pages.flatten(0, 1)[torch.from_numpy(slots[0]).long().cuda()]
    if not torch.equal(flat, key):
        raise AssertionError("wrong result: the keys are not where they belong")
    times = peer.time_graph([call(s) for s in slots], settings)
    size = cell.append_bytes
    yield record("append", cell.name, "flashinfer", times, num_bytes=size)


def rope(cell: TokenCell, settings: Settings) -> Iterator[dict]:
    """Queries and keys rotated in place."""
    options = {"dtype": torch.bfloat16, "device": "cuda"}
    query, key = (
        torch.randn((cell.num_tokens, heads, cell.head_dim), **options)
        for heads in (cell.num_q_heads, cell.num_kv_heads)
    )
    positions = torch.from_numpy(cell.positions()).cuda()

    def call():
        flashinfer.apply_rope_pos_ids_inplace(query, key, positions)

    times = peer.time_graph([call] * settings.calls, settings)
    yield record("rope", cell.name, "flashinfer", times, num_bytes=cell.rope_bytes)


def plan(case: AttentionCase, repeats: int = 50) -> Iterator[dict]:
    """Host time of planning lists that are on the host; copies wait for nothing."""
    workspace = torch.zeros(peer.WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
    kv_lens = case.make_lengths()[1]
    size = case.page_size or 1
    counts = -(-kv_lens // size)
    indptr = torch.from_numpy(np.cumsum([0, *counts], dtype=np.int32))
    last = torch.from_numpy((kv_lens - (counts - 1) * size).astype(np.int32))
    indices = torch.zeros(int(counts.sum()), dtype=torch.int32, device="cuda")
    wrapper = peer.make_wrapper(workspace)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        peer.plan(wrapper, case, indptr, indices, last)
        times.append(1e6 * (time.perf_counter() - begin))
        torch.cuda.synchronize()
    times = sorted(times[3:])
    stats = {"us": times[len(times) // 2], "us_min": times[0], "us_max": times[-1]}
    stats = {name: round(value, 2) for name, value in stats.items()}
    yield record("plan", case.name, "flashinfer fa2, host", stats)
