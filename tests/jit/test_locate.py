# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Where NVRTC is looked for, in which order, and what is said if it is nowhere."""

import ctypes
import re
import sys
from types import SimpleNamespace

import pytest

from jaxinfer import jit
from jaxinfer.jit import locate


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Puts a library in every place; the test takes them away one by one."""
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path / "nvidia")])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    monkeypatch.setattr(locate, "_TOOLKIT", tmp_path / "default")
    monkeypatch.setattr(locate, "_ask_loader", lambda soname: None)
    monkeypatch.setenv("JAXINFER_NVRTC", str(tmp_path / "explicit.so"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "path"))
    order = [
        "explicit.so",
        "nvidia/cu14/lib/libnvrtc.so.14",
        "nvidia/cu13/lib/libnvrtc.so.13",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "home/lib64/libnvrtc.so.13",
        "path/targets/x86_64-linux/lib/libnvrtc.so.12",
        "default/lib64/libnvrtc.so.13.0.88",
    ]
    for name in order:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        for other in ("libnvrtc-builtins.so.13.9", "libnvrtc.alt.so.13"):
            path.with_name(other).touch()
    (tmp_path / "default/lib64/libnvrtc.so").touch()
    return SimpleNamespace(folder=tmp_path, order=order)


def test_order(machine, monkeypatch):
    for name in machine.order:
        path = machine.folder / name
        assert jit.find_nvrtc() == str(path)
        path.unlink()
        if name == "explicit.so":
            with pytest.raises(jit.NvrtcUnavailable, match="which is not a file"):
                jit.find_nvrtc()
            monkeypatch.delenv("JAXINFER_NVRTC")
    (machine.folder / "default/lib64/libnvrtc.so").unlink()
    monkeypatch.setattr(locate, "_ask_loader", {"libnvrtc.so.12": "/lib/x"}.get)
    assert jit.find_nvrtc() == "/lib/x"


def test_none_at_all(machine, monkeypatch):
    for path in machine.folder.rglob("libnvrtc*"):
        path.unlink()
    monkeypatch.delenv("JAXINFER_NVRTC")
    monkeypatch.delenv("CUDA_PATH")
    with pytest.raises(jit.NvrtcUnavailable) as caught:
        jit.find_nvrtc()
    text = str(caught.value)
    assert "Install it: pip install 'jax[cuda13]' (or 'jax[cuda12]')" in text
    assert "nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12" in text
    assert "set JAXINFER_NVRTC to the path" in text
    assert text.split("Looked in:\n")[1].splitlines() == [
        f"  {machine.folder}/nvidia, in cu13/lib and cuda_nvrtc/lib",
        f"  CUDA_HOME={machine.folder}/home",
        "  CUDA_PATH (not set)",
        f"  {machine.folder}/default",
        "  the dynamic loader's libnvrtc.so.13",
        "  the dynamic loader's libnvrtc.so.12",
    ]


def test_no_nvidia_package_at_all(machine, monkeypatch):
    for path in machine.folder.rglob("libnvrtc*"):
        path.unlink()
    monkeypatch.delenv("JAXINFER_NVRTC")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(jit.NvrtcUnavailable, match=r"packages \(none is installed"):
        jit.find_nvrtc()


def test_the_newest_file_of_a_folder(machine, monkeypatch):
    monkeypatch.delenv("JAXINFER_NVRTC")
    lib = machine.folder / "nvidia/cu14/lib"
    for name in ("libnvrtc.so.9", "libnvrtc.so.14.0.2", "libnvrtc.so.14.0.11"):
        (lib / name).touch()
    assert jit.find_nvrtc() == str(lib / "libnvrtc.so.14.0.11")


def test_namespace_package_on_the_path(tmp_path, monkeypatch):
    library = tmp_path / "nvidia/cu13/lib/libnvrtc.so.13"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.delenv("JAXINFER_NVRTC", raising=False)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert jit.find_nvrtc() == str(library)


def test_the_loader_tells_the_path():
    # Any library with a version in its name will do.
    path = locate._ask_loader("libstdc++.so.6")
    assert re.fullmatch(r"/.*/libstdc\+\+\.so\.6[.\d]*", path)
    assert ctypes.CDLL(path)
    assert locate._ask_loader("libnvrtc.so.0") is None


def test_a_library_that_is_not_nvrtc():
    path = locate._ask_loader("libstdc++.so.6")
    with pytest.raises(jit.NvrtcUnavailable, match=r"does not load: .*nvrtcGetError"):
        jit.Nvrtc(path).compile("", "x.cu", {}, ())


def test_a_library_that_does_not_load(tmp_path):
    path = tmp_path / "libnvrtc.so.13"
    path.write_text("not a library")
    text = rf"NVRTC at {path} does not load: .*Install it again \(pip install .*set JAX"
    with pytest.raises(jit.NvrtcUnavailable, match=text):
        jit.Nvrtc(str(path)).compile("", "x.cu", {}, ())
