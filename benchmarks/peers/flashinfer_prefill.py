# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""FlashInfer's prefill wrappers on the cells of the prefill benchmark."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import decode_cells, prefill_cells
from benchmarks.gpu_timing import Settings
from benchmarks.harness import record
from benchmarks.peers import flashinfer as peer
from benchmarks.peers.flashinfer_ops import Job
from benchmarks.prefill_cells import PREFILL
from jaxinfer.testing.cases import AttentionCase

torch, flashinfer = peer.torch, peer.flashinfer
TYPES = {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16}


def jobs(backend: str, is_quick: bool, settings: Settings) -> list[Job]:
    """All cells, as main() of flashinfer.py runs them."""
    impl = f"flashinfer {backend}"
    return [
        (PREFILL, case.name, impl, functools.partial(prefill, case, backend, settings))
        for case in prefill_cells.cells(is_quick)
    ]


def prefill(case: AttentionCase, backend: str, settings: Settings) -> Iterator[dict]:
    """One cell; the plan is made before."""
    cell = Cell(case)
    run = cell.planned(backend)
    run()
    torch.cuda.synchronize()
    error = cell.check()
    settings = prefill_cells.timing(case, settings)
    times = peer.time_graph([run] * settings.calls, settings)
    impl = f"flashinfer {backend}"
    yield record(PREFILL, case.name, impl, times, case, max_err=error)


class Cell:
    """Its operands on the GPU, the pages in random order."""

    def __init__(self, case: AttentionCase):
        """Draws everything."""
        torch.manual_seed(case.seed)
        self.case = case
        self.cu_q_lens, self.kv_lens = case.make_lengths()
        self.table = None
        rows: tuple[int, ...] = (int(self.kv_lens.sum()),)
        if case.page_size is not None:
            num_pages, (self.table,) = decode_cells.page_tables(case, 1)
            rows = (num_pages, case.page_size)
        options = {"dtype": torch.bfloat16, "device": "cuda"}
        kv_shape = (*rows, case.num_kv_heads, case.head_dim)
        self.k, self.v = (torch.randn(kv_shape, **options) for _ in "kv")
        q_shape = (int(self.cu_q_lens[-1]), case.num_q_heads, case.head_dim)
        self.query = torch.randn(q_shape, **options)
        self.out = torch.full_like(self.query, float("nan"))
        heads = (case.num_q_heads, case.num_kv_heads, case.head_dim)
        self.shape = (*heads, case.page_size)  # as plan() wants it

    def planned(self, backend: str) -> Callable[[], Any]:
        """The call, into `out`."""
        if self.table is not None:
            return self.paged(backend, slice(None))
        ragged = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(
            peer.make_workspace(), "NHD", backend=backend
        )
        cu_kv_lens = np.cumsum([0, *self.kv_lens], dtype=np.int32)
        lengths = (self.cu_q_lens_of(slice(None)), torch.from_numpy(cu_kv_lens))
        ragged.plan(*lengths, *self.shape[:3], causal=self.case.is_causal, **TYPES)
        return lambda: ragged.run(self.query, self.k, self.v, out=self.out)

    def paged(self, backend: str, seqs: slice) -> Callable[[], Any]:
        """The call for a range of sequences that have pages, into their rows."""
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(
            peer.make_workspace(), "NHD", backend=backend
        )
        lists = (self.cu_q_lens_of(seqs), *self.page_lists(seqs))
        wrapper.plan(*lists, *self.shape, causal=True, **TYPES)
        begin, end = self.cu_q_lens[:-1][seqs][0], self.cu_q_lens[1:][seqs][-1]
        query, out = (x[int(begin) : int(end)] for x in (self.query, self.out))
        return lambda: wrapper.run(query, (self.k, self.v), out=out)

    def cu_q_lens_of(self, seqs: slice) -> Any:
        """Of a range of sequences, on the host."""
        q_lens = np.diff(self.cu_q_lens)[seqs]
        return torch.from_numpy(np.cumsum([0, *q_lens], dtype=np.int32))

    def page_lists(self, seqs: slice) -> tuple[Any, Any, Any]:
        """Of a range of sequences, as plan() wants them."""
        assert self.table is not None
        return peer.page_lists(self.case, self.table[seqs], self.kv_lens[seqs])

    def check(self) -> float:
        """Holds rows of a few sequences against float64; returns the largest error."""
        case = self.case
        kv_heads, heads = decode_cells.checked_heads(case)
        errors = []
        for seq in decode_cells.checked_seqs(case):
            rows = self.cu_q_lens[seq] + prefill_cells.checked_rows(case, seq)
            slots = prefill_cells.slots(case, seq, self.table)
            some = [_rows(x, rows, heads) for x in (self.out, self.query)]
            some += [_rows(x, slots, kv_heads) for x in (self.k, self.v)]
            errors.append(prefill_cells.max_error(case, seq, *some))
        return max(errors)


def _rows(x: Any, rows: np.ndarray, heads: list[int]) -> np.ndarray:
    """[rows, heads, H] of an array whose rows may be in pages, on the host."""
    flat = x.reshape(-1, *x.shape[-2:])
    return flat[torch.from_numpy(rows).long().cuda()][:, heads].float().cpu().numpy()
