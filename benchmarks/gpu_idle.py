# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The share of a time span in which a GPU runs no kernel, from JAX's profiler."""

import gzip
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax


def idle_share(run: Callable[[], Any]) -> float:
    """Profiles run(), which must wait for its results.

    Between the first kernel's beginning and the last one's end; the profiler itself
    slows launches down, so this is an upper bound.

    Raises:
      ValueError: if the profile has no kernels.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        files = sorted(Path(folder).rglob("*.trace.json.gz"))
        if not files:
            raise ValueError("the profiler wrote no trace")
        trace = json.loads(gzip.decompress(files[-1].read_bytes()))
    return idle_share_of(trace["traceEvents"])


def idle_share_of(events: Iterable[dict[str, Any]]) -> float:
    """From the events of a trace: the GPUs' streams, merged."""
    events = list(events)
    names = {"process_name": {}, "thread_name": {}}
    for event in events:
        if event.get("ph") == "M" and event.get("name") in names:
            key = event.get("pid"), event.get("tid")
            names[event["name"]][key] = str(event.get("args", {}).get("name", ""))
    gpus = {k[0] for k, n in names["process_name"].items() if "/device:GPU" in n}
    streams = {
        k
        for k, n in names["thread_name"].items()
        if k[0] in gpus and n.startswith("Stream")
    }
    spans = sorted(
        (event["ts"], event["ts"] + event.get("dur", 0.0))
        for event in events
        if event.get("ph") == "X" and (event.get("pid"), event.get("tid")) in streams
    )
    if not spans:
        raise ValueError("the trace has no kernels of a GPU")
    busy, end = 0.0, spans[0][0]
    for begin, stop in spans:
        busy += max(stop - max(begin, end), 0.0)
        end = max(end, stop)
    return 1 - busy / (end - spans[0][0])
