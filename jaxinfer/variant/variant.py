# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Variant: the JAX functions that change attention, and how they are combined."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxinfer import _check
from jaxinfer.variant.block_map import BlockMap, make_block_map
from jaxinfer.variant.hooks import Hooks
from jaxinfer.variant.trace import HOOKS, indices_read, trace

Window = tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class Variant:
    """Attention changed by JAX functions of one score or of one vector.

    Every function sees scalars i32[]: `b` the sequence, `h` the query head (of keys and
    values the KV head), `q_idx` and `kv_idx` the positions of query and key. It must be
    elementwise: of scalars, of the vector, and of arrays that it closes over, which may
    be traced. What depends on closed-over arrays alone may be any JAX function.

    Variants are equal if their functions are the same objects. `a & b` sees what both
    see, and applies b's functions after a's; `a | b` sees what one of them sees.

    Attributes:
      score_mod: (score f32[], b, h, q_idx, kv_idx) -> f32[], of the scaled logits.
      mask_mod: (b, h, q_idx, kv_idx) -> bool[], whether the query sees the key.
      query_mod: (vector f32[H], b, h, q_idx) -> [H].
      key_mod: (vector f32[H], b, h, kv_idx) -> [H].
      value_mod: (vector f32[Hv], b, h, kv_idx) -> [Hv].
      output_mod: (vector f32[Hv], b, h, q_idx) -> [Hv].
      use_softmax: False sums values weighted by the scores themselves.
      local_window_size: an int or (left, right): the query at position p sees keys from
        p - left to p + right, None without bound. Keys outside are not read at all.
      block_map: of mask_mod, from with_block_map.

    Raises:
      ValueError: if a field is of the wrong kind.
    """

    score_mod: Callable[..., Any] | None = None
    mask_mod: Callable[..., Any] | None = None
    query_mod: Callable[..., Any] | None = None
    key_mod: Callable[..., Any] | None = None
    value_mod: Callable[..., Any] | None = None
    output_mod: Callable[..., Any] | None = None
    use_softmax: bool = True
    local_window_size: int | Window | None = None
    block_map: BlockMap | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in HOOKS:
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise ValueError(f"{name} must be None or a function, got {hook!r}")
        _check.flag("use_softmax", self.use_softmax)
        if isinstance(self.local_window_size, list):  # to be hashable
            object.__setattr__(self, "local_window_size", (*self.local_window_size,))
        _check.window(self.local_window_size)

    @property
    def window(self) -> Window:
        """local_window_size as (left, right), None = unbounded."""
        return _check.window(self.local_window_size)

    def narrowed(self, window: Window) -> Window:
        """The part of a window (left, right) that lies in this variant's."""
        left, right = map(_narrower, self.window, window)
        return left, right

    def trace(
        self, head_dim: int, head_dim_v: int
    ) -> tuple[Hooks | None, list[jax.Array]]:
        """Traces the functions to device code.

        Args:
          head_dim: H, elements of queries and keys.
          head_dim_v: Hv, elements of values and outputs.

        Returns:
          The hooks, None if there are none; and the arrays that they read: those closed
          over, and what is computed from these alone. Under jit they may be tracers.

        Raises:
          ValueError: if a function has other parameters or results than its field says,
            or if the functions read too many arrays.
          NotImplementedError: for what device code cannot do, naming the operation and
            the line.
        """
        functions = {name: getattr(self, name) for name in HOOKS}
        return trace(functions, head_dim, head_dim_v, self.block_map)

    def with_block_map(
        self,
        *,
        q_len: int,
        kv_len: int,
        num_seqs: int | None = None,
        num_q_heads: int | None = None,
        block_q: int = 128,
        block_kv: int = 128,
    ) -> "Variant":
        """The same variant, with the blocks that its mask hides or shows whole.

        Prefill does not read hidden blocks, and pays nothing for the mask in shown
        ones. The mask is evaluated everywhere once, in or outside jit; what lies
        outside of the map is taken as mixed. A map is of one mask: compose masks first.

        Args:
          q_len: positions of queries, from 0, that the map tells of.
          kv_len: positions of keys.
          num_seqs: B; None = mask_mod does not depend on b.
          num_q_heads: N; None = mask_mod does not depend on h.
          block_q: positions of queries in a block.
          block_kv: positions of keys in a block, at least 64 to be of use.

        Raises:
          ValueError: without a mask_mod, for sizes below 1, and for None where the
            mask does depend on b or h.
        """
        if self.mask_mod is None:
            raise ValueError("with_block_map must have a mask_mod to tell of, got None")
        sizes: dict[str, Any] = {
            "q_len": q_len,
            "kv_len": kv_len,
            "num_seqs": num_seqs,
            "num_q_heads": num_q_heads,
            "block_q": block_q,
            "block_kv": block_kv,
        }
        for name, size in sizes.items():
            is_absent = size is None and name.startswith("num_")
            if not is_absent and (not isinstance(size, int) or size < 1):
                raise ValueError(f"{name} must be an int of at least 1, got {size!r}")
        read = indices_read("mask_mod", self.mask_mod)
        for name, index in (("num_seqs", "b"), ("num_q_heads", "h")):
            if index in read and sizes[name] is None:
                raise ValueError(
                    f"{name} must be given where mask_mod depends on {index}, got None"
                )
        block_map = make_block_map(self.mask_mod, **sizes)
        return dataclasses.replace(self, block_map=block_map)

    def __and__(self, other: "Variant") -> "Variant":
        """Sees what both see; the functions of `other` are applied last."""
        if not isinstance(other, Variant):
            return NotImplemented
        hooks: dict[str, Any] = {
            name: _joined(_Both if name == "mask_mod" else _Chain, self, other, name)
            for name in HOOKS
        }
        return Variant(
            **hooks,
            use_softmax=self.use_softmax and other.use_softmax,
            local_window_size=_size(*self.narrowed(other.window)),
            block_map=_map_of_one(self, other),
        )

    def __or__(self, other: "Variant") -> "Variant":
        """Sees what one of both sees, of variants that are masks and nothing else."""
        if not isinstance(other, Variant):
            return NotImplemented
        _map_of_one(self, other)
        mine, theirs = _mask_alone(self), _mask_alone(other)
        if mine is None or theirs is None:  # everything is seen
            return Variant()
        sides = zip(self.window, other.window, strict=True)
        return Variant(
            mask_mod=_Either(mine, theirs),
            local_window_size=_size(*(_wider(*pair) for pair in sides)),
        )


# Composed functions are values: equal if made of the same functions.


@dataclasses.dataclass(frozen=True)
class _Chain:
    first: Callable[..., Any]
    second: Callable[..., Any]

    def __call__(self, value, *indices):
        changed = jax.numpy.asarray(self.first(value, *indices), value.dtype)
        return self.second(changed, *indices)


@dataclasses.dataclass(frozen=True)
class _Both:
    first: Callable[..., Any]
    second: Callable[..., Any]

    def __call__(self, *indices):
        return jax.numpy.logical_and(self.first(*indices), self.second(*indices))


@dataclasses.dataclass(frozen=True)
class _Either:
    first: Callable[..., Any]
    second: Callable[..., Any]

    def __call__(self, *indices):
        return jax.numpy.logical_or(self.first(*indices), self.second(*indices))


@dataclasses.dataclass(frozen=True)
class _InWindow:
    left: int | None
    right: int | None

    def __call__(self, b, h, q_idx, kv_idx):
        seen = jax.numpy.bool_(True)
        if self.left is not None:
            seen = q_idx - kv_idx <= self.left
        if self.right is not None:
            seen = jax.numpy.logical_and(seen, kv_idx - q_idx <= self.right)
        return seen


def _joined(join, a: Variant, b: Variant, name: str):
    first, second = getattr(a, name), getattr(b, name)
    if first is None or second is None:
        return first if second is None else second
    return join(first, second)


def _map_of_one(a: Variant, b: Variant) -> BlockMap | None:
    if a.mask_mod is not None and b.mask_mod is not None:
        for variant in (a, b):
            if variant.block_map is not None:
                raise ValueError(
                    "masks must be combined before with_block_map, got a block_map of "
                    f"shape {variant.block_map.states.shape} for one of them"
                )
    return a.block_map or b.block_map


def _mask_alone(variant: Variant) -> Callable[..., Any] | None:
    """What a variant sees, its window included."""
    for name in HOOKS:
        if name != "mask_mod" and getattr(variant, name) is not None:
            raise ValueError(
                f"a | b must join variants that have masks and windows only, got {name}"
            )
    if not variant.use_softmax:
        raise ValueError(
            "a | b must join variants that have masks and windows only, got "
            "use_softmax=False"
        )
    if variant.window == (None, None):
        return variant.mask_mod
    window = _InWindow(*variant.window)
    return _Both(variant.mask_mod, window) if variant.mask_mod else window


def _narrower(a: int | None, b: int | None) -> int | None:
    return min((side for side in (a, b) if side is not None), default=None)


def _wider(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else max(a, b)


def _size(left: int | None, right: int | None) -> Window | None:
    return None if left is None and right is None else (left, right)
