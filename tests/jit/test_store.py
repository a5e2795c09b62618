# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The way from a spec to a loaded kernel: once, from any thread, or with a cure."""

import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_nvrtc
import pytest
from fake_nvrtc import SOURCES, SPEC, FakeNvrtc, store

import jaxinfer._native
from jaxinfer import jit
from jaxinfer.jit import CompileError, KernelSpec, KernelStore, Nvrtc, NvrtcUnavailable
from jaxinfer.jit.single_flight import SingleFlight
from jaxinfer.jit.version_cache import cached_version


def in_threads(count, call):
    """The results of calls that begin together; exceptions as values."""
    together = threading.Barrier(count)

    def run(index):
        together.wait(10)
        try:
            return call(index)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def spec(factor):
    return KernelSpec("scale", "sm_90a", (("kFactor", factor),))


def test_one_spec_is_compiled_and_registered_once(tmp_path):
    registered = []
    nvrtc = FakeNvrtc(before=lambda: threading.Event().wait(0.1))
    kernels = store(tmp_path, nvrtc, register=lambda *kernel: registered.append(kernel))
    digests = in_threads(8, lambda index: kernels.load(spec(2)))
    assert len(set(digests)) == 1
    assert len(nvrtc.compiled) == 1
    assert registered == [(digests[0], kernels.find(digests[0]))]


def test_different_specs_compile_at_the_same_time(tmp_path):
    both = threading.Barrier(2)  # breaks if one waits for the end of the other
    nvrtc = FakeNvrtc(before=lambda: both.wait(10))
    digests = in_threads(2, lambda index: store(tmp_path, nvrtc).load(spec(index)))
    assert len(set(digests)) == 2
    assert len(nvrtc.compiled) == 2


def test_what_is_loaded_together_compiles_at_the_same_time(tmp_path):
    both = threading.Barrier(2)
    registered = {}
    nvrtc = FakeNvrtc(before=lambda: both.wait(10))
    kernels = store(tmp_path, nvrtc, register=registered.__setitem__)
    specs = [spec(1), spec(2)]
    assert kernels.load_all(specs) == {s: kernels.digest(s) for s in specs}
    assert len(registered) == 2
    assert kernels.load_all([]) == {}


@pytest.mark.parametrize("failing", [1, 2])
def test_of_what_is_loaded_together_any_failure_is_the_callers(tmp_path, failing):
    class Failing(FakeNvrtc):
        def compile(self, source, *args):
            if spec(failing).source == source:
                raise CompileError("no such thing")
            return super().compile(source, *args)

    kernels = store(tmp_path, Failing())
    with pytest.raises(CompileError, match="no such thing"):
        kernels.load_all([spec(1), spec(2)])
    assert kernels.find(kernels.digest(spec(3 - failing)))  # the other one is kept


def test_a_failure_reaches_all_who_wait_and_leaves_nothing(tmp_path):
    def fail():
        threading.Event().wait(0.1)
        raise CompileError("scale.cu: no such thing\nscale.cuh(3): error: expected ;")

    nvrtc = FakeNvrtc(before=fail)
    kernels = store(tmp_path, nvrtc)
    errors = in_threads(4, lambda index: kernels.load(SPEC))
    text = (
        r"(?s)kernel 'scale' for sm_90a: scale.cu: .*error: expected ;\n"
        r"The source was:\n// scale for sm_90a"
    )
    assert all(isinstance(error, CompileError) for error in errors)
    assert all(re.match(text, str(error)) for error in errors)
    assert list(tmp_path.iterdir()) == []
    nvrtc.before = lambda: None
    assert kernels.find(kernels.load(SPEC))


def test_load_hands_over_to_the_extension(tmp_path, monkeypatch):
    registered = []
    monkeypatch.setattr(
        jaxinfer._native,
        "register_kernel",
        lambda *kernel: registered.append(kernel),
        raising=False,
    )
    kernels = KernelStore(sources=SOURCES, nvrtc=FakeNvrtc())
    monkeypatch.setattr(jit, "DEFAULT", kernels)
    digest = jit.load(SPEC)
    assert registered == [(digest, jit.find(digest))]
    assert jit.resolve(digest) == jit.find(digest)
    assert kernels.disk.folder == jit.default_cache_dir()


def test_prepare_registers_nothing_and_load_does_afterwards(tmp_path):
    registered = {}
    kernels = store(tmp_path, register=registered.__setitem__)
    digest = kernels.prepare(SPEC)
    assert registered == {}
    kernels.load(SPEC)
    assert list(registered) == [digest]


def test_a_known_spec_costs_no_work(tmp_path):
    kernels = store(tmp_path)
    digest = kernels.load(SPEC)
    for name in ("_headers", "_find_or_compile", "_register"):
        setattr(kernels, name, None)
    assert kernels.load(KernelSpec("scale", "sm_90a", (("kFactor", 2),))) == digest


def test_find_looks_in_memory_then_on_disk(tmp_path):
    first, second = store(tmp_path), store(tmp_path)
    digest = first.load(SPEC)
    cubin = second.find(digest)
    assert cubin == first.find(digest)
    first.disk.clear()
    assert second.find(digest) == second.resolve(digest) == cubin
    assert store(tmp_path).find(digest) is None


def test_a_kernel_that_is_nowhere(tmp_path):
    with pytest.raises(jit.KernelNotFound) as caught:
        store(tmp_path).resolve("0" * 32)
    text = str(caught.value)
    assert f"needs kernel {'0' * 32}, which is neither loaded nor in {tmp_path}" in text
    for cure in (
        "'python -m jaxinfer.jit warmup'",
        "lowering the program once in this process",
        "a copy of the JAXINFER_CACHE_DIR",
        "under jaxinfer.jit.embed_kernels()",
    ):
        assert cure in text


@pytest.mark.parametrize("version", [(12, 8, 0), (12, 8, 93), (12, 9, 41), (12, 9, 85)])
def test_refused_versions(tmp_path, version):
    kernels = store(tmp_path, FakeNvrtc("lib/libnvrtc.so.12", version))
    text = (
        rf"NVRTC {'.'.join(map(str, version))} at lib/libnvrtc.so.12 miscompiles "
        r"kernels for sm_90a; it must be 12.9.86 or later .*: pip install -U "
        r"'nvidia-cuda-nvrtc-cu12>=12.9.86', or set JAXINFER_NVRTC"
    )
    for call in (kernels.load, kernels.digest, kernels.compile):
        with pytest.raises(NvrtcUnavailable, match=text):
            call(SPEC)
    assert kernels.load(KernelSpec("scale", "sm_80"))


@pytest.mark.parametrize("version", [(12, 7, 99), (12, 9, 86), (13, 0, 0), (13, 5, 37)])
def test_other_versions(tmp_path, version):
    assert store(tmp_path, FakeNvrtc(version=version)).load(SPEC)


@pytest.fixture
def library(tmp_path):
    """A file that says it is NVRTC, and does not load."""
    path = tmp_path / "libnvrtc.so.13"
    path.write_text("not a library")
    return path


def test_a_warm_start_does_not_load_nvrtc(tmp_path, library):
    folder = tmp_path / "cache"
    digest = store(folder, FakeNvrtc(str(library))).load(spec(2))
    warm = store(folder, Nvrtc(str(library)))
    assert warm.load(spec(2)) == digest
    assert warm.compiler == "NVRTC 13.5.37"
    with pytest.raises(NvrtcUnavailable, match="does not load"):
        warm.load(spec(3))


def test_another_library_is_asked_for_its_version(tmp_path, library):
    disk = store(tmp_path / "cache").disk
    old = FakeNvrtc(str(library), version=(13, 0, 88))
    new = FakeNvrtc(str(library), version=(13, 5, 37))
    assert cached_version(old, disk) == cached_version(new, disk) == (13, 0, 88)
    library.write_text("not a library either")
    assert cached_version(new, disk) == (13, 5, 37)
    link = tmp_path / "link"
    link.symlink_to(library)
    assert cached_version(FakeNvrtc(str(link), (1, 2, 3)), disk) == (13, 5, 37)
    assert cached_version(FakeNvrtc("by-name.so", (1, 2, 3)), disk) == (1, 2, 3)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": [1]}', "\xff"])
def test_a_damaged_record_of_a_version(tmp_path, library, text):
    disk = store(tmp_path / "cache").disk
    cached_version(FakeNvrtc(str(library)), disk)
    (record,) = (tmp_path / "cache").iterdir()
    record.write_text(text, "latin-1")
    assert cached_version(FakeNvrtc(str(library), (13, 6, 1)), disk) == (13, 6, 1)
    assert cached_version(Nvrtc(str(library)), disk) == (13, 6, 1)


FORK = """
import os, threading
from fake_nvrtc import SOURCES, SPEC, FakeNvrtc
from jaxinfer import jit
begun, end = threading.Event(), threading.Event()
slow = FakeNvrtc(before=lambda: (begun.set(), end.wait()))
jit.DEFAULT.sources, jit.DEFAULT.nvrtc = SOURCES, slow
jit.DEFAULT._register = lambda *kernel: None
thread = threading.Thread(target=jit.load, args=[SPEC])
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    slow.before = lambda: None
    os._exit(0 if jit.load(SPEC) else 1)
assert os.waitpid(child, 0)[1] == 0
end.set()
thread.join()
print(len(slow.compiled))
"""


def test_a_forked_child_compiles_what_its_parent_was_compiling():
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=Path(fake_nvrtc.__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "1\n", done.stderr


def test_a_flight_of_another_process_is_forgotten():
    flight, begun, end = SingleFlight(), threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert end.wait(10)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(flight.run, "key", slow)
        assert begun.wait(10)
        flight.reset()  # what happens in the child
        assert flight.run("key", lambda: "done") == "done"
        end.set()
        future.result()
