# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Builds jaxinfer._native with ninja and the C++ compiler; no CUDA toolkit is needed.

The kernels of csrc/attention_cpu.cc are compiled once per instruction set and chosen
at load time, so one wheel runs on every x86-64 or aarch64 Linux.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import ninja
import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
SOURCES = sorted((*ROOT.glob("csrc/*.cc"), *ROOT.glob("xla_ffi/*.cc")))
PER_ISA = ROOT / "csrc" / "attention_cpu.cc"
ISAS = {"base": ""}
if platform.machine() == "x86_64":
    ISAS |= {"v3": "-march=x86-64-v3", "v4": "-march=x86-64-v4"}


def ninja_file(includes: list[str], target: Path) -> str:
    """The build as text: one edge per object file, one link."""
    system = " ".join(f"-isystem {path}" for path in includes)
    extra = os.environ.get("JAXINFER_CXXFLAGS", "")
    lines = [
        f"cxx = {os.environ.get('CXX', 'g++')}",
        "cflags = -std=c++17 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi "
        f"-I{ROOT} {system} {extra}",
        "rule compile",
        "  command = $cxx $cflags $isa -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = $cxx -shared -static-libstdc++ -static-libgcc -Wl,-s {extra} "
        "$in -o $out",
    ]
    objects = []
    for source in SOURCES:
        name = source.relative_to(ROOT).with_suffix("")
        isas = ISAS if source == PER_ISA else {"": ""}
        for isa, flags in isas.items():
            out = f"{name}_{isa}.o" if isa else f"{name}.o"
            define = f"-DJAXINFER_ISA={isa}" if isa else ""
            lines += [f"build {out}: compile {source}", f"  isa = {flags} {define}"]
            objects.append(out)
    return "\n".join([*lines, f"build {target}: link {' '.join(objects)}", ""])


class NinjaBuild(build_ext):
    """Hands the extension to ninja instead of the sequential built-in compiler."""

    def build_extension(self, ext: Extension) -> None:
        import jax.ffi

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [*self.include_dirs, pybind11.get_include(), jax.ffi.include_dir()]
        (build / "build.ninja").write_text(ninja_file(includes, target))
        program = Path(ninja.BIN_DIR) / "ninja"
        if subprocess.run([program, "-C", build]).returncode != 0:
            sys.exit("jaxinfer: the C++ build failed; the compiler's message is above")


setup(
    ext_modules=[Extension("jaxinfer._native", sources=[])],
    cmdclass={"build_ext": NinjaBuild},
)
