# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Builds jaxinfer._native with ninja and the C++ compiler; no CUDA toolkit is needed.

The kernels of csrc/attention_cpu.cc are compiled once per instruction set and chosen
at load time, so one wheel runs on every x86-64 or aarch64 Linux.
"""

import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import ninja
import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
SOURCES = sorted((*ROOT.glob("csrc/*.cc"), *ROOT.glob("xla_ffi/*.cc")))
HEADERS = sorted((*ROOT.glob("csrc/*.h"), *ROOT.glob("xla_ffi/*.h")))
PER_ISA = ROOT / "csrc" / "attention_cpu.cc"
# Nothing else is visible: where the C++ library is linked statically, its symbols must
# not meet those of another copy in the process.
EXPORTS = "{ global: PyInit__native; local: *; };\n"
ISAS = {"base": ""}
if platform.machine() == "x86_64":
    ISAS |= {"v3": "-march=x86-64-v3", "v4": "-march=x86-64-v4"}


def ninja_path(path: Path) -> str:
    """A path in a build statement, where ninja splits at spaces and colons."""
    return re.sub(r"([$ :])", r"$\1", str(path))


def ninja_file(includes: list[str], target: Path) -> str:
    """The build as text: one edge per object file, one link."""
    system = " ".join(f"-isystem {shlex.quote(path)}" for path in includes)
    extra = os.environ.get("JAXINFER_CXXFLAGS", "")
    lines = [
        f"cxx = {os.environ.get('CXX', 'g++')}",
        "cflags = -std=c++17 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi "
        f"-I{shlex.quote(str(ROOT))} {system} {extra}",
        "rule compile",
        "  command = $cxx $cflags $isa -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = $cxx -shared -Wl,-s -Wl,--version-script=exports.map "
        f"{extra} $in -o $out",
    ]
    objects = []
    for source in SOURCES:
        name = source.relative_to(ROOT).with_suffix("")
        isas = ISAS if source == PER_ISA else {"": ""}
        for isa, flags in isas.items():
            out = f"{name}_{isa}.o" if isa else f"{name}.o"
            define = f"-DJAXINFER_ISA={isa}" if isa else ""
            lines += [
                f"build {out}: compile {ninja_path(source)}",
                f"  isa = {flags} {define}",
            ]
            objects.append(out)
    return "\n".join(
        [*lines, f"build {ninja_path(target)}: link {' '.join(objects)}", ""]
    )


def ffi_include_dir() -> Path:
    """Where the FFI headers of the installed jaxlib are. Nothing else of it is used."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        sys.exit("jaxinfer: jaxlib must be installed to build (it has the FFI headers)")
    return Path(spec.origin).parent / "include"


class NinjaBuild(build_ext):
    """Hands the extension to ninja instead of the sequential built-in compiler."""

    def build_extension(self, ext: Extension) -> None:
        """Writes build.ninja and runs it."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [*self.include_dirs, pybind11.get_include(), str(ffi_include_dir())]
        (build / "exports.map").write_text(EXPORTS)
        (build / "build.ninja").write_text(ninja_file(includes, target))
        program = Path(ninja.BIN_DIR) / "ninja"
        if subprocess.run([program, "-C", build]).returncode != 0:
            sys.exit("jaxinfer: the C++ build failed; the compiler's message is above")


# Ninja reads the sources itself; naming them here puts them into source distributions.
native = Extension(
    "jaxinfer._native",
    sources=[str(path.relative_to(ROOT)) for path in SOURCES],
    depends=[str(path.relative_to(ROOT)) for path in HEADERS],
)
setup(
    ext_modules=[native],
    cmdclass={"build_ext": NinjaBuild},
)
