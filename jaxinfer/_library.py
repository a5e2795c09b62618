# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Loads the extension and registers its FFI targets, after checking that they fit."""

import re
from pathlib import Path
from typing import Any

import jax

from jaxinfer import _native, jit

# Part of every target name: raised when operands or attributes change, so that a cached
# or exported program of an older version fails by name instead of by contents.
ABI_VERSION = "v6"


def target_name(op: str) -> str:
    """The FFI target of an op, e.g. "jaxinfer_v6_plan"."""
    return f"jaxinfer_{ABI_VERSION}_{op}"


def check_ffi_version(built: tuple[int, int], include_dir: str) -> None:
    """Raises ImportError if the extension was built for a newer jaxlib than this one.

    Registering it anyway would break the backend at its first use, with a text that
    does not name jaxinfer.
    """
    header = Path(include_dir, "xla", "ffi", "api", "c_api.h").read_text()
    major, minor = (
        int(re.findall(rf"#define XLA_FFI_API_{part} (\d+)", header)[0])
        for part in ("MAJOR", "MINOR")
    )
    if (major, minor) < built:
        raise ImportError(
            f"jaxinfer was built for XLA FFI {built[0]}.{built[1]}, but the installed "
            f"jaxlib has {major}.{minor}; upgrade jaxlib, or rebuild jaxinfer with "
            "'pip install --no-binary jaxinfer jaxinfer'"
        )


def register_targets() -> None:
    """Makes the handlers known to XLA. Importing jaxinfer does this once."""
    check_ffi_version(_native.ffi_api_version, jax.ffi.include_dir())
    for op, handler in _native.cpu_targets.items():
        jax.ffi.register_ffi_target(target_name(op), handler, platform="cpu")
    for op, stages in _native.cuda_targets.items():
        jax.ffi.register_ffi_target(target_name(op), stages, platform="CUDA")
    _native.set_kernel_resolver(jit.resolve)


def kernel_attributes(
    spec: jit.KernelSpec, **beside: jit.KernelSpec | None
) -> dict[str, Any]:
    """Compiles kernels, if they have to be, and names them in the attributes of a call.

    To be used while a program is lowered. The name is a digest of all that a kernel is
    made from; with embed_kernels() the program carries the kernel itself too.

    Args:
      spec: what becomes the attributes `kernel` and `cubin`.
      **beside: what becomes `<name>_kernel` and `<name>_cubin`; None = empty ones.
    """
    specs = {"": spec} | {f"{name}_": other for name, other in beside.items()}
    digests = jit.load_all(filter(None, specs.values()))
    attributes = {}
    for prefix, given in specs.items():
        digest = digests[given] if given else ""
        cubin = jit.find(digest) if jit.is_embedding() else None
        attributes[f"{prefix}kernel"] = digest
        attributes[f"{prefix}cubin"] = jit.encode_cubin(cubin)
    return attributes
