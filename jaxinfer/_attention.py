# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What the three attention ops share: options, absent operands, the kernel call."""

import dataclasses
import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxinfer import _check, _native
from jaxinfer._compat import call_target, out_type
from jaxinfer._library import kernel_attributes
from jaxinfer._plan import PlanFacts, gpu_arch
from jaxinfer.jit import KernelSpec
from jaxinfer.variant import Hooks, Variant

_UNBOUNDED = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """The static options of an attention call, checked and normalised."""

    scale: float
    is_causal: bool
    local_window_size: tuple[int | None, int | None]
    logits_soft_cap: float | None = None
    use_softmax: bool = True
    hooks: Hooks | None = None

    @property
    def window(self) -> tuple[int, int]:
        """(left, right) in keys; unbounded sides are INT32_MAX."""
        left, right = self.local_window_size
        return (
            _UNBOUNDED if left is None else left,
            _UNBOUNDED if right is None else right,
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """FFI attributes, named as in xla_ffi/attention_call.h."""
        left, right = self.window
        return {
            "scale": np.float32(self.scale),
            "logits_soft_cap": np.float32(self.logits_soft_cap or 0.0),
            "is_causal": bool(self.is_causal),
            "window_left": np.int32(left),
            "window_right": np.int32(right),
            "use_softmax": bool(self.use_softmax),
        }


def make_options(
    head_dim: int,
    head_dim_v: int,
    *,
    is_causal: bool,
    local_window_size: Any,
    variant: Variant | None = None,
    scale: float | None = None,
    logits_soft_cap: float | None = None,
    use_softmax: bool = True,
    return_lse: bool = False,
    attention_sink: Any = None,
) -> tuple[AttentionOptions, list[jax.Array]]:
    """Checks the options and fills in the default scale, 1 / sqrt(H).

    Returns:
      The options, and the arrays that the hooks of the variant read.
    """
    if not (variant is None or isinstance(variant, Variant)):
        raise ValueError(f"variant must be a jaxinfer.Variant or None, got {variant!r}")
    _check.soft_cap(logits_soft_cap)
    _check.flag("is_causal", is_causal)
    _check.flag("use_softmax", use_softmax)
    _check.flag("return_lse", return_lse)
    window, hooks, arrays = _check.window(local_window_size), None, []
    if variant is not None:
        window = variant.narrowed(window)
        use_softmax = use_softmax and variant.use_softmax
        hooks, arrays = variant.trace(head_dim, head_dim_v)
    if not use_softmax and (return_lse or attention_sink is not None):
        raise ValueError(
            "use_softmax=False has neither a log-sum-exp nor a sink: "
            f"got return_lse={return_lse}, attention_sink "
            f"{'given' if attention_sink is not None else 'None'}"
        )
    if isinstance(scale, jax.core.Tracer):
        raise ValueError(
            "scale must be a Python number, got a traced array; multiply the query by "
            "a traced scale instead"
        )
    if scale is not None:
        _check.number("scale", scale)
    options = AttentionOptions(
        scale=float(head_dim**-0.5 if scale is None else scale),
        is_causal=is_causal,
        local_window_size=window,
        logits_soft_cap=logits_soft_cap,
        use_softmax=use_softmax,
        hooks=hooks,
    )
    return options, arrays


def absent(dtype: Any = jnp.float32) -> jax.Array:
    """Stands for an operand that was not given: an array without elements."""
    return jnp.zeros((0,), dtype)


def per_head(name: str, value: Any, num_heads: int) -> jax.Array:
    """A scale, f32[] or f32[heads], as f32[heads]; absent if None."""
    if value is None:
        return absent()
    value = jnp.asarray(value)
    _check.float32(name, value)
    if value.shape not in ((), (num_heads,)):
        raise ValueError(
            f"{name} must have shape [] or [{num_heads}], got {value.shape}"
        )
    return jnp.broadcast_to(value, (num_heads,))


def result_types(query: Any, head_dim_v: int) -> list[Any]:
    """Abstract (out [T, N, Hv], lse f32[T, N])."""
    tokens, heads, _ = query.shape
    return [
        out_type((tokens, heads, head_dim_v), query.dtype),
        out_type((tokens, heads), jnp.float32),
    ]


@dataclasses.dataclass(frozen=True)
class AttentionKernels:
    """What an attention call compiles.

    Attributes:
      attention: csrc/attention.cuh; if no tile is left to it, what merges of it.
      hopper: csrc/attention_hopper.cuh, for the long tiles; None = that one has them.
      hopper_tiles: keys of a step and stages of the latter; empty if there is none.
    """

    attention: KernelSpec
    hopper: KernelSpec | None = None
    hopper_tiles: tuple[int, ...] = ()


# ElementType in csrc/attention.h.
_ELEMENT_TYPES = {jnp.dtype(jnp.float16): 1, jnp.dtype(jnp.bfloat16): 2}


def cuda_kernels(
    query: Any,
    key: Any,
    value: Any,
    options: AttentionOptions,
    facts: PlanFacts,
    *,
    page_size: int = 0,
    arch: str | None = None,
    **has: bool,
) -> AttentionKernels | None:
    """The CUDA kernels of an attention call; None for what csrc/attention.cuh lacks.

    Args:
      query: [..., N, H].
      key: [..., K, H].
      value: [..., K, Hv].
      options: of the call.
      facts: of the plan.
      page_size: 0 = contiguous keys.
      arch: None = that of the target or the device.
      **has: which of stacked, csr, k_scale, v_scale, sink, bias and mask are given.

    Raises:
      ValueError: if there is a kernel, but the plan is for a CPU.
    """
    head_dim, head_dim_v = key.shape[-1], value.shape[-1]
    dtype = jnp.dtype(query.dtype)
    lead = key.shape[1:-2] if has.get("stacked") else key.shape[:-2]
    if dtype not in _ELEMENT_TYPES or key.dtype != dtype or math.prod(lead) >= 2**31:
        return None
    arch = arch or gpu_arch(facts.config)
    hopper = _has_hopper_kernel(arch, key, value, facts, page_size, has)
    # Values much wider than keys would not fit the shared memory of eight warps.
    if (head_dim_v > 128 and head_dim <= 128) or facts.tile_rows > 128:
        return None
    constants = {
        "kType": _ELEMENT_TYPES[dtype],
        "kHeadDim": head_dim,
        "kHeadDimV": head_dim_v,
        "kGroup": facts.num_q_heads // facts.num_kv_heads,
        "kPageSize": page_size,
        # Long tiles are those of the kernel for sm_90a: beside it stands a decode tile.
        "kTileRows": _DECODE_ROWS if hopper else facts.tile_rows,
        "kCtasPerSm": facts.ctas_per_sm,
        "kIsStacked": has.get("stacked", False),
        "kIsCsr": has.get("csr", False),
        # In float32, where it may underflow.
        "kIsScalePositive": bool(np.float32(options.scale) > 0),
        "kUseSoftmax": options.use_softmax,
        "kHasSoftCap": options.logits_soft_cap is not None,
        "kHasKScale": has.get("k_scale", False),
        "kHasVScale": has.get("v_scale", False),
        "kHasSink": has.get("sink", False),
        "kHasBias": has.get("bias", False),
        "kHasMask": has.get("mask", False),
    }
    code = options.hooks.code if options.hooks else ""
    is_alone = hopper and len(facts.tile_classes) == 1
    name = "attention_merge" if is_alone else "attention"
    attention = KernelSpec(name, arch, tuple(constants.items()), code)
    if not hopper:
        return AttentionKernels(attention)
    tiles = _hopper_tiles(head_dim)
    constants |= {"kCtasPerSm": 1, "kHopperRows": facts.tile_rows}
    constants |= zip(("kHopperKeys", "kHopperStages"), tiles, strict=True)
    long = KernelSpec("attention_hopper", arch, tuple(constants.items()), code)
    return AttentionKernels(attention, long, tiles)


_DECODE_ROWS = 16  # kMaxDecodeRows in csrc/attention_tiles.h
_hopper_tiles = _native.hopper_tiles  # benchmarks put others in its place


def _has_hopper_kernel(arch, key, value, facts, page_size, has) -> bool:
    """Whether csrc/attention_hopper.cuh computes the large tiles of a plan."""
    head_dim, head_dim_v = key.shape[-1], value.shape[-1]
    if arch != "sm_90a" or not _native.has_hopper_tiles(head_dim, head_dim_v):
        return False
    if has.get("bias") or has.get("mask"):
        return False
    # Tiles of the first class are left to the tile beside it, if there is another.
    short, *longer = map(facts.packed_rows, facts.tile_classes)
    fits_beside = not longer or short <= _DECODE_ROWS
    return fits_beside and _DECODE_ROWS < facts.tile_rows <= 128


def no_cpu_kernel(implementation: str | None) -> None:
    """Leaves a variant to the reference, unless a CPU kernel was asked for by name."""
    if implementation == "cpu":
        raise NotImplementedError(
            "implementation='cpu' has no kernel for variants with functions; use None "
            "or 'xla'"
        )


def call_kernel(
    name: str,
    operands: tuple[jax.Array, ...],
    out_shape: tuple[int, ...],
    dtype: Any,
    options: AttentionOptions,
    facts: PlanFacts,
    kernels: AttentionKernels | None = None,
) -> list[jax.Array]:
    """Calls an attention target; its workspace is two more results.

    Args:
      name: of the op.
      operands: of the target: those of the op, the plan, the arrays of a variant.
      out_shape: (T, N, Hv).
      dtype: of out.
      options: of the call.
      facts: of the plan; they size the workspace.
      kernels: on CUDA, what to compile.

    Returns:
      [out, lse].
    """
    layout = facts.layout
    slots = (layout["num_slots"], layout["slot_tokens"], layout["slot_heads"])
    f32 = jnp.float32
    results = [
        jax.ShapeDtypeStruct(out_shape, dtype),
        jax.ShapeDtypeStruct(out_shape[:-1], f32),
        jax.ShapeDtypeStruct((*slots, out_shape[-1]), f32),
        jax.ShapeDtypeStruct(slots, f32),
    ]
    tiles = np.array(kernels.hopper_tiles if kernels else (), np.int32)
    attributes = options.attributes | {"facts": facts.encoded, "hopper_tiles": tiles}
    if kernels is not None:
        attributes |= kernel_attributes(kernels.attention, hopper=kernels.hopper)
    return list(call_target(name, results, *operands, **attributes)[:2])
