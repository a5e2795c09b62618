# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Text generation over a paged KV cache: chunked prefill, then one decode loop."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from llama import Llama
from prefill import Report, ignore, prefill
from sampling import Sampling, choose, sequence_keys

import jaxinfer as ji
from jaxinfer.flax import RaggedBatch

GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Generation:
    """What was generated for B prompts.

    Attributes:
      tokens: ids i32[n] of each sequence, with the end-of-sequence token if it came.
      logprobs: f32[n] of these under the model's own distribution, whatever the
        temperature; None if not asked for.
      logits: f32[n, V] that each was drawn from; None if not asked for.
      cache: afterwards; the last token of a sequence is not in it.
      page_table: i32[B, max_pages].
      kv_lens: i32[B], tokens in the cache.
      num_steps: of the decode loop. The first token comes out of the prefill.
      compile_seconds: wall time of compilation.
      prefill_seconds: wall time of all prefill steps.
      decode_seconds: wall time of the decode loop.
    """

    tokens: list[np.ndarray]
    logprobs: list[np.ndarray] | None
    logits: list[np.ndarray] | None
    cache: ji.PagedKVCache
    page_table: np.ndarray
    kv_lens: np.ndarray
    num_steps: int
    compile_seconds: float
    prefill_seconds: float
    decode_seconds: float


class Progress(NamedTuple):
    """The carry of the decode loop: S most new tokens, B sequences, V words.

    Attributes:
      step: i32[], tokens drawn of each unfinished sequence.
      cache: of the model.
      kv_lens: i32[B], tokens in the cache.
      is_done: bool[B].
      num_new: i32[B], tokens drawn.
      tokens: i32[S, B].
      logprobs: f32[S, B], or None.
      logits: f32[S, B, V], or None.
    """

    step: jax.Array
    cache: ji.PagedKVCache
    kv_lens: jax.Array
    is_done: jax.Array
    num_new: jax.Array
    tokens: jax.Array
    logprobs: jax.Array | None
    logits: jax.Array | None


@functools.partial(
    jax.jit,
    static_argnames=(
        "max_new_tokens",
        "eos_id",
        "sampling",
        "with_logprobs",
        "with_logits",
    ),
    donate_argnames="cache",
)
def decode(
    model: Llama,
    cache: ji.PagedKVCache,
    last_hidden: jax.Array,
    page_table: jax.Array,
    prompt_lens: jax.Array,
    keys: jax.Array,
    *,
    max_new_tokens: int,
    eos_id: int,
    sampling: Sampling,
    with_logprobs: bool,
    with_logits: bool,
) -> Progress:
    """Draws tokens until every sequence has ended, in one while_loop.

    A finished sequence stays in the batch with one token, a frozen kv_len and nowhere
    to write: shapes never change, and its cache neither.
    """
    num_seqs = prompt_lens.shape[0]
    shape = (max_new_tokens, num_seqs)

    def draw(at: Progress, hidden: jax.Array) -> Progress:
        """Takes the next token of every unfinished sequence from its last hidden."""
        logits = model.logits(hidden)
        # The token of this step will stand right behind what is cached.
        token = choose(logits, keys, at.kv_lens, sampling)
        token = jnp.where(at.is_done, eos_id, token)
        logprobs = at.logprobs
        if logprobs is not None:
            logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], 1)
            logprobs = logprobs.at[at.step].set(logprob[:, 0])
        return at._replace(
            step=at.step + 1,
            is_done=at.is_done | (token == eos_id),
            num_new=at.num_new + ~at.is_done,
            tokens=at.tokens.at[at.step].set(token),
            logprobs=logprobs,
            logits=None if at.logits is None else at.logits.at[at.step].set(logits),
        )

    def advance(at: Progress) -> Progress:
        """Runs the tokens drawn last through the model, then draws the next ones."""
        kv_lens = at.kv_lens + ~at.is_done
        batch = RaggedBatch.create(
            at.cache,
            page_table,
            kv_lens,
            num_tokens=num_seqs,
            num_q_heads=model.config.num_q_heads,
            is_active=~at.is_done,
        )
        hidden, cache = model(at.tokens[at.step - 1], at.cache, batch)
        return draw(at._replace(cache=cache, kv_lens=kv_lens), hidden)

    start = Progress(
        step=jnp.int32(0),
        cache=cache,
        kv_lens=prompt_lens,
        is_done=jnp.zeros(num_seqs, bool),
        num_new=jnp.zeros(num_seqs, jnp.int32),
        tokens=jnp.full(shape, eos_id, jnp.int32),
        logprobs=jnp.zeros(shape) if with_logprobs else None,
        logits=jnp.zeros((*shape, model.config.vocab_size)) if with_logits else None,
    )
    return jax.lax.while_loop(
        lambda at: (at.step < max_new_tokens) & ~at.is_done.all(),
        advance,
        draw(start, last_hidden),
    )


def generate(
    model: Llama,
    cache: ji.PagedKVCache,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    seq_ids: Sequence[int] | None = None,
    pool: ji.PagePool | None = None,
    chunk: int = 256,
    with_logprobs: bool = False,
    with_logits: bool = False,
    report: Report = ignore,
) -> Generation:
    """Continues prompts, all of them in one batch.

    Args:
      model: the network.
      cache: donated; use Generation.cache afterwards.
      prompts: ids of B sequences, at least one each.
      max_new_tokens: of each sequence, at least 1.
      eos_id: ends a sequence.
      sampling: how tokens are drawn.
      seed: a sequence draws by this seed, its id and the position alone.
      seq_ids: distinct ids of the sequences; None = 0 .. B - 1.
      pool: gives the pages; None = a new one. The sequences are named by their ids
        there and stay in it.
      chunk: tokens of a prefill step.
      with_logprobs: return the log-probability of each token.
      with_logits: return the logits that each token was drawn from.
      report: called with the name of each stage before it starts.

    Raises:
      ValueError: for an empty prompt, one that does not fit the model's context, or
        ids that are not distinct and new to the pool.
      jaxinfer.PagePoolExhausted: if the pool has too few pages, before anything runs.
    """
    prompt_lens = np.array([len(prompt) for prompt in prompts], np.int32)
    seq_ids = list(range(len(prompts)) if seq_ids is None else seq_ids)
    pool = pool or ji.PagePool(cache.num_pages, cache.page_size)
    check_arguments(
        prompt_lens, max_new_tokens, model.config.context_length, seq_ids, pool
    )
    # Pages for every token that may come, now: inside the loop nobody can ask for one.
    pool.reserve(dict(zip(seq_ids, prompt_lens + max_new_tokens, strict=True)))
    page_table = pool.page_table(seq_ids)
    filled = prefill(model, cache, prompts, page_table, chunk=chunk, report=report)

    report("compile decode")
    start = time.perf_counter()
    operands = (
        model,
        filled.cache,
        filled.last_hidden,
        jnp.asarray(page_table),
        jnp.asarray(prompt_lens),
        sequence_keys(seed, jnp.asarray(seq_ids, jnp.int32)),
    )
    loop = decode.lower(
        *operands,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        sampling=sampling,
        with_logprobs=with_logprobs,
        with_logits=with_logits,
    ).compile()
    compile_seconds = time.perf_counter() - start

    report("decode")
    start = time.perf_counter()
    end: Progress = jax.block_until_ready(loop(*operands))
    decode_seconds = time.perf_counter() - start
    kv_lens, num_new = np.asarray(end.kv_lens), np.asarray(end.num_new)
    for seq, length in zip(seq_ids, kv_lens, strict=True):
        pool.append(seq, int(length))

    def by_sequence(steps: jax.Array) -> list[np.ndarray]:
        rows = np.asarray(steps).swapaxes(0, 1)
        return [row[:n] for row, n in zip(rows, num_new, strict=True)]

    return Generation(
        tokens=by_sequence(end.tokens),
        logprobs=None if end.logprobs is None else by_sequence(end.logprobs),
        logits=None if end.logits is None else by_sequence(end.logits),
        cache=end.cache,
        page_table=page_table,
        kv_lens=kv_lens,
        num_steps=int(end.step) - 1,
        compile_seconds=filled.compile_seconds + compile_seconds,
        prefill_seconds=filled.seconds,
        decode_seconds=decode_seconds,
    )


def check_arguments(
    prompt_lens: np.ndarray,
    max_new_tokens: int,
    context_length: int,
    seq_ids: list[int],
    pool: ji.PagePool,
) -> None:
    """Raises ValueError for what generate cannot do."""
    if len(prompt_lens) == 0 or prompt_lens.min() < 1:
        raise ValueError(
            f"prompts must have at least one token each, got {prompt_lens.tolist()}"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    longest = int(prompt_lens.max()) + max_new_tokens
    if longest > context_length:
        raise ValueError(
            f"a prompt and its new tokens must fit a context of {context_length}, "
            f"got {longest}"
        )
    known = [seq for seq in seq_ids if seq in pool]
    if len(set(seq_ids)) != len(prompt_lens) or len(seq_ids) != len(set(seq_ids)):
        raise ValueError(
            f"seq_ids must be {len(prompt_lens)} distinct ids, got {seq_ids}"
        )
    if known:
        raise ValueError(f"seq_ids must be new to the pool, got {known} known there")
