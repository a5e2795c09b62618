# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The texts as NVRTC sees them: what runs once a score must be straight code."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinfer import jit
from jaxinfer.variant import HOOKS, Variant

pytestmark = pytest.mark.nvrtc
H = 64
TABLE = jnp.ones((8, H))
BITS = np.ones((4, 100), np.uint8)


def rope(x, b, h, position):
    angle = position * (1 / 10000 ** (jnp.arange(H // 2) / (H // 2)))
    a, c = x[: H // 2], x[H // 2 :]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([a * cos - c * sin, c * cos + a * sin])


def interleaved(x, b, h, position):
    angle = position * (1 / 10000 ** (jnp.arange(H // 2) / (H // 2)))
    a, c = x[::2], x[1::2]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.stack([a * cos - c * sin, c * cos + a * sin], -1).reshape(H)


def of_score(function):
    return {"score_mod": lambda s, b, h, q, k: function(s)}


STRAIGHT = {
    **{
        name: of_score(getattr(jax.lax, name))
        for name in (
            *("abs", "acosh", "asin", "asinh", "atan", "cbrt", "cosh", "cos", "erf"),
            *("erfc", "exp", "exp2", "expm1", "log", "log1p", "logistic", "rsqrt"),
            *("sinh", "sin", "sqrt", "tan", "tanh"),
        )
    },
    "soft_cap": of_score(lambda s: 30 * jnp.tanh(s / 30)),
    "silu": of_score(jax.nn.silu),
    "gelu": of_score(jax.nn.gelu),
    "divide": {"score_mod": lambda s, b, h, q, k: s / (1.0 + k)},
    "pow": {"score_mod": lambda s, b, h, q, k: s ** (0.5 * k)},
    "alibi": {"score_mod": lambda s, b, h, q, k: s + jnp.exp2(-TABLE)[h, 3] * (k - q)},
    "causal": {"mask_mod": lambda b, h, q, k: q >= k},
    "packed": {
        "mask_mod": lambda b, h, q, k: jnp.asarray(BITS)[b, k // 8] >> (k % 8) & 1 == 1
    },
    "max": {"score_mod": lambda s, b, h, q, k: jnp.clip(s, -3, k) + jnp.maximum(q, b)},
    "bfloat16": of_score(lambda s: s.astype("bfloat16") * s.astype("float16")),
    "reduce_precision": of_score(lambda s: jax.lax.reduce_precision(s, 5, 10)),
    "saturate": of_score(lambda s: s.astype("int32") + s.astype("uint8")),
    "rope": {"query_mod": rope, "key_mod": rope},
    "interleaved": {"key_mod": interleaved, "value_mod": interleaved},
    "table": {"output_mod": lambda x, b, h, p: x * jax.nn.silu(TABLE[h])},
}
KERNEL = """
using namespace jaxinfer;
extern "C" __global__ void probe(const VariantOperands at, float* x, const int4* at_i) {
  const int t = threadIdx.x;
  const int4 p = at_i[t];
  [[maybe_unused]] const auto vector = [&](int j) { return x[j * 32 + t]; };
  float y = x[t];
  CALLS
  x[t + (1 << 20)] = y;
}
"""


def source_of(fields) -> str:
    """A kernel that calls every hook there is."""
    hooks, _ = Variant(**fields).trace(H, H)
    calls = ""
    for hook in hooks.names:
        if hook == "score_mod":
            calls += "y = Variant::score_mod(at, y, p.x, p.y, p.z, p.w);\n"
        elif hook == "mask_mod":
            calls += "y = Variant::mask_mod(at, p.x, p.y, p.z, p.w) ? y : -1.0f;\n"
        else:
            assert HOOKS[hook][0] == "vector"
            calls += f"for (int i = 0; i < {H}; ++i)\n"
            calls += f"  y += Variant::{hook}(at, vector, p.x, p.y, p.z, i);\n"
    return hooks.code + KERNEL.replace("CALLS", calls)


@pytest.fixture(scope="module")
def compiled():
    """All sources in one, in namespaces of their own; then (PTX, log)."""
    nvrtc = jit.Nvrtc(jit.find_nvrtc())
    texts = []
    for name, fields in STRAIGHT.items():
        text = re.sub("^#.*\n", "", source_of(fields), flags=re.M)
        text = text.replace("namespace jaxinfer {", f"namespace jaxinfer::of_{name} {{")
        text = text.replace("Variant::", f"of_{name}::Variant::")
        texts.append(text.replace("void probe", f"void probe_{name}"))
    source = '#include "csrc/variant.h"\n' + "\n".join(texts)
    headers = jit.transitive_headers(source, jit.device_sources())
    ptx = nvrtc._compile(source, "probe", headers, ("--std=c++17", *_ARCH), "PTX")
    cubin = nvrtc.compile(source, "probe", headers, (*jit.OPTIONS, "-arch=sm_90a"))
    return ptx.cubin.decode(), cubin


_ARCH = ("--device-as-default-execution-space", "-arch=compute_90a")


def test_nothing_is_warned_of_and_nothing_spills(compiled):
    _, cubin = compiled
    assert "warning" not in cubin.log, cubin.log
    assert cubin.spill_bytes == 0
    frames = set(re.findall(r"(\d+) bytes stack frame", cubin.log))
    assert frames == {"0"}, cubin.log


@pytest.mark.parametrize("name", STRAIGHT)
def test_straight_code(name, compiled):
    """No calls, no local memory, and nothing that the assembler makes a call of."""
    ptx, _ = compiled
    body = ptx.partition(f".entry probe_{name}(")[2].partition(".entry")[0]
    assert "ret;" in body
    found = re.findall(r"\b(?:call\S*|\.local\S*|(?:div|rcp|sqrt)\.rn\S*)", body)
    assert found == []


def test_other_texts_compile():
    """What may be slow, for architectures of both kinds."""
    fields = {
        "score_mod": lambda s, b, h, q, k: jnp.arctan2(s % 3.0, jnp.arctanh(s)) + s**3,
        "mask_mod": lambda b, h, q, k: jax.lax.population_count(q) // k == q % b,
        "key_mod": lambda x, b, h, p: jnp.pad(x[3:40], (5, 22)) + jnp.roll(x, p),
    }
    source = source_of(fields)
    headers = jit.transitive_headers(source, jit.device_sources())
    nvrtc = jit.Nvrtc(jit.find_nvrtc())
    for arch in ("sm_80", "sm_90a"):
        built = nvrtc.compile(source, "probe", headers, (*jit.OPTIONS, f"-arch={arch}"))
        assert "warning" not in built.log, built.log
