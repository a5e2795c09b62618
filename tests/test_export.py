# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Programs leave the process: export, and the disk cache."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji
from jaxinfer import export

ROOT = Path(__file__).parents[1]
L, P, PAGE_SIZE, N, K, H, B, MAX_PAGES = 2, 20, 4, 4, 2, 64, 3, 5
CU_Q_LENS = np.array([0, 1, 4, 6], np.int32)
KV_LENS = np.array([5, 20, 7], np.int32)
# For a GPU, because some programs are for one too.
CONFIG = ji.PlanConfig("sm_90a", 6, (ji.TileClass(16, 4, 1), ji.TileClass(64, 8, 3)))


def make_arguments():
    rng = np.random.default_rng(0)
    shape = (2, L, P, PAGE_SIZE, K, H)
    cache = ji.PagedKVCache(*rng.standard_normal(shape).astype(np.float32))
    table = rng.permutation(P)[: B * MAX_PAGES].reshape(B, MAX_PAGES).astype(np.int32)
    x = rng.standard_normal((6, N, H)).astype(np.float32)
    return cache, make_plan(CU_Q_LENS, KV_LENS), x, table, KV_LENS, CU_Q_LENS


def make_plan(cu_q_lens, kv_lens):
    return ji.plan(
        cu_q_lens,
        kv_lens,
        num_tokens=6,
        max_kv_len=MAX_PAGES * PAGE_SIZE,
        num_q_heads=N,
        num_kv_heads=K,
        head_dim=H,
        local_window_size=(17, None),
        config=CONFIG,
    )


def step(cache, plan, x, table, kv_lens, cu_q_lens):
    """Append and attend in every layer; the next step's plan is a result too."""
    where = {"page_table": table, "kv_lens": kv_lens, "cu_q_lens": cu_q_lens}

    def layer(carry, i):
        cache, x = carry
        k_pages, v_pages = ji.update_kv_pages(
            cache.k_pages, cache.v_pages, x[:, :K], x[:, K:],
            **where, layer=i,
        )  # fmt: skip
        x = x + ji.ragged_paged_attention(
            x, k_pages, v_pages, **where, layer=i, plan=plan,
            local_window_size=(17, None),
        )  # fmt: skip
        return (ji.PagedKVCache(k_pages, v_pages), x), None

    (cache, x), _ = jax.lax.scan(layer, (cache, x), jnp.arange(L, dtype=jnp.int32))
    return cache, make_plan(cu_q_lens, kv_lens + 1), x


def run_in_a_fresh_process(code: str, *args, **environment) -> str:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "platforms", [("cpu",), pytest.param(("cpu", "cuda"), marks=pytest.mark.nvrtc)]
)
def test_round_trip_into_a_fresh_process(platforms, tmp_path):
    args = make_arguments()
    exported = jax.export.export(
        jax.jit(step, donate_argnums=0),
        platforms=platforms,
        disabled_checks=export.disabled_checks(),
    )(*args)
    (tmp_path / "program").write_bytes(exported.serialize())
    want = jax.jit(step)(*args)
    np.savez(tmp_path / "in.npz", *jax.tree.leaves(args))
    np.savez(tmp_path / "want.npz", *jax.tree.leaves(want))
    printed = run_in_a_fresh_process(
        """
        import pathlib, sys
        import jax, jax.export, numpy as np
        import jaxinfer as ji

        folder = pathlib.Path(sys.argv[1])
        exported = jax.export.deserialize((folder / "program").read_bytes())
        leaves = list(np.load(folder / "in.npz").values())
        tree, kwargs_tree = exported.in_tree.children()
        args = jax.tree.unflatten(tree, leaves)
        assert type(args[0]) is ji.PagedKVCache and type(args[1]) is ji.Plan
        cache, plan, x = exported.call(*args)
        assert type(cache) is ji.PagedKVCache and type(plan) is ji.Plan
        for got, want in zip(
            jax.tree.leaves((cache, plan, x)),
            np.load(folder / "want.npz").values(),
            strict=True,
        ):
            np.testing.assert_array_equal(got, want)
        # Not only the bits: the plan that comes back is checked like any other.
        again = exported.call(cache, plan, *args[2:])
        print(repr(plan.facts))
        """,
        tmp_path,
    )
    assert printed.strip() == repr(want[1].facts)


def test_static_facts_survive_as_text():
    facts = make_plan(CU_Q_LENS, KV_LENS).facts
    assert export.facts_from_json(export.facts_to_json(facts)) == facts
    assert hash(export.facts_from_json(export.facts_to_json(facts))) == hash(facts)
    gpu = ji.plan(
        None,
        KV_LENS,
        num_tokens=3,
        max_kv_len=99,
        num_q_heads=3,
        num_kv_heads=1,
        head_dim=128,
        is_causal=False,
        config=ji.PlanConfig.gpu("sm_90a", 7),
    ).facts
    assert export.facts_from_json(export.facts_to_json(gpu)) == gpu
    assert gpu.local_window_size == (None, None)


def test_without_the_disabled_checks_jax_refuses():
    text = r"(?s)Cannot serialize code with custom calls whose targets .*@jaxinfer_v"
    with pytest.raises(ValueError, match=text):
        jax.export.export(jax.jit(step))(*make_arguments()).serialize()


def test_the_disabled_checks_are_of_every_target():
    checks = {str(check) for check in export.disabled_checks()}
    for op in ("plan", "ragged_paged_attention", "update_kv_pages", "merge_partials"):
        assert any(f"_{op}" in check for check in checks)


def test_a_second_process_finds_the_program_in_the_disk_cache(tmp_path):
    code = """
        import sys
        import jax, jax.numpy as jnp
        import jaxinfer as ji

        events = []
        jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
        jax.config.update("jax_compilation_cache_dir", sys.argv[1])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
        pages = jnp.ones((4, 4, 2, 64))
        args = jnp.ones((1, 2, 64)), pages, pages, jnp.zeros((1, 4), jnp.int32)
        fn = jax.jit(ji.ragged_paged_attention).lower(*args, jnp.ones(1, jnp.int32))
        events.clear()
        compiled = fn.compile()
        print(sum(name.endswith("cache_hits") for name in events))
        assert (compiled(*args, jnp.ones(1, jnp.int32)) == 1).all()
    """
    hits = [run_in_a_fresh_process(code, tmp_path).strip() for _ in range(2)]
    assert hits == ["0", "1"]
