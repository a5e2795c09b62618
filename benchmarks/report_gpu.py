# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""A run on a GPU as Markdown: implementations side by side, targets, what failed."""

from collections.abc import Sequence
from typing import Any

from benchmarks.decode_cells import TARGETS
from benchmarks.mixed_cells import MIXED
from benchmarks.prefill_cells import PREFILL

DECODE = ("decode_repeated", "decode")
STEP = "decode_step"
# The order of columns; others follow.
IMPLS = (
    "jaxinfer",
    "jaxinfer, two calls",
    "flashinfer sequential",
    "flashinfer fa3",
    "flashinfer fa2",
    "flashinfer BatchAttention",
    "flashinfer POD",
    "flashinfer xqa",
    "flashinfer cudnn",
    "flash_attn3_jax",
    "pallas",
    "xla",
    "xla dense",
    "cudnn dense",
    "torch cudnn",
    "flex_attention",
)
PLOT_NAMES = ("time", "bandwidth", "roofline")

Records = Sequence[dict[str, Any]]


def section(name: str, run: dict[str, Any]) -> str:
    """One run."""
    meta, records = run["meta"], run["records"]
    peers = ", ".join(f"{k} {v}" for k, v in meta.get("peers", {}).items())
    lines = [
        f"### {meta['device']}: {name}",
        "",
        f"{meta['date']}, driver {meta['driver']}, CUDA {meta['cuda']}, jax "
        f"{meta['jax']}, {peers}, commit {meta['commit'][:12]}. XLA reads memory at "
        f"{meta['read_tbps']:.2f} TB/s here.",
    ]
    of = by_case(records)
    if any(key[0] in DECODE for key in of):
        lines += ["", "Decode, microseconds: repeated buffers / cold L2.", ""]
        lines += decode_table(records)
    if has_plots(run):
        lines += ["", *(f"![{p}](performance/{name}-{p}.svg)" for p in PLOT_NAMES)]
    if any(key[0] == STEP for key in of):
        lines += ["", "Decode step, microseconds.", "", *step_table(records)]
        lines += [
            f"\n{one['case']}, {one['impl']}: under the profiler, the GPU is idle for "
            f"{one['idle']:.1%} of a step."
            for one in records
            if "idle" in one
        ]
    if any(key[0] == PREFILL for key in of):
        lines += ["", "Prefill, TFLOP/s.", "", *prefill_table(records)]
    if any(key[0] == MIXED for key in of):
        lines += ["", "Mixed batches, microseconds.", "", *mixed_table(records)]
    shown = {*DECODE, STEP, PREFILL, MIXED}
    others = [r for r in records if r["benchmark"] not in shown and r["us"]]
    if others:
        lines += ["", *plain_table(others, None)]
    failed = [r for r in records if not r["us"]]
    if failed:
        lines += ["", "What did not run:", "", *failures(failed)]
    return "\n".join(lines)


def by_case(records: Records) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """(benchmark, case) -> implementation -> record, of those that ran."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for one in records:
        if one["us"]:
            key = one["benchmark"], one["case"]
            found.setdefault(key, {}).setdefault(one["impl"], one)
    return found


def ordered_impls(records: Records) -> list[str]:
    """Implementations of these records, ours first."""
    found = list(dict.fromkeys(one["impl"] for one in records if one["us"]))
    rest = [impl for impl in found if impl not in IMPLS]
    return [impl for impl in IMPLS if impl in found] + rest


def best_peer(row: dict[str, dict[str, Any]]) -> float | None:
    """Microseconds of the fastest implementation that is not ours."""
    return min((one["us"] for one in peers_of(row)), default=None)


def peers_of(row: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of a case that are not ours."""
    return [one for impl, one in row.items() if not impl.startswith("jaxinfer")]


def beside_best(records: Records) -> list[str]:
    """A row a case of attention: our time and rate, the best peer and its time."""
    titles = ("case", "us", "TFLOP/s", "TB/s", "best peer", "its us")
    lines = [f"| benchmark | {' | '.join(titles)} | speed / best peer |"]
    lines += ["|---" * (len(titles) + 2) + "|"]
    for (benchmark, case), row in by_case(records).items():
        own = row.get("jaxinfer")
        if benchmark not in {*DECODE, PREFILL, MIXED} or own is None:
            continue
        cells = [benchmark, case, f"{own['us']:.1f}", f"{own['tflops']:.1f}"]
        cells += [f"{own['tbps']:.2f}", "", "", ""]
        if peers := peers_of(row):
            best = min(peers, key=lambda one: one["us"])
            ratio = f"{best['us'] / own['us']:.3f}"
            cells[5:] = [best["impl"], f"{best['us']:.1f}", ratio]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def has_plots(run: dict) -> bool:
    """Whether there is a decode cell to draw, planned on the host as those of peers."""
    return "driver" in run["meta"] and any(
        one["benchmark"] == DECODE[0] and one["us"] and "," not in one["impl"]
        for one in run["records"]
    )


def decode_table(records: Records) -> list[str]:
    """A row a case, a column an implementation."""
    records = [one for one in records if one["benchmark"] in DECODE]
    of, impls = by_case(records), ordered_impls(records)
    cases = dict.fromkeys(one["case"] for one in records if one["us"])
    lines = [
        "| case | target | " + " | ".join(impls) + " | TB/s | of the best peer |",
        "|---" * (len(impls) + 4) + "|",
    ]
    for case in cases:
        repeated, cold = (of.get((name, case), {}) for name in DECODE)
        cells = [
            f"{repeated[i]['us']:.1f} / {cold[i]['us']:.1f}"
            if i in cold and i in repeated  # a run that was cut may lack one
            else ""
            for i in impls
        ]
        own, target = repeated.get("jaxinfer"), TARGETS.get(case)
        best = best_peer(repeated)
        goal = f"{target:g}" if target else ""
        if own and target and own["us"] > target:
            goal = f"**{goal}**"
        rate = f"{own['tbps']:.2f}" if own else ""
        share = f"{own['us'] / best:.2f}" if own and best else ""
        lines.append(f"| {case} | {goal} | {' | '.join(cells)} | {rate} | {share} |")
    return [*lines, "", "A target in bold is missed."]


def prefill_table(records: Records) -> list[str]:
    """A row a case, a column an implementation; after a rest in parentheses."""
    records = [one for one in records if one["benchmark"] == PREFILL]
    impls = ordered_impls(records)
    lines = [
        f"| case | {' | '.join(impls)} | speed / best peer |",
        "|---" * (len(impls) + 2) + "|",
    ]
    for (_, case), row in by_case(records).items():
        cells = [_rates(row[i]) if i in row else "" for i in impls]
        own, best = row.get("jaxinfer"), best_peer(row)
        share = f"{best / own['us']:.2f}" if own and best else ""
        lines.append(f"| {case} | {' | '.join(cells)} | {share} |")
    return lines


def _rates(one: dict[str, Any]) -> str:
    rate = one["tflops"]
    if "us_burst" not in one:
        return f"{rate:.0f}"
    return f"{rate:.0f} ({rate * one['us'] / one['us_burst']:.0f})"


def mixed_table(records: Records) -> list[str]:
    """A row a case, a column an implementation."""
    records = [one for one in records if one["benchmark"] == MIXED]
    impls = ordered_impls(records)
    lines = [
        f"| case | {' | '.join(impls)} | TFLOP/s | TB/s | of the best peer |",
        "|---" * (len(impls) + 4) + "|",
    ]
    for (_, case), row in by_case(records).items():
        cells = [f"{row[i]['us']:.0f}" if i in row else "" for i in impls]
        own, best = row.get("jaxinfer"), best_peer(row)
        rates = [f"{own['tflops']:.0f}", f"{own['tbps']:.2f}"] if own else ["", ""]
        share = f"{own['us'] / best:.2f}" if own and best else ""
        lines.append(f"| {case} | {' | '.join([*cells, *rates, share])} |")
    return lines


def step_table(records: Records) -> list[str]:
    """A row a case and kind of layers; the share of attention and of the floor."""
    steps = [one for one in records if one["benchmark"] == STEP and one["us"]]
    table: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for one in steps:
        variant, layers = one["impl"].split(", layers ")
        table.setdefault((one["case"], layers), {})[variant] = one
    variants = list(dict.fromkeys(v for row in table.values() for v in row))
    lines = [
        f"| case | layers | {' | '.join(variants)} | attention | its bytes at 4.3 TB/s "
        "| step / floor | against xla |",
        "|---" * (len(variants) + 6) + "|",
    ]
    for (case, layers), row in table.items():
        cells = [f"{row[v]['us']:.0f}" if v in row else "" for v in variants]
        extra = [""] * 4
        own = row.get("jaxinfer")
        if own:
            extra[1:3] = [
                f"{own['kv_floor_us']:.0f}",
                f"{own['us'] / own['floor_us']:.2f}",
            ]
            if "identity" in row:
                extra[0] = f"{own['us'] - row['identity']['us']:.0f}"
            if "xla" in row:
                extra[3] = f"{own['us'] / row['xla']['us'] - 1:+.0%}"
        lines.append(f"| {case} | {layers} | {' | '.join([*cells, *extra])} |")
    return lines


def plain_table(records: Records, read_tbps: float | None) -> list[str]:
    """A row a record."""
    share_title = " | of reading" if read_tbps else ""
    lines = [
        f"| benchmark | case | implementation | us (min .. max) | GB/s{share_title} |",
        "|---" * (6 if read_tbps else 5) + "|",
    ]
    for one in records:
        tbps = one.get("tbps")
        cells = [f"{1e3 * tbps:.1f}" if tbps is not None else ""]
        if read_tbps:
            cells += [f"{tbps / read_tbps:.0%}" if tbps is not None else ""]
        times = f"{one['us']:.1f} ({one['us_min']:.1f} .. {one['us_max']:.1f})"
        names = f"{one['benchmark']} | {one['case']} | {one['impl']}"
        lines.append(f"| {names} | {times} | {' | '.join(cells)} |")
    return lines


def failures(records: Records) -> list[str]:
    """A line for each implementation and reason."""
    cases: dict[tuple[str, str, str], list[str]] = {}
    for one in records:
        key = one["benchmark"], one["impl"], one.get("why", "")
        cases.setdefault(key, []).append(one["case"])
    return [
        f"- {benchmark}, {impl or 'all'}, {len(names)} of its cases: {why}"
        for (benchmark, impl, why), names in cases.items()
    ]
