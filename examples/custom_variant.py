# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""A variant of one's own: dilated windows, landmarks, learned temperatures.

Checks it against dense attention in plain jnp, and draws what its heads see.

python examples/custom_variant.py --out custom_variant.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 4, 2, 64
# A whole prompt, a chunk of one and a decode step, in one batch.
Q_LENS, KV_LENS = (64, 20, 1), (64, 61, 40)
WINDOW = 8  # keys
DILATIONS = jnp.array([1, 2, 3, 5])  # of each head
RATES = jnp.array([0.0, 0.1, 0.3, 0.8])  # of each head; these are learned


# Three variants of a few lines each, and what they are together.


def dilated(dilations: Any, window: int) -> ji.Variant:
    """Head h sees `window` keys, every dilations[h]-th one, the query's own first."""

    def mask_mod(b, h, q_idx, kv_idx):
        distance = q_idx - kv_idx
        return (distance % dilations[h] == 0) & (distance < window * dilations[h])

    return ji.Variant(mask_mod=mask_mod)


def landmarks(is_landmark: Any) -> ji.Variant:
    """All see the keys that are marked, bool[B, S], such as the ends of sentences."""
    return ji.Variant(mask_mod=lambda b, h, q_idx, kv_idx: is_landmark[b, kv_idx])


def distance_temperature(rates: Any) -> ji.Variant:
    """The farther a key, the softer the choice: temperature 1 + rate * log(1 + d)."""

    def score_mod(score, b, h, q_idx, kv_idx):
        distance = jnp.maximum(q_idx - kv_idx, 0)
        return score / (1 + rates[h] * jnp.log1p(distance.astype(jnp.float32)))

    return ji.Variant(score_mod=score_mod)


def landmark_attention(rates: Any, is_landmark: Any) -> ji.Variant:
    seen = dilated(DILATIONS, WINDOW) | landmarks(is_landmark)
    return seen & distance_temperature(rates)


class Batch(NamedTuple):
    query: jax.Array  # [T, N, H]
    key: jax.Array  # [S, K, H]
    value: jax.Array  # [S, K, H]
    cu_q_lens: jax.Array
    cu_kv_lens: jax.Array
    is_landmark: jax.Array  # bool[B, longest]


# The same in dense jnp, sequence by sequence, which shares no line with the above.


def dense(batch: Batch, rates: Any) -> jax.Array:
    q, k, v = (x.astype(jnp.float32) for x in (batch.query, batch.key, batch.value))
    outs, q_end, kv_end = [], np.cumsum(Q_LENS), np.cumsum(KV_LENS)
    for b, (q_len, kv_len) in enumerate(zip(Q_LENS, KV_LENS, strict=True)):
        keys = jnp.repeat(k[kv_end[b] - kv_len : kv_end[b]], 2, axis=1)
        values = jnp.repeat(v[kv_end[b] - kv_len : kv_end[b]], 2, axis=1)
        queries = q[q_end[b] - q_len : q_end[b]]
        d = jnp.arange(kv_len - q_len, kv_len)[:, None] - jnp.arange(kv_len)
        step = DILATIONS[:, None, None]
        seen = (d % step == 0) & (d // step < WINDOW) | batch.is_landmark[b, :kv_len]
        logits = jnp.einsum("qhd,khd->hqk", queries, keys, precision="highest") / 8
        logits /= 1 + rates[:, None, None] * jnp.log(1.0 + jnp.maximum(d, 0))
        weights = jax.nn.softmax(jnp.where(seen & (d >= 0), logits, -jnp.inf), axis=-1)
        outs += [jnp.einsum("hqk,khd->qhd", weights, values, precision="highest")]
    return jnp.concatenate(outs)


def make_batch(seed: int, dtype: Any) -> Batch:
    """Texts of few words: a query likes the keys of its own word."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 12, sum(KV_LENS))
    meaning = rng.normal(size=(12, NUM_KV_HEADS, HEAD_DIM))
    noise = rng.normal(size=(2, len(words), NUM_HEADS, HEAD_DIM))
    key = meaning[words] + 0.6 * noise[0, :, :NUM_KV_HEADS]
    query = 0.5 * np.repeat(meaning[words], 2, axis=1) + 0.6 * noise[1]
    pairs = zip(Q_LENS, np.cumsum(KV_LENS), strict=True)
    query = np.concatenate([query[end - q_len : end] for q_len, end in pairs])
    value = rng.normal(size=key.shape)

    def offsets(lengths):
        return jnp.asarray(np.cumsum([0, *lengths]), jnp.int32)

    # Sentences of 9 to 20 words; the last word of each is a landmark.
    ends = np.cumsum(rng.integers(9, 21, (len(KV_LENS), 12)), axis=1) - 1
    is_landmark = (np.arange(max(KV_LENS)) == ends[:, :, None]).any(1)
    q, k, v = (jnp.asarray(x, dtype) for x in (query, key, value))
    marks = jnp.asarray(is_landmark)
    return Batch(q, k, v, offsets(Q_LENS), offsets(KV_LENS), marks)


def attend(batch: Batch, rates: Any, implementation: str | None) -> jax.Array:
    return ji.ragged_attention(
        *batch[:5],
        variant=landmark_attention(rates, batch.is_landmark),
        implementation=implementation,
    )


def seen_by_heads(variant: ji.Variant, size: int) -> np.ndarray:
    """A mask as an array, bool[N, size, size], of sequence 0."""
    mask = variant.mask_mod
    assert mask is not None
    for axes in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None)):
        mask = jax.vmap(mask, axes)
    heads, places = jnp.arange(NUM_HEADS), jnp.arange(size)
    return np.asarray(mask(0, heads, places, places))


def attention_weights(batch: Batch, implementation: str | None) -> np.ndarray:
    """What the heads look at in sequence 0, f32[N, q, kv], from the op's own logits."""
    size = KV_LENS[0]
    variant = landmark_attention(RATES, batch.is_landmark)
    logits = ji.ragged_attention(
        *(batch.query[:size], batch.key[:size], batch.value[:size]),
        batch.cu_q_lens[:2],
        variant=variant & ji.variants.logit_dump(),
        implementation=implementation,
    )
    logits = np.asarray(logits, np.float32).transpose(1, 0, 2)
    seen = seen_by_heads(variant, size) & np.tri(size, dtype=bool)
    weights = np.where(seen, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    return weights / weights.sum(-1, keepdims=True)


def draw(batch: Batch, weights: np.ndarray, path: Path) -> None:
    """One column a head: its mask above, its attention below."""
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    size = KV_LENS[0]
    past = np.tri(size, dtype=bool)
    near = seen_by_heads(dilated(DILATIONS, WINDOW), size) & past
    marked = seen_by_heads(landmarks(batch.is_landmark), size) & past
    kinds = {
        "not seen": "#edf0f5",
        "dilated window": "#3b6fb6",
        "landmark": "#e8963a",
        "both": "#7a3f1d",
    }
    colours = mpl.colormaps["magma_r"].with_extremes(bad=kinds["not seen"])
    scale = ScalarMappable(LogNorm(1e-3, 1), colours)
    figure = Figure(figsize=(12.5, 6.9), dpi=120, layout="constrained")
    axes = figure.subplots(2, NUM_HEADS, sharex=True, sharey=True)
    for h in range(NUM_HEADS):
        above, below = axes[:, h]
        kind = near[h] + 2 * marked[h]
        above.imshow(kind, cmap=ListedColormap([*kinds.values()]), vmin=0, vmax=3)
        above.set_title(f"head {h}: dilation {DILATIONS[h]}")
        shown = np.ma.masked_where(kind == 0, weights[h].clip(1e-3))
        below.imshow(shown, cmap=scale.cmap, norm=scale.norm)
        below.set_title(f"temperature rate {RATES[h]:.1f}")
        below.set_xlabel("key position")
    for axis in axes.flat:
        axis.set_xticks(range(0, size, 16))
        axis.set_yticks(range(0, size, 16))
        axis.spines[:].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("query position")
    handles = [Patch(color=colour, label=name) for name, colour in kinds.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, frameon=False)
    figure.colorbar(scale, ax=axes[1], label="weight", extend="min", pad=0.015)
    figure.suptitle("Who sees which key (above), and how much (below)", x=0.24)
    figure.savefig(path)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A variant of one's own.")
    add = parser.add_argument
    on_gpu = jax.default_backend() == "gpu"
    add("--out", type=Path, metavar="PNG", help="draw mask and attention there")
    add("--seed", type=int, default=0, metavar="S")
    add(
        "--implementation",
        choices=("cuda", "xla"),
        default="cuda" if on_gpu else "xla",
        help="default: cuda on a GPU, else xla",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="default: bfloat16 for cuda, else float32",
    )
    args = parser.parse_args(arguments)
    is_cuda = args.implementation == "cuda"
    args.dtype = args.dtype or ("bfloat16" if is_cuda else "float32")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    batch = make_batch(args.seed, args.dtype)

    def loss(attention):
        return lambda rates: jnp.square(attention(rates).astype(jnp.float32)).mean()

    def ours(rates):
        return attend(batch, rates, args.implementation)

    def expected(rates):
        return dense(batch, rates)

    def difference(a, b):
        return float(jnp.abs(a.astype(jnp.float32) - b).max())

    out, dense_out = jax.jit(ours)(RATES), expected(RATES)
    print(f"implementation       {args.implementation}, {args.dtype}")
    print(f"largest difference   {difference(out, dense_out):.1e}")
    grad, dense_grad = (jax.jit(jax.grad(loss(f)))(RATES) for f in (ours, expected))
    print(f"gradient by rates    {np.array2string(np.asarray(grad), precision=4)}")
    print(f"largest difference   {difference(grad, dense_grad):.1e}")
    if args.out is not None:
        draw(batch, attention_weights(batch, args.implementation), args.out)
        print(f"wrote                {args.out}")


if __name__ == "__main__":
    main()
