"""The charts of a model's report as inline SVG, drawn by matplotlib and colored by the page.

matplotlib draws with colors that stand for names. The page's own properties (`var(--ink)`) replace
them, so one drawing works in light and dark mode. The same numbers give the same bytes.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.evaluate import Z_95, wilson
from models.monitor.statistics import LARGE

# A drawn color -> the page's property. matplotlib must write the color unchanged.
_INK, _GRID = "#010101", "#020202"
COLORS = {"calibrated": "#030303", "raw": "#040404", "legacy_sigmoid": "#050505"}
_CONVERTED, _NOT_CONVERTED = "#060606", "#070707"
_PROPERTIES = {
    _INK: "--ink",
    _GRID: "--grid",
    COLORS["calibrated"]: "--calibrated",
    COLORS["raw"]: "--raw",
    COLORS["legacy_sigmoid"]: "--legacy",
    _CONVERTED: "--converted",
    _NOT_CONVERTED: "--not-converted",
}
NAMES = {"calibrated": "calibrated", "raw": "raw score", "legacy_sigmoid": "audited formula"}
# Width and dashes distinguish the lines without color.
_LINES: dict[str, dict[str, Any]] = {
    "calibrated": {"linewidth": 1.6, "linestyle": "-", "zorder": 3},
    "raw": {"linewidth": 3.6, "linestyle": "-", "alpha": 0.55, "zorder": 2},
    "legacy_sigmoid": {"linewidth": 1.4, "linestyle": (0, (2, 2)), "zorder": 4},
}
# By convention: below the first little drift, above the second much.
PSI_LIMITS = (0.1, LARGE)
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leadstream",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.constrained_layout.use": True,
}


def reliability(name: str, curve: Mapping[str, Any], max_leads: int) -> str:
    """Draw realized against stated rates with 95 % Wilson intervals, over the leads by bin.

    `max_leads` is the top of the lower axis.
    """

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        counts = np.array(curve["counts"])
        filled = counts > 0
        stated, realised = (
            np.array(curve[key], dtype=float)[filled] for key in ("stated", "realised")
        )
        bounds = [
            wilson(rate * n, n, Z_95)
            for rate, n in zip(realised, counts[filled].tolist(), strict=True)
        ]
        low, high = np.array(bounds).T
        top.plot([0, 1], [0, 1], color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7)
        top.errorbar(
            stated, realised, yerr=[realised - low, high - realised],
            color=COLORS[name], marker="o", markersize=4.5,
            linewidth=1.1, elinewidth=1.4, capsize=2.5,
        )  # fmt: skip
        _unit(top, "share that converted")
        bottom.bar(
            (np.arange(len(counts)) + 0.5) / len(counts),
            counts,
            0.86 / len(counts),
            color=COLORS[name],
        )
        bottom.set(
            xlim=(0, 1), ylim=(0, 1.05 * max_leads), xlabel="stated probability", ylabel="leads"
        )
        bottom.grid(visible=False, axis="x")

    return _svg(f"reliability-{name}", (3.7, 4.3), draw)


def roc(curves: Mapping[str, Any], areas: Mapping[str, float]) -> str:
    """Draw true against false positive rate."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7)
        _lines(axes, curves, "roc", ("false_positive_rate", "true_positive_rate"), areas)
        _unit(axes, "found, of those that converted")
        axes.set_xlabel("called, of those that did not convert")
        axes.legend(loc="lower right")

    return _svg("roc", (4.9, 4.3), draw)


def pr(curves: Mapping[str, Any], areas: Mapping[str, float], base_rate: float) -> str:
    """Draw precision against recall."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(base_rate, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7)
        _lines(axes, curves, "pr", ("recall", "precision"), areas)
        _unit(axes, "converted, of those called")
        axes.set_xlabel("found, of those that converted")
        axes.legend(loc="lower left")

    return _svg("pr", (4.9, 4.3), draw)


def scores(name: str, curve: Mapping[str, Any], max_leads: int) -> str:
    """Draw the number of leads of each outcome by stated probability.

    `max_leads` is the top of the axis.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = np.arange(len(curve["converted"]) + 1) / len(curve["converted"])
        axes.stairs(curve["converted"], edges, fill=True, color=_CONVERTED, label="converted")
        axes.stairs(
            curve["not_converted"],
            edges,
            color=_NOT_CONVERTED,
            linewidth=1.8,
            label="did not convert",
        )
        axes.set(
            xlim=(0, 1), ylim=(0, 1.05 * max_leads), xlabel="stated probability", ylabel="leads"
        )
        axes.legend(loc="upper right")

    return _svg(f"scores-{name}", (3.7, 2.7), draw)


def bars(
    chart: str, values: Sequence[tuple[str, float]], label: str, limits: Sequence[float] = ()
) -> str:
    """Draw one bar for each name, the first on top, with lines at the limits."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names, sizes = zip(*reversed(values), strict=True)
        drawn = axes.barh(range(len(names)), sizes, 0.72, color=COLORS["calibrated"])
        axes.set_yticks(range(len(names)), [_shortened(name) for name in names], parse_math=False)
        axes.bar_label(drawn, fmt="%.3f", padding=3, color=_INK, fontsize=8.5)
        for limit in limits:
            axes.axvline(limit, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7)
        axes.set(
            xlim=(0, 1.14 * max(*sizes, *limits, 1e-9)), ylim=(-0.6, len(names) - 0.4), xlabel=label
        )
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    return _svg(chart, (4.9, 0.8 + 0.235 * len(values)), draw)


def _lines(
    axes: Axes,
    curves: Mapping[str, Any],
    kind: str,
    keys: tuple[str, str],
    areas: Mapping[str, float],
) -> None:
    for name, line in _LINES.items():
        x, y = (curves[name][kind][key] for key in keys)
        axes.plot(x, y, color=COLORS[name], label=f"{NAMES[name]}, area {areas[name]:.3f}", **line)


def _unit(axes: Axes, label: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03), ylabel=label)


def _shortened(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:29]}…"


def _svg(chart: str, inches: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Return the drawing as one SVG element without declarations or metadata.

    Its ids are unique on the page.
    """
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=inches)
        figure.patch.set_visible(False)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    opening, inner = buffer.getvalue().partition("<svg")[2].split(">", 1)
    # Comments repeat the texts, and the style would hold for the whole page.
    inner = re.sub(
        r"<!--.*?-->|<style.*?</style>", "", inner.replace("xlink:href", "href"), flags=re.DOTALL
    )
    inner = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{chart}-", inner)
    for color, name in _PROPERTIES.items():
        inner = inner.replace(f": {color}", f": var({name})")
    box = opening.partition('viewBox="')[2].partition('"')[0]
    return f'<svg viewBox="{box}" aria-hidden="true" focusable="false">{inner.strip()}'
