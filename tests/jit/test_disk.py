# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cache on disk when things go wrong: kills, damage, full and read-only disks."""

import ast
import errno
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import fake_nvrtc
import pytest
from fake_nvrtc import SPEC, FakeNvrtc, store

from jaxinfer.jit import DiskCache, KernelSpec, default_cache_dir

OTHER = KernelSpec("scale", "sm_90a", (("kFactor", 3),))


def start(*args):
    return subprocess.Popen(
        [sys.executable, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(fake_nvrtc.__file__).parent,
    )


def cubin_of(folder, spec=SPEC):
    """What is on the disk, as a new process reads it."""
    return DiskCache(folder).read(store(folder).digest(spec))


def test_a_second_process_compiles_nothing(tmp_path):
    first, second = FakeNvrtc(), FakeNvrtc()
    digest = store(tmp_path, first).load(SPEC)
    kernels = store(tmp_path, second)
    assert kernels.load(SPEC) == digest
    assert (len(first.compiled), len(second.compiled)) == (1, 0)
    assert kernels.find(digest) == cubin_of(tmp_path)


def test_a_description_for_people(tmp_path):
    digest = store(tmp_path).load(KernelSpec("scale", "sm_90a", (("kFactor", 2.5),)))
    (entry,) = DiskCache(tmp_path).entries()
    options = entry.description.pop("options")
    assert options[0] == "-arch=sm_90a"
    assert "--ptxas-options=-v" in options
    assert entry.digest == digest
    assert entry.num_bytes == (tmp_path / f"{digest}.cubin").stat().st_size
    assert entry.description == {
        "digest": digest,
        "kernel": "scale",
        "arch": "sm_90a",
        "constants": {"kFactor": 2.5},
        "compiler": "NVRTC 13.5.37",
        "seconds": 0.25,
        "registers": 168,
        "spill_bytes": 64,
    }


def test_eight_processes_on_one_cold_cache(tmp_path):
    folder = tmp_path / "cache"
    processes = [start(fake_nvrtc.__file__, folder) for _ in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    loaded = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert len(set(loaded)) == 1
    digests = ast.literal_eval(loaded[0])
    assert len(digests) == len(set(digests.values())) == 5
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{digest}.cubin" for digest in digests}
    assert all(DiskCache(folder).read(digest) for digest in digests)


# Dies with half of the bytes in the file, as a full page cache would have it.
KILLED = """
    import os, signal, sys
    from fake_nvrtc import SPEC, store

    def die(descriptor):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = die
    store(sys.argv[1]).load(SPEC)
"""


def test_kill_in_mid_write(tmp_path):
    process = start("-c", textwrap.dedent(KILLED), tmp_path)
    process.communicate()
    assert process.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".tmp")
    assert left.stat().st_size > 400
    assert cubin_of(tmp_path) is None
    assert DiskCache(tmp_path).entries() == []
    nvrtc = FakeNvrtc()
    store(tmp_path, nvrtc).load(SPEC)
    assert len(nvrtc.compiled) == 1
    assert cubin_of(tmp_path)
    assert left.exists()
    assert DiskCache(tmp_path).clear() == 1
    assert list(tmp_path.iterdir()) == []


DAMAGE = {
    "bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "description": lambda data: data.replace(b"0.25", b"0.26"),
    "checksum": lambda data: data[:-1] + (b"0" if data[-1:] != b"0" else b"1"),
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "longer": lambda data: data + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_reported_and_replaced(tmp_path, damage):
    digest = store(tmp_path).load(SPEC)
    good = cubin_of(tmp_path)
    path = tmp_path / f"{digest}.cubin"
    path.write_bytes(damage(path.read_bytes()))
    assert DiskCache(tmp_path).entries()[0].description is None
    nvrtc = FakeNvrtc()
    kernels = store(tmp_path, nvrtc)
    with pytest.warns(RuntimeWarning, match=rf"{path} is damaged \(.*\) and not used"):
        kernels.load(SPEC)
    assert len(nvrtc.compiled) == 1
    assert kernels.find(digest) == good == cubin_of(tmp_path)


def test_a_file_under_a_wrong_name_is_not_used(tmp_path):
    kernels = store(tmp_path)
    one, other = (tmp_path / f"{kernels.load(x)}.cubin" for x in (SPEC, OTHER))
    one.replace(other)
    with pytest.warns(RuntimeWarning, match=f"it holds kernel {one.stem}"):
        assert DiskCache(tmp_path).read(other.stem) is None


def refuse(monkeypatch, name, code):
    """Makes a function of os fail for the files of the cache."""
    function = getattr(os, name)

    def fail(path, *args, **kwargs):
        if name != "open" or (args and args[0] & os.O_CREAT):
            raise OSError(code, os.strerror(code))
        return function(path, *args, **kwargs)

    monkeypatch.setattr(os, name, fail)


# (what fails, how): a read-only disk, a full one, a full one later on.
FAILURES = [
    ("mkdir", errno.EROFS),
    ("open", errno.EROFS),
    ("open", errno.EACCES),
    ("open", errno.ENOSPC),
    ("fsync", errno.ENOSPC),
    ("fsync", errno.EIO),
    ("replace", errno.EROFS),
    ("replace", errno.EDQUOT),
]


@pytest.mark.parametrize(("name", "code"), FAILURES)
def test_a_disk_that_cannot_be_written(tmp_path, monkeypatch, name, code):
    folder = tmp_path / "cache"
    nvrtc, loaded = FakeNvrtc(), {}
    kernels = store(folder, nvrtc, register=loaded.__setitem__)
    with monkeypatch.context() as patch:
        refuse(patch, name, code)
        text = (
            rf"cache {folder} cannot be written \(.*{os.strerror(code)}.*set JAXINFER"
        )
        with pytest.warns(RuntimeWarning, match=text) as caught:
            digests = [kernels.load(SPEC), kernels.load(OTHER), kernels.load(SPEC)]
        assert len(caught) == 1  # once, whatever else is loaded
    assert len(nvrtc.compiled) == 2
    assert set(loaded) == set(digests)
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_read_only_folder_that_is_warm(tmp_path, monkeypatch):
    store(tmp_path).load(SPEC)
    refuse(monkeypatch, "open", errno.EROFS)
    nvrtc = FakeNvrtc()
    store(tmp_path, nvrtc).load(SPEC)
    assert nvrtc.compiled == []


def test_a_folder_that_is_a_file(tmp_path):
    folder = tmp_path / "cache"
    folder.write_text("")
    kernels = store(folder)
    with pytest.warns(RuntimeWarning, match=f"{folder} cannot be read") as caught:
        kernels.load(SPEC)
    assert len(caught) == 1


def test_clear_leaves_what_is_not_ours(tmp_path):
    store(tmp_path).load(SPEC)
    kept = ["mine.cubin", "notes.tmp", f"{'0' * 32}.cubin.bak", "nvrtc-mine.json"]
    for name in kept:
        (tmp_path / name).touch()
    assert len(DiskCache(tmp_path).entries()) == 1
    assert DiskCache(tmp_path).clear() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert DiskCache(tmp_path / "none").clear() == 0
    assert DiskCache(tmp_path / "none").entries() == []


@pytest.mark.parametrize("digest", ["../x", "", "0" * 31, "Z" * 32, "/" + "0" * 31])
def test_digests_are_no_paths(tmp_path, digest):
    (tmp_path / "cache").mkdir()
    (tmp_path / "x.cubin").touch()  # damaged: reading it would warn
    (tmp_path / "cache/.cubin").touch()
    with warnings.catch_warnings(action="error"):
        assert DiskCache(tmp_path / "cache").read(digest) is None


def test_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXINFER_CACHE_DIR", "~/kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home/kernels"
    monkeypatch.setenv("JAXINFER_CACHE_DIR", "")
    assert default_cache_dir() == tmp_path / "xdg/jaxinfer"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_dir() == tmp_path / "home/.cache/jaxinfer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == tmp_path / "home/.cache/jaxinfer"


def test_no_home(monkeypatch):
    monkeypatch.delenv("JAXINFER_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(
        RuntimeError, match="JAXINFER_CACHE_DIR must be set to a folder"
    ):
        default_cache_dir()
