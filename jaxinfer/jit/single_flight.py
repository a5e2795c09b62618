# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Many threads ask for one thing: one makes it, the others wait for it."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any


class SingleFlight:
    """Runs at most one call per key at a time; calls of other keys run beside it."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets the calls under way. For a forked child: their threads are gone."""
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future] = {}

    def run(self, key: Hashable, call: Callable[[], Any]) -> Any:
        """Calls, or waits for the thread that is calling for the same key.

        Nothing is kept: whoever comes after the end calls again, so `call` looks first
        whether its work is done. Failures reach everyone who waited.

        Args:
          key: what is made.
          call: makes it.

        Returns:
          What `call` returned.
        """
        with self._lock:
            flight = self._flights.get(key)
            is_ours = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if is_ours:
            try:
                flight.set_result(call())
            except BaseException as error:
                flight.set_exception(error)
            finally:
                with self._lock:
                    self._flights.pop(key, None)
        return flight.result()
