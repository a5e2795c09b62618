# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Export: Plan and PagedKVCache as arguments and results of programs in files.

Importing jaxinfer registers both with jax.export. A program that calls our kernels is
exported with

    jax.export.export(step, disabled_checks=jaxinfer.export.disabled_checks())(...)

and runs in any process that has imported jaxinfer with the same ABI version.
"""

import dataclasses
import json

import jax
import jax.export

from jaxinfer import _native
from jaxinfer._library import target_name
from jaxinfer._plan import Plan, PlanConfig, PlanFacts, TileClass
from jaxinfer.cache import PagedKVCache


def disabled_checks() -> list[jax.export.DisabledSafetyCheck]:
    """What to pass to jax.export.export(disabled_checks=), which knows no FFI targets.

    JAX asks for this because it cannot promise that a custom call keeps its meaning;
    ours carry an ABI version in their names, and one of another version is not found.

    Returns:
      One check for every FFI target of this version.
    """
    custom_call = jax.export.DisabledSafetyCheck.custom_call
    targets = _native.cpu_targets | _native.cuda_targets
    return [custom_call(target_name(op)) for op in targets]


def facts_to_json(facts: PlanFacts) -> str:
    """The static half of a Plan as text."""
    return json.dumps(dataclasses.asdict(facts))


def facts_from_json(text: str) -> PlanFacts:
    """The inverse of facts_to_json."""
    fields = json.loads(text)
    config = fields.pop("config")
    tiles = config.pop("tile_classes")
    if tiles is not None:
        tiles = tuple(TileClass(**tile) for tile in tiles)
    left, right = fields.pop("local_window_size")
    return PlanFacts(
        **fields,
        local_window_size=(left, right),
        config=PlanConfig(**config, tile_classes=tiles),
    )


def _register() -> None:
    jax.export.register_pytree_node_serialization(
        Plan,
        serialized_name="jaxinfer.Plan",
        serialize_auxdata=lambda static: facts_to_json(*static).encode(),
        deserialize_auxdata=lambda data: (facts_from_json(data.decode()),),
    )
    jax.export.register_pytree_node_serialization(
        PagedKVCache,
        serialized_name="jaxinfer.PagedKVCache",
        serialize_auxdata=lambda static: b"",
        deserialize_auxdata=lambda data: (),
    )


_register()
