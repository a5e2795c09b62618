# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""FlashInfer in PyTorch, in a process of its own: prints one JSON record a line.

python -m benchmarks.peers.flashinfer --cells targets --backends fa2

The same cells, page tables, rotation and clock as for jaxinfer: a CUDA graph of many
calls, each on the result of the one before, replayed without waiting. Plans are made
before the graph is captured, without the padding that FlashInfer's own graph mode adds.
"""

import argparse
import importlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import decode_cells
from benchmarks.gpu_timing import QUICK, Settings, measure
from benchmarks.harness import failure, record
from benchmarks.variant_cells import TIMING
from jaxinfer.testing.cases import AttentionCase

torch: Any = importlib.import_module("torch")
flashinfer: Any = importlib.import_module("flashinfer")

WORKSPACE_BYTES = 512 * 2**20
Call = Callable[[Any, Any], Any]  # (query, out) -> anything


def time_graph(calls: list[Callable[[], Any]], settings: Settings) -> dict[str, float]:
    """Microseconds of a call of a captured graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return measure(graph.replay, torch.cuda.synchronize, settings)


class Cell:
    """A decode cell on the GPU: a pool of pages and tables over distinct ones."""

    def __init__(self, case: AttentionCase, calls: int):
        """Draws everything."""
        torch.manual_seed(case.seed)
        self.case = case
        self.kv_lens = case.make_lengths()[1]
        count = decode_cells.num_rotated(case, calls)
        num_pages, self.tables = decode_cells.page_tables(case, count)
        shape = (num_pages, case.page_size, case.num_kv_heads, case.head_dim)
        options = {"dtype": torch.bfloat16, "device": "cuda"}
        self.k, self.v = (torch.randn(shape, **options) for _ in "kv")
        self.v *= decode_cells.value_scale(case)
        q_shape = (case.batch, case.num_q_heads, case.head_dim)
        self.query = torch.randn(q_shape, **options)
        self.workspace = make_workspace()

    def keys_of(self, cache: int, seq: int) -> tuple[np.ndarray, np.ndarray]:
        """K and V of a sequence, of the checked heads."""
        kv_len, size = int(self.kv_lens[seq]), self.case.page_size
        assert size is not None
        heads, _ = decode_cells.checked_heads(self.case)
        ids = torch.from_numpy(self.tables[cache][seq][: -(-kv_len // size)]).long()
        k, v = (
            x[ids.cuda()][:, :, heads].flatten(0, 1)[:kv_len].float().cpu().numpy()
            for x in (self.k, self.v)
        )
        return k, v


def make_workspace() -> Any:
    """What wrappers keep partial results in."""
    return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")


def page_lists(
    case: AttentionCase, table: np.ndarray, kv_lens: np.ndarray
) -> tuple[Any, Any, Any]:
    """(indptr, indices, last_page_len) on the host, as plan() wants them."""
    size = case.page_size
    assert size is not None
    counts = -(-kv_lens // size)
    indptr = np.cumsum([0, *counts], dtype=np.int32)
    indices = table[np.arange(table.shape[1]) < counts[:, None]]
    last = (kv_lens - (counts - 1) * size).astype(np.int32)
    return tuple(torch.from_numpy(x) for x in (indptr, indices, last))


def fa2(cell: Cell) -> list[Call]:
    """The batch decode wrapper on tensor cores: one planned wrapper a table."""

    def call(table):
        wrapper = make_wrapper(cell.workspace)
        plan(wrapper, cell.case, *page_lists(cell.case, table, cell.kv_lens))
        return lambda query, out: wrapper.run(query, (cell.k, cell.v), out=out)

    return [call(table) for table in cell.tables]


def make_wrapper(workspace: Any) -> Any:
    """The wrapper that plans and runs fa2's tensor core decode."""
    return flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace, "NHD", use_tensor_cores=True, backend="fa2"
    )


def plan(wrapper: Any, case: AttentionCase, indptr: Any, indices: Any, last: Any):
    """wrapper.plan for a case, from lists on the host."""
    wrapper.plan(
        indptr,
        indices.cuda(),
        last,
        case.num_q_heads,
        case.num_kv_heads,
        case.head_dim,
        case.page_size,
        q_data_type=torch.bfloat16,
        kv_data_type=torch.bfloat16,
    )


def xqa(cell: Cell) -> list[Call]:
    """TensorRT-LLM's kernel for Hopper."""
    tables = [torch.from_numpy(table).cuda() for table in cell.tables]
    kv_lens = torch.from_numpy(cell.kv_lens).cuda()

    def call(table):
        return lambda query, out: flashinfer.decode.trtllm_batch_decode_with_kv_cache(
            query,
            (cell.k, cell.v),
            cell.workspace,
            table,
            kv_lens,
            int(cell.kv_lens.max()),
            bmm1_scale=cell.case.head_dim**-0.5,
            bmm2_scale=1.0,
            out=out,
            kv_layout="NHD",
            backend="xqa",
        )

    return [call(table) for table in tables]


def cudnn(cell: Cell) -> list[Call]:
    """cuDNN's paged attention; it wants the heads outside the tokens of a page."""
    k, v = (x.transpose(1, 2).contiguous() for x in (cell.k, cell.v))
    tables = [torch.from_numpy(table).cuda() for table in cell.tables]
    kv_lens = torch.from_numpy(cell.kv_lens).cuda().reshape(-1, 1, 1, 1)

    def call(table):
        return lambda query, out: flashinfer.cudnn.cudnn_batch_decode_with_kv_cache(
            query,
            k,
            v,
            cell.case.head_dim**-0.5,
            cell.workspace,
            max_sequence_kv=int(cell.kv_lens.max()),
            actual_seq_lens_kv=kv_lens,
            block_tables=table,
            is_cuda_graph_compatible=True,
            out=out,
        )

    return [call(table) for table in tables]


BACKENDS = {"fa2": fa2, "xqa": xqa, "cudnn": cudnn}


def decode(case: AttentionCase, backend: str, settings: Settings) -> Iterator[dict]:
    """Cold and repeated times of one cell."""
    cell = Cell(case, settings.calls)
    calls = BACKENDS[backend](cell)
    error = _check(cell, calls)
    for benchmark, turn in (("decode", calls), ("decode_repeated", calls[:1])):
        states = [cell.query.clone(), torch.empty_like(cell.query)]

        def step(i, turn=turn, states=states):
            return turn[i % len(turn)](states[i % 2], states[1 - i % 2])

        steps = [lambda i=i, s=step: s(i) for i in range(settings.calls)]
        times = time_graph(steps, settings)
        name = f"flashinfer {backend}"
        yield record(benchmark, case.name, name, times, case, max_err=error)


def _check(cell: Cell, calls: list[Call]) -> float:
    seqs = decode_cells.checked_seqs(cell.case)
    _, heads = decode_cells.checked_heads(cell.case)
    rows = np.ix_(seqs, heads)
    errors = []
    for cache in decode_cells.checked_caches(cell.case, len(calls)):
        out = torch.full_like(cell.query, math.nan)
        calls[cache](cell.query, out)
        torch.cuda.synchronize()
        keys = [cell.keys_of(cache, seq) for seq in seqs]
        got, query = (x.float().cpu().numpy()[rows] for x in (out, cell.query))
        k, v = [k for k, _ in keys], [v for _, v in keys]
        errors.append(decode_cells.max_error(got, query, k, v))
    return max(errors)


def main() -> None:
    """Times what was asked for; what fails says why and the rest goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="targets", help="lists, comma separated")
    parser.add_argument("--backends", default="fa2")
    parser.add_argument("--ops", action="store_true", help="plan, append and RoPE too")
    parser.add_argument(
        "--prefill", action="store_true", help="its cells by its backends, nothing else"
    )
    parser.add_argument("--mixed", action="store_true", help="the same, mixed batches")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings()
    cases = decode_cells.cells(*arguments.cells.split(",")) if arguments.cells else []
    jobs: list[tuple[str, str, str, Callable[[], Iterator[dict]]]] = [
        (
            "decode",
            case.name,
            f"flashinfer {backend}",
            lambda case=case, backend=backend: decode(case, backend, settings),
        )
        for backend in arguments.backends.split(",")
        for case in cases
    ]
    if arguments.ops:
        from benchmarks.peers import flashinfer_ops

        jobs += flashinfer_ops.jobs(settings)
    if arguments.prefill or arguments.mixed:
        from benchmarks.peers import flashinfer_mixed, flashinfer_prefill

        module = flashinfer_mixed if arguments.mixed else flashinfer_prefill
        timing = QUICK if arguments.quick else TIMING
        jobs = [
            job
            for backend in arguments.backends.split(",")
            for job in module.jobs(backend, arguments.quick, timing)
        ]
    for benchmark, case, impl, run in jobs:
        try:
            for made in run():
                print(json.dumps(made), flush=True)
        except Exception as error:
            print(json.dumps(failure(benchmark, case, impl, error)), flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
