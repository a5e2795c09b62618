# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Compiles kernels before they are needed, several at a time."""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from jaxinfer.jit.spec import KernelSpec
from jaxinfer.jit.store import DEFAULT, KernelStore

Progress = Callable[[int, int, KernelSpec], None]


def warmup(
    specs: Iterable[KernelSpec],
    *,
    max_workers: int | None = None,
    progress: Progress | None = None,
    store: KernelStore = DEFAULT,
) -> list[str]:
    """Puts kernels into the cache, compiling those that are missing.

    Args:
      specs: what to compile; a spec that occurs twice is compiled once.
      max_workers: compilations at a time; None = as many as there are CPUs.
      progress: called with (number done, number of all, spec) after each.
      store: where to.

    Returns:
      The digests, in the order of the specs.

    Raises:
      ExceptionGroup: of all failures, after all others have been compiled.
    """
    specs = list(specs)
    workers = max_workers or len(os.sched_getaffinity(0))
    errors: list[Exception] = []
    pool = ThreadPoolExecutor(workers, "jaxinfer-warmup")
    try:
        futures = {pool.submit(store.prepare, spec): spec for spec in specs}
        for done, future in enumerate(as_completed(futures), start=1):
            error = future.exception()
            if isinstance(error, Exception):
                errors.append(error)
            if progress is not None:
                progress(done, len(specs), futures[future])
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for those under way only
    if errors:
        text = f"{len(errors)} of {len(specs)} kernels could not be compiled"
        raise ExceptionGroup(text, errors)
    return [store.digest(spec) for spec in specs]


def read_specs(path: Path) -> list[KernelSpec]:
    """The specs in a JSON file: a list of {kernel, arch, constants: {name: value}}.

    Args:
      path: of the file.

    Raises:
      ValueError: if the file does not hold a list of specs.
    """
    try:
        listed = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--spec-file must be a JSON file: {error}") from None
    if not isinstance(listed, list):
        raise ValueError(
            f"--spec-file must hold a list of specs, got {type(listed).__name__} in "
            f"{path}"
        )
    return [KernelSpec.from_json(fields) for fields in listed]
