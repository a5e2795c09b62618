# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Paged, load-balanced attention for LLM inference in JAX."""

from jaxinfer import export as export
from jaxinfer import variants as variants
from jaxinfer._explain import Explanation, explain
from jaxinfer._library import register_targets as _register_targets
from jaxinfer._plan import Plan, PlanConfig, TileClass
from jaxinfer.cache import PagedKVCache, own_kv_heads
from jaxinfer.ops.dot_product_attention import dot_product_attention
from jaxinfer.ops.merge_partials import merge_partials
from jaxinfer.ops.plan import plan
from jaxinfer.ops.ragged_attention import ragged_attention
from jaxinfer.ops.ragged_paged_attention import ragged_paged_attention
from jaxinfer.ops.rope import Llama3RopeScaling, rope
from jaxinfer.ops.rope_update_kv_pages import rope_update_kv_pages
from jaxinfer.ops.update_kv_pages import token_slots, update_kv_pages
from jaxinfer.page_pool import PagePool, PagePoolExhausted
from jaxinfer.variant import Variant

_register_targets()

__all__ = [
    "Explanation",
    "Llama3RopeScaling",
    "PagePool",
    "PagePoolExhausted",
    "PagedKVCache",
    "Plan",
    "PlanConfig",
    "TileClass",
    "Variant",
    "dot_product_attention",
    "explain",
    "merge_partials",
    "own_kv_heads",
    "plan",
    "ragged_attention",
    "ragged_paged_attention",
    "rope",
    "rope_update_kv_pages",
    "token_slots",
    "update_kv_pages",
]

__version__ = "0.1.0"
