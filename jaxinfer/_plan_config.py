# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What a plan is balanced for: a machine, its tiles, and how work may be split."""

import dataclasses
import functools
import os
import re

import jax


@dataclasses.dataclass(frozen=True)
class TileClass:
    """How one kind of query tile is computed.

    Attributes:
      rows: packed rows of a tile, tokens x query heads per KV head.
      keys: granularity at which the keys of a tile may be split, at most a KV tile.
      cost: integer cost of `keys` keys, in the unit of all classes.
      item_cost: integer cost of a tile besides its keys, in the same unit. It does
        not count in the batch-invariant mode, where every chunk is an item.
    """

    rows: int
    keys: int
    cost: int
    item_cost: int = 0


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """What a plan is balanced for. Static: it travels inside the Plan.

    Attributes:
      arch: what runs the plan: "cpu", or a GPU such as "sm_90a".
      num_ctas: CTAs to use: the streaming multiprocessors, or a budget of them. Tiles
        of the first class (decode) and all others (prefill) get so many each.
      tile_classes: from the smallest tile to the largest, at most four; None = those of
        the CUDA kernels for the shapes of the plan.
      kv_heads_per_item: KV heads that one work item covers; None = all of them.
      min_cost: least cost worth a CTA of its own.
      min_keys_per_row: fewest keys per packed decode row worth one, beyond as many as
        there are tiles. 40 keeps the traffic of partial results under a tenth of that
        of K and V.
      batch_invariant: split keys at multiples of `split_keys` only, so that the bits
        of a sequence's result do not depend on the rest of the batch. Needs workspace
        for tiles x max_kv_len / split_keys partial results.
      split_keys: chunk of the batch-invariant mode.
      ctas_per_sm: CUDA only: 1, or 2 of half the size for each of num_ctas, for tiles
        of the first class; None = what the shapes of the plan suggest.
      whole_tiles_from: where all tiles but those of the first class are of the largest,
        and every CTA has so many times the cost of the longest one, none of them is
        split: CTAs then take them as they become free, in an order in which they share
        keys. 0 = always split; None = 2 for "sm_90a" and head dims of its prefill
        kernel, else 0.
    """

    arch: str
    num_ctas: int
    tile_classes: tuple[TileClass, ...] | None = None
    kv_heads_per_item: int | None = 1
    min_cost: int = 1
    min_keys_per_row: int = 40
    batch_invariant: bool = False
    split_keys: int = 2048
    ctas_per_sm: int | None = None
    whole_tiles_from: int | None = None

    def __post_init__(self) -> None:
        """Checks what the planner does not."""
        classes = self.tile_classes
        if classes is not None and not 1 <= len(classes) <= 4:
            raise ValueError(
                f"tile_classes must be 1 to 4 TileClass, got {len(classes)}"
            )

    @classmethod
    def cpu(cls, num_threads: int | None = None) -> "PlanConfig":
        """For CPU kernels: two CTAs a thread, all heads of a token together."""
        threads = num_threads or os.cpu_count() or 1
        tiles = (TileClass(rows=16, keys=16, cost=1), TileClass(64, 64, 16))
        return cls("cpu", 2 * threads, tiles, kv_heads_per_item=None, min_cost=16)

    @classmethod
    def gpu(cls, arch: str = "sm_90a", num_ctas: int = 132) -> "PlanConfig":
        """For GPU kernels: one KV head an item."""
        return cls(arch, num_ctas)

    @classmethod
    def default(cls) -> "PlanConfig":
        """For the default backend, or JAXINFER_PLAN_TARGET if that is set.

        JAXINFER_PLAN_TARGET is "cpu", "cpu:THREADS" or "ARCH:CTAS", such as
        "sm_90a:132", for programs that are compiled on another machine than they run
        on. Without it a program that is lowered for CUDA where the default backend is
        a CPU raises.
        """
        target = os.environ.get("JAXINFER_PLAN_TARGET")
        return _parse_target(target) if target else _of_backend(jax.default_backend())


def _parse_target(target: str) -> PlanConfig:
    match = re.fullmatch(r"(cpu|sm_\d+a?)(?::(\d+))?", target)
    if not match or (match[2] and int(match[2]) < 1):
        raise ValueError(
            "JAXINFER_PLAN_TARGET must be 'cpu', 'cpu:THREADS' or 'ARCH:CTAS' "
            f"(e.g. 'sm_90a:132'), got {target!r}"
        )
    count = int(match[2]) if match[2] else None
    if match[1] == "cpu":
        return PlanConfig.cpu(count)
    return PlanConfig.gpu(match[1], count or 132)


def gpu_arch(config: PlanConfig | None = None) -> str:
    """The architecture to compile kernels for: of the target, else of the device.

    Args:
      config: of the plan that the kernel makes or reads; None = it has no plan.

    Raises:
      ValueError: if the plan is balanced for a CPU: right, but very slow on a GPU.
    """
    if config is not None and config.arch == "cpu":
        raise ValueError(
            "a program for CUDA must have plans for a GPU, got one for arch='cpu' with "
            f"{config.num_ctas} CTAs: set JAXINFER_PLAN_TARGET to the GPU that will "
            "run it, such as JAXINFER_PLAN_TARGET=sm_90a:132, or pass "
            "config=PlanConfig.gpu(...) to jaxinfer.plan"
        )
    arch = PlanConfig.default().arch
    return arch if arch.startswith("sm_") else "sm_90a"


@functools.lru_cache(None)
def _of_backend(backend: str) -> PlanConfig:
    if backend == "cpu":
        return PlanConfig.cpu()
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", "9.0").replace(".", "")
    arch = f"sm_{capability}" + ("a" if capability == "90" else "")
    return PlanConfig.gpu(arch, getattr(device, "core_count", 132))
