# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Compiled kernels on disk: whole or not there, and checked when they are read."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SUFFIX = ".cubin"
# All names that this file gives; the folder may be one that holds other things.
_OURS = re.compile(
    r"\.?([0-9a-f]{32}\.cubin|nvrtc-[0-9a-f]{16}\.json)(\.\d+\.[0-9a-f]{16}\.tmp)?"
)


@dataclass(frozen=True)
class CacheEntry:
    """One file of the cache.

    Attributes:
      digest: of the kernel.
      num_bytes: size of the file.
      description: what was compiled, by what; None if the file is damaged.
    """

    digest: str
    num_bytes: int
    description: dict[str, Any] | None


def default_cache_dir() -> Path:
    """JAXINFER_CACHE_DIR, or jaxinfer in XDG_CACHE_HOME, or in ~/.cache.

    Raises:
      RuntimeError: if none of them is known.
    """
    explicit = os.environ.get("JAXINFER_CACHE_DIR")
    if explicit:
        return Path(explicit).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # A relative XDG_CACHE_HOME is to be ignored, says its specification.
        base = base if base.is_absolute() else Path("~/.cache").expanduser()
    except RuntimeError:
        raise RuntimeError(
            "JAXINFER_CACHE_DIR must be set to a folder for compiled kernels: this "
            "user has no home folder"
        ) from None
    return base / "jaxinfer"


class DiskCache:
    """A folder with one file per kernel.

    Any number of processes may share it: a file appears under its name by a rename,
    with all of its bytes on the disk. Nothing here is fatal. A folder that cannot be
    written is reported once, a damaged file is reported and counts as missing.

    A file is the cubin, a line of JSON that describes it and a checksum. The cubin
    comes first, so that nvdisasm reads the file as it is.

    Attributes:
      folder: where the files are; made when the first one is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._warned = False

    def read(self, digest: str) -> bytes | None:
        """The cubin of a kernel; None if it is not there, or damaged."""
        data = self.read_bytes(f"{digest}{_SUFFIX}") if _is_digest(digest) else None
        if data is None:
            return None
        try:
            return _unpack(data, digest)[0]
        except ValueError as error:
            warnings.warn(
                f"the cached kernel {self.folder / digest}{_SUFFIX} is damaged "
                f"({error}) and not used",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def write(self, digest: str, cubin: bytes, description: dict[str, Any]) -> None:
        """Stores a kernel.

        Args:
          digest: its name.
          cubin: its code.
          description: plain values for people to read.
        """
        text = json.dumps(description | {"digest": digest}).encode()
        body = cubin + b"\n" + text
        self.write_bytes(f"{digest}{_SUFFIX}", body + b"\n" + _checksum(body))

    def entries(self) -> list[CacheEntry]:
        """All kernels of the folder, damaged ones too, by digest."""
        found = []
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            data = self.read_bytes(path.name) if _is_digest(path.stem) else None
            if data is None:  # not ours, or removed meanwhile
                continue
            try:
                description = _unpack(data, path.stem)[1]
            except ValueError:
                description = None
            found.append(CacheEntry(path.stem, len(data), description))
        return found

    def clear(self) -> int:
        """Removes every file of this cache, also those that a killed writer left.

        Returns:
          The number of kernels that were removed.
        """
        paths = [p for p in self.folder.glob("*") if _OURS.fullmatch(p.name)]
        for path in paths:
            path.unlink(missing_ok=True)
        return sum(path.suffix == _SUFFIX for path in paths)

    def read_bytes(self, name: str) -> bytes | None:
        """A file of the folder; None if it is not there."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", error)
            return None

    def write_bytes(self, name: str, data: bytes) -> None:
        """Puts a file into the folder, whole or not at all."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _publish(self.folder / name, data)
        except OSError as error:
            self._warn("written", error)

    def _warn(self, what: str, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the kernel cache {self.folder} cannot be {what} ({error}): kernels "
                "are compiled again in every process; set JAXINFER_CACHE_DIR to a "
                "folder that can be written",
                RuntimeWarning,
                stacklevel=3,
            )


def _publish(path: Path, data: bytes) -> None:
    # A private file of its own for every writer. A kill leaves it behind, under a name
    # that nobody reads.
    unique = f"{os.getpid()}.{secrets.token_hex(8)}"
    temporary = path.with_name(f".{path.name}.{unique}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    # The file is there. Not every file system can promise that its name is, too, after
    # a power cut.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _unpack(data: bytes, digest: str) -> tuple[bytes, dict[str, Any]]:
    """(cubin, description). Raises ValueError if the bytes are not those written."""
    body, _, checksum = data.rpartition(b"\n")
    if checksum != _checksum(body):
        raise ValueError("its checksum does not match its contents")
    cubin, _, text = body.rpartition(b"\n")
    description = json.loads(text)
    if description.get("digest") != digest:
        raise ValueError(f"it holds kernel {description.get('digest')}")
    return cubin, description


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _is_digest(digest: str) -> bool:
    # Digests come from programs, which may come from anywhere: no paths.
    return re.fullmatch("[0-9a-f]{32}", digest) is not None
