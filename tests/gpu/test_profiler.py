# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What JAX's profiler shows of a decode step: kernels by the names of their sources."""

import gzip
import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from compiled import num_calls

import jaxinfer as ji
from jaxinfer._library import target_name

pytestmark = pytest.mark.gpu

L, B, N, K, H, PAGE_SIZE, MAX_PAGES = 2, 4, 32, 8, 128, 16, 32
STEPS = 3
# The entry point of each op's kernel, and how often a step launches it.
ENTRIES = {
    "plan": ("make_plan", 1),
    "update_kv_pages": ("update_kv_pages", L),
    "ragged_paged_attention": ("attention", L),
}


def step(cache, x, table, kv_lens):
    """Append and attend in every layer, by one plan."""
    plan = ji.plan(
        None,
        kv_lens,
        num_tokens=B,
        max_kv_len=MAX_PAGES * PAGE_SIZE,
        num_q_heads=N,
        num_kv_heads=K,
        head_dim=H,
    )
    for layer in range(L):
        i = jnp.int32(layer)
        k, v = x[:, :K], x[:, K : 2 * K]
        cache = cache.append(i, k, v, page_table=table, kv_lens=kv_lens)
        pages = cache.k_pages, cache.v_pages
        x = ji.ragged_paged_attention(x, *pages, table, kv_lens, layer=i, plan=plan)
    return cache, x


def on_streams(events) -> list[dict]:
    """Those of a trace's events that a GPU ran."""
    names = {"process_name": {}, "thread_name": {}}
    for event in events:
        if event.get("ph") == "M" and event["name"] in names:
            key = event["pid"], event.get("tid")
            names[event["name"]][key] = event["args"]["name"]
    gpus = {pid for (pid, _), n in names["process_name"].items() if "/device:GPU" in n}
    streams = {
        key
        for key, name in names["thread_name"].items()
        if key[0] in gpus and name.startswith("Stream")
    }
    return [e for e in events if e.get("ph") == "X" and (e["pid"], e["tid"]) in streams]


@pytest.fixture(scope="module")
def compiled_step():
    """(compiled program, its arguments)."""
    cache = ji.PagedKVCache.create(
        num_layers=L,
        num_pages=B * MAX_PAGES,
        page_size=PAGE_SIZE,
        num_kv_heads=K,
        head_dim=H,
    )
    x = jax.random.normal(jax.random.key(0), (B, N, H), jnp.bfloat16)
    table = jnp.arange(B * MAX_PAGES, dtype=jnp.int32).reshape(B, MAX_PAGES)
    kv_lens = jnp.array([300, 1, 77, 512], jnp.int32)
    compiled = jax.jit(step, donate_argnums=0).lower(cache, x, table, kv_lens).compile()
    return compiled, (cache, x, table, kv_lens)


@pytest.fixture(scope="module")
def kernels(compiled_step, tmp_path_factory):
    """The kernels that a GPU ran in STEPS steps, from the profile of them."""
    compiled, (cache, *rest) = compiled_step
    cache, x = compiled(cache, *rest)  # loads the kernels
    jax.block_until_ready(x)
    folder = tmp_path_factory.mktemp("profile")
    with jax.profiler.trace(str(folder)):
        for _ in range(STEPS):
            cache, x = compiled(cache, *rest)
        jax.block_until_ready(x)
    (file,) = folder.rglob("*.trace.json.gz")
    return on_streams(json.loads(gzip.decompress(file.read_bytes()))["traceEvents"])


def test_the_program_names_its_ops(compiled_step):
    compiled, _ = compiled_step
    calls = {op: num_calls(compiled, op) for op in ENTRIES}
    assert calls == {op: count for op, (_, count) in ENTRIES.items()}


def test_kernels_have_the_names_of_their_sources(kernels):
    counts = Counter(event["name"] for event in kernels)
    for entry, count in ENTRIES.values():
        assert counts[entry] == STEPS * count, counts


def test_kernels_belong_to_the_op_that_launched_them(compiled_step, kernels):
    """Where the profiler names an instruction; a captured graph is one by itself."""
    program = compiled_step[0].as_text()
    for op, (entry, _) in ENTRIES.items():
        target = re.escape(f'custom_call_target="{target_name(op)}"')
        ours = set(re.findall(rf"%?(\S+) = .*{target}", program))
        assert ours
        named = {e.get("args", {}).get("hlo_op") for e in kernels if e["name"] == entry}
        graphs = {name for name in named if str(name).startswith("command_buffer")}
        assert named - {None} - graphs <= ours
