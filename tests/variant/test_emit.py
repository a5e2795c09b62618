# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The texts themselves, of a few functions: other texts are other kernels."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinfer.variant import Variant
from jaxinfer.variant.dtypes import literal

SLOPES = jnp.linspace(0.125, 1.0, 8)
FREQUENCIES = jnp.ones(32)


def soft_cap(score, b, h, q_idx, kv_idx):
    return 30.0 * jnp.tanh(score / 30.0)


def alibi(score, b, h, q_idx, kv_idx):
    return score + SLOPES[h] * (kv_idx - q_idx)


def block_causal(b, h, q_idx, kv_idx):
    return q_idx // 16 >= kv_idx // 16


def rope(x, b, h, position):
    angle = position * FREQUENCIES
    a, c = x[:32], x[32:]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([a * cos - c * sin, c * cos + a * sin])


SCORE = "const VariantOperands& at, float score, int b, int h, int q_idx, int kv_idx"
DISTANCE = """\
    const bool t0 = h < 0;
    const int t1 = add(h, 8);
    const int t2 = t0 ? t1 : h;
    const int t3 = clamp_index(t2, 7);
    const float t4 = load<float>(at, 0, t3);
    const int t5 = subtract(kv_idx, q_idx);
    const float t6 = static_cast<float>(t5);
    const float t7 = t4 * t6;
"""
VECTOR = (
    "const VariantOperands& at, const Vector& vector, int b, int h, int kv_idx, int i"
)
HEAD = '#include "csrc/variant.h"\n#define JAXINFER_VARIANT\nnamespace jaxinfer {\n'
TEXTS = {
    "soft_cap": (
        {"score_mod": soft_cap},
        f"""{HEAD}struct Variant : NoVariant {{
  static constexpr bool kHasScoreMod = true;
  static constexpr float kSmallScores = 0x1.dffffep3f;

  template <typename Score>
  JAXINFER_HOOK float score_mod({SCORE.replace("float s", "Score s")}) {{
    const float t0 = tanh(score, 0x1.111112p-5f, 30.0f);
    return t0;
  }}

  static constexpr SoftCap kSoftCap = {{30.0f, 0x1.111112p-5f}};
}};
}}  // namespace jaxinfer
""",
    ),
    "alibi": (
        {"score_mod": alibi},
        f"""{HEAD}// Operand 0: float32[8]
struct Variant : NoVariant {{
  static constexpr bool kHasScoreMod = true;

  JAXINFER_HOOK float score_mod({SCORE}) {{
{DISTANCE}    const float t8 = score + t7;
    return t8;
  }}

  static constexpr bool kAddsLine = true;
  JAXINFER_HOOK Line line_mod({SCORE.replace("float score, ", "")}) {{
{DISTANCE}    return {{t7, t4}};
  }}
}};
}}  // namespace jaxinfer
""",
    ),
    "rope": (
        {"key_mod": rope},
        f"""{HEAD}// Operand 0: float32[32]
struct Variant : NoVariant {{
  static constexpr bool kHasKeyMod = true;

  // vector: float32[64]
  template <typename Vector>
  JAXINFER_HOOK float key_mod({VECTOR}) {{
    float t0;
    if (i < 32) {{
      const float t1 = vector(i);
      const float t2 = static_cast<float>(kv_idx);
      const float t3 = load<float>(at, 0, i);
      const float t4 = t2 * t3;
      const float t5 = cos(t4);
      const float t6 = t1 * t5;
      const float t7 = vector(i + 32);
      const float t8 = sin(t4);
      const float t9 = t7 * t8;
      const float t10 = t6 - t9;
      t0 = t10;
    }} else {{
      const float t11 = vector(i);
      const float t12 = static_cast<float>(kv_idx);
      const float t13 = load<float>(at, 0, i - 32);
      const float t14 = t12 * t13;
      const float t15 = cos(t14);
      const float t16 = t11 * t15;
      const float t17 = vector(i - 32);
      const float t18 = sin(t14);
      const float t19 = t17 * t18;
      const float t20 = t16 + t19;
      t0 = t20;
    }}
    return t0;
  }}
}};
}}  // namespace jaxinfer
""",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name):
    fields, text = TEXTS[name]
    assert Variant(**fields).trace(64, 64)[0].code == text


def test_division_by_a_number_is_a_few_operations():
    hooks, _ = Variant(mask_mod=block_causal).trace(64, 64)
    assert hooks.code.count("quotient(q_idx, 16)") == 1
    assert hooks.code.count(" = ") < 20


def test_texts_name_no_place():
    fields = {"score_mod": alibi, "mask_mod": block_causal, "key_mod": rope}
    first = Variant(**fields).trace(64, 64)[0].code
    again = Variant(**{k: jax.jit(f) for k, f in fields.items()}).trace(64, 64)[0].code
    assert first == again
    assert not re.search(r"\.py|rope|alibi|block_causal", first)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0x1.99999ap-4f"),
        (2, "2.0f"),
        (-0.0, "-0.0f"),
        (2.0**24, "0x1p24f"),
        (np.float32(1e-45), "0x1p-149f"),
        (-np.inf, "-infinity()"),
        (np.nan, "not_a_number()"),
        (np.float32(3.4028235e38), "0x1.fffffep127f"),
    ],
)
def test_float_literals(value, text):
    assert literal(np.float32(value), np.dtype("float32")) == text
    if "(" not in text:
        assert float.fromhex(text[:-1]) == np.float32(value) or text == "2.0f"


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (-(2**31), "int32", "(-2147483647 - 1)"),
        (2**31 - 1, "int32", "2147483647"),
        (2**32 - 1, "uint32", "4294967295u"),
        (-(2**63), "int64", "(int64_t{-9223372036854775807} - 1)"),
        (2**64 - 1, "uint64", "uint64_t{18446744073709551615u}"),
        (-128, "int8", "int8_t{-128}"),
        (True, "bool", "true"),
    ],
)
def test_other_literals(value, dtype, text):
    assert literal(np.dtype(dtype).type(value), np.dtype(dtype)) == text
