# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The command line: python -m jaxinfer.jit warmup|list|clear|path|info."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxinfer import warmup as shapes
from jaxinfer.jit.disk import CacheEntry
from jaxinfer.jit.locate import NvrtcUnavailable
from jaxinfer.jit.nvrtc import OPTIONS
from jaxinfer.jit.spec import KernelSpec
from jaxinfer.jit.store import DEFAULT, KernelStore
from jaxinfer.jit.warm_up import Progress, read_specs, warmup


def main(argv: Sequence[str] | None = None, store: KernelStore = DEFAULT) -> int:
    """Runs one command.

    Args:
      argv: the arguments; None = those of the process.
      store: what it is about.

    Returns:
      The exit status: 1 if a kernel could not be compiled, 2 for wrong arguments.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxinfer.jit", description="Compiled kernels of jaxinfer."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("warmup", help="compile kernels into the cache")
    shapes.add_arguments(command)
    command.add_argument(
        "--spec-file",
        type=Path,
        metavar="FILE",
        help="instead: JSON, a list of {kernel, arch, constants: {name: value}}",
    )
    command.add_argument("--jobs", type=int, help="compilations at a time")
    commands.add_parser("list", help="print the kernels in the cache")
    commands.add_parser("clear", help="remove all kernels from the cache")
    commands.add_parser("path", help="print the folder of the cache")
    commands.add_parser("info", help="print the compiler and the size of the cache")
    args = parser.parse_args(argv)
    if args.command == "warmup":
        return _warmup(args, store)
    if args.command == "list":
        for entry in store.disk.entries():
            print(_line(entry))
    elif args.command == "clear":
        print(f"removed {store.disk.clear()} kernels from {store.disk.folder}")
    elif args.command == "path":
        print(store.disk.folder)
    else:
        _info(store)
    return 0


def _warmup(args: argparse.Namespace, store: KernelStore) -> int:
    try:
        file = args.spec_file
        specs = shapes.specs_of(args) if file is None else read_specs(file)
    except (ValueError, NotImplementedError) as error:
        print(f"warmup: {error}", file=sys.stderr)
        return 2
    try:
        with _progress(len(specs)) as progress:
            warmup(specs, max_workers=args.jobs, progress=progress, store=store)
    except ExceptionGroup as group:
        # A missing compiler fails every spec with one text.
        texts = dict.fromkeys(map(str, group.exceptions))
        print(f"warmup: {group.message}", *texts, sep="\n", file=sys.stderr)
        return 1
    print(f"{len(set(specs))} kernels are in {store.disk.folder}")
    return 0


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Progress]:
    """A bar if tqdm is installed, else a line per kernel."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda done, total, spec: print(f"{done}/{total} {_name(spec)}")
        return
    with tqdm(total=total, unit="kernel") as bar:

        def show(done: int, total: int, spec: KernelSpec) -> None:
            bar.set_postfix_str(_name(spec), refresh=False)
            bar.update()

        yield show


def _name(spec: KernelSpec) -> str:
    return f"{spec.kernel} for {spec.arch}"


def _line(entry: CacheEntry) -> str:
    facts = entry.description
    if facts is None:
        return f"{entry.digest}  {_kb(entry.num_bytes)}  damaged"
    constants = " ".join(
        f"{name}={value}" for name, value in facts["constants"].items()
    )
    return (
        f"{entry.digest}  {_kb(entry.num_bytes)}  {facts['kernel']} {facts['arch']}  "
        f"{facts['compiler']}  {facts['seconds']} s  {facts['registers']} registers  "
        f"{facts['spill_bytes']} bytes spilled  {constants}"
        f"{'  with added code' if 'code' in facts else ''}"
    ).rstrip()


def _info(store: KernelStore) -> None:
    try:
        compiler = f"{store.compiler} at {store.nvrtc.path}"
    except NvrtcUnavailable as error:
        compiler = f"none: {error}"
    entries = store.disk.entries()
    size = sum(entry.num_bytes for entry in entries)
    print(f"compiler: {compiler}")
    print(f"options:  {' '.join(OPTIONS)}")
    print(f"sources:  {store.sources!r}")
    print(f"cache:    {store.disk.folder}")
    print(f"kernels:  {len(entries)}, {_kb(size)}")


def _kb(size: int) -> str:
    return f"{size / 1000:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
