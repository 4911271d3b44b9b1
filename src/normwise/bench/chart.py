"""The benchmark as bars: one panel for each norm and pass, one bar for each contestant."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normwise.bench.turns import COMPILED, FORWARD, OURS, STEP, TORCH

_COLOURS = {OURS: "#1b6ca8", TORCH: "#c9c9c9", COMPILED: "#8a8a8a"}
_LABELS = {OURS: "normwise", TORCH: "torch.nn", COMPILED: "torch.nn compiled"}
_ROW_INCHES = 0.36
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the picture, in the format that the path's ending names."""
    from matplotlib.figure import Figure

    rows = results["rows"]
    norms = list(dict.fromkeys(row["norm"] for row in rows))
    passes = [way for way in (FORWARD, STEP) if any(row["pass"] == way for row in rows)]
    of_panel = {
        (norm, way): [row for row in rows if (row["norm"], row["pass"]) == (norm, way)]
        for norm in norms
        for way in passes
    }
    heights = [max(len(of_panel[norm, way]) for way in passes) + 1 for norm in norms]
    figure = Figure(figsize=(5 * len(passes) + 1, _ROW_INCHES * sum(heights) + 1.4))
    panels = figure.subplots(
        len(norms), len(passes), squeeze=False, sharex=True, height_ratios=heights
    )
    for i, norm in enumerate(norms):
        for j, way in enumerate(passes):
            _panel(panels[i, j], of_panel[norm, way], f"{norm}, {way}")
    times = [row[who] or 1 for row in rows for who in _COLOURS]
    shortest, longest = min([1, *times]) / 2, max([2, *times]) * 1.1  # no bar is without length
    for panel in panels[-1]:
        panel.set_xlim(shortest, longest)
        ticks = [tick for tick in _TICKS if shortest <= tick <= longest]
        panel.set_xticks(ticks, map(str, ticks))
        panel.set_xticks([], minor=True)
        panel.set_xlabel("time, in x.clone() of the input")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.suptitle(_stamp(results), fontsize=9)
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=110)


def _panel(panel: Any, rows: list[dict[str, Any]], title: str) -> None:
    panel.set_visible(bool(rows))
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_xscale("log")
    panel.axvline(1, color="black", linewidth=0.8)
    panel.grid(axis="x", linewidth=0.4)
    panel.set_axisbelow(True)
    for spine in ("top", "right", "left"):
        panel.spines[spine].set_visible(False)
    for k, who in enumerate(_COLOURS):
        places = [i + (k - 1) * 0.27 for i in range(len(rows))]
        widths = [row[who] or 0 for row in rows]
        panel.barh(places, widths, height=0.25, color=_COLOURS[who], label=_LABELS[who])
    panel.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=7)
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()


def _label(row: Mapping[str, Any]) -> str:
    extra = [row["dtype"]] * (row["dtype"] != "float32") + [row["layout"]] * (
        row["layout"] != "contiguous"
    )
    return " ".join(["×".join(map(str, row["shape"])), *extra])


def _stamp(results: Mapping[str, Any]) -> str:
    return (
        f"normwise {results['normwise']}, torch {results['torch']}, {results['machine']}, "
        f"{results['threads']} threads, {results['date']}"
    )
