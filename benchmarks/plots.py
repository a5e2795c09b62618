# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Plots of a run on a GPU: time, bandwidth and roofline. Needs matplotlib."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.decode_cells import TARGETS
from benchmarks.report_gpu import DECODE, by_case, has_plots, ordered_impls

COLOURS = (
    *("#d1495b", "#30638e", "#7ba7c9", "#173753", "#edae49"),
    *("#66a182", "#8d6a9f", "#b5b5b5", "#5c5c5c"),
)
READ_TBPS = 4.39  # the fastest that attention was seen to read there


def write(name: str, run: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the plots of a run; nothing for a run without decode on a GPU.

    Args:
      name: of the run, the beginning of the file names.
      run: as stored.
      folder: for the files.

    Returns:
      What was written.
    """
    if not has_plots(run):
        return []
    records = [r for r in run["records"] if r["benchmark"] in DECODE and r["us"]]
    records = [r for r in records if not r["impl"].startswith("jaxinfer,")]
    plt = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, draw in (("time", _time), ("bandwidth", _bandwidth)):
        figure = draw(plt, records)
        paths.append(_save(plt, figure, folder / f"{name}-{kind}.svg"))
    paths.append(_save(plt, _roofline(plt, records), folder / f"{name}-roofline.svg"))
    return paths


def _pyplot() -> Any:
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    # The same run gives the same file, with text as text.
    matplotlib.rcParams.update(
        {"svg.hashsalt": "jaxinfer", "svg.fonttype": "none", "font.size": 9}
    )
    return importlib.import_module("matplotlib.pyplot")


def _save(plt: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None}, dpi=110)
    plt.close(figure)
    return path


def _colours(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    impls = ordered_impls(records)
    return {impl: COLOURS[i % len(COLOURS)] for i, impl in enumerate(impls)}


def _shown_cases(records: Sequence[dict[str, Any]]) -> list[str]:
    """Those with a target, which all implementations are timed on first."""
    cases = list(dict.fromkeys(r["case"] for r in records))
    return [case for case in cases if case in TARGETS] or cases[: len(TARGETS)]


def _short(case: str) -> str:
    batch, kv_len, lengths, heads, *_ = case.split("_")
    return f"{batch[1:]} x {kv_len[2:]}\n{lengths}\n{heads.replace('x', '/')}"


def _bars(plt: Any, records: Sequence[dict[str, Any]], field: str) -> tuple[Any, Any]:
    of, cases = by_case(records), _shown_cases(records)
    colours = _colours([r for r in records if r["case"] in cases])
    figure, axes = plt.subplots(figsize=(max(6.0, 0.9 * len(cases)), 4.2))
    width = 0.84 / len(colours)
    for i, (impl, colour) in enumerate(colours.items()):
        found = [of.get((DECODE[0], case), {}).get(impl) for case in cases]
        at = [x + width * i for x, one in enumerate(found) if one]
        heights = [one[field] for one in found if one]
        axes.bar(at, heights, width, label=impl, color=colour, zorder=2)
    middle = width * (len(colours) - 1) / 2
    ticks = [x + middle for x in range(len(cases))]
    axes.set_xticks(ticks, [_short(case) for case in cases], fontsize=8)
    axes.set_xlim(-0.3, len(cases) - 0.1)
    axes.grid(axis="y", color="#dddddd", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Any, count: int) -> None:
    axes.legend(
        ncols=min(count, 5), frameon=False, loc="lower left", bbox_to_anchor=(0, 1.06)
    )


def _time(plt: Any, records: Sequence[dict[str, Any]]) -> Any:
    figure, axes = _bars(plt, records, "us")
    axes.set_yscale("log")
    axes.set_ylabel("microseconds")
    axes.set_title("Decode attention, repeated buffers (less is better)", loc="left")
    _legend(axes, len(_colours(records)))
    return figure


def _bandwidth(plt: Any, records: Sequence[dict[str, Any]]) -> Any:
    figure, axes = _bars(plt, records, "tbps")
    axes.axhline(READ_TBPS, color="black", linewidth=1, linestyle="--", zorder=3)
    axes.set_ylim(0, 5)
    axes.text(-0.25, READ_TBPS + 0.08, f"{READ_TBPS} TB/s", fontsize=8)
    axes.set_ylabel("TB/s of K, V, queries and results")
    axes.set_title("Decode attention, repeated buffers (more is better)", loc="left")
    _legend(axes, len(_colours(records)))
    return figure


def _roofline(plt: Any, records: Sequence[dict[str, Any]]) -> Any:
    """All cells with cold caches: FLOP per byte against TFLOP/s."""
    cold = [r for r in records if r["benchmark"] == DECODE[1]]
    figure, axes = plt.subplots(figsize=(7.0, 4.2))
    for i, (impl, colour) in enumerate(_colours(cold).items()):
        own = [r for r in cold if r["impl"] == impl and r.get("tbps")]
        # Implementations stand side by side: a cell is the same for all of them.
        x = [r["tflops"] / r["tbps"] * 1.05**i for r in own]
        y = [r["tflops"] for r in own]
        axes.scatter(x, y, s=16, color=colour, label=impl, zorder=3, alpha=0.85)
    span = [0.7, 40.0]  # the roof is flat from 180 on, which no decode reaches
    axes.plot(span, [READ_TBPS * x for x in span], "k-", lw=1)
    axes.text(14, READ_TBPS * 22, f"{READ_TBPS} TB/s", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP per byte")
    axes.set_ylabel("TFLOP/s")
    axes.grid(color="#dddddd", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Decode attention, cold L2, against the roofline", loc="left")
    _legend(axes, len(_colours(cold)))
    return figure
