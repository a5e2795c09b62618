# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The device sources: where they are, and which of them a kernel includes."""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<](csrc/[^">]+)[">]', re.M)
_SUFFIXES = (".cuh", ".h")


class SourceFolder(Mapping[str, str]):
    """The files *.cuh and *.h of a folder, as "csrc/<file>" -> text.

    A file is read at its first use and kept: what was hashed is what is compiled, even
    if the file is edited in between.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._texts: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._texts:
            path = self.folder.parent / name
            if path.parent != self.folder or path.suffix not in _SUFFIXES:
                raise KeyError(name)
            try:
                # setdefault: of two threads that read it, the first one wins.
                self._texts.setdefault(name, path.read_text("utf-8"))
            except FileNotFoundError:
                raise KeyError(name) from None
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        files = sorted(self.folder.iterdir())
        return (f"csrc/{path.name}" for path in files if path.suffix in _SUFFIXES)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"SourceFolder({str(self.folder)!r})"


@functools.cache
def device_sources() -> SourceFolder:
    """Those that belong to this jaxinfer: in the installed package or the checkout.

    Raises:
      FileNotFoundError: if they are in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    # Inside first: beside an installed package, "csrc" would be somebody else's.
    places = [package / "_csrc", package / "csrc", package.parent / "csrc"]
    for folder in places:
        if folder.is_dir():
            return SourceFolder(folder)
    raise FileNotFoundError(
        "jaxinfer's device sources must be in one of "
        f"{', '.join(map(str, places))}; reinstall jaxinfer"
    )


def transitive_headers(source: str, sources: Mapping[str, str]) -> dict[str, str]:
    """What a source text includes from csrc/, directly or not.

    Includes in comments and in `#if` count too: a header too many costs nothing but a
    compilation after an edit of it.

    Args:
      source: the text.
      sources: "csrc/<file>" -> text.

    Returns:
      The part of `sources` that the text needs.

    Raises:
      ValueError: if a file that is included does not exist, naming who includes it.
    """
    found: dict[str, str] = {}
    todo = [("the kernel's source", source)]
    while todo:
        includer, text = todo.pop()
        for name in _INCLUDE.findall(text):
            if name in found:
                continue
            if name not in sources:
                raise ValueError(
                    f"{includer} includes {name!r}, which is not among the device "
                    f"sources ({', '.join(sources)})"
                )
            found[name] = sources[name]
            todo.append((name, found[name]))
    return found
