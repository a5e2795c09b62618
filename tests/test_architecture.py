# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The house rules that a machine can check. docs/design.md says why they are."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import jaxinfer
from jaxinfer import jit

ROOT = Path(__file__).parents[1]
FOLDERS = ("jaxinfer", "csrc", "xla_ffi", "tests", "examples", "benchmarks", "docs")
TOP_LEVEL = ("*.py", "*.md", "*.toml", "*.yml", "Makefile", ".clang-format", ".ci/run")
TEXT = {".py", ".pyi", ".cc", ".h", ".cuh", ".sh", ".md", ".toml", ".yml", ""}
CODE = {".py", ".pyi", ".cc", ".h", ".cuh"}

# What a part of the package may import of the others; a file is its own part. Parts
# that are planned are named already.
MAY_IMPORT = {
    "_native": set(),
    "_check": set(),
    "jit": {"_check", "_native"},
    "_library": {"_native", "jit"},
    "_compat": {"_library"},
    "_plan_config": set(),
    "_plan": {"_native", "_plan_config"},
    "reference": set(),
    "variant": {"_check", "_compat"},
    "_attention": {
        *("_check", "_compat", "_library", "_native", "_plan", "jit", "variant")
    },
    "_fold": {"_attention", "reference"},
    "ops": {
        *("_attention", "_check", "_compat", "_fold", "_library", "_native", "_plan"),
        *("jit", "reference", "variant"),
    },
    "variants": {"ops", "variant"},
    "page_pool": set(),
    "debug": {"_check"},
    "cache": {"ops", "_check"},
    "ragged_batch": {"_check", "_plan", "cache", "ops"},
    "flax": {"_check", "_plan", "cache", "ops", "ragged_batch"},
    "warmup": {"_plan", "jit", "ops"},
    "jit.__main__": {"jit", "warmup"},
    "export": {"_library", "_native", "_plan", "cache"},
    "_visible_keys": set(),
    "_explain": {"_attention", "_native", "_plan", "_visible_keys", "ops", "variant"},
    "testing": {
        "_plan",
        "_visible_keys",
        "cache",
        "ops",
        "reference",
        "variant",
        "variants",
    },
}
OPS = sorted(p.stem for p in (ROOT / "jaxinfer/ops").glob("[!_]*.py"))


def text_files(suffixes: set[str], *folders: str) -> list[Path]:
    files = [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and path.suffix in suffixes
        and "__pycache__" not in path.parts
    ]
    return sorted(files)


def sources() -> list[Path]:
    """Everything that people write, but for the licence."""
    top = [path for pattern in TOP_LEVEL for path in ROOT.glob(pattern)]
    return [*top, *text_files(TEXT, *FOLDERS)]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def part_of(module: str) -> str:
    """jaxinfer.ops.plan -> ops; a command line is above what it belongs to."""
    _, part, *rest = module.split(".")
    return f"{part}.__main__" if rest == ["__main__"] else part


def imported_modules(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted_names(path: Path) -> set[str]:
    """Imports, and attribute chains such as jax.interpreters.mlir."""
    chains = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    return imported_modules(path) | chains


def engine_lines() -> int:
    """Of jaxinfer, csrc and xla_ffi together."""
    files = text_files(CODE, "jaxinfer", "csrc", "xla_ffi")
    return sum(num_lines(path) for path in files)


def package_files() -> list[Path]:
    return [p for p in text_files({".py"}, "jaxinfer") if p.name != "__init__.py"]


@pytest.mark.parametrize("path", package_files(), ids=relative)
def test_import_direction(path):
    part = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what {part} may import"
    imported = {
        part_of(name) for name in imported_modules(path) if name.startswith("jaxinfer.")
    }
    wrong = imported - MAY_IMPORT[part] - {part}
    assert not wrong, f"{relative(path)} imports {sorted(wrong)}"


def test_rules_have_no_cycle():
    for part in MAY_IMPORT:
        seen, todo = set(), [part]
        while todo:
            below = MAY_IMPORT[todo.pop()] - seen
            assert part not in below, f"{part} may import itself by way of others"
            seen |= below
            todo += below


def test_plan_variant_jit_and_reference_do_not_know_each_other():
    values = {"_plan", "variant", "jit", "reference"}
    for part in values:
        assert not MAY_IMPORT[part] & values


def test_one_file_touches_the_inner_apis_of_jax():
    users = {
        relative(path)
        for path in text_files({".py"}, "jaxinfer", "examples", "benchmarks")
        if any(
            name.startswith(("jax.extend", "jax.interpreters"))
            for name in dotted_names(path)
        )
    }
    assert users == {"jaxinfer/_compat.py"}


def test_nothing_uses_the_private_parts_of_jax():
    for path in text_files({".py"}, *FOLDERS):
        names = dotted_names(path)
        private = {n for n in names if re.match(r"(jax|jaxlib)\.(\w+\.)*_(?!_)", n)}
        assert not private, f"{relative(path)} uses {private}"


def test_csrc_includes_neither_xla_nor_python():
    forbidden = re.compile(r"#\s*include\s*[<\"](xla/|Python\.h|pybind11|xla_ffi/)")
    files = text_files(CODE, "csrc")
    assert len(files) > 5
    for path in files:
        assert not forbidden.search(path.read_text()), relative(path)


def test_xla_ffi_has_no_kernels():
    files = text_files(CODE, "xla_ffi")
    assert len(files) > 5
    for path in files:
        assert not re.search(r"__global__|<<<", path.read_text()), relative(path)


@pytest.mark.parametrize("op", OPS)
def test_an_op_is_one_name_all_the_way_down(op):
    assert (ROOT / f"xla_ffi/{op}.cc").exists()
    assert (ROOT / f"tests/ops/test_{op}.py").exists()
    # A plan has nothing to be compared with: its properties are tested instead.
    assert (ROOT / f"jaxinfer/reference/{op}.py").exists() or op == "plan"
    assert inspect.isfunction(getattr(jaxinfer, op))


def test_every_handler_belongs_to_an_op():
    target = re.compile(r"^(XLA_FFI_DEFINE_HANDLER|JAXINFER_\w+_TARGETS)\w*\(", re.M)
    handlers = {
        path.stem
        for path in (ROOT / "xla_ffi").glob("*.cc")
        if target.search(path.read_text())
    }
    assert handlers == set(OPS)


def test_entry_points_of_kernels_are_loaded_before_they_are_launched():
    entry = re.compile(r'extern "C" __global__ void (?:__\w+\([^)]*\)\s+)?(\w+)\(')
    kernels = [path.read_text() for path in text_files({".cuh"}, "csrc")]
    entries = [name for text in kernels for name in entry.findall(text)]
    assert len(entries) == sum(text.count("__global__") for text in kernels) > 5
    handlers = "".join(path.read_text() for path in text_files({".cc"}, "xla_ffi"))
    launched = re.findall(r'\blaunch\(stream, attributes, "(\w+)"', handlers)
    assert sorted(launched) == sorted(entries)
    loaded = re.findall(r'JAXINFER_CUDA_INITIALIZE\(\w+, "(\w+)"\)', handlers)
    several = re.findall(r"load_kernel\(attributes, \{(.*?)\}", handlers)
    several = [set(re.findall(r'"(\w+)"', names)) for names in several]
    assert sorted({*loaded}.union(*several)) == sorted(entries)
    # A source that includes another one has all of its entry points as well.
    for source in ("attention", "attention_hopper", "attention_merge"):
        include = f'#include "csrc/{source}.cuh"'
        headers = jit.transitive_headers(include, jit.device_sources())
        assert set(entry.findall("".join(headers.values()))) in several


def section(doc: str, title: str) -> str:
    """The text under a heading of a Google docstring."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", inspect.cleandoc(doc), re.M)
    return found[1] if found else ""


def undocumented(owner: str, doc: str, names: list[str], title: str) -> list[str]:
    text = section(doc, title)
    missing = [n for n in names if not re.search(rf"^\s+\*{{0,2}}{n}:", text, re.M)]
    return [f"{owner}: {name} is not under {title}" for name in missing]


def flaws_of_function(name: str, function) -> list[str]:
    doc = function.__doc__ or ""
    flaws = undocumented(
        name, doc, list(inspect.signature(function).parameters), "Args"
    )
    return flaws if section(doc, "Returns") else [*flaws, f"{name}: no Returns"]


def flaws_of_class(name: str, cls: type) -> list[str]:
    doc = cls.__doc__ or ""
    flaws = [] if doc else [f"{name}: no docstring"]
    fields = list(getattr(cls, "__dataclass_fields__", {}))
    fields = [f for f in fields if not f.isupper()]
    flaws += undocumented(name, doc, fields, "Attributes")
    for member_name, member in vars(cls).items():
        member = getattr(member, "__func__", getattr(member, "fget", member))
        is_public = not member_name.startswith("_") and inspect.isfunction(member)
        if is_public and not member.__doc__:
            flaws.append(f"{name}.{member_name}: no docstring")
    return flaws


@pytest.mark.parametrize("name", jaxinfer.__all__)
def test_public_names_are_documented(name):
    value = getattr(jaxinfer, name)
    flaws = flaws_of_class if inspect.isclass(value) else flaws_of_function
    assert flaws(name, value) == []


def size_limit(path: Path) -> int:
    """Lines. A file past its limit wants to be two."""
    if relative(path).startswith("tests/"):
        return 400
    is_kernel = path.suffix == ".cuh" or path.stem.endswith("_cpu")
    return 700 if is_kernel else 300


@pytest.mark.parametrize("path", text_files(CODE, *FOLDERS), ids=relative)
def test_file_size(path):
    assert num_lines(path) <= size_limit(path)


@pytest.mark.parametrize(
    "path", [p for p in sources() if p.suffix not in {".md", ".toml"}], ids=relative
)
def test_licence_header(path):
    head = path.read_text().splitlines()[:3]
    if head and head[0].startswith("#!"):
        head = head[1:]
    text = "\n".join(re.sub(r"^(#|//) ?", "", line) for line in head)
    assert text.startswith(
        "SPDX-License-Identifier: Apache-2.0\nCopyright 2026 The jaxinfer authors"
    )


def test_no_machine_paths_and_no_marks_of_unfinished_work():
    # Written so that this file does not find itself.
    folders = "|".join(["work", "tmp", "root", "home", "opt", "usr"])
    path = rf"(?<![\w.)}}])/({folders})/"
    marks = r"\b({})\b".format("|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]))
    hosts = "|".join(["pypi" + r"\.org", "python" + "hosted", r"registry\." + "npm"])
    forbidden = re.compile(f"{path}|{marks}|{hosts}")
    for file in sources():
        found = forbidden.search(file.read_text().replace("#!/usr/bin/env", ""))
        assert not found, f"{relative(file)}: {found[0]!r}"


def test_environment_variables_are_documented():
    read = re.compile(r"(?:getenv\(|environ\S*?[(\[])\s*[\"'](\w+)[\"']")
    files = [*text_files(CODE, "jaxinfer", "csrc", "xla_ffi"), ROOT / "setup.py"]
    names = {name for path in files for name in read.findall(path.read_text())}
    ours = "CPU_ISA", "PLAN_TARGET", "CXXFLAGS", "CACHE_DIR", "NVRTC"
    assert {f"JAXINFER_{name}" for name in ours} <= names
    documented = (ROOT / "docs/environment.md").read_text()
    assert {name for name in names if f"`{name}`" not in documented} == set()


def test_readme_states_the_size_of_the_engine():
    stated = re.search(r"([\d,]+)\s+lines of code", (ROOT / "README.md").read_text())
    assert stated, "README.md must state the number of lines of the engine"
    lines = engine_lines()
    assert int(stated[1].replace(",", "")) == pytest.approx(lines, rel=0.05), lines
