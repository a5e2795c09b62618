# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What a run does, in order of importance: a run that is cut is a run of less."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import (
    bench_decode,
    bench_floor,
    bench_jit,
    bench_merge_partials,
    bench_mixed,
    bench_plan,
    bench_prefill,
    bench_ragged_paged_attention,
    bench_rope,
    bench_streaming,
    bench_update_kv_pages,
    bench_variants,
    bench_variants_jit,
    decode_cells,
    mixed_cells,
    op_cells,
    prefill_cells,
    variant_cells,
)
from benchmarks.gpu_timing import QUICK, Settings
from benchmarks.peers.process import (
    FLASHINFER_MIXED,
    FLASHINFER_PREFILL,
    FLEX_ATTENTION,
    FLEX_PREFILL,
    TORCH_CUDNN,
    Peer,
    flashinfer_records,
    peer_records,
)

# A name, and the records that can be made in the seconds that are left.
Job = tuple[str, Callable[[float], Iterator[dict[str, Any]]]]

MOST_SECONDS = 240.0  # for one process of a peer, its compilation included
# Those first that come nearest to us.
PREFILL_PEERS = (
    (FLASHINFER_PREFILL, "--prefill", "--backends", "fa3"),
    (TORCH_CUDNN,),
    (FLASHINFER_PREFILL, "--prefill", "--backends", "fa2"),
    (FLEX_PREFILL, "--prefill"),
)
# The fastest first, lest time run out; POD, which takes longest to compile, last.
MIXED_PEERS = tuple(
    (FLASHINFER_MIXED, "--mixed", "--backends", backend)
    for backend in ("sequential", "BatchAttention", "fa2", "fa3", "POD")
)
JAX_PEERS = ("xla", "pallas", "cudnn dense", "xla dense", "flash_attn3_jax")


def cpu() -> list[Job]:
    """On a CPU."""
    return [
        ("plan", lambda _: bench_plan.records()),
        ("decode", lambda _: bench_ragged_paged_attention.records()),
    ]


def gpu(backends: Sequence[str] = ("fa2",), is_quick: bool = False) -> list[Job]:
    """On a GPU; quick runs take tiny cells in the place of all others."""
    settings = QUICK if is_quick else Settings()
    tokens = op_cells.TINY_TOKENS if is_quick else op_cells.TOKENS
    merges = bench_merge_partials.TINY if is_quick else bench_merge_partials.CELLS

    def decode(*names, impls=("jaxinfer",)):
        cells = decode_cells.cells(*(("tiny",) if is_quick else names))
        return lambda _: bench_decode.records(cells, impls, settings)

    def flashinfer(names, backend, *more):
        names = "tiny" if is_quick else names
        arguments = ["--cells", names, "--backends", backend, *more]
        arguments += ["--quick"] if is_quick else []
        return lambda left: flashinfer_records(arguments, min(left, MOST_SECONDS))

    def ops(_):
        yield from bench_update_kv_pages.records(tokens, settings)
        yield from bench_plan.device_records(op_cells.plan_cells(), settings)
        yield from bench_rope.records(tokens, settings)
        yield from bench_merge_partials.records(merges, settings)

    def variants(_):
        timing = settings if is_quick else variant_cells.TIMING
        streaming = variant_cells.streaming_cells(is_quick)
        yield from bench_streaming.records(streaming, timing)
        yield from bench_variants_jit.records(1 if is_quick else 3)
        yield from bench_variants.records(variant_cells.prefill_cells(is_quick), timing)

    def beside(peers: Sequence[tuple[Peer, *tuple[str, ...]]], records, cells):
        def run(left):
            end = time.monotonic() + left
            timing = settings if is_quick else variant_cells.TIMING
            yield from records(cells(is_quick), timing)
            for peer, *arguments in peers:
                arguments += ["--quick"] if is_quick else []
                seconds = min(end - time.monotonic(), MOST_SECONDS)
                yield from peer_records(peer, arguments, seconds)

        return run

    def flex_attention(left):
        arguments = ["--quick"] if is_quick else []
        return peer_records(FLEX_ATTENTION, arguments, min(left, MOST_SECONDS))

    first, *others = backends
    made: list[Job] = [
        ("floor", lambda _: bench_floor.records(settings)),
        ("targets", decode("targets")),
        ("targets-flashinfer", flashinfer("targets", first)),
        ("ops", ops),
        ("compile", lambda _: bench_jit.records()),
        ("variants", variants),
        ("variants-flex", flex_attention),
        ("prefill", beside(PREFILL_PEERS, bench_prefill.records, prefill_cells.cells)),
        ("mixed", beside(MIXED_PEERS, bench_mixed.records, mixed_cells.cells)),
        ("planned", decode("planned", impls=("jaxinfer, plan in graph",))),
        ("pages", decode("pages")),
        ("groups", decode("groups", "-targets")),
        ("targets-xla", decode("targets", impls=("xla",))),
        ("rest-flashinfer", flashinfer("groups,pages,grid,-targets", first, "--ops")),
        ("grid", decode("grid", "-targets", "-groups")),
        *((f"targets-{b}", flashinfer("targets", b)) for b in others),
        ("targets-peers", decode("targets", impls=JAX_PEERS[1:])),
        ("reference", decode("planned", impls=("jaxinfer reference",))),
        ("grid-peers", decode("grid", "-targets", impls=JAX_PEERS[:2])),
    ]
    return made
