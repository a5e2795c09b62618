# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What is rendered, and what the digest depends on."""

import json
import math
import re

import numpy as np
import pytest
from fake_nvrtc import SOURCES, SPEC, FakeNvrtc, store

from jaxinfer import jit
from jaxinfer.jit import KernelSpec


def spec(*constants, **changes):
    fields = {"kernel": "attention", "arch": "sm_90a", "constants": constants}
    return KernelSpec(**fields | changes)


def test_golden_text():
    constants = [("kHeadDim", 128), ("kIsCausal", True), ("kCap", 0.5), ("kLow", -7)]
    variant = "namespace jaxinfer { struct Variant {}; }\n"
    assert spec(*constants, code=variant).source == (
        "// attention for sm_90a, rendered by jaxinfer.jit.\n"
        "namespace jaxinfer {\n"
        "struct Spec {\n"
        "  static constexpr int kHeadDim = 128;\n"
        "  static constexpr bool kIsCausal = true;\n"
        "  static constexpr float kCap = 0x1p-1f;  // 0.5\n"
        "  static constexpr int kLow = -7;\n"
        "};\n"
        "}  // namespace jaxinfer\n"
        "namespace jaxinfer { struct Variant {}; }\n"
        '#include "csrc/attention.cuh"\n'
    )


def test_a_spec_without_constants():
    assert "struct Spec {\n};\n" in spec().source


@pytest.mark.parametrize("value", [0.1, 1 / 3, -2.5e-30, 3.0e38, 0.0, 100.0, 1e-45])
def test_floats_are_exact(value):
    literal = re.search(r"kX = (\S+)f;", spec(("kX", value)).source)[1]
    assert float.fromhex(literal) == float(np.float32(value))


def test_the_sign_of_zero_is_kept():
    literal = re.search(r"kX = (\S+)f;", spec(("kX", -0.0)).source)[1]
    assert math.copysign(1, float.fromhex(literal)) == -1


# Equal to Python, but three types of C++, or two values.
@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), (0, 0.0)]
)
def test_equal_values_of_other_types_are_other_specs(one, other):
    assert spec(("kX", one)) != spec(("kX", other))
    assert len({spec(("kX", one)), spec(("kX", other))}) == 2


def test_specs_are_values():
    one, same = spec(("kX", 1)), spec(("kX", 1))
    assert one == same
    assert hash(one) == hash(same)
    assert one != spec(("kX", 2))
    assert one != "text"


FLOAT = (
    r"a Python bool, an int in \[-2\^31, 2\^31\) or a float that is finite in float32"
)
ERRORS = [
    ({"kernel": "csrc/x"}, r"kernel must be the stem of a file in csrc, got 'csrc/x'"),
    ({"kernel": 3}, r"kernel must be the stem of a file in csrc, got 3"),
    ({"arch": "90"}, r"arch must be an architecture like 'sm_90a', got '90'"),
    (
        {"constants": (("k-x", 1),)},
        r"a constant's name must be a C\+\+ name, got 'k-x'",
    ),
    ({"constants": (("kX", 1), ("kX", 2))}, r"distinct names, got \['kX', 'kX'\]"),
    ({"constants": (("kX", 2**31),)}, rf"kX must be {FLOAT}, got 2147483648 \(int\)"),
    ({"constants": (("kX", math.inf),)}, rf"kX must be {FLOAT}, got inf \(float\)"),
    ({"constants": (("kX", math.nan),)}, rf"kX must be {FLOAT}, got nan"),
    ({"constants": (("kX", 1e39),)}, rf"kX must be {FLOAT}, got 1e\+39"),
    ({"constants": (("kX", "1"),)}, rf"kX must be {FLOAT}, got '1' \(str\)"),
    ({"constants": (("kX", np.float64(1)),)}, r"\(float64\)"),
]


@pytest.mark.parametrize(("changes", "text"), ERRORS)
def test_error_texts(changes, text):
    with pytest.raises(ValueError, match=text):
        spec(**changes)


@pytest.mark.parametrize("code", ["", "struct Variant {};\n"])
def test_json_keeps_the_types(code):
    one = spec(("kInt", 1), ("kBool", True), ("kFloat", 1.0), code=code)
    assert KernelSpec.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize("fields", [[], {"kernel": "x"}, {"kernel": "x", "cc": "90"}])
def test_json_of_something_else(fields):
    text = r"a kernel spec must be an object with kernel, arch and.* got "
    with pytest.raises(ValueError, match=text + re.escape(repr(fields))):
        KernelSpec.from_json(fields)


def digest(tmp_path, one=SPEC, sources=SOURCES, version=(13, 5, 37)):
    return store(tmp_path, FakeNvrtc(version=version), sources).digest(one)


def with_text(name):
    return SOURCES | {name: SOURCES[name] + " "}


DIFFERENT = {
    "value": {"one": KernelSpec("scale", "sm_90a", (("kFactor", 3),))},
    "type": {"one": KernelSpec("scale", "sm_90a", (("kFactor", 2.0),))},
    "name": {"one": KernelSpec("scale", "sm_90a", (("kFaktor", 2),))},
    "arch": {"one": KernelSpec("scale", "sm_80", (("kFactor", 2),))},
    "code": {"one": KernelSpec("scale", "sm_90a", (("kFactor", 2),), "// code")},
    "kernel's text": {"sources": with_text("csrc/scale.cuh")},
    "header": {"sources": with_text("csrc/factor.h")},
    "transitive header": {"sources": with_text("csrc/number.h")},
    "build": {"version": (13, 5, 38)},
    "minor version": {"version": (13, 4, 37)},
}


@pytest.mark.parametrize("changes", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_the_digest_reacts(tmp_path, changes):
    assert digest(tmp_path, **changes) != digest(tmp_path)


def test_the_digest_reacts_to_options(tmp_path, monkeypatch):
    before = digest(tmp_path)
    monkeypatch.setattr("jaxinfer.jit.store.OPTIONS", (*jit.OPTIONS, "--use_fast_math"))
    assert digest(tmp_path) != before


def test_the_digest_does_not_react_to_what_is_not_used(tmp_path):
    others = with_text("csrc/unrelated.h") | {"csrc/new.cuh": "// new"}
    assert digest(tmp_path, sources=others) == digest(tmp_path)
    assert re.fullmatch("[0-9a-f]{32}", digest(tmp_path))


def test_the_parts_of_a_digest_do_not_run_together():
    digests = {
        jit.kernel_digest("ab", {}, "c", ["d"]),
        jit.kernel_digest("a", {}, "bc", ["d"]),
        jit.kernel_digest("a", {"b": ""}, "c", ["d"]),
        jit.kernel_digest("a", {"": "b"}, "c", ["d"]),
        jit.kernel_digest("a", {}, "b", ["c", "d"]),
        jit.kernel_digest("a", {}, "b", ["cd"]),
    }
    assert len(digests) == 6
