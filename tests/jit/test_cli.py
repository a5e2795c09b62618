# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""python -m jaxinfer.jit, and the warm-up behind it."""

import json
import os
import re
import subprocess
import sys
import threading

import pytest
from fake_nvrtc import SPEC, FakeNvrtc, store

from jaxinfer import jit
from jaxinfer.jit import CompileError, KernelSpec
from jaxinfer.jit.__main__ import main

SPECS = [KernelSpec("scale", "sm_90a", (("kFactor", i),)) for i in range(4)]


@pytest.fixture
def spec_file(tmp_path):
    path = tmp_path / "specs.json"
    path.write_text(json.dumps([spec.to_json() for spec in SPECS]))
    return str(path)


def test_warmup_compiles_in_parallel_and_keeps_the_order(tmp_path):
    pairs = threading.Barrier(2)  # breaks if nobody compiles beside
    done = []
    kernels = store(tmp_path, FakeNvrtc(before=lambda: pairs.wait(10)))
    digests = jit.warmup(
        SPECS, max_workers=2, progress=lambda *args: done.append(args), store=kernels
    )
    assert digests == [kernels.digest(spec) for spec in SPECS]
    assert [(number, total) for number, total, _ in done] == [
        (i, 4) for i in (1, 2, 3, 4)
    ]
    assert {spec for _, _, spec in done} == set(SPECS)
    assert all(store(tmp_path).find(digest) for digest in digests)


def test_warmup_of_nothing_and_of_one_twice(tmp_path):
    nvrtc = FakeNvrtc()
    assert jit.warmup([], store=store(tmp_path, nvrtc)) == []
    assert len(set(jit.warmup([SPEC, SPEC], store=store(tmp_path, nvrtc)))) == 1
    assert len(nvrtc.compiled) == 1


def test_warmup_compiles_the_others_after_a_failure(tmp_path):
    bad = KernelSpec("missing", "sm_90a")
    kernels = store(tmp_path)
    text = "1 of 5 kernels could not be compiled"
    with pytest.raises(ExceptionGroup, match=text) as caught:
        jit.warmup([bad, *SPECS], store=kernels)
    assert "kernel 'missing'" in str(caught.value.exceptions[0])
    assert len(kernels.disk.entries()) == 4


def test_command_warmup(tmp_path, spec_file, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # as if it were not installed
    kernels = store(tmp_path / "cache")
    assert main(["warmup", "--spec-file", spec_file, "--jobs", "1"], kernels) == 0
    lines = [f"{i}/4 scale for sm_90a" for i in (1, 2, 3, 4)]
    assert capsys.readouterr().out.splitlines() == [
        *lines,
        f"4 kernels are in {tmp_path / 'cache'}",
    ]
    assert len(kernels.disk.entries()) == 4


def test_command_warmup_with_a_bar(tmp_path, spec_file, capsys):
    pytest.importorskip("tqdm")
    assert main(["warmup", "--spec-file", spec_file], store(tmp_path / "cache")) == 0
    out, err = capsys.readouterr()
    assert out == f"4 kernels are in {tmp_path / 'cache'}\n"
    assert "4/4" in err


def test_command_warmup_that_fails(tmp_path, spec_file, capsys):
    def fail():
        raise CompileError("scale.cuh(3): error")

    kernels = store(tmp_path / "cache", FakeNvrtc(before=fail))
    assert main(["warmup", "--spec-file", spec_file], kernels) == 1
    err = capsys.readouterr().err
    assert "4 of 4 kernels could not be compiled" in err
    assert "kernel 'scale' for sm_90a: scale.cuh(3): error" in err


WRONG = [
    ("{", "--spec-file must be a JSON file: "),
    ('{"kernel": "x"}', "--spec-file must hold a list of specs, got dict in "),
    ('[{"kernel": "x"}]', "a kernel spec must be an object with kernel, arch"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_command_warmup_with_a_wrong_file(tmp_path, capsys, text, message):
    path = tmp_path / "specs.json"
    path.write_text(text)
    assert main(["warmup", "--spec-file", str(path)], store(tmp_path)) == 2
    assert message in capsys.readouterr().err


def test_command_warmup_without_a_file(tmp_path, capsys):
    missing = str(tmp_path / "none.json")
    assert main(["warmup", "--spec-file", missing], store(tmp_path)) == 2
    assert "must be a JSON file: [Errno 2]" in capsys.readouterr().err


def test_command_list(tmp_path, capsys):
    kernels = store(tmp_path)
    digest = kernels.load(
        KernelSpec("scale", "sm_90a", (("kOn", True), ("kX", 0.5)), "//")
    )
    other = tmp_path / f"{'f' * 32}.cubin"
    other.write_text("damaged")
    assert main(["list"], kernels) == 0
    first, second = sorted(capsys.readouterr().out.splitlines())
    assert re.fullmatch(
        rf"{digest}  1\.\d kB  scale sm_90a  NVRTC 13.5.37  0.25 s  168 registers  "
        "64 bytes spilled  kOn=True kX=0.5  with added code",
        first,
    )
    assert second == f"{'f' * 32}  0.0 kB  damaged"


def test_command_clear(tmp_path, capsys):
    kernels = store(tmp_path)
    kernels.load(SPEC)
    assert main(["clear"], kernels) == 0
    assert capsys.readouterr().out == f"removed 1 kernels from {tmp_path}\n"
    assert list(tmp_path.iterdir()) == []


def test_command_info(tmp_path, capsys):
    kernels = store(tmp_path)
    kernels.load(SPEC)
    assert main(["info"], kernels) == 0
    out = capsys.readouterr().out
    assert "compiler: NVRTC 13.5.37 at libfake.so\n" in out
    assert f"cache:    {tmp_path}\nkernels:  1, 1." in out


def test_command_info_without_a_compiler(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXINFER_NVRTC", str(tmp_path / "none.so"))
    assert main(["info"], jit.KernelStore()) == 0
    assert (
        "compiler: none: JAXINFER_NVRTC must be the path of" in capsys.readouterr().out
    )


def test_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compile"])
    assert caught.value.code == 2
    assert "invalid choice: 'compile'" in capsys.readouterr().err


def test_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "jaxinfer.jit", "path"],
        env=os.environ | {"JAXINFER_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{tmp_path}\n", "")
