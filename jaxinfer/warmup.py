# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Which kernels the shapes of a model take: python -m jaxinfer.jit warmup --heads ...

The ops are lowered for CUDA on abstract shapes, so that the kernels found here are by
construction those that programs of these shapes ask for.
"""

import argparse
import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer._plan import gpu_arch
from jaxinfer.jit import KernelSpec, collect_specs
from jaxinfer.ops.merge_partials import merge_partials
from jaxinfer.ops.ragged_paged_attention import ragged_paged_attention
from jaxinfer.ops.rope_update_kv_pages import rope_update_kv_pages
from jaxinfer.ops.update_kv_pages import update_kv_pages

# What changes the attention kernel and is not a shape, named as in the op.
OPTIONS = ("page_indptr", "logits_soft_cap", "attention_sink", "k_scale", "v_scale")

# Where these are not given, tiles are chosen for small and large ones.
_DECODE_BATCHES = (1, 16, 64, 1024)
_PREFILL_SHAPES = ((2, 1), (4096, 64))  # tokens, sequences
_KV_LENS = (2**9, 2**13, 2**17)


def kernel_specs(
    num_q_heads: int,
    num_kv_heads: int,
    head_dim: int,
    *,
    head_dim_v: int | None = None,
    dtype: Any = jnp.bfloat16,
    page_size: int = 16,
    num_tokens: int | None = None,
    num_seqs: int | None = None,
    max_kv_len: int | None = None,
    is_stacked: bool = False,
    options: tuple[str, ...] = (),
) -> list[KernelSpec]:
    """The kernels of planning, appending, rope, paged attention and merging.

    Args:
      num_q_heads: N.
      num_kv_heads: K.
      head_dim: H.
      head_dim_v: Hv; None = head_dim.
      dtype: of queries and of the cache.
      page_size: of the cache.
      num_tokens: T; None = num_seqs, or decode and prefill if that is None too.
      num_seqs: B; None = num_tokens.
      max_kv_len: max_pages * page_size; None = short and long sequences.
      is_stacked: whether the cache has several layers.
      options: of OPTIONS, those that are given.

    Returns:
      Each kernel once, for the architecture of PlanConfig.default().

    Raises:
      ValueError: for shapes and options that do not fit.
      NotImplementedError: for what no kernel does.
    """
    head_dim_v = head_dim if head_dim_v is None else head_dim_v
    shapes = [*((batch, batch) for batch in _DECODE_BATCHES), *_PREFILL_SHAPES]
    if num_tokens is not None or num_seqs is not None:
        shapes = [(num_tokens or num_seqs or 1, num_seqs or num_tokens or 1)]
    dtype, f32, i32 = jnp.dtype(dtype), jnp.dtype("float32"), jnp.dtype("int32")
    lead = (1, 1) if is_stacked else (1,)
    with collect_specs() as specs:
        for (tokens, seqs), kv_len in [
            (shape, kv_len)
            for shape in shapes
            for kv_len in ([max_kv_len] if max_kv_len else _KV_LENS)
        ]:
            max_pages = math.ceil(kv_len / page_size)
            is_csr = "page_indptr" in options
            query = _array(dtype, tokens, num_q_heads, head_dim)
            where = {
                "k_pages": _array(dtype, *lead, page_size, num_kv_heads, head_dim),
                "v_pages": _array(dtype, *lead, page_size, num_kv_heads, head_dim_v),
                "page_table": _array(i32, *([] if is_csr else [seqs]), max_pages),
                "kv_lens": _array(i32, seqs),
                "cu_q_lens": _array(i32, seqs + 1),
            }
            if is_csr:
                where["page_indptr"] = _array(i32, seqs + 1)
            if is_stacked:
                where["layer"] = _array(i32)
            new = {
                "key": _array(dtype, tokens, num_kv_heads, head_dim),
                "value": _array(dtype, tokens, num_kv_heads, head_dim_v),
            }
            given = {
                "attention_sink": _array(f32, num_q_heads),
                "k_scale": _array(f32),
                "v_scale": _array(f32),
            }
            given = {name: given[name] for name in given if name in options}
            soft_cap = 1.0 if "logits_soft_cap" in options else None
            attend = functools.partial(ragged_paged_attention, logits_soft_cap=soft_cap)
            _lower(attend, query=query, **where, **given)
            _lower(update_kv_pages, **where, **new)
            _lower(rope_update_kv_pages, query=query, **where, **new)
            _lower(
                merge_partials,
                outs=_array(dtype, 2, tokens, num_q_heads, head_dim_v),
                lses=_array(f32, 2, tokens, num_q_heads),
            )
    return list(dict.fromkeys(specs))


def _array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _lower(op: Callable, **operands: jax.ShapeDtypeStruct) -> None:
    # By name, so that it raises where there is no kernel.
    call = jax.jit(functools.partial(op, implementation="cuda"))
    call.trace(**operands).lower(lowering_platforms=("cuda",))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line says about shapes."""
    number = {"type": _count, "metavar": "COUNT"}
    parser.add_argument(
        "--heads", metavar="N/K", help="query heads / KV heads, such as 32/8"
    )
    parser.add_argument(
        "--head-dim", metavar="H[/V]", default="128", help="of keys / of values"
    )
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16 or float16")
    parser.add_argument("--page-size", default=16, **number)
    parser.add_argument("--tokens", help="of a step; default: all tiles", **number)
    parser.add_argument("--seqs", help="of a step; default: all tiles", **number)
    parser.add_argument("--max-kv-len", help="default: short and long", **number)
    parser.add_argument(
        "--stacked", action="store_true", help="a cache of several layers"
    )
    parser.add_argument(
        "--options", nargs="+", default=[], choices=OPTIONS, help="that are given"
    )
    parser.add_argument("--arch", help="such as sm_90a; default: that of the device")


def specs_of(args: argparse.Namespace) -> list[KernelSpec]:
    """The kernels that the command line asks for.

    Args:
      args: parsed from the arguments of add_arguments.

    Raises:
      ValueError: for shapes and options that do not fit.
      NotImplementedError: for what no kernel does.
    """
    if args.heads is None:
        raise ValueError("--heads must be given, such as --heads 32/8")
    num_q_heads, num_kv_heads = _pair("--heads", args.heads)
    head_dim, head_dim_v = _pair("--head-dim", args.head_dim)
    if args.dtype not in ("bfloat16", "float16"):
        raise ValueError(f"--dtype must be bfloat16 or float16, got {args.dtype!r}")
    with _target(args.arch or gpu_arch()):
        return kernel_specs(
            num_q_heads,
            num_kv_heads,
            head_dim,
            head_dim_v=head_dim_v,
            dtype=args.dtype,
            page_size=args.page_size,
            num_tokens=args.tokens,
            num_seqs=args.seqs,
            max_kv_len=args.max_kv_len,
            is_stacked=args.stacked,
            options=tuple(args.options),
        )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


def _pair(name: str, text: str) -> tuple[int, int]:
    """32/8 -> (32, 8); 64 -> (64, 64)."""
    match = re.fullmatch(r"(\d+)(?:/(\d+))?", text)
    if not match:
        raise ValueError(f"{name} must be a number or two like 32/8, got {text!r}")
    return int(match[1]), int(match[2] or match[1])


@contextlib.contextmanager
def _target(arch: str) -> Iterator[None]:
    """JAXINFER_PLAN_TARGET for a while: on a CPU, plans are not those of a GPU."""
    before = os.environ.get("JAXINFER_PLAN_TARGET")
    os.environ["JAXINFER_PLAN_TARGET"] = arch
    try:
        yield
    finally:
        del os.environ["JAXINFER_PLAN_TARGET"]
        if before is not None:
            os.environ["JAXINFER_PLAN_TARGET"] = before
