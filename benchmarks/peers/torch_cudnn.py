# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""PyTorch's attention by cuDNN, in a process of its own: prints one JSON record a line.

python -m benchmarks.peers.torch_cudnn

The dense cells of the prefill benchmark, with operands, clock and check of
FlexAttention. PyTorch may choose nothing but cuDNN: a record says where it cannot.
"""

import argparse
import importlib
import json
from typing import Any

from benchmarks.gpu_timing import QUICK, Settings
from benchmarks.harness import failure, record
from benchmarks.peers.flex_attention import Bench, plain_cells, time_calls
from benchmarks.prefill_cells import PREFILL, timing
from benchmarks.variant_cells import TIMING, PrefillCell
from jaxinfer.testing.cases import AttentionCase

torch: Any = importlib.import_module("torch")
attention: Any = importlib.import_module("torch.nn.attention")

IMPL = "torch cudnn"


def prefill(
    cell: PrefillCell, case: AttentionCase, settings: Settings
) -> dict[str, Any]:
    """The record of a cell."""
    bench = Bench(cell)
    options = {
        "is_causal": True,
        "enable_gqa": cell.num_q_heads != cell.num_kv_heads,
    }

    def call():
        op = torch.nn.functional.scaled_dot_product_attention
        return op(*bench.operands, **options)

    backend = attention.SDPBackend.CUDNN_ATTENTION
    with torch.no_grad(), attention.sdpa_kernel(backend):
        error = bench.check("causal", call())
        times = time_calls(call, timing(case, settings))
    return record(PREFILL, case.name, IMPL, times, case, max_err=error)


def main() -> None:
    """Times all cells; what fails says why and the rest goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    is_quick = parser.parse_args().quick
    for cell, case in plain_cells(is_quick).items():
        try:
            made = prefill(cell, case, QUICK if is_quick else TIMING)
        except Exception as error:
            made = failure(PREFILL, case.name, IMPL, error)
        print(json.dumps(made), flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
