# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What the engine does with a problem, and what should limit it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinfer import _native
from jaxinfer._attention import AttentionOptions, cuda_kernels, make_options
from jaxinfer._plan import Plan, PlanConfig
from jaxinfer._visible_keys import needed_keys, visible_keys
from jaxinfer.ops.plan import plan as make_plan
from jaxinfer.variant import Variant

# Data sheets: FLOP/s of dense 16-bit products and bytes/s, of an A100 80GB and an H200.
LIMITS = {"sm_80": (312e12, 2.04e12), "sm_90a": (989e12, 4.8e12)}


@dataclasses.dataclass(frozen=True)
class Tile:
    """How one kind of query tile is computed.

    Attributes:
      kernel: the device source csrc/<kernel>.cuh, or "CPU kernel".
      rows: packed rows: tokens times query heads per KV head.
      tokens: of these rows.
      keys: of a step.
      stages: of keys and values in flight; 0 where there is no such thing.
      shared_bytes: of shared memory of a CTA.
    """

    kernel: str
    rows: int
    tokens: int
    keys: int
    stages: int = 0
    shared_bytes: int = 0

    def __str__(self) -> str:
        text = (
            f"{self.kernel}: {self.rows} packed rows ({self.tokens} tokens), "
            f"{self.keys} keys a step"
        )
        if self.stages:
            kib = self.shared_bytes / 1024
            text += f", {self.stages} stages, {kib:.0f} KiB of shared memory"
        return text


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A problem as the engine sees it; `str` of it is for people.

    Attributes:
      arch: "cpu", "sm_80", "sm_90a" ...
      tiles: shortest first; none = the jnp reference computes it.
      plan: the plan that an op would make.
      flops: of all visible query-key pairs, both products.
      num_bytes: of the queries, the visible keys and values, and the results, once.
    """

    arch: str
    tiles: tuple[Tile, ...]
    plan: Plan
    flops: int
    num_bytes: int

    @property
    def bound(self) -> str | None:
        """What limits it, "compute" or "memory"; None = the limits are not known."""
        if self.arch not in LIMITS or not self.tiles:
            return None
        return max(zip(self._seconds, ("memory", "compute"), strict=True))[1]

    @property
    def least_seconds(self) -> float | None:
        """What the limits of the chip allow at best; None if they are unknown."""
        return max(self._seconds) if self.bound else None

    @property
    def _seconds(self) -> tuple[float, float]:
        flops, num_bytes = LIMITS[self.arch]
        return self.num_bytes / num_bytes, self.flops / flops

    @property
    def _bands(self) -> str:
        items, first = np.diff(self.plan.cta_indptr), self.plan.facts.band_ctas[0]
        bands = {"decode": items[:first], "prefill": items[first:]}
        return " and ".join(
            f"{num.sum()} items of {name} on {np.count_nonzero(num)} of {num.size} CTAs"
            for name, num in bands.items()
            if num.any()
        )

    def __str__(self) -> str:
        merges, is_whole = int(self.plan.header[1]), self.plan.header[5]
        split = "none split" if merges == 0 else f"{merges} tiles split"
        order = ", taken as CTAs become free" if is_whole else ""
        lines = [f"for {self.arch}", *map(str, self.tiles)]
        lines += [] if self.tiles else ["the jnp reference: no kernel does this"]
        lines += [
            f"plan: {self._bands}, {split}{order}",
            f"work: {self.flops / 1e9:.4g} GFLOP, {self.num_bytes / 1e6:.4g} MB",
        ]
        if self.least_seconds is not None:
            lines.append(
                f"bound: {self.bound}, at least {self.least_seconds * 1e6:.3g} us"
            )
        return "\n  ".join(lines)


def explain(
    cu_q_lens: Any,
    kv_lens: Any,
    *,
    num_q_heads: int,
    num_kv_heads: int,
    head_dim: int,
    head_dim_v: int | None = None,
    page_size: int | None = None,
    dtype: Any = jnp.bfloat16,
    max_kv_len: int | None = None,
    is_causal: bool = True,
    local_window_size: int | tuple[int | None, int | None] | None = None,
    variant: Variant | None = None,
    config: PlanConfig | None = None,
) -> Explanation:
    """Which kernels, tiles and plan an attention call gets, without running it.

    A pure function of the problem. It needs no GPU: `config=PlanConfig.gpu()` asks for
    one. `print` it.

    Args:
      cu_q_lens: i32[B + 1], offsets of the queries; None = one each. Not traced.
      kv_lens: i32[B]. Not traced.
      num_q_heads: N.
      num_kv_heads: K.
      head_dim: H.
      head_dim_v: Hv; None = H.
      page_size: None = contiguous keys.
      dtype: of queries, keys and values.
      max_kv_len: as of `plan`; None = the longest of kv_lens.
      is_causal: as of the op.
      local_window_size: as of the op.
      variant: as of the op.
      config: what to plan for; None = PlanConfig.default().

    Returns:
      An Explanation.

    Raises:
      ValueError: for arguments that `plan` or the op would refuse.
    """
    config = config or PlanConfig.default()
    kv_lens = np.asarray(kv_lens, np.int32)
    q_offsets = np.arange(len(kv_lens) + 1) if cu_q_lens is None else cu_q_lens
    q_offsets = np.asarray(q_offsets, np.int32)
    made = make_plan(
        q_offsets,
        kv_lens,
        num_tokens=int(q_offsets[-1]),
        max_kv_len=max_kv_len or int(kv_lens.max(initial=1)),
        num_q_heads=num_q_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        is_causal=is_causal,
        local_window_size=local_window_size,
        config=config,
    )
    head_dim_v = head_dim_v or head_dim
    options, _ = make_options(
        head_dim,
        head_dim_v,
        variant=variant,
        is_causal=is_causal,
        local_window_size=local_window_size,
    )
    sizes = num_q_heads, num_kv_heads, head_dim, head_dim_v
    tiles = _tiles(made, options, page_size or 0, jnp.dtype(dtype), sizes)
    mask = {"is_causal": is_causal, "local_window_size": options.local_window_size}
    lo, hi = visible_keys(q_offsets, kv_lens, **mask)
    begin, end = needed_keys(q_offsets, kv_lens, **mask)
    width, num_rows = head_dim + head_dim_v, int(q_offsets[-1])
    flops = 2 * int((hi - lo).sum()) * num_q_heads * width
    elements = num_rows * num_q_heads + int((end - begin).sum()) * num_kv_heads
    num_bytes = elements * width * jnp.dtype(dtype).itemsize
    return Explanation(config.arch, tiles, made, flops, num_bytes)


def _tiles(
    plan: Plan,
    options: AttentionOptions,
    page_size: int,
    dtype: np.dtype,
    sizes: tuple[int, int, int, int],
) -> tuple[Tile, ...]:
    num_q_heads, num_kv_heads, head_dim, head_dim_v = sizes
    facts, group = plan.facts, num_q_heads // num_kv_heads
    rows = [facts.packed_rows(tile) for tile in facts.tile_classes]
    if facts.config.arch == "cpu":
        classes = zip(rows, facts.tile_classes, strict=True)
        return tuple(Tile("CPU kernel", n, n // group, c.keys) for n, c in classes)
    lead = (1, page_size) if page_size else (1,)
    query, key, value = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape in (
            (1, num_q_heads, head_dim),
            (*lead, num_kv_heads, head_dim),
            (*lead, num_kv_heads, head_dim_v),
        )
    )
    used = cuda_kernels(
        query, key, value, options, facts, page_size=page_size, arch=facts.config.arch
    )
    if used is None:
        return ()
    tiles = []
    for n in rows:
        if used.hopper and n == facts.tile_rows:
            keys, stages = used.hopper_tiles
            size = _native.hopper_shared_bytes(head_dim, head_dim_v, keys, stages)
            name = used.hopper.kernel
            tiles.append(Tile(name, n, n // group, keys, stages, size))
        else:
            ctas = facts.ctas_per_sm
            found = _native.attention_tiles(head_dim, head_dim_v, ctas, n)
            tiles.append(Tile("attention", n, n // group, **found))
    return tuple(tiles)
