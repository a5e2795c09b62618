# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Remembers the version of a libnvrtc, so that a warm start does not load it."""

import hashlib
import json
import os

from jaxinfer.jit.disk import DiskCache
from jaxinfer.jit.nvrtc import Nvrtc, Version


def cached_version(nvrtc: Nvrtc, disk: DiskCache) -> Version:
    """What nvrtc.version is, from the disk if the library is the same file as then.

    Args:
      nvrtc: the compiler.
      disk: where versions are remembered.

    Returns:
      (major, minor, build).

    Raises:
      NvrtcUnavailable: if the library has to be loaded and cannot be.
    """
    path = os.path.realpath(nvrtc.path)
    try:
        status = os.stat(path)
    except OSError:  # a name that only the loader can resolve
        return nvrtc.version
    # Upgrades replace the file.
    same_file = {"path": path, "mtime_ns": status.st_mtime_ns, "size": status.st_size}
    name = f"nvrtc-{hashlib.sha256(path.encode()).hexdigest()[:16]}.json"
    known = _parse(disk.read_bytes(name))
    if all(known.get(key) == value for key, value in same_file.items()):
        major, minor, build = known["version"]
        return major, minor, build
    version = nvrtc.version
    disk.write_bytes(name, json.dumps(same_file | {"version": version}).encode())
    return version


def _parse(data: bytes | None) -> dict:
    """Nothing, for a file that is not there or not as it was written."""
    try:
        known = json.loads(data or b"{}")
        return known if len(known["version"]) == 3 else {}
    except (ValueError, KeyError, TypeError):
        return {}
