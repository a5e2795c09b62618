# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""FlashInfer's ways to run mixed batches, on the cells of that benchmark."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import mixed_cells
from benchmarks.gpu_timing import Settings
from benchmarks.harness import record
from benchmarks.mixed_cells import MIXED
from benchmarks.peers import flashinfer as peer
from benchmarks.peers.flashinfer_ops import Job
from benchmarks.peers.flashinfer_prefill import TYPES, Cell
from jaxinfer.testing.cases import AttentionCase

torch, flashinfer = peer.torch, peer.flashinfer

Call = Callable[[], list[Any]]  # the parts of the result, in the order of rows


def jobs(backend: str, is_quick: bool, settings: Settings) -> list[Job]:
    """All cells, as main() of flashinfer.py runs them."""
    impl = f"flashinfer {backend}"
    return [
        (MIXED, case.name, impl, functools.partial(mixed, case, backend, settings))
        for case in mixed_cells.cells(is_quick)
    ]


def mixed(case: AttentionCase, backend: str, settings: Settings) -> Iterator[dict]:
    """One cell; the plans are made before."""
    cell = Cell(case)
    run = BACKENDS[backend](cell)
    cell.out.copy_(torch.cat(run()))  # not every wrapper writes where it is told
    torch.cuda.synchronize()
    error = cell.check()
    settings = settings.for_flops(case.num_flops())
    times = peer.time_graph([run] * settings.calls, settings)
    yield record(MIXED, case.name, f"flashinfer {backend}", times, case, max_err=error)


def one_batch(cell: Cell, backend: str) -> Call:
    """The batch prefill wrapper for everything."""
    run = cell.planned(backend)
    return lambda: [run()]


def sequential(cell: Cell) -> Call:
    """Decode on tensor cores, then the chunks by the batch prefill wrapper's fa3."""
    n = mixed_cells.num_decodes(cell.case)  # sequences, and so rows
    decode = peer.make_wrapper(peer.make_workspace())
    peer.plan(decode, cell.case, *cell.page_lists(slice(n)))
    prefill = cell.paged("fa3", slice(n, None))
    query, out = cell.query[:n], cell.out[:n]
    return lambda: [decode.run(query, (cell.k, cell.v), out=out), prefill()]


def batch_attention(cell: Cell) -> Call:
    """The persistent kernel for batches of any kind."""
    wrapper = flashinfer.BatchAttention("NHD")
    indptr, indices, _ = cell.page_lists(slice(None))
    num_q_heads, num_kv_heads, head_dim, page_size = cell.shape
    wrapper.plan(
        torch.from_numpy(cell.cu_q_lens),
        indptr,
        indices.cuda(),
        torch.from_numpy(cell.kv_lens),
        num_q_heads,
        num_kv_heads,
        head_dim,
        head_dim,
        page_size,
        causal=True,
        **TYPES,
    )
    lse = torch.empty(cell.query.shape[:2], dtype=torch.float32, device="cuda")
    pages = (cell.k, cell.v)
    return lambda: [wrapper.run(cell.query, pages, out=cell.out, lse=lse)[0]]


def pod(cell: Cell) -> Call:
    """Prefill-on-decode, in its form for several chunks.

    The one for a single chunk wants its keys without pages, and clears counters by a
    call that a graph cannot capture.
    """
    n = mixed_cells.num_decodes(cell.case)
    decodes, chunks = slice(n), slice(n, None)
    wrapper = flashinfer.BatchPODWithPagedKVCacheWrapper(peer.make_workspace(), "NHD")
    wrapper.plan(
        cell.cu_q_lens_of(chunks),
        *cell.page_lists(chunks),
        cell.cu_q_lens_of(decodes),
        *cell.page_lists(decodes),
        *cell.shape,
        **TYPES,
    )
    pages = (cell.k, cell.v)

    def run():
        of_chunks, of_decodes = wrapper.run(
            cell.query[n:], pages, cell.query[:n], pages, causal_p=True
        )
        return [of_decodes, of_chunks]

    return run


BACKENDS: dict[str, Callable[[Cell], Call]] = {
    "fa2": functools.partial(one_batch, backend="fa2"),
    "fa3": functools.partial(one_batch, backend="fa3"),
    "sequential": sequential,
    "BatchAttention": batch_attention,
    "POD": pod,
}
