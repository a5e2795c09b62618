# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Device time of a call: programs of many calls, launched without waiting.

A call is timed inside one program that makes it many times, each on the result of the
one before, so that XLA runs them in order, can leave none out, and captures them as
CUDA graphs (it captures runs of five or more, which is why the calls are unrolled and
no scan of one call). Programs follow each other without a wait. What it takes until
the first one runs and the last one is reported, about a millisecond, is not theirs: a
few are timed and three times as many, and the difference is divided by the calls.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_RATE = 4e14  # FLOP/s, a guess from which the length of a program follows
_PROGRAM = 0.02  # seconds
_REST = 0.2  # seconds, in which a chip cools that its power bounds otherwise


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to time.

    Attributes:
      calls: in one program.
      repeats: of which the median is taken.
      seconds: that the few programs of a repeat should last.
      most_launches: of these.
      bursts: repeats of one program after a rest, beside the others.
    """

    calls: int = 24
    repeats: int = 7
    seconds: float = 0.01
    most_launches: int = 100
    bursts: int = 0

    def with_calls(self, calls: int) -> "Settings":
        """The same for programs of another length; short calls need longer programs."""
        return dataclasses.replace(self, calls=min(calls, 8 * self.calls))

    def for_flops(self, num_flops: int) -> "Settings":
        """The same for programs that are not too long, of calls of so much work."""
        calls = math.ceil(_PROGRAM * _RATE / num_flops)
        return dataclasses.replace(self, calls=min(calls, self.calls))


QUICK = Settings(calls=2, repeats=2, most_launches=1)  # to see that it runs


def measure(
    launch: Callable[[], Any], wait: Callable[[], Any], settings: Settings
) -> dict[str, float]:
    """Microseconds of a call in a program that `launch` starts and `wait` ends.

    "us" is of programs that follow each other, "us_burst" of one after a rest.
    """

    def seconds_of(launches: int) -> float:
        begin = time.perf_counter()
        for _ in range(launches):
            launch()
        wait()
        return time.perf_counter() - begin

    seconds_of(3)  # XLA captures at the first runs
    few = min(math.ceil(settings.seconds / seconds_of(1)), settings.most_launches)

    def call_of(many: int, few: int, rest: float = 0.0) -> float:
        time.sleep(rest)
        seconds = seconds_of(many)
        time.sleep(rest)
        seconds -= seconds_of(few)
        # Noise may be larger than what a program takes that does next to nothing.
        return max(1e6 * seconds / ((many - few) * settings.calls), 1e-3)

    times = [call_of(3 * few, few) for _ in range(settings.repeats)]
    made = {
        "us": round(statistics.median(times), 3),
        "us_min": round(min(times), 3),
        "us_max": round(max(times), 3),
    }
    if settings.bursts:
        bursts = [call_of(2, 1, _REST) for _ in range(settings.bursts)]
        made["us_burst"] = round(statistics.median(bursts), 3)
    return made


class Chain:
    """A compiled program state -> state of many calls; the state stays where it is.

    The state is donated, so that every launch finds all buffers where the last one
    left them and no captured graph has to be updated.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        state: Any,
        shared: Any,
        buffers: Sequence[Any],
        settings: Settings,
    ):
        """Compiles.

        Args:
          call: (state, shared, buffer) -> state, same shapes.
          state: what the calls hand on.
          shared: operands of all calls.
          buffers: operands of one call each; gives the shapes only.
          settings: how many calls.
        """

        def program(state, shared, buffers):
            for buffer in buffers:
                state = call(state, shared, buffer)
            return state

        self.settings = settings
        self.shared = jax.device_put(shared)  # once, not at every launch
        of_calls = self._of_calls(buffers)
        jitted = jax.jit(program, donate_argnums=0)
        self.run = jitted.lower(state, self.shared, of_calls).compile()

    def _of_calls(self, buffers: Sequence[Any]) -> list[Any]:
        return [buffers[i % len(buffers)] for i in range(self.settings.calls)]

    def measure(self, state: Any, buffers: Sequence[Any]) -> dict[str, float]:
        """Times calls that take their operands from `buffers` in turn.

        Args:
          state: its buffers are used up.
          buffers: one for the same operands in every call, or several.
        """
        of_calls = self._of_calls(buffers)
        now = [state]

        def launch():
            now[0] = self.run(now[0], self.shared, of_calls)

        return measure(launch, lambda: jax.block_until_ready(now[0]), self.settings)


def measure_apart(
    call: Callable[..., Any], shared: Any, buffers: Sequence[Any], settings: Settings
) -> dict[str, float]:
    """Times calls whose results cannot be the operands of the next one.

    They run one after the other all the same: XLA uses one stream.

    Args:
      call: (shared, buffer) -> results.
      shared: operands of all calls.
      buffers: operands of one call each, taken in turn; all different arrays, or XLA
        would make equal calls only once.
      settings: how many calls.
    """
    copies = [
        jax.tree.map(jnp.copy, buffers[i % len(buffers)]) for i in range(settings.calls)
    ]

    def program(results, shared, buffers):
        del results  # donated: the new ones take their place
        return [call(shared, buffer) for buffer in buffers]

    shared = jax.device_put(shared)
    now = [jax.jit(program)(None, shared, copies)]
    jitted = jax.jit(program, donate_argnums=0, keep_unused=True)
    run = jitted.lower(now[0], shared, copies).compile()

    def launch():
        now[0] = run(now[0], shared, copies)

    return measure(launch, lambda: jax.block_until_ready(now[0]), settings)
