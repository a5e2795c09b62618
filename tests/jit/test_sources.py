# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Device sources: found in folders, and followed from one to the next."""

from pathlib import Path

import pytest
from fake_nvrtc import SOURCES, SPEC, store

import jaxinfer
from jaxinfer import jit
from jaxinfer.jit import KernelSpec, SourceFolder, transitive_headers


def test_only_what_is_included_is_handed_over():
    headers = transitive_headers(SPEC.source, SOURCES)
    assert set(headers) == {"csrc/scale.cuh", "csrc/factor.h", "csrc/number.h"}
    assert all(SOURCES[name] == text for name, text in headers.items())


def test_cycles_and_both_kinds_of_brackets():
    sources = {
        "csrc/a.h": '#include <csrc/b.h>\n#include "elsewhere.h"\n',
        "csrc/b.h": '#include "csrc/a.h"\n',
    }
    assert transitive_headers('#include "csrc/a.h"', sources) == sources


def test_code_may_include_too():
    spec = KernelSpec("scale", "sm_90a", code='#include "csrc/unrelated.h"')
    assert "csrc/unrelated.h" in transitive_headers(spec.source, SOURCES)


def test_a_missing_header_is_named_with_its_includer(tmp_path):
    sources = {k: v for k, v in SOURCES.items() if k != "csrc/number.h"}
    text = (
        r"kernel 'scale': csrc/factor.h includes 'csrc/number.h', which is not among "
        r"the device sources \(csrc/scale.cuh, csrc/factor.h, csrc/unrelated.h\)"
    )
    with pytest.raises(ValueError, match=text):
        store(tmp_path, sources=sources).digest(SPEC)


def test_a_missing_kernel(tmp_path):
    with pytest.raises(ValueError, match=r"kernel 'x': the kernel's source includes"):
        store(tmp_path).digest(KernelSpec("x", "sm_90a"))


@pytest.fixture
def folder(tmp_path):
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "csrc/host.cc").write_text("int main() {}")
    (tmp_path / "outside.h").write_text("")
    return tmp_path / "csrc"


def test_a_folder_is_a_mapping(folder):
    assert dict(SourceFolder(folder)) == SOURCES
    assert len(SourceFolder(folder)) == len(SOURCES)


@pytest.mark.parametrize(
    "name", ["csrc/host.cc", "csrc/none.h", "scale.cuh", "csrc/../outside.h", ""]
)
def test_a_folder_has_nothing_else(folder, name):
    assert name not in SourceFolder(folder)


def test_an_edit_between_hash_and_compilation_is_not_seen(folder):
    sources = SourceFolder(folder)
    before = sources["csrc/number.h"]
    (folder / "number.h").write_text("// edited")
    assert sources["csrc/number.h"] == before
    assert SourceFolder(folder)["csrc/number.h"] == "// edited"


def test_the_sources_of_this_jaxinfer():
    sources = jit.device_sources()
    package = Path(jaxinfer.__file__).parent
    assert sources.folder in {package.parent / "csrc", package / "_csrc"}
    assert "struct WorkItem" in sources["csrc/work_item.h"]


def test_sources_inside_the_package_come_first(tmp_path, monkeypatch):
    package = tmp_path / "jaxinfer"
    monkeypatch.setattr(
        "jaxinfer.jit.sources.__file__", str(package / "jit/sources.py")
    )
    find = jit.device_sources.__wrapped__
    with pytest.raises(FileNotFoundError, match=r"must be in one of .*; reinstall"):
        find()
    (tmp_path / "csrc").mkdir()
    assert find().folder == tmp_path / "csrc"
    (package / "_csrc").mkdir(parents=True)
    assert find().folder == package / "_csrc"
