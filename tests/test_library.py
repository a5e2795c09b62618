# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The version check that runs before any handler is registered."""

import re

import jax
import pytest

from jaxinfer import _library, _native


@pytest.fixture
def include_dir(tmp_path):
    """The include folder of a jaxlib whose FFI version is 0.3."""
    header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text(
        "// XLA_FFI_API_MINOR is explained in prose first: 99\n"
        "#define XLA_FFI_API_MAJOR 0\n"
        "#define XLA_FFI_API_MINOR 3\n"
    )
    return str(tmp_path)


@pytest.mark.parametrize("built", [(0, 4), (0, 10), (1, 0)])
def test_an_extension_built_for_newer_headers_is_refused(include_dir, built):
    text = (
        f"jaxinfer was built for XLA FFI {built[0]}.{built[1]}, but the installed "
        "jaxlib has 0.3; upgrade jaxlib, or rebuild jaxinfer"
    )
    with pytest.raises(ImportError, match=re.escape(text)):
        _library.check_ffi_version(built, include_dir)


@pytest.mark.parametrize("built", [(0, 3), (0, 2), (0, 0)])
def test_an_extension_built_for_these_or_older_headers_is_accepted(include_dir, built):
    _library.check_ffi_version(built, include_dir)


def test_the_installed_jaxlib_is_new_enough():
    _library.check_ffi_version(_native.ffi_api_version, jax.ffi.include_dir())


def test_nothing_is_registered_if_the_check_fails(include_dir, monkeypatch):
    registered = []
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: include_dir)
    monkeypatch.setattr(
        jax.ffi, "register_ffi_target", lambda *args, **kwargs: registered.append(args)
    )
    monkeypatch.setattr(_native, "ffi_api_version", (0, 4))
    with pytest.raises(ImportError, match=r"built for XLA FFI 0\.4"):
        _library.register_targets()
    assert not registered
    monkeypatch.setattr(_native, "ffi_api_version", (0, 3))
    _library.register_targets()
    assert {name for name, _ in registered} == {
        f"jaxinfer_{_library.ABI_VERSION}_{op}"
        for op in _native.cpu_targets | _native.cuda_targets
    }
