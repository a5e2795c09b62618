# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Regenerate smollm2_reference.npz: python tests/oracle/make_smollm2_reference.py."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import smollm2_numpy as oracle
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

OUTPUT = Path(__file__).with_name("smollm2_reference.npz")
EOS = 2  # <|im_end|>
MAX_COMPLETION = 16
CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of <|im_start|> and its like

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTION = "What is the capital of France?"

PROSE = (
    "Bread needs only flour, water, salt and time. The baker mixes them in the "
    "evening, covers the bowl with a damp cloth, and goes to bed. During the night "
    "the dough rises slowly, and in the morning it is folded twice, shaped into "
    "round loaves and put into a very hot oven. After half an hour the crust is"
)

CODE = """\
def area(radius_cm: float) -> str:
    # Fläche in cm², π ≈ 3.14159; naïve, für Größen von 0 bis 1024
    a = 3.14159 * radius_cm ** 2
    return f"A = {a:.2f} cm² → 漢字 🙂"
"""

PARAGRAPH = (
    "The ferry leaves the harbour at six in the morning, long before the shops along "
    "the quay have opened their shutters. On most days it carries a dozen passengers: "
    "two nurses coming home from the night shift, a teacher with a bag full of "
    "exercise books, and a few fishermen who know the captain by his first name. The "
    "crossing takes forty minutes when the sea is calm and more than an hour when the "
    "wind blows from the north. Nobody complains about the delay, because there is "
    "hot coffee in the cabin and the windows face the sunrise. When the island "
    "finally appears, first as a grey line and then as a row of white houses, the "
    "passengers fold their newspapers, button their coats and walk slowly towards "
    "the gate. The captain rings the bell once, as his father did before him, and the "
    "boat bumps gently against the old wooden pier."
)

# Ids whose logits are kept at every position: specials, frequent and rare tokens.
PROBE_IDS = np.array(
    [0, 1, 2, 17, 28, 198, 253, 47, 1000, 2500, 5000, 9999, 16384, 24576, 36864, 49151],
    dtype=np.int32,
)


def build_tokenizer(reader: GGUFReader) -> Tokenizer:
    """Byte-level BPE from the GGUF metadata (model gpt2, pre-tokenizer smollm)."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    # smollm: every digit is a piece of its own, then the usual GPT-2 split.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, k in zip(tokens, kinds, strict=True) if k == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in control])
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of text; no BOS is added (the GGUF says add_bos_token = false)."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    # BPE drops a byte that the vocabulary lacks without a word: look for that.
    if tokenizer.decode(ids, skip_special_tokens=False) != text:
        raise ValueError(f"the text does not survive the tokenizer: {text!r}")
    return ids


def chat_prompt(reader: GGUFReader, user: str) -> str:
    """What the chat template makes of one user message, ready for the answer."""
    if SYSTEM not in reader.fields["tokenizer.chat_template"].contents():
        raise ValueError("the default system prompt has changed")
    turns = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    turns += f"<|im_start|>user\n{user}<|im_end|>\n"
    return turns + "<|im_start|>assistant\n"


def greedy(weights: oracle.Weights, prompt: list[int]) -> list[int]:
    """Greedy completion, the whole sequence anew for each token; EOS is kept."""
    completion: list[int] = []
    while len(completion) < MAX_COMPLETION and completion[-1:] != [EOS]:
        logits = oracle.forward64(weights, prompt + completion)
        completion.append(int(logits[-1].argmax()))
    return completion


def prompt_fields(weights: oracle.Weights, ids: list[int]) -> dict[str, Any]:
    """What is stored for one prompt, taken from the float64 logits."""
    logits = oracle.forward64(weights, ids)
    runner_up, best = np.partition(logits, -2, axis=-1)[:, -2:].T
    return {
        "ids": np.array(ids, dtype=np.int32),
        "last_logits": logits[-1].astype(np.float32),
        "lse": oracle.log_sum_exp(logits),
        "argmax": logits.argmax(axis=-1).astype(np.int32),
        "margin": (best - runner_up).astype(np.float32),
        "probe_logits": logits[:, PROBE_IDS].astype(np.float32),
    }


def main() -> None:
    """Compute everything, check the answer, store it and list the fields."""
    path = oracle.find_gguf()
    reader = GGUFReader(path)
    tokenizer = build_tokenizer(reader)
    weights = oracle.load(path)

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    fields: dict[str, Any] = {"gguf_sha256": digest, "probe_ids": PROBE_IDS}
    prompts = {"a": chat_prompt(reader, QUESTION), "b": PROSE, "c": CODE}
    for name, text in prompts.items():
        fields[f"{name}_text"] = text
        ids = encode(tokenizer, text)
        for key, value in prompt_fields(weights, ids).items():
            fields[f"{name}_{key}"] = value

    completion = greedy(weights, encode(tokenizer, prompts["a"]))
    answer = tokenizer.decode(completion, skip_special_tokens=True)
    if answer != "The capital of France is Paris.":
        raise ValueError(f"the oracle answers {answer!r}")
    fields["a_completion_ids"] = np.array(completion, dtype=np.int32)
    fields["a_completion_text"] = answer

    ids = encode(tokenizer, PARAGRAPH)
    fields["paragraph_text"] = PARAGRAPH
    fields["paragraph_ids"] = np.array(ids, dtype=np.int32)
    fields["paragraph_perplexity"] = np.float64(oracle.perplexity(weights, ids))

    np.savez_compressed(OUTPUT, **fields)
    with np.load(OUTPUT) as stored:
        for key in stored.files:
            print(f"{key:22} {stored[key].dtype!s:10} {stored[key].shape}")
    print(f"perplexity {fields['paragraph_perplexity']:.4f}, answer {answer!r}")


if __name__ == "__main__":
    main()
