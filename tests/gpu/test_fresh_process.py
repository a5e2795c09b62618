# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Programs that a fresh process on a GPU did not lower, and where kernels come from.

The program is one of jax.export, or its executable is in JAX's compilation cache, or
both; the process has a kernel cache of its own and, but for one test, no compiler.
"""

import os
import re
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
from jaxinfer import export, jit

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
B, N, K, H, P, PAGE_SIZE, MAX_PAGES = 3, 8, 2, 128, 24, 16, 8
SHAPES = (
    f"--heads {N}/{K} --head-dim {H} --page-size {PAGE_SIZE} --tokens {B} --seqs {B}"
)

# Prints how often JAX finds an executable in its compilation cache.
RUN = """
    import pathlib, sys
    import jax, jax.export, numpy as np
    import jaxinfer

    folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    if name == "source":
        from test_fresh_process import step
    else:
        step = jax.export.deserialize((folder / name).read_bytes()).call
    events = []
    jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
    args = [jax.device_put(x) for x in np.load(folder / "in.npz").values()]
    compiled = jax.jit(step).lower(*args).compile()
    print(sum(name.endswith("cache_hits") for name in events), flush=True)
    np.testing.assert_array_equal(compiled(*args), np.load(folder / "want.npy"))
"""


def step(q, k_pages, v_pages, table, kv_lens):
    """Plan, append and attend; float32 outside, which files of numpy can hold."""
    plan = ji.plan(
        None,
        kv_lens,
        num_tokens=B,
        max_kv_len=MAX_PAGES * PAGE_SIZE,
        num_q_heads=N,
        num_kv_heads=K,
        head_dim=H,
    )
    q, k_pages, v_pages = (x.astype(jnp.bfloat16) for x in (q, k_pages, v_pages))
    new = q[:, :K], q[:, K : 2 * K]
    pages = ji.update_kv_pages(k_pages, v_pages, *new, table, kv_lens)
    out = ji.ragged_paged_attention(q, *pages, table, kv_lens, plan=plan)
    return out.astype(jnp.float32)


def make_arguments():
    rng = np.random.default_rng(0)
    shapes = (B, N, H), (P, PAGE_SIZE, K, H), (P, PAGE_SIZE, K, H)
    floats = [rng.standard_normal(shape, np.float32) for shape in shapes]
    table = rng.permutation(P).reshape(B, MAX_PAGES).astype(np.int32)
    return *floats, table, np.array([5, MAX_PAGES * PAGE_SIZE, 77], np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Arguments, result and the program, without its kernels and with them."""
    folder = tmp_path_factory.mktemp("programs")
    args = make_arguments()
    np.savez(folder / "in.npz", *args)
    np.save(folder / "want.npy", jax.jit(step)(*args))
    exporting = jax.export.export(
        jax.jit(step), platforms=["cuda"], disabled_checks=export.disabled_checks()
    )
    exported = exporting(*args)
    assert len(digests_in(exported.mlir_module())) == 3
    (folder / "plain").write_bytes(exported.serialize())
    with jit.embed_kernels():
        (folder / "embedded").write_bytes(exporting(*args).serialize())
    return folder


def digests_in(text):
    return set(re.findall(r'kernel = "([0-9a-f]{32})"', text))


@pytest.fixture
def fresh(tmp_path):
    """Starts a process; its caches are empty folders unless others are given."""

    def start(*command, kernels="kernels", executables="executables", has_nvrtc=False):
        environment = {
            "JAXINFER_CACHE_DIR": str(tmp_path / kernels),
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / executables),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # this process has most of it
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        }
        if not has_nvrtc:
            environment["JAXINFER_NVRTC"] = str(tmp_path / "no-compiler")
        return subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


def run(fresh, folder, name, **caches):
    return fresh("-c", textwrap.dedent(RUN), folder, name, **caches)


def assert_ran(done, hits):
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(hits)]


def assert_says_how_to_warm_up(done, hits, kernels):
    assert done.returncode == 1, done.stderr
    assert done.stdout.split() == [str(hits)]
    error = re.search(r"this program needs kernel ([0-9a-f]{32}), .*", done.stderr)
    assert error, done.stderr
    for cure in ("python -m jaxinfer.jit warmup", "embed_kernels()", str(kernels)):
        assert cure in error[0]
    assert not list(kernels.glob("*.cubin"))  # nothing was compiled on the quiet


def test_an_exported_program_without_its_kernels(fresh, folder, tmp_path):
    done = run(fresh, folder, "plain")
    assert_says_how_to_warm_up(done, 0, tmp_path / "kernels")


def test_an_exported_program_with_its_kernels(fresh, folder, tmp_path):
    assert_ran(run(fresh, folder, "embedded"), 0)
    assert not list((tmp_path / "kernels").glob("*.cubin"))


def test_an_exported_program_finds_kernels_in_the_cache(fresh, folder):
    assert_ran(run(fresh, folder, "plain", kernels=jit.default_cache_dir()), 0)


def test_an_exported_program_after_the_warm_up_that_the_error_asks_for(fresh, folder):
    sizes = [*SHAPES.split(), "--max-kv-len", MAX_PAGES * PAGE_SIZE]
    done = fresh("-m", "jaxinfer.jit", "warmup", *sizes, has_nvrtc=True)
    assert done.returncode == 0, done.stderr
    assert_ran(run(fresh, folder, "plain"), 0)


def test_an_executable_in_the_compilation_cache_without_its_kernels(
    fresh, folder, tmp_path
):
    assert_ran(run(fresh, folder, "plain", kernels=jit.default_cache_dir()), 0)
    done = run(fresh, folder, "plain")
    assert_says_how_to_warm_up(done, 1, tmp_path / "kernels")


def test_an_executable_in_the_compilation_cache_with_its_kernels(
    fresh, folder, tmp_path
):
    for hits in (0, 1):
        assert_ran(run(fresh, folder, "embedded"), hits)
    assert not list((tmp_path / "kernels").glob("*.cubin"))


def test_lowering_makes_the_kernels_of_an_executable_in_the_cache(
    fresh, folder, tmp_path
):
    first = run(
        fresh, folder, "source", kernels=jit.default_cache_dir(), has_nvrtc=True
    )
    assert_ran(first, 0)
    assert_ran(run(fresh, folder, "source", has_nvrtc=True), 1)
    assert len(list((tmp_path / "kernels").glob("*.cubin"))) == 3
