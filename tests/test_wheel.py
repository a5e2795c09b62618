# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What is shipped: a wheel built from the source archive, and run from elsewhere."""

import email
import os
import re
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from wheel_matrix import PROGRAM, run, source_archive

import jaxinfer

VERSION = jaxinfer.__version__
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # A space, because builds that forget quotes fail there.
    return tmp_path_factory.mktemp("a folder")


@pytest.fixture(scope="module")
def archive(folder):
    return source_archive(folder)


@pytest.fixture(scope="module")
def wheel(archive, folder):
    options = ("--no-build-isolation", "--no-deps", "--no-index")
    run(*PIP, "wheel", *options, "--wheel-dir", folder, archive)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def read(wheel, ending):
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(ending))
        return file.read(name).decode()


def test_size(wheel):
    assert wheel.stat().st_size < 5_000_000


def test_tag_is_of_this_python_and_machine(wheel):
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    system = re.sub(r"\W", "_", sysconfig.get_platform())
    assert wheel.name == f"jaxinfer-{VERSION}-{python}-{python}-{system}.whl"
    assert "Root-Is-Purelib: false" in read(wheel, ".dist-info/WHEEL")


def test_run_time_dependencies(wheel):
    metadata = email.message_from_string(read(wheel, ".dist-info/METADATA"))
    needed = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert {re.match(r"\w+", r)[0] for r in needed} == {"jax", "jaxlib", "numpy"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_holds_the_package_and_the_device_sources_and_nothing_else(names, folder):
    source = folder / "source"
    package = {
        str(path.relative_to(source))
        for pattern in ("*.py", "*.pyi", "py.typed")
        for path in (source / "jaxinfer").rglob(pattern)
    }
    device = {
        f"jaxinfer/csrc/{path.name}"
        for pattern in ("*.h", "*.cuh")
        for path in (source / "csrc").glob(pattern)
    }
    native = f"jaxinfer/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    info = {name for name in names if name.startswith(f"jaxinfer-{VERSION}.dist-info/")}
    assert "jaxinfer/py.typed" in package
    assert "jaxinfer/csrc/work_item.h" in device
    assert names == package | device | {native} | info
    assert {name.partition("/")[2] for name in info} == {
        *("METADATA", "RECORD", "WHEEL", "top_level.txt", "licenses/LICENSE")
    }


@pytest.fixture(scope="module")
def installed(wheel, folder):
    target = folder / "installed"
    run(*PIP, "install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def run_installed(installed, program):
    # First on the path, hence before the editable install that the tests run with.
    program = f"import sys; sys.path.insert(0, {str(installed)!r})\n{program}"
    return run(sys.executable, "-W", "error", "-c", program, cwd=installed.parent)


def test_runs_from_another_folder(installed):
    output = run_installed(installed, PROGRAM)
    assert output.endswith(f"{installed}/jaxinfer/__init__.py\n")


# Kernels by the files that have entry points; each with all that it includes.
SOURCES = """
from jaxinfer import jit

sources = jit.device_sources()
for name, text in sources.items():
    if "__global__" in text:
        spec = jit.KernelSpec(name[5:-4], "sm_90a")
        print(spec.kernel, len(jit.transitive_headers(spec.source, sources)) > 2)
print(sources.folder)
"""


def test_finds_its_own_device_sources(installed):
    *kernels, folder = run_installed(installed, SOURCES).splitlines()
    assert folder == f"{installed}/jaxinfer/csrc"
    attention = "attention", "attention_hopper", "attention_merge"
    names = *attention, "merge_partials", "plan", "rope", "update_kv_pages"
    assert kernels == [f"{name} True" for name in names]


@pytest.mark.nvrtc
def test_compiles_a_kernel(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXINFER_CACHE_DIR", str(tmp_path))
    program = """
from jaxinfer.jit.__main__ import main
shapes = ["--tokens", "1", "--max-kv-len", "16", "--arch", "sm_80"]
sys.exit(main(["warmup", "--heads", "8", "--head-dim", "64", *shapes]))
"""
    output = run_installed(installed, program)
    assert output.endswith(f"5 kernels are in {tmp_path}\n")


def test_a_failing_compiler_ends_the_build_with_its_message(archive, folder):
    subprocess.run(["tar", "xzf", archive, "-C", folder], check=True)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder / f"jaxinfer-{VERSION}",
        env=os.environ | {"JAXINFER_CXXFLAGS": "-fno-such-option"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "-fno-such-option" in done.stdout
    assert "the C++ build failed; the compiler's message is above" in done.stderr
