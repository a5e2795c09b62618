# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Variant as a value: fields, composition, and what it refuses."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinfer.variant import HOOKS, Variant
from jaxinfer.variant.trace import MOST_OPERANDS


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def same_page(b, h, q_idx, kv_idx):
    return q_idx // 4 == kv_idx // 4


def even_heads(b, h, q_idx, kv_idx):
    return h % 2 == 0


def double(score, b, h, q_idx, kv_idx):
    return score * 2


def add_head(score, b, h, q_idx, kv_idx):
    return score + h


def turn(vector, b, h, position):
    return vector[::-1]


def ramp(vector, b, h, position):
    return vector * jnp.arange(4.0)


def functions(variant):
    return variant.trace(4, 4)[0].functions([])


def seen(variant) -> np.ndarray:
    """[2 heads, 12 queries, 12 keys], the window included."""
    h, q, k = np.ix_(*map(np.arange, (2, 12, 12)))
    mask = np.ones((2, 12, 12), bool)
    if variant.mask_mod is not None:
        mask &= np.asarray(variant.mask_mod(jnp.int32(0), jnp.asarray(h), q, k))
    left, right = variant.window
    mask &= True if left is None else q - k <= left
    mask &= True if right is None else k - q <= right
    return mask


def test_nothing_is_no_hook():
    assert Variant().trace(64, 64) == (None, [])
    assert Variant(local_window_size=3, use_softmax=False).trace(64, 64) == (None, [])
    assert list(HOOKS) == list(Variant.__dataclass_fields__)[: len(HOOKS)]


def test_names_are_in_the_order_of_the_fields():
    hooks, _ = Variant(value_mod=turn, mask_mod=causal, score_mod=double).trace(4, 4)
    assert hooks.names == ("score_mod", "mask_mod", "value_mod")
    for name in ("ScoreMod", "MaskMod", "ValueMod"):
        assert f"static constexpr bool kHas{name} = true;" in hooks.code
    assert "kHasKeyMod" not in hooks.code


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mask_mod": causal},
        {"mask_mod": same_page},
        {"mask_mod": even_heads},
        {"local_window_size": 2},
        {"local_window_size": (3, None)},
        {"local_window_size": (None, 1)},
        {"mask_mod": even_heads, "local_window_size": (1, 0)},
    ],
)
def test_and_and_or_of_masks(fields):
    a = Variant(**fields)
    for other in ({"mask_mod": causal}, {"local_window_size": [2, 5]}, {}):
        b = Variant(**other)
        np.testing.assert_array_equal(seen(a & b), seen(a) & seen(b))
        np.testing.assert_array_equal(seen(a | b), seen(a) | seen(b))


def test_windows():
    def window(variant):
        return variant.window

    a, b = Variant(local_window_size=(3, None)), Variant(local_window_size=(5, 2))
    assert window(a & b) == (3, 2)
    assert window(a | b) == (5, None)
    assert (Variant(mask_mod=causal) | a).local_window_size is None
    assert (Variant() & Variant()).local_window_size is None


def test_functions_chain():
    both = Variant(score_mod=double) & Variant(score_mod=add_head)
    assert functions(both)["score_mod"](3.0, 0, 5, 0, 0) == 11
    both = Variant(score_mod=add_head) & Variant(score_mod=double)
    assert functions(both)["score_mod"](3.0, 0, 5, 0, 0) == 16
    for name in ("query_mod", "key_mod", "value_mod", "output_mod"):
        both = Variant(**{name: turn}) & Variant(**{name: ramp})
        result = functions(both)[name](jnp.arange(4.0), 0, 0, 0)
        np.testing.assert_array_equal(result, [0, 2, 2, 0])
    alone = Variant(score_mod=double) & Variant(mask_mod=causal)
    assert alone == Variant(score_mod=double, mask_mod=causal)


def test_softmax_needs_both():
    without = Variant(use_softmax=False)
    assert not (without & Variant()).use_softmax
    assert not (Variant() & without).use_softmax
    assert (Variant() & Variant()).use_softmax


def test_variants_are_values():
    def make():
        other = Variant(mask_mod=same_page, local_window_size=3)
        masks = Variant(mask_mod=causal) | other
        return masks & Variant(score_mod=double) & Variant(score_mod=add_head)

    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make() & Variant(score_mod=double)
    assert hash(Variant(local_window_size=[1, 2])) == hash(
        Variant(local_window_size=(1, 2))
    )


def test_other_operands_are_refused():
    with pytest.raises(TypeError):
        Variant() & causal
    with pytest.raises(TypeError):
        Variant() | 3


ERRORS = {
    "score_mod must be None or a function, got 3": lambda: Variant(score_mod=3),
    "key_mod must be None or a function, got 'rope'": lambda: Variant(key_mod="rope"),
    "use_softmax must be a Python bool, got 1": lambda: Variant(use_softmax=1),
    "local_window_size must be None, an int in [0, 2^31) or (left, right) of such, "
    "got (1, 2, 3)": lambda: Variant(local_window_size=(1, 2, 3)),
    "a | b must join variants that have masks and windows only, got score_mod": (
        lambda: Variant(mask_mod=causal) | Variant(score_mod=double)
    ),
    "a | b must join variants that have masks and windows only, got "
    "use_softmax=False": (lambda: Variant(use_softmax=False) | Variant()),
    "score_mod must be a function of (score, b, h, q_idx, kv_idx), got "
    "(b, h, q_idx, kv_idx)": lambda: Variant(score_mod=causal),
    "mask_mod must be a function of (b, h, q_idx, kv_idx), got "
    "(score, b, h, q_idx, kv_idx)": lambda: Variant(mask_mod=double),
    "query_mod must be a function of (vector, b, h, q_idx), got (x)": (
        lambda: Variant(query_mod=lambda x: x)
    ),
    "key_mod must be a function of (vector, b, h, kv_idx), got (x, *, y)": (
        lambda: Variant(key_mod=lambda x, *, y: x)
    ),
    "score_mod must return a number of shape [], got float32[3]": (
        lambda: Variant(score_mod=lambda s, b, h, q, k: s + jnp.ones(3))
    ),
    "score_mod must return a number of shape [], got bool[]": (
        lambda: Variant(score_mod=lambda s, b, h, q, k: s > 0)
    ),
    "score_mod must return a number of shape [], got PyTreeDef((*, *))": (
        lambda: Variant(score_mod=lambda s, b, h, q, k: (s, s))
    ),
    "score_mod must return a number of shape [], got PyTreeDef(None)": (
        lambda: Variant(score_mod=lambda s, b, h, q, k: None)
    ),
    "mask_mod must return a bool of shape [], got int32[]": (
        lambda: Variant(mask_mod=lambda b, h, q, k: q - k)
    ),
    "value_mod must return a floating array of shape [8], got float32[4]": (
        lambda: Variant(value_mod=lambda x, b, h, p: x[:4])
    ),
    "key_mod must return a floating array of shape [4], got int32[4]": (
        lambda: Variant(key_mod=lambda x, b, h, p: x.astype("int32"))
    ),
    "the functions of a variant must read at most 16 arrays, got 17; stack some of "
    "them": (
        lambda: Variant(
            score_mod=lambda s, b, h, q, k: (
                s
                + sum(
                    jnp.asarray(np.full(i + 2, 0.1))[h]
                    for i in range(MOST_OPERANDS + 1)
                )
            )
        )
    ),
}


@pytest.mark.parametrize("text", ERRORS)
def test_misuse(text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        ERRORS[text]().trace(4, 8)


def my_mod(vector, b, h, position):
    return vector / jnp.sqrt(jnp.sum(vector**2))


def loop(score, b, h, q_idx, kv_idx):
    return lax.fori_loop(0, q_idx, lambda i, s: s * 2, score)


NOT_ELEMENTWISE = {
    "query_mod: 'reduce_sum' (test_variant.py:{my_mod} (my_mod)) is not elementwise; "
    "supported: abs, ": (my_mod, {"query_mod": my_mod}),
    "output_mod: 'cumsum' (test_variant.py:": (
        None,
        {"output_mod": lambda x, b, h, p: jnp.cumsum(x)},
    ),
    "score_mod: 'while' (test_variant.py:{loop} (loop)) is not elementwise": (
        loop,
        {"score_mod": loop},
    ),
    "score_mod: 'pad' (test_variant.py:": (
        None,
        {"score_mod": lambda s, b, h, q, k: lax.pad(s[None], 0.0, [(0, 0, 1)])[0]},
    ),
    "key_mod: 'pad' (test_variant.py:": (
        None,
        {"key_mod": lambda x, b, h, p: lax.pad(x, 0.0, [(0, 0, 1)])[:4]},
    ),
    "score_mod: float8_e4m3fn (test_variant.py:": (
        None,
        {"score_mod": lambda s, b, h, q, k: s.astype("float8_e4m3fn") * 1},
    ),
    "score_mod: complex64 (test_variant.py:": (
        None,
        {"score_mod": lambda s, b, h, q, k: jnp.abs(s + 1j)},
    ),
}


@pytest.mark.parametrize("text", NOT_ELEMENTWISE)
def test_what_device_code_cannot_do(text):
    function, fields = NOT_ELEMENTWISE[text]
    if function:
        line = function.__code__.co_firstlineno + 1
        text = text.replace(f"{{{function.__name__}}}", str(line))
    with pytest.raises(NotImplementedError, match=f"^{re.escape(text)}"):
        Variant(**fields).trace(4, 4)


def test_errors_of_functions_are_their_own():
    def wrong(score, b, h, q_idx, kv_idx):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Variant(score_mod=wrong).trace(4, 4)


def test_any_callable_is_a_function():
    class Scale:
        def __call__(self, score, b, h, q_idx, kv_idx):
            return score * 3

    for function in (Scale(), jax.jit(double), functools.partial(double)):
        assert Variant(score_mod=function).trace(4, 4)[0].names == ("score_mod",)
