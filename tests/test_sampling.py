# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The sampling of the examples against NumPy."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from sampling import Sampling, candidates, choose, sequence_keys

ROWS, VOCAB = 5, 200


def make_logits(seed=0, rows=ROWS):
    return np.random.default_rng(seed).normal(size=(rows, VOCAB)).astype(np.float32) * 3


def oracle(row, temperature, top_k, top_p):
    """Probability of every token, float64: one row, one token at a time."""
    scores = row.astype(np.float64) / temperature
    order = sorted(range(len(row)), key=lambda i: (-scores[i], i))[:top_k]
    weights = {i: np.exp(scores[i] - scores.max()) for i in order}
    total = sum(weights.values())
    kept, reached = {}, 0.0
    for i in order:
        kept[i] = weights[i] / total
        reached += kept[i]
        if top_p is not None and reached >= top_p:
            break
    probabilities = np.zeros(len(row))
    for i, share in kept.items():
        probabilities[i] = share / sum(kept.values())
    return probabilities


SETTINGS = [
    (1.0, None, None),
    (0.7, None, None),
    (1.0, 1, None),
    (1.3, 10, None),
    (1.0, 10_000, None),
    (1.0, None, 0.5),
    (0.8, None, 0.95),
    (1.0, None, 1.0),
    (1.5, 20, 0.6),
    (0.3, 3, 0.05),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_candidates(temperature, top_k, top_p):
    logits = make_logits()
    logits[0, [3, 50, 120]] = logits[0].max() + 1  # ties: the lower id goes first
    scores, ids = candidates(jnp.asarray(logits), Sampling(temperature, top_k, top_p))
    shares = np.asarray(jax.nn.softmax(scores, axis=-1))
    for row, share, row_ids in zip(logits, shares, np.asarray(ids), strict=True):
        got = np.zeros(VOCAB)
        got[row_ids] = share
        expected = oracle(row, temperature, top_k, top_p)
        np.testing.assert_array_equal(got > 0, expected > 0)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_draws_have_these_probabilities(temperature, top_k, top_p):
    """Pearson's chi-squared over 4000 positions of one sequence, fixed seed."""
    row = make_logits(1, rows=1)[0]
    count = 4000
    tokens = choose(
        jnp.broadcast_to(row, (count, VOCAB)),
        jnp.broadcast_to(sequence_keys(0, jnp.array([7])), count),
        jnp.arange(count),
        Sampling(temperature, top_k, top_p),
    )
    expected = oracle(row, temperature, top_k, top_p) * count
    got = np.bincount(np.asarray(tokens), minlength=VOCAB)
    assert got[expected == 0].sum() == 0
    often = expected > 5
    chi2 = ((got - expected)[often] ** 2 / expected[often]).sum()
    # Mean d, variance 2 d: within six standard deviations.
    assert chi2 < often.sum() + 6 * np.sqrt(2 * often.sum())


def test_temperature_0_is_greedy():
    logits = jnp.asarray(make_logits())
    keys = sequence_keys(0, jnp.arange(ROWS))
    for settings in ((0.0,), (0.0, 5, 0.5), (1.0, 1), (1e-4,)):
        sampling = Sampling(*settings)
        tokens = choose(logits, keys, jnp.arange(ROWS), sampling)
        np.testing.assert_array_equal(tokens, np.asarray(logits).argmax(-1))


def test_a_draw_depends_on_seed_sequence_and_position_alone():
    logits = jnp.asarray(make_logits()[:1])
    sampling = Sampling(2.0, top_p=0.99)

    def draw(seed, seq_ids, positions, row):
        num = len(seq_ids)
        tokens = choose(
            jnp.broadcast_to(logits, (num, VOCAB)),
            sequence_keys(seed, jnp.array(seq_ids)),
            jnp.array(positions),
            sampling,
        )
        return int(tokens[row])

    for position in range(20):
        alone = draw(0, [4], [position], 0)
        assert draw(0, [1, 4, 2], [7, position, 9], 1) == alone

    positions = range(50)
    base = [draw(0, [4], [p], 0) for p in positions]
    assert base != [draw(1, [4], [p], 0) for p in positions]
    assert base != [draw(0, [5], [p], 0) for p in positions]
    assert len(set(base)) > 5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((-0.1,), "temperature must be >= 0, got -0.1"),
        ((float("nan"),), "temperature must be >= 0, got nan"),
        ((1.0, 0), "top_k must be None or >= 1, got 0"),
        ((1.0, None, 0.0), r"top_p must be None or in \(0, 1\], got 0.0"),
        ((1.0, None, 1.5), r"top_p must be None or in \(0, 1\], got 1.5"),
    ],
)
def test_errors(arguments, text):
    with pytest.raises(ValueError, match=text):
        Sampling(*arguments)
