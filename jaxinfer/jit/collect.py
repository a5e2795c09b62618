# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Which kernels a program takes, without compiling them."""

import contextlib
from collections.abc import Iterator

import jax

from jaxinfer.jit.spec import KernelSpec

# A context of jit, as in embed.py: nobody gets a program back that was lowered inside.
_collector = jax.make_user_context(default_value=None)
_NO_DIGEST = "0" * 32


class _Collector:
    """Hashed by identity, as a context of jit must be: every one lowers anew."""

    def __init__(self):
        self.specs: list[KernelSpec] = []


@contextlib.contextmanager
def collect_specs() -> Iterator[list[KernelSpec]]:
    """Lowering inside this context lists kernels instead of compiling them.

    The programs cannot run. Their kernels can be compiled at once, in parallel.

    Example:
      with jaxinfer.jit.collect_specs() as specs:
          jax.jit(step).trace(*args).lower(lowering_platforms=("cuda",))
      jaxinfer.jit.warmup(specs)

    Yields:
      A list, to which each kernel is added when it is lowered.
    """
    collector = _Collector()
    with _collector(collector):
        yield collector.specs


def collected(specs: list[KernelSpec]) -> dict[KernelSpec, str] | None:
    """Adds specs to the list of the context; None if there is none.

    Args:
      specs: what lowering asks for.

    Returns:
      A digest that no kernel has, for each.
    """
    collector = _collector.value
    if collector is None:
        return None
    collector.specs.extend(specs)
    return dict.fromkeys(specs, _NO_DIGEST)
