# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""From a KernelSpec to a cubin: in memory, else on disk, else compiled."""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxinfer.jit.disk import DiskCache, default_cache_dir
from jaxinfer.jit.locate import find_nvrtc
from jaxinfer.jit.nvrtc import (
    OPTIONS,
    Compiled,
    CompileError,
    Nvrtc,
    Version,
    check_version,
)
from jaxinfer.jit.single_flight import SingleFlight
from jaxinfer.jit.sources import device_sources, transitive_headers
from jaxinfer.jit.spec import KernelSpec, kernel_digest
from jaxinfer.jit.version_cache import cached_version


class KernelNotFound(LookupError):  # noqa: N818
    """A program asks for a kernel that is neither loaded nor cached."""


def register_native(digest: str, cubin: bytes) -> None:
    """Hands a kernel to the extension, which loads it onto devices."""
    from jaxinfer import _native

    _native.register_kernel(digest, cubin)


class KernelStore:
    """Finds and makes kernels. Safe to use from any number of threads.

    What is not given is looked up when it is first needed: a program that finds all of
    its kernels on the disk never loads NVRTC.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, str] | None = None,
        disk: DiskCache | None = None,
        nvrtc: Nvrtc | None = None,
        register: Callable[[str, bytes], None] = register_native,
    ):
        """Makes an empty store.

        Args:
          sources: "csrc/<file>" -> text; None = those of this jaxinfer.
          disk: None = the folder JAXINFER_CACHE_DIR.
          nvrtc: None = the one that find_nvrtc() finds.
          register: takes (digest, cubin) of every kernel that is loaded.
        """
        self._given = sources, disk, nvrtc
        self._register = register
        self._flight = SingleFlight()
        # Read without a lock and never emptied.
        self._digests: dict[KernelSpec, str] = {}
        self._cubins: dict[str, bytes] = {}
        self._registered: set[str] = set()

    @functools.cached_property
    def sources(self) -> Mapping[str, str]:
        """The device sources."""
        return device_sources() if self._given[0] is None else self._given[0]

    @functools.cached_property
    def disk(self) -> DiskCache:
        """The cache on disk."""
        return self._given[1] or DiskCache(default_cache_dir())

    @functools.cached_property
    def nvrtc(self) -> Nvrtc:
        """The compiler. Raises NvrtcUnavailable if there is none."""
        return self._given[2] or Nvrtc(find_nvrtc())

    @functools.cached_property
    def version(self) -> Version:
        """Of the compiler: (major, minor, build)."""
        return cached_version(self.nvrtc, self.disk)

    @property
    def compiler(self) -> str:
        """Its name and version, e.g. "NVRTC 12.9.86"."""
        return f"NVRTC {'.'.join(map(str, self.version))}"

    def digest(self, spec: KernelSpec) -> str:
        """The name of a spec's cubin. Compiles nothing; costs a look-up from then on.

        Raises:
          NvrtcUnavailable: if there is no compiler, or a defective one.
          ValueError: if a source that the kernel includes does not exist.
        """
        digest = self._digests.get(spec)
        if digest is None:
            check_version(self.version, spec.arch, self.nvrtc.path)
            digest = kernel_digest(
                spec.source, self._headers(spec), self.compiler, _options(spec)
            )
            self._digests[spec] = digest
        return digest

    def prepare(self, spec: KernelSpec) -> str:
        """Makes sure that a kernel is in memory, and its file on disk if that works.

        Threads that ask for one spec compile it once; different specs compile beside
        each other.

        Returns:
          Its digest.

        Raises:
          CompileError: naming the kernel, with the compiler's log.
          NvrtcUnavailable, ValueError: as digest() does.
        """
        digest = self.digest(spec)
        if digest not in self._cubins:
            self._flight.run(digest, lambda: self._find_or_compile(spec, digest))
        return digest

    def load(self, spec: KernelSpec) -> str:
        """prepare(), and hands the kernel to the extension.

        Returns:
          Its digest, under which the extension knows it.
        """
        digest = self.prepare(spec)
        if digest not in self._registered:
            self._flight.run(("register", digest), lambda: self._register_once(digest))
        return digest

    def load_all(self, specs: Sequence[KernelSpec]) -> dict[KernelSpec, str]:
        """load() of each, all but the first in threads of their own."""
        with ThreadPoolExecutor(thread_name_prefix="jaxinfer-load") as pool:
            others = [pool.submit(self.load, spec) for spec in specs[1:]]
            loaded = [self.load(spec) for spec in specs[:1]]
            loaded += [other.result() for other in others]
        return dict(zip(specs, loaded, strict=True))

    def compile(self, spec: KernelSpec) -> Compiled:
        """Compiles, whatever is cached, and keeps nothing."""
        check_version(self.version, spec.arch, self.nvrtc.path)
        headers = self._headers(spec)
        try:
            return self.nvrtc.compile(
                spec.source, f"{spec.kernel}.cu", headers, _options(spec)
            )
        except CompileError as error:
            raise CompileError(
                f"kernel {spec.kernel!r} for {spec.arch}: {error}\nThe source was:\n"
                f"{spec.source}"
            ) from None

    def find(self, digest: str) -> bytes | None:
        """A cubin from memory or disk; None if it is in neither. Compiles nothing."""
        cubin = self._cubins.get(digest)
        if cubin is None:
            cubin = self.disk.read(digest)
            if cubin is not None:
                self._cubins[digest] = cubin
        return cubin

    def resolve(self, digest: str) -> bytes:
        """find(), for programs whose lowering ran elsewhere, or in an earlier process.

        Raises:
          KernelNotFound: telling how to bring the kernel here.
        """
        cubin = self.find(digest)
        if cubin is None:
            raise KernelNotFound(
                f"this program needs kernel {digest}, which is neither loaded nor in "
                f"{self.disk.folder}: it was lowered elsewhere, or the cache was "
                "cleared. One of these brings it here: 'python -m jaxinfer.jit warmup' "
                "on this machine (the same jaxinfer and NVRTC give the same kernels); "
                "lowering the program once in this process; a copy of the "
                "JAXINFER_CACHE_DIR where it was lowered; or lowering it under "
                "jaxinfer.jit.embed_kernels(), which stores its kernels inside"
            )
        return cubin

    def after_fork(self) -> None:
        """In a child process: forgets what threads of the parent were doing."""
        self._flight.reset()

    def _headers(self, spec: KernelSpec) -> dict[str, str]:
        try:
            return transitive_headers(spec.source, self.sources)
        except ValueError as error:
            raise ValueError(f"kernel {spec.kernel!r}: {error}") from None

    def _find_or_compile(self, spec: KernelSpec, digest: str) -> None:
        if self.find(digest) is not None:
            return
        compiled = self.compile(spec)
        description = spec.to_json() | {
            "compiler": self.compiler,
            "options": _options(spec),
            "seconds": round(compiled.seconds, 3),
            "registers": compiled.registers,
            "spill_bytes": compiled.spill_bytes,
        }
        self.disk.write(digest, compiled.cubin, description)
        self._cubins[digest] = compiled.cubin

    def _register_once(self, digest: str) -> None:
        if digest not in self._registered:
            self._register(digest, self._cubins[digest])
            self._registered.add(digest)


# The one that lowering uses.
DEFAULT = KernelStore()


def _options(spec: KernelSpec) -> tuple[str, ...]:
    return (f"-arch={spec.arch}", *OPTIONS)
