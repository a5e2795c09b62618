# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Chunked prefill: prompts of any lengths into a paged KV cache, in equal steps."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from llama import Llama

import jaxinfer as ji
from jaxinfer.flax import RaggedBatch

Report = Callable[[str], object]


def ignore(stage: str) -> None:
    """A Report that shows nothing."""
    del stage


@dataclasses.dataclass(frozen=True)
class Prefill:
    """Prompts in the cache.

    Attributes:
      cache: with the keys and values of all prompts.
      last_hidden: [B, D] of each prompt's last token.
      hidden: [T, D] of all tokens, prompt after prompt; None if not asked for.
      compile_seconds: wall time before the first step could run.
      seconds: wall time of the steps.
    """

    cache: ji.PagedKVCache
    last_hidden: jax.Array
    hidden: np.ndarray | None
    compile_seconds: float
    seconds: float


class Step(NamedTuple):
    """The tokens of one prefill step.

    Attributes:
      tokens: i32[chunk], pieces of several prompts and then padding.
      kv_lens: i32[B], tokens of each prompt in the cache after this step.
      cu_q_lens: i32[B + 1].
      is_last: bool[B], whether the prompt ends in this step.
    """

    tokens: np.ndarray
    kv_lens: np.ndarray
    cu_q_lens: np.ndarray
    is_last: np.ndarray


def split_into_steps(prompts: Sequence[Sequence[int]], chunk: int) -> Iterator[Step]:
    """Cuts prompts into steps of `chunk` tokens, in order: only the last is padded."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    cu_lens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = np.concatenate([np.asarray(prompt, np.int32) for prompt in prompts])
    for begin in range(0, len(flat), chunk):
        end = min(begin + chunk, len(flat))
        cu_q_lens = np.clip(cu_lens, begin, end) - begin
        kv_lens = np.clip(end - cu_lens[:-1], 0, lengths)
        tokens = np.zeros(chunk, np.int32)
        tokens[: end - begin] = flat[begin:end]
        is_last = (kv_lens == lengths) & (np.diff(cu_q_lens) > 0)
        yield Step(tokens, kv_lens, cu_q_lens, is_last)


@functools.partial(jax.jit, donate_argnames=("cache", "last_hidden"))
def prefill_step(
    model: Llama,
    cache: ji.PagedKVCache,
    last_hidden: jax.Array,
    page_table: jax.Array,
    step: Step,
) -> tuple[jax.Array, jax.Array, ji.PagedKVCache]:
    """Runs one step; returns (hidden [chunk, D], last_hidden [B, D], cache)."""
    batch = RaggedBatch.create(
        cache,
        page_table,
        step.kv_lens,
        step.cu_q_lens,
        num_tokens=step.tokens.shape[0],
        num_q_heads=model.config.num_q_heads,
    )
    hidden, cache = model(step.tokens, cache, batch)
    ends = hidden[step.cu_q_lens[1:] - 1]
    return hidden, jnp.where(step.is_last[:, None], ends, last_hidden), cache


def prefill(
    model: Llama,
    cache: ji.PagedKVCache,
    prompts: Sequence[Sequence[int]],
    page_table: np.ndarray,
    *,
    chunk: int = 256,
    with_hidden: bool = False,
    report: Report = ignore,
) -> Prefill:
    """Runs prompts through the model, pieces of several of them at a time.

    Args:
      model: the network.
      cache: donated; use Prefill.cache afterwards.
      prompts: ids of B sequences, at least one each.
      page_table: i32[B, max_pages] with room for them.
      chunk: tokens of a step.
      with_hidden: return what the model says of every token, not of the last alone.
      report: called with the name of each stage before it starts.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    config = model.config
    steps = list(split_into_steps(prompts, chunk))
    last_hidden = jnp.zeros((len(prompts), config.hidden_size), model.dtype)
    table = jnp.asarray(page_table)

    report("compile prefill")
    start = time.perf_counter()
    run = prefill_step.lower(model, cache, last_hidden, table, steps[0]).compile()
    compile_seconds = time.perf_counter() - start

    report("prefill")
    start = time.perf_counter()
    pieces = []
    for step in steps:
        hidden, last_hidden, cache = run(model, cache, last_hidden, table, step)
        if with_hidden:
            pieces.append(np.asarray(hidden)[: step.cu_q_lens[-1]])
    jax.block_until_ready(last_hidden)
    return Prefill(
        cache,
        last_hidden,
        np.concatenate(pieces) if with_hidden else None,
        compile_seconds,
        time.perf_counter() - start,
    )
