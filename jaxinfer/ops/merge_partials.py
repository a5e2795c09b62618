# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""merge_partials: join attention over disjoint sets of keys."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer import _check, _fold
from jaxinfer._attention import absent
from jaxinfer._compat import call_target, define_op, out_type
from jaxinfer._library import kernel_attributes
from jaxinfer._plan import gpu_arch
from jaxinfer.jit import KernelSpec
from jaxinfer.reference.merge_partials import merge_partials as _reference

MAX_SPLITS = 64


def merge_partials(
    outs: Any,
    lses: Any,
    *,
    attention_sink: Any = None,
    use_softmax: bool = True,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Merges partial results of the same queries over disjoint keys.

    The operator is associative and commutative: split keys, shared prefixes, context
    parallelism and cascades are this at different levels. (FlashInfer, arXiv
    2501.01005, section 2.2.)

    Args:
      outs: f32 | f16 | bf16 [S, T, N, H], S <= 64 partial results.
      lses: f32[S, T, N], their natural log-sum-exps, without sink. A part with -inf
        has no keys and is ignored, whatever its out holds.
      attention_sink: f32[N], applied once, here: give it to the last merge alone.
      use_softmax: False adds the parts up.
      implementation: None, "cuda", "cpu" or "xla", as in ragged_paged_attention.

    Returns:
      (out [T, N, H], lse f32[T, N]); 0 and -inf where no part has keys.

    Raises:
      ValueError: for shapes, dtypes and options that do not fit.
      NotImplementedError: for a head_dim that no kernel has.
    """
    _check.implementation(implementation)
    outs, lses = jnp.asarray(outs), jnp.asarray(lses)
    sizes: dict[str, int] = {}
    _check.shape("outs", outs, "S", "T", "N", "H", sizes=sizes)
    _check.shape("lses", lses, "S", "T", "N", sizes=sizes)
    _check.floating("outs", outs)
    _check.float32("lses", lses)
    _check.not_empty(sizes, S="number of partial results")
    _check.head_dim("head_dim", sizes["H"], implementation)
    if sizes["S"] > MAX_SPLITS:
        raise ValueError(
            f"outs must hold at most {MAX_SPLITS} partial results, got {sizes['S']}; "
            "merge in several steps"
        )
    if attention_sink is None:
        sink = absent()
    else:
        sink = jnp.asarray(attention_sink)
        _check.shape("attention_sink", sink, "N", sizes=sizes)
        _check.float32("attention_sink", sink)
        if not use_softmax:
            raise ValueError("use_softmax=False has no sink, got an attention_sink")
    out, lse = merge_partials_op.bind(
        outs, lses, sink, use_softmax=use_softmax, implementation=implementation
    )
    return out, lse


def _out_types(outs, lses, sink, **params):
    return [out_type(outs.shape[1:], outs.dtype), out_type(lses.shape[1:], jnp.float32)]


def _cuda(*operands, use_softmax, implementation):
    kernel = kernel_attributes(KernelSpec("merge_partials", gpu_arch()))
    return _call(*operands, use_softmax=use_softmax, **kernel)


def _cpu(*operands, use_softmax, implementation):
    return _call(*operands, use_softmax=use_softmax)


def _call(outs, lses, sink, **attributes):
    results = [
        jax.ShapeDtypeStruct(outs.shape[1:], outs.dtype),
        jax.ShapeDtypeStruct(lses.shape[1:], jnp.float32),
    ]
    return call_target("merge_partials", results, outs, lses, sink, **attributes)


merge_partials_op = define_op(
    "merge_partials",
    out_types=_out_types,
    cpu=_cpu,
    cuda=_cuda,
    reference=_reference,
    batch=lambda operands, axes, **params: _fold.merge_partials(
        merge_partials_op, operands, axes, **params
    ),
)
