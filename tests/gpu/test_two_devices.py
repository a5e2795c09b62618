# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""One process, two NVIDIA GPUs: the same bits on each, and KV heads split over both."""

import dataclasses
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import collectives, writes_of
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import jaxinfer as ji
from jaxinfer.testing.cases import AttentionCase, make_operands
from jaxinfer.testing.numerics import assert_attention_close, attention_float64

pytestmark = pytest.mark.gpu

L, B, N, K, H, PAGE_SIZE, MAX_PAGES = 3, 5, 16, 4, 128, 16, 256
STEPS = 30
BF16 = jnp.bfloat16
LENGTHS = np.array([3000, 1, 77, 1900, 16], np.int32)
# Chunks at fixed positions: the bits do not depend on how many heads a device has.
INVARIANT = dataclasses.replace(
    ji.PlanConfig.gpu(), batch_invariant=True, split_keys=256
)


@pytest.fixture(scope="module")
def devices(pytestconfig):
    """The first two GPUs. A run that skips these tests says so."""
    found = jax.devices("gpu")
    if len(found) < 2:
        reason = f"tests of two GPUs were NOT run: this machine has {len(found)}"
        reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"\n{reason}", yellow=True)
        pytest.skip(reason)
    return found[:2]


def plan_of(kv_lens, num_kv_heads=K, config=None):
    return ji.plan(
        None,
        kv_lens,
        num_tokens=B,
        max_kv_len=MAX_PAGES * PAGE_SIZE,
        num_q_heads=num_kv_heads * (N // K),
        num_kv_heads=num_kv_heads,
        head_dim=H,
        config=config,
    )


def step(cache, x, table, kv_lens, config=None):
    """All layers for one new token of each sequence, on local heads."""
    num_kv_heads = cache.k_pages.shape[3]
    plan = plan_of(kv_lens, num_kv_heads, config)
    for layer in range(L):
        i = jnp.int32(layer)
        k = x[:, :: N // K]  # of the first query head of each group: on the same device
        v = jnp.flip(k, 2)
        cache = cache.append(i, k, v, page_table=table, kv_lens=kv_lens)
        pages = cache.k_pages, cache.v_pages
        out = ji.ragged_paged_attention(x, *pages, table, kv_lens, layer=i, plan=plan)
        x = (x.astype(jnp.float32) * 0.5 + out.astype(jnp.float32)).astype(BF16)
    return cache, x


@functools.cache
def make_arguments():
    """(cache, x, table, kv_lens) in numpy."""
    rng = np.random.default_rng(0)
    shape = (L, B * MAX_PAGES, PAGE_SIZE, K, H)
    drawn = rng.standard_normal(shape, np.float32).astype(BF16)
    x = rng.standard_normal((B, N, H), np.float32).astype(BF16)
    table = rng.permutation(B * MAX_PAGES).reshape(B, MAX_PAGES).astype(np.int32)
    return ji.PagedKVCache(drawn, drawn[::-1]), x, table, LENGTHS


def bits(tree):
    """All arrays of a tree as integers: NaN equals itself, -0 does not equal 0."""
    arrays = map(np.asarray, jax.tree.leaves(tree))
    return [x.view(f"u{x.dtype.itemsize}") for x in arrays]


def assert_same_bits(got, want):
    for g, w in zip(bits(got), bits(want), strict=True):
        np.testing.assert_array_equal(g, w)


def anew(**options):
    """The jitted step, which every caller lowers and compiles for itself."""
    return jax.jit(lambda *args: step(*args), donate_argnums=0, **options)


def put(device):
    """The step, and arguments on a device."""
    return anew(), jax.device_put(make_arguments(), device)


def shard(device):
    """The step of a device, and arguments from the host."""
    sharding = SingleDeviceSharding(device)
    return anew(in_shardings=sharding, out_shardings=sharding), make_arguments()


def decode(place, device):
    """Yields x after each step; at the end the cache."""
    jitted, (cache, x, table, kv_lens) = place(device)
    for _ in range(STEPS):
        cache, x = jitted(cache, x, table, kv_lens)
        assert x.devices() == {device}
        yield x
        kv_lens = kv_lens + 1
    yield cache


@pytest.fixture(scope="module")
def alone(devices):
    """What one device computes while the other one has nothing to do."""
    made = jax.device_get(list(decode(put, devices[0])))
    header = plan_of(LENGTHS).header
    assert header[1] > 0, "no sequence is split: nothing is merged"
    assert len({x.tobytes() for x in made[:-1]}) == STEPS
    return made


@pytest.mark.parametrize("place", [put, shard])
def test_interleaved(place, devices, alone):
    decoding = zip(*(decode(place, device) for device in devices), strict=True)
    for both, want in zip(list(decoding), alone, strict=True):
        for got in both:
            assert_same_bits(got, want)


@pytest.mark.parametrize("place", [put, shard])
def test_from_two_threads_at_once(place, devices, alone):
    barrier = threading.Barrier(2, timeout=60)

    def run(device):
        barrier.wait()
        return jax.device_get(list(decode(place, device)))

    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            for got in pool.map(run, devices):
                assert_same_bits(got, alone)


def on_mesh(devices, function, in_specs, out_specs, **options):
    """(jitted shard_map over both devices, the shardings of its arguments)."""
    mesh = Mesh(np.array(devices), ("h",))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    shardings = jax.tree.map(functools.partial(NamedSharding, mesh), in_specs)
    return jax.jit(mapped, **options), shardings


HEADS, CACHE_HEADS = P(None, "h"), P(None, None, None, "h")
CASES = [
    AttentionCase(
        kv_lens=tuple(map(int, LENGTHS)), q_lens=q_lens, num_q_heads=N,
        num_kv_heads=K, head_dim=H, dtype="bfloat16", num_layers=2, label=label,
    )
    for label, q_lens in (("decode", (1,) * B), ("mixed", (300, 1, 5, 1, 16)))
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("config", [None, INVARIANT], ids=["balanced", "invariant"])
def test_heads_split_over_two_devices(case, config, devices):
    operands = make_operands(case)
    heads = {"query": HEADS, "k_pages": CACHE_HEADS, "v_pages": CACHE_HEADS}
    specs = {name: heads.get(name, P()) for name in operands}

    def attend(operands):
        plan = ji.plan(
            operands["cu_q_lens"],
            operands["kv_lens"],
            num_tokens=operands["query"].shape[0],
            max_kv_len=int(LENGTHS.max()),
            num_q_heads=operands["query"].shape[1],
            num_kv_heads=operands["k_pages"].shape[3],
            head_dim=H,
            config=config,
        )
        return ji.ragged_paged_attention(**operands, plan=plan, return_lse=True)

    fn, shardings = on_mesh(devices, attend, (specs,), (HEADS, HEADS))
    given = jax.device_put(operands, *shardings)
    assert collectives(fn.lower(given).compile()) == []
    split, whole = fn(given), jax.jit(attend)(jax.device_put(operands, devices[0]))
    assert split[0].devices() == set(devices)
    expected = attention_float64(operands)
    for out, lse in (split, whole):
        assert_attention_close(out, lse, expected)
    if config is INVARIANT:
        assert_same_bits(split, whole)


def loop(cache, x, table, kv_lens):
    """A decode loop in the batch-invariant mode, on local heads."""

    def body(carry, _):
        cache, x, kv_lens = carry
        cache, x = step(cache, x, table, kv_lens, INVARIANT)
        return (cache, x, kv_lens + 1), x

    carry, xs = jax.lax.scan(body, (cache, x, kv_lens), None, length=STEPS)
    return carry[0], xs


def addresses(cache):
    shards = [
        *cache.k_pages.addressable_shards,
        *cache.v_pages.addressable_shards,
    ]
    return [shard.data.unsafe_buffer_pointer() for shard in shards]


def test_a_donated_sharded_cache_in_a_scan_stays_where_it_is(devices):
    specs = CACHE_HEADS, HEADS, P(), P()
    out_specs = CACHE_HEADS, P(None, None, "h")
    fn, shardings = on_mesh(devices, loop, specs, out_specs, donate_argnums=0)
    given, *rest = jax.device_put(make_arguments(), shardings)
    compiled = fn.lower(given, *rest).compile()
    of_a_device = given.k_pages.size // 2
    assert collectives(compiled) == []
    assert writes_of(compiled, of_a_device // L) == []
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= 2 * 2 * of_a_device  # K and V, 16 bits
    assert memory.temp_size_in_bytes < 2 * of_a_device

    before = addresses(given)
    cache, xs = compiled(given, *rest)
    assert given.k_pages.is_deleted()
    assert given.v_pages.is_deleted()
    assert addresses(cache) == before
    on_one = jax.jit(loop, donate_argnums=0)
    assert_same_bits((cache, xs), on_one(*jax.device_put(make_arguments(), devices[0])))
    again, _ = compiled(cache, *rest)
    assert addresses(again) == before
