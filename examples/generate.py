# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Generates text with SmolLM2-135M-Instruct through a paged KV cache.

python examples/generate.py "What is the capital of France?" --max-new-tokens 40
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import smollm2
from attention_time import time_attention
from full_attention import compare
from generation import Generation, generate
from llama import LlamaConfig
from sampling import Sampling
from tqdm import tqdm

QUESTIONS = [
    "What is the capital of France?",
    "Why is the sky blue? Answer in one sentence.",
    "Write a haiku about the sea.",
    "A train leaves at nine and arrives at noon, having stopped twice for ten minutes "
    "on the way. How long was the journey, and how would you explain your answer to a "
    "child who has just learned to read a clock?",
]
STAGES = ["compile prefill", "prefill", "compile decode", "decode"]


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Text from SmolLM2-135M-Instruct.")
    add = parser.add_argument
    add("questions", nargs="*", metavar="PROMPT", help="a question; default: four")
    add("--max-new-tokens", type=positive, default=48, metavar="N")
    add("--temperature", type=float, default=0.0, metavar="T", help="0: greedy")
    add("--top-k", type=int, metavar="K", help="draw from the K best tokens")
    add("--top-p", type=float, metavar="P", help="draw from the best that make up P")
    add("--seed", type=int, default=0, metavar="S")
    add("--page-size", type=positive, default=16, metavar="TOKENS")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add(
        "--chunk", type=positive, default=256, metavar="TOKENS", help="per prefill step"
    )
    add("--logprobs", action="store_true", help="print what each token's was")
    add("--compare", action="store_true", help="with full attention without a cache")
    args = parser.parse_args(arguments)
    try:
        args.sampling = Sampling(args.temperature, args.top_k, args.top_p)
    except ValueError as error:
        parser.error(str(error))
    args.questions = args.questions or QUESTIONS
    return args


def load(dtype: Any) -> smollm2.SmolLM2:
    """The model, with a bar while its tensors are read."""
    path = smollm2.find_gguf()
    with tqdm(desc="load weights", unit=" tensors", leave=False) as bar:

        def on_tensor(total: int) -> None:
            bar.total = total
            bar.update()

        return smollm2.load(path, dtype=dtype, on_tensor=on_tensor)


def run(
    smol: smollm2.SmolLM2, prompts: list[list[int]], args: argparse.Namespace
) -> Generation:
    """Generates, and shows which stage it is at."""
    config = smol.model.config
    lengths = [len(prompt) + args.max_new_tokens for prompt in prompts]
    num_pages = sum(-(-length // args.page_size) for length in lengths)
    cache = config.make_cache(num_pages, args.page_size, jnp.dtype(args.dtype))
    with tqdm(total=len(STAGES), bar_format="{n}/{total} {desc}", leave=False) as bar:

        def report(stage: str) -> None:
            bar.n = STAGES.index(stage)
            bar.set_description_str(stage)

        return generate(
            smol.model,
            cache,
            prompts,
            max_new_tokens=args.max_new_tokens,
            eos_id=smol.eos_id,
            sampling=args.sampling,
            seed=args.seed,
            chunk=args.chunk,
            with_logprobs=args.logprobs,
            with_logits=args.compare,
            report=report,
        )


def print_answers(
    smol: smollm2.SmolLM2, questions: list[str], generation: Generation
) -> None:
    for i, (question, tokens) in enumerate(
        zip(questions, generation.tokens, strict=True)
    ):
        indent = " " * len(f"[{i}] Q: ")
        print(f"[{i}] Q: {question}")
        answer = textwrap.indent(smol.decode(tokens), indent).strip()
        print(f"{indent[:-3]}A: {answer}")
        if generation.logprobs is not None:
            words = [
                smol.tokenizer.decode([t], skip_special_tokens=False) for t in tokens
            ]
            pairs = zip(words, generation.logprobs[i], strict=True)
            print(indent + " ".join(f"{word!r} {logp:.3f}" for word, logp in pairs))


def print_times(
    config: LlamaConfig, prompts: list[list[int]], generation: Generation
) -> None:
    prompt_lens = np.array([len(prompt) for prompt in prompts], np.int32)
    # The first token of a sequence comes out of the prefill.
    num_decoded = sum(map(len, generation.tokens)) - len(prompts)
    prefill, decode = generation.prefill_seconds, generation.decode_seconds
    print(
        f"\ncompile  {generation.compile_seconds:.1f} s\n"
        f"prefill  {prompt_lens.sum() / prefill:.0f} tokens/s "
        f"({prompt_lens.sum()} tokens in {prefill:.2f} s)"
    )
    if generation.num_steps == 0:
        return
    attention = time_attention(config, generation, prompt_lens)
    print(
        f"decode   {num_decoded / decode:.0f} tokens/s "
        f"({num_decoded} tokens of {len(prompts)} sequences in {decode:.2f} s, "
        f"{decode / generation.num_steps * 1e3:.1f} ms a step)\n"
        f"         {attention / decode:.1%} of it attention: the plans, cache appends "
        "and attention ops of\n"
        f"         the same steps, replayed without the rest, took {attention:.3f} s"
    )


def print_differences(
    smol: smollm2.SmolLM2,
    prompts: list[list[int]],
    generation: Generation,
    args: argparse.Namespace,
) -> None:
    differences = compare(smol.model, prompts, generation, args.sampling, args.seed)
    print("\ncompared with full attention without a cache:")
    for i, difference in enumerate(differences):
        first = "none"
        if difference.first_differing_token is not None:
            first = f"{difference.first_differing_token} (by {difference.margin:.1e})"
        print(
            f"[{i}] largest logit difference {difference.max_logit_difference:.1e}, "
            f"first differing token {first}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    try:
        smol = load(jnp.dtype(args.dtype))
        prompts = [smol.encode_chat(question) for question in args.questions]
        generation = run(smol, prompts, args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print_answers(smol, args.questions, generation)
    if args.compare:
        print_differences(smol, prompts, generation, args)
    print_times(smol.model.config, prompts, generation)


if __name__ == "__main__":
    main()
