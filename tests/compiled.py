# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What a compiled program does, read from its HLO."""

import math
import re

from jaxinfer._library import target_name

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
# Results of these are views of operands; those of a custom call are counted by
# input_output_aliases, and checked in the handler.
_NO_WRITES = (
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant"),
    *("while", "conditional", "call", "custom-call", "opt-barrier"),
)
_INSTRUCTION = re.compile(r"%?\S+ = \w+\[([\d,]*)\]\S* ([\w-]+)\(")


def writes_of(compiled, num_elements: int) -> list[str]:
    """Instructions that write an array of num_elements or more: copies of a cache."""
    found = []
    for line in compiled.as_text().splitlines():
        match = _INSTRUCTION.search(line)
        if not match or match[2] in _NO_WRITES:
            continue
        if math.prod(int(n) for n in match[1].split(",") if n) >= num_elements:
            found.append(line.strip())
    return found


def num_calls(compiled, op: str) -> int:
    """How often the program calls the FFI target of an op."""
    return compiled.as_text().count(f'custom_call_target="{target_name(op)}"')


def has_loop(compiled) -> bool:
    """Whether anything is computed one after the other."""
    return bool(re.search(r" while\(", compiled.as_text()))


def collectives(compiled) -> list[str]:
    """Kinds of communication between devices that the program contains."""
    return [kind for kind in COLLECTIVES if f" {kind}" in compiled.as_text()]
