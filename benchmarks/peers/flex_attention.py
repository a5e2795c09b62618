# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""PyTorch's FlexAttention, in a process of its own: prints one JSON record a line.

python -m benchmarks.peers.flex_attention

The cells of variant_cells with the same clock: a CUDA graph of as many calls, replayed
without waiting. Block masks are made, and functions compiled, before the clock starts;
tanh is torch.tanh, as a user would write it. Without a GPU it runs, too, on the CPU.
"""

import argparse
import importlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_timing import QUICK, Settings, measure
from benchmarks.harness import failure, record
from benchmarks.prefill_cells import PREFILL, cells, is_dense
from benchmarks.variant_cells import CAP, TIMING, WINDOW, PrefillCell, prefill_cells
from jaxinfer.testing.cases import AttentionCase

torch: Any = importlib.import_module("torch")
flex: Any = importlib.import_module("torch.nn.attention.flex_attention")

IMPL = "flex_attention"


def time_calls(call: Callable[[], Any], settings: Settings) -> dict[str, float]:
    """Microseconds of a call in a captured graph of several."""

    def calls():
        for _ in range(settings.calls):
            call()

    if not torch.cuda.is_available():
        return measure(calls, lambda: None, settings)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls()
    return measure(graph.replay, torch.cuda.synchronize, settings)


class Bench:
    """A cell's operands, [B, heads, S, H] as FlexAttention wants them."""

    def __init__(self, cell: PrefillCell):
        """Draws them."""
        self.cell = cell
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        heads = (cell.num_q_heads, cell.num_kv_heads, cell.num_kv_heads)
        options = {"dtype": torch.bfloat16, "device": self.device}
        self.operands = [
            torch.randn((cell.batch, n, cell.seq_len, cell.head_dim), **options)
            for n in heads
        ]

    def measure(self, variant: str, settings: Settings) -> dict[str, Any]:
        """The record of a variant."""
        torch.compiler.reset()  # each is compiled for itself, up to no limit
        attention = torch.compile(flex.flex_attention, dynamic=False)
        size = self.cell.seq_len
        mask = flex.create_block_mask(
            self._mask_mod(variant), None, None, size, size, device=self.device
        )
        options = {
            "score_mod": self._score_mod(variant),
            "block_mask": mask,
            "enable_gqa": self.cell.num_q_heads != self.cell.num_kv_heads,
        }

        def call():
            return attention(*self.operands, **options)

        with torch.no_grad():
            error = self.check(variant, call())
            times = time_calls(call, self.cell.settings(variant, settings))
        tflops = self.cell.tflops(variant, times["us"])
        case = self.cell.case(variant)
        return record("variants", case, IMPL, times, tflops=tflops, max_err=error)

    def _score_mod(self, variant: str) -> Callable[..., Any] | None:
        if variant == "soft_cap":
            return lambda score, b, h, q, k: CAP * torch.tanh(score / CAP)
        if variant == "alibi":
            slopes = torch.from_numpy(self.cell.slopes).to(self.device)
            return lambda score, b, h, q, k: score + slopes[h] * (k - q)
        return None

    def _mask_mod(self, variant: str) -> Callable[..., Any]:
        if variant == "window1024":
            return lambda b, h, q, k: (q >= k) & (q - k < WINDOW)
        if variant == "documents":
            ids = torch.from_numpy(self.cell.document_of).to(self.device)
            return lambda b, h, q, k: (q >= k) & (ids[q] == ids[k])
        return lambda b, h, q, k: q >= k

    def check(self, variant: str, out: Any) -> float:
        """Holds some rows and heads against float64; returns the largest error."""
        heads, kv_heads = self.cell.checked_heads()
        rows = torch.from_numpy(self.cell.checked_rows()).to(self.device)
        query, *keys = self.operands
        errors = []
        for seq in self.cell.checked_seqs():
            some = [_numpy(x[seq, heads][:, rows]) for x in (out, query)]
            some += [_numpy(x[seq, kv_heads]) for x in keys]
            errors.append(self.cell.max_error(variant, *some))
        return max(errors)


def _numpy(x: Any) -> np.ndarray:
    """[heads, rows, H] as [rows, heads, H] on the host."""
    return x.transpose(0, 1).float().cpu().numpy()


def plain_cells(is_quick: bool) -> dict[PrefillCell, AttentionCase]:
    """The dense causal ones of the prefill benchmark, and their cases there."""
    found = {}
    for case in cells(is_quick):
        if not (is_dense(case) and case.is_causal):
            continue
        shape = (case.batch, case.kv_len, case.num_q_heads, case.num_kv_heads)
        found[PrefillCell(*shape, case.head_dim, ("causal",))] = case
    return found


def main() -> None:
    """Times all cells; what fails says why and the rest goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prefill", action="store_true", help="its cells, causal")
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else TIMING
    cases = plain_cells(arguments.quick) if arguments.prefill else {}
    for cell in cases or prefill_cells(arguments.quick):
        bench, causal = Bench(cell), None
        for variant in cell.variants:
            try:
                made = bench.measure(variant, settings)
            except Exception as error:
                made = failure("variants", cell.case(variant), IMPL, error)
            if made["us"] and variant == "causal":
                causal = made["us"]
            elif made["us"] and causal:
                made["of_causal"] = round(causal / made["us"], 3)
            if cell in cases:
                made |= {"benchmark": PREFILL, "case": cases[cell].name}
            print(json.dumps(made), flush=True)
        del bench
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
