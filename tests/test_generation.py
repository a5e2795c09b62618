# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The generation loop of the examples, with a small model of random weights."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxinfer as ji

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from full_attention import compare, full_logits
from generation import generate
from llama import Llama, LlamaConfig
from prefill import prefill, split_into_steps
from sampling import Sampling

CONFIG = LlamaConfig(
    num_layers=3,
    hidden_size=96,
    mlp_size=128,
    num_q_heads=6,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=211,
    context_length=80,
)
PAGE_SIZE, NUM_PAGES = 4, 64
NEVER = -1  # an end-of-sequence id that no token has


@pytest.fixture(scope="module")
def model():
    model = Llama(CONFIG, rngs=nnx.Rngs(11))
    # Without this the tied embeddings make it repeat its last token.
    model.layers.attention.out.kernel[...] *= 8.0
    model.layers.mlp.down.kernel[...] *= 8.0
    model.norm.scale[...] *= 2.0
    return model


def make_prompts(lengths=(9, 1, 17, 5)):
    rng = np.random.default_rng(3)
    return [rng.integers(0, CONFIG.vocab_size, n).tolist() for n in lengths]


def make_cache():
    """NaN wherever nothing has been written."""
    cache = CONFIG.make_cache(NUM_PAGES, PAGE_SIZE, jnp.float32)
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), cache)


def run(model, prompts, eos_id=NEVER, **options):
    options = {"max_new_tokens": 12, "chunk": 16} | options
    return generate(model, make_cache(), prompts, eos_id=eos_id, **options)


def written_slots(generation):
    """bool[P * page_size]: what should be in the cache afterwards."""
    written = np.zeros(NUM_PAGES * PAGE_SIZE, bool)
    for pages, length in zip(generation.page_table, generation.kv_lens, strict=True):
        position = np.arange(length)
        slots = pages[position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE
        assert not written[slots].any()
        written[slots] = True
    return written


def slots_of(generation, seq):
    """The cache of one sequence as bytes, everything that its pages hold."""
    pages = generation.page_table[seq]
    pages = pages[pages >= 0]
    cache = generation.cache
    return [np.asarray(x)[:, pages].tobytes() for x in (cache.k_pages, cache.v_pages)]


def test_steps_hold_every_token_once_and_fill_up():
    prompts = make_prompts((9, 1, 17, 5))
    steps = list(split_into_steps(prompts, 7))
    assert len(steps) == 5
    seen = [[] for _ in prompts]
    for step in steps:
        assert step.tokens.shape == (7,)
        for b, (begin, end) in enumerate(
            zip(step.cu_q_lens, step.cu_q_lens[1:], strict=False)
        ):
            seen[b] += step.tokens[begin:end].tolist()
            assert len(seen[b]) == step.kv_lens[b]
            ends_here = end > begin and len(seen[b]) == len(prompts[b])
            assert step.is_last[b] == ends_here
    assert seen == prompts
    assert all(step.cu_q_lens[-1] == 7 for step in steps[:-1])


def test_greedy_equals_full_attention(model):
    prompts = make_prompts()
    generation = run(model, prompts, with_logits=True, with_logprobs=True)
    for difference in compare(model, prompts, generation, Sampling()):
        assert difference.max_logit_difference < 1e-4
        assert difference.first_differing_token is None, difference
    assert len({tuple(tokens) for tokens in generation.tokens}) == len(prompts)
    for tokens, logits, logprobs in zip(
        generation.tokens, generation.logits, generation.logprobs, strict=True
    ):
        np.testing.assert_array_equal(logits.argmax(-1), tokens)
        logits = logits.astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        rows = np.arange(len(tokens))
        np.testing.assert_allclose(logprobs, expected[rows, tokens], atol=1e-5)


def test_compare_finds_a_wrong_token(model):
    prompts = make_prompts()
    generation = run(model, prompts, with_logits=True)
    tokens = [tokens.copy() for tokens in generation.tokens]
    logits = [logits.copy() for logits in generation.logits]
    tokens[2][5] = (tokens[2][5] + 1) % CONFIG.vocab_size
    logits[1][3, 7] += 0.5
    wrong = dataclasses.replace(generation, tokens=tokens, logits=logits)
    differences = compare(model, prompts, wrong, Sampling())
    assert [d.first_differing_token for d in differences] == [None, None, 5, None]
    assert differences[2].margin > 0
    assert differences[1].max_logit_difference == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_chunk_size_does_not_matter(model, chunk):
    prompts = make_prompts()
    table = np.arange(4 * 5, dtype=np.int32).reshape(4, 5)
    filled = prefill(model, make_cache(), prompts, table, chunk=chunk, with_hidden=True)
    logits = np.asarray(model.logits(jnp.asarray(filled.hidden)))
    expected = [full_logits(model, jnp.array(p), 0, len(p)) for p in prompts]
    np.testing.assert_allclose(logits, np.concatenate(expected), rtol=0, atol=1e-4)
    ends = np.cumsum([len(p) for p in prompts]) - 1
    np.testing.assert_array_equal(filled.last_hidden, filled.hidden[ends])


def test_early_stop(model):
    prompts = make_prompts()
    longer = run(model, prompts)
    eos_id = int(longer.tokens[0][4])
    stopped = run(model, prompts, eos_id)
    for tokens, full in zip(stopped.tokens, longer.tokens, strict=True):
        hits = np.flatnonzero(full == eos_id)
        end = hits[0] + 1 if hits.size else len(full)
        np.testing.assert_array_equal(tokens, full[:end])
    assert len(stopped.tokens[0]) <= 5
    assert stopped.num_steps == max(map(len, stopped.tokens)) - 1
    # The last token of a sequence is never run, so it is not in the cache.
    lengths = [
        len(p) + len(t) - 1 for p, t in zip(prompts, stopped.tokens, strict=True)
    ]
    np.testing.assert_array_equal(stopped.kv_lens, lengths)


def test_the_loop_ends_with_the_last_sequence(model):
    prompts = make_prompts((9, 9))
    prompts[1] = prompts[0]
    eos_id = int(run(model, prompts).tokens[0][2])
    stopped = run(model, prompts, eos_id)
    assert stopped.num_steps == len(stopped.tokens[0]) - 1 <= 2


def test_finished_sequences_write_nothing(model):
    prompts = make_prompts()
    eos_id = int(run(model, prompts).tokens[0][2])
    long = run(model, prompts, eos_id, max_new_tokens=20)
    num_new = len(long.tokens[0])
    assert num_new <= 3
    assert long.num_steps > num_new + 3  # others go on
    short = run(model, prompts, eos_id, max_new_tokens=num_new)
    np.testing.assert_array_equal(short.tokens[0], long.tokens[0])
    for generation in (short, long):
        written = written_slots(generation)
        for pages in (generation.cache.k_pages, generation.cache.v_pages):
            is_nan = np.isnan(pages).reshape(CONFIG.num_layers, len(written), -1)
            np.testing.assert_array_equal(is_nan.any(-1), is_nan.all(-1))
            for layer in is_nan.any(-1):
                np.testing.assert_array_equal(layer, ~written)
    # Not even the same place again: the steps since then leave the bytes as they were.
    num_pages = (short.page_table[0] >= 0).sum()
    long.page_table[0, num_pages:] = -1
    assert slots_of(short, 0) == slots_of(long, 0)


def test_sampled_text_does_not_depend_on_the_batch(model):
    prompts = make_prompts((9, 1, 17, 5))
    options = {"sampling": Sampling(1.0, top_k=50, top_p=0.9), "seed": 5}
    together = run(model, prompts, seq_ids=[10, 11, 12, 13], **options)
    alone = run(model, prompts[2:3], seq_ids=[12], **options)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[2])
    turned = run(model, prompts[::-1], seq_ids=[13, 12, 11, 10], chunk=5, **options)
    for tokens, expected in zip(turned.tokens[::-1], together.tokens, strict=True):
        np.testing.assert_array_equal(tokens, expected)
    other_id = run(model, prompts[2:3], seq_ids=[99], **options)
    assert other_id.tokens[0].tolist() != alone.tokens[0].tolist()
    differences = compare(
        model,
        prompts,
        run(model, prompts, with_logits=True, **options),
        options["sampling"],
        options["seed"],
    )
    assert [d.first_differing_token for d in differences] == [None] * 4


def test_pages_come_from_the_pool_and_stay_counted(model):
    prompts = make_prompts()
    pool = ji.PagePool(NUM_PAGES, PAGE_SIZE)
    pool.reserve({"other": 7})
    generation = run(model, prompts, pool=pool)
    assert not {0, 1} & set(generation.page_table.ravel().tolist())
    np.testing.assert_array_equal(pool.lengths(range(4)), generation.kv_lens)


def test_too_few_pages_are_noticed_before_anything_runs(model):
    cache = CONFIG.make_cache(10, PAGE_SIZE, jnp.float32)
    pool = ji.PagePool(10, PAGE_SIZE)
    stages = []
    with pytest.raises(ji.PagePoolExhausted, match=r"needs 23 more pages, but 10 of"):
        generate(
            model,
            cache,
            make_prompts(),
            max_new_tokens=12,
            eos_id=NEVER,
            pool=pool,
            report=stages.append,
        )
    assert stages == []
    assert pool.num_free == 10
    assert not cache.k_pages.is_deleted()


@pytest.mark.parametrize(
    ("prompts", "options", "text"),
    [
        ([[1, 2], []], {}, r"prompts must have at least one token each, got \[2, 0\]"),
        ([], {}, "prompts must have at least one token each"),
        ([[1] * 70], {}, "must fit a context of 80, got 82"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ([[1]], {"chunk": 0}, "chunk must be at least 1, got 0"),
        ([[1]], {"seq_ids": [3, 4]}, "seq_ids must be 1 distinct ids"),
        ([[1], [2]], {"seq_ids": [3, 3]}, "seq_ids must be 2 distinct ids"),
    ],
)
def test_errors(model, prompts, options, text):
    with pytest.raises(ValueError, match=text):
        run(model, prompts, **options)
