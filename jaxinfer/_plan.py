# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The value types of planning: what a plan is made from, and what it is."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np

from jaxinfer import _native
from jaxinfer._plan_config import PlanConfig as PlanConfig
from jaxinfer._plan_config import TileClass as TileClass
from jaxinfer._plan_config import gpu_arch as gpu_arch

_UNBOUNDED = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class PlanFacts:
    """Everything about a plan that is known before the lengths are.

    An op compares these with its own and raises on any difference: a plan made for a
    window, used without one, would drop keys silently.
    """

    num_tokens: int
    num_seqs: int
    max_kv_len: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    is_causal: bool
    local_window_size: tuple[int | None, int | None]
    config: PlanConfig

    # Compared by ops; max_kv_len and config are the planner's own business.
    COMPARED: ClassVar[tuple[str, ...]] = (
        "num_tokens",
        "num_seqs",
        "num_q_heads",
        "num_kv_heads",
        "head_dim",
        "is_causal",
        "local_window_size",
    )

    @functools.cached_property
    def tile_classes(self) -> tuple[TileClass, ...]:
        """Those of the configuration, or of the CUDA kernels if it leaves them."""
        return self.config.tile_classes or _gpu_tile_classes(self)

    @functools.cached_property
    def ctas_per_sm(self) -> int:
        """Of decode: two smaller CTAs win a little on long streams, one large on short.

        Only the shapes are known here: large batches with room for 300 MB of K and V.
        Where one kernel has tiles of all sizes, the long ones want one large CTA.
        """
        config = self.config
        if config.ctas_per_sm is not None or not config.arch.startswith("sm_"):
            return config.ctas_per_sm or 1
        if config.batch_invariant:
            return 1
        is_short = self.tile_classes[0].rows <= 16
        is_alone = len(self.tile_classes) == 1 or _has_hopper_tiles(self)
        row_bytes = 4 * self.num_kv_heads * self.head_dim
        is_long = self.num_seqs * self.max_kv_len * row_bytes >= 300e6
        return 2 if is_short and is_alone and is_long and self.num_seqs >= 32 else 1

    @property
    def whole_tiles_from(self) -> int:
        """That of the configuration, or what the prefill kernel for sm_90a likes best.

        The older kernel cannot take items as its CTAs become free: it would wait for
        the most loaded one.
        """
        config = self.config
        if config.whole_tiles_from is not None:
            return config.whole_tiles_from
        return 2 if _has_hopper_tiles(self) and len(self.tile_classes) > 1 else 0

    @property
    def band_ctas(self) -> tuple[int, int]:
        """CTAs of tiles of the first class (decode), and of all others (prefill)."""
        num_ctas = self.config.num_ctas
        others = num_ctas if len(self.tile_classes) > 1 else 0
        return num_ctas * self.ctas_per_sm, others

    @property
    def num_ctas(self) -> int:
        """CTAs of the plan."""
        return sum(self.band_ctas)

    @property
    def tile_rows(self) -> int:
        """Most packed rows that a tile of the plan has."""
        return self.packed_rows(self.tile_classes[-1])

    def packed_rows(self, tile: TileClass) -> int:
        """Those of whole tokens, at least of one."""
        group = self.num_q_heads // self.num_kv_heads
        return max(1, tile.rows // group) * group

    @functools.cached_property
    def encoded(self) -> np.ndarray:
        """The fields as int32, in the order of PlanFacts in csrc/plan.h."""
        config = self.config
        classes = self.tile_classes
        left, right = (
            _UNBOUNDED if side is None else side for side in self.local_window_size
        )
        first, others = self.band_ctas
        fewest_ctas = others or first  # of a band: others are never more
        fields = [
            self.num_tokens,
            self.num_seqs,
            self.max_kv_len,
            self.num_q_heads,
            self.num_kv_heads,
            int(self.is_causal),
            left,
            right,
            first,
            others,
            _heads_per_item(self.num_kv_heads, config, fewest_ctas),
            config.min_cost,
            config.min_keys_per_row,
            int(config.batch_invariant),
            config.split_keys,
            self.ctas_per_sm,
            self.whole_tiles_from,
            len(classes),
        ]
        tiles = np.zeros((4, 4), np.int32)
        for i, tile in enumerate(classes[:4]):
            tiles[i] = tile.rows, tile.keys, tile.cost, tile.item_cost
        return np.concatenate([np.array(fields, np.int32), tiles.ravel()])

    @functools.cached_property
    def layout(self) -> dict[str, int]:
        """Offsets of the sections, in int32, and the size of the workspace."""
        try:
            return _native.plan_layout(self.encoded)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{error}; got {self}") from None


def _has_hopper_tiles(facts: PlanFacts) -> bool:
    """As far as a plan can tell: it does not know the values' head dim."""
    is_hopper = facts.config.arch == "sm_90a"
    return is_hopper and _native.has_hopper_tiles(facts.head_dim, facts.head_dim)


def _gpu_tile_classes(facts: PlanFacts) -> tuple[TileClass, ...]:
    """The tiles of csrc/attention.cuh; costs in what 16 keys of a decode tile take.

    None has an item_cost: for decode, 1 to 8 gained nothing (docs/performance.md).
    """
    group = facts.num_q_heads // facts.num_kv_heads
    is_long = facts.head_dim <= 128 or _has_hopper_tiles(facts)
    prefill = TileClass(128 if is_long else 64, 128, 13)
    if group > 16:
        return (prefill,)
    # One token each, most likely. Bits must not depend on the batch in the other mode.
    if facts.num_tokens == facts.num_seqs and not facts.config.batch_invariant:
        return (TileClass(8 if group <= 8 else 16, 16, 1),)
    return (TileClass(16, 16, 1), prefill)


def _heads_per_item(num_kv_heads: int, config: PlanConfig, num_ctas: int) -> int:
    """The configured number, or the next one that leaves every head group a CTA."""
    want = config.kv_heads_per_item or num_kv_heads
    return next(
        heads
        for heads in range(1, num_kv_heads + 1)
        if num_kv_heads % heads == 0
        and (heads >= want or heads == num_kv_heads)
        and num_kv_heads // heads <= max(num_ctas, 1)
    )


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["buffer"], meta_fields=["facts"]
)
@dataclasses.dataclass(frozen=True)
class Plan:
    """Which CTA computes which query rows against which keys (FlashInfer, 3.3.1).

    A value: every op only reads it, so one plan serves all layers of a step. It stays
    valid for the same cu_q_lens and any later kv_lens; only its balance fades.

    Attributes:
      buffer: i32[facts.layout["size"]], all sections in one array.
      facts: what the plan was made for; static.
    """

    buffer: Any
    facts: PlanFacts

    def _section(self, name: str, count: int, width: int) -> Any:
        begin = self.facts.layout[name]
        return self.buffer[begin : begin + count * width].reshape(count, width)

    @property
    def header(self) -> Any:
        """i32[16]: items, merges, parts and CTAs in use, largest load, is_whole."""
        return self.buffer[:16]

    @property
    def cta_indptr(self) -> Any:
        """i32[num_ctas + 1]: the items of CTA c are cta_indptr[c] .. [c + 1]."""
        return self._section("cta_indptr", self.facts.num_ctas + 1, 1)[:, 0]

    @property
    def items(self) -> Any:
        """i32[max_items, 16]: work items, fields as in csrc/work_item.h."""
        return self._section("items", self.facts.layout["max_items"], 16)

    @property
    def merges(self) -> Any:
        """i32[max_merges, 8]: rows whose partial results are merged."""
        return self._section("merges", self.facts.layout["max_merges"], 8)

    @property
    def parts(self) -> Any:
        """i32[max_parts]: slots of partial results, in the order of merging."""
        return self._section("parts", self.facts.layout["max_parts"], 1)[:, 0]

    def check(self, op: str, **facts: Any) -> None:
        """Raises ValueError if an op's own facts differ from those of the plan."""
        for name in PlanFacts.COMPARED:
            planned, got = getattr(self.facts, name), facts[name]
            if planned != got:
                raise ValueError(
                    f"{op}: the plan was made for {name}={planned!r}, but this call "
                    f"has {name}={got!r}; make a plan of its own for it"
                )
