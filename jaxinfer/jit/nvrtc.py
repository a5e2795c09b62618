# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""NVRTC through ctypes: text in, cubin out."""

import ctypes
import functools
import re
import time
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path

from jaxinfer.jit.locate import INSTALL, NvrtcUnavailable

# Every kernel is compiled with these, and -arch. A cubin and never PTX: drivers run
# cubins of a newer minor version, but refuse its PTX.
OPTIONS = (
    "--std=c++17",
    # Headers shared with the CPU need no annotations.
    "--device-as-default-execution-space",
    # Nothing but the headers in memory, which are hashed.
    "--no-source-include",
    # The log tells registers and spills.
    "--ptxas-options=-v",
)

Version = tuple[int, int, int]

# The name of a kernel tells the version: nvrtcVersion has no build number.
_PROBE = """
#define NAME_(major, minor, build) version_##major##_##minor##_##build
#define NAME(major, minor, build) NAME_(major, minor, build)
extern "C" __global__ void NAME(__CUDACC_VER_MAJOR__, __CUDACC_VER_MINOR__,
                                __CUDACC_VER_BUILD__)() {}
"""


class CompileError(RuntimeError):
    """NVRTC refused a source; the text has its log."""


@dataclass(frozen=True)
class Compiled:
    """What a compilation gave.

    Attributes:
      cubin: the code for one architecture.
      log: what the compiler and ptxas said.
      seconds: that it took.
    """

    cubin: bytes
    log: str
    seconds: float

    @property
    def registers(self) -> int:
        """Per thread, of the entry function that needs the most."""
        return max(map(int, re.findall(r"Used (\d+) registers", self.log)), default=0)

    @property
    def spill_bytes(self) -> int:
        """Stored and loaded, over all entry functions."""
        return sum(
            map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", self.log))
        )


class Nvrtc:
    """One libnvrtc. It is loaded at the first compilation, not before.

    Compilations from several threads run in parallel: NVRTC allows it, and ctypes
    releases the GIL.

    Attributes:
      path: of the shared library.
    """

    def __init__(self, path: str):
        self.path = path

    @functools.cached_property
    def version(self) -> Version:
        """(major, minor, build), from a program compiled for the purpose."""
        ptx = self._compile(_PROBE, "version.cu", {}, ("-arch=compute_90",), "PTX")
        found = re.search(rb"version_(\d+)_(\d+)_(\d+)", ptx.cubin)
        if not found:
            raise NvrtcUnavailable(f"{self.path} did not tell its version")
        return int(found[1]), int(found[2]), int(found[3])

    def compile(
        self,
        source: str,
        name: str,
        headers: Mapping[str, str],
        options: Sequence[str],
    ) -> Compiled:
        """Compiles a source to a cubin.

        Args:
          source: the text.
          name: how messages call it.
          headers: name in #include -> text. There are no others.
          options: of NVRTC; one must be -arch=sm_XX.

        Returns:
          The cubin, the log and the time.

        Raises:
          CompileError: with the compiler's log.
          NvrtcUnavailable: if the library cannot be loaded.
        """
        return self._compile(source, name, headers, options, "CUBIN")

    @functools.cached_property
    def _library(self) -> ctypes.CDLL:
        try:
            # NVRTC opens its builtins by bare name, and finds them only where they are
            # loaded already or on the loader's path.
            for builtins in Path(self.path).parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))
            library = ctypes.CDLL(self.path)
            library.nvrtcGetErrorString.restype = c_char_p
            library.nvrtcGetErrorString.argtypes = [c_int]
        except (OSError, AttributeError) as error:  # the latter: not NVRTC at all
            raise NvrtcUnavailable(
                f"NVRTC at {self.path} does not load: {error}. Install it again "
                f"({INSTALL}), or set JAXINFER_NVRTC to the path of another one"
            ) from None
        return library

    def _compile(
        self,
        source: str,
        name: str,
        headers: Mapping[str, str],
        options: Sequence[str],
        image: str,
    ) -> Compiled:
        library, program = self._library, c_void_p()
        self._check(
            library.nvrtcCreateProgram(
                byref(program),
                source.encode(),
                name.encode(),
                len(headers),
                _strings(headers.values()),
                _strings(headers.keys()),
            )
        )
        try:
            begin = time.perf_counter()
            status = library.nvrtcCompileProgram(
                program, len(options), _strings(options)
            )
            seconds = time.perf_counter() - begin
            log = self._output(program, "ProgramLog").decode(errors="replace")
            log = log.strip("\0 \n")
            if status != 0:
                raise CompileError(
                    f"{name}: NVRTC ({self.path}) could not compile it with "
                    f"{' '.join(options)}: {self._error(status)}\n{log}"
                )
            return Compiled(self._output(program, image), log, seconds)
        finally:
            library.nvrtcDestroyProgram(byref(program))

    def _output(self, program: c_void_p, what: str) -> bytes:
        size = c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _error(self, status: int) -> str:
        return self._library.nvrtcGetErrorString(status).decode()

    def _check(self, status: int) -> None:
        if status != 0:
            raise CompileError(f"NVRTC ({self.path}): {self._error(status)}")


def check_version(version: Version, arch: str, path: str) -> None:
    """Refuses compilers that are known to miscompile for an architecture.

    Raises:
      NvrtcUnavailable: with the fix.
    """
    # ptxas of these builds miscompiles wgmma code.
    if arch == "sm_90a" and (12, 8, 0) <= version < (12, 9, 86):
        raise NvrtcUnavailable(
            f"NVRTC {'.'.join(map(str, version))} at {path} miscompiles kernels for "
            "sm_90a; it must be 12.9.86 or later (or older than 12.8): "
            "pip install -U 'nvidia-cuda-nvrtc-cu12>=12.9.86', or set JAXINFER_NVRTC "
            "to the path of another one"
        )


def _strings(texts) -> ctypes.Array:
    encoded = [text.encode() for text in texts]
    return (c_char_p * len(encoded))(*encoded)
