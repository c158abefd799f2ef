"""The panels of the dashboard as one picture, for those who have no Grafana at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of no window
from matplotlib.ticker import FuncFormatter
from PIL import Image

from deploy.dashboard import GRID, Panel

_PAPER, _INK, _GREY, _GREEN, _RED = "#181b1f", "#d8d9da", "#8e9297", "#73bf69", "#f2495c"
_COLOURS = (
    "#7eb26d",
    "#eab839",
    "#6ed0e0",
    "#ef843c",
    "#e24d42",
    "#1f78c1",
    "#ba43a9",
    "#705da0",
    "#508642",
    "#cca300",
)
_MAX_LEGENDS = 8


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a panel: its legend, and its values by seconds since the load began."""

    legend: str
    seconds: list[float]
    values: list[float]


def draw(
    rows: Mapping[str, Sequence[Panel]], displayed: Mapping[str, Sequence[Series]], file: Path
) -> None:
    """One picture with each panel where Grafana has it, roughly as Grafana draws it."""
    lines = [line for title, row in rows.items() for line in _lines(title, row)]
    heights = [
        0.22 if isinstance(line, str) else (0.6 if line[0].kind == "stat" else 1.5)
        for line in lines
    ]
    colours: dict[Any, Any] = {
        "axes.prop_cycle": cycler(color=_COLOURS),
        "text.color": _INK,
        "axes.labelcolor": _INK,
    }
    dark = colours | {
        "xtick.color": _GREY,
        "ytick.color": _GREY,
        "axes.edgecolor": "#34383e",
        "font.size": 7,
    }
    with mpl.rc_context(dark):
        figure = plt.figure(
            figsize=(15, 1.45 * sum(heights)), facecolor="#111217", layout="constrained"
        )
        grid = figure.add_gridspec(len(lines), GRID, height_ratios=heights)
        for i, line in enumerate(lines):
            if isinstance(line, str):
                axes = figure.add_subplot(grid[i, :])
                axes.axis("off")
                axes.text(0, 0.4, line, fontsize=10, weight="bold", va="center")
                continue
            x = 0
            for panel in line:
                axes = figure.add_subplot(grid[i, x : x + panel.width], facecolor=_PAPER)
                axes.set_title(panel.title, loc="left", fontsize=8, color=_INK)
                {"stat": _stat, "table": _table, "timeseries": _curves}[panel.kind](
                    axes, panel, displayed[panel.title]
                )
                x += panel.width
        figure.savefig(file, dpi=80)
        plt.close(figure)
    with Image.open(file) as picture:  # few colours in a third of the bytes
        picture.convert("RGB").quantize(64).save(file, optimize=True)


def _lines(title: str, row: Sequence[Panel]) -> list[str | list[Panel]]:
    """The title of a row, then its panels as they fit next to each other."""
    lines: list[str | list[Panel]] = [title]
    fitting: list[Panel] = []
    for panel in row:
        if sum(other.width for other in fitting) + panel.width > GRID:
            lines.append(fitting)
            fitting = []
        fitting.append(panel)
    return [*lines, fitting]


def _curves(axes: Any, panel: Panel, displayed: Sequence[Series]) -> None:
    if panel.stacked:
        # Series may begin late: each value at its second, 0 before.
        at = sorted({second for one in displayed for second in one.seconds})
        by_second = [dict(zip(one.seconds, one.values, strict=True)) for one in displayed]
        labels = [one.legend for one in displayed]
        axes.stackplot(
            at,
            [[values.get(second, 0) for second in at] for values in by_second],
            labels=labels,
            alpha=0.7,
        )
    else:
        for one in displayed:
            axes.plot(one.seconds, one.values, label=one.legend, linewidth=1)
    axes.margins(y=0.1)
    axes.set_ylim(
        bottom=0, top=None if any(value for one in displayed for value in one.values) else 1
    )
    axes.grid(color="#2c3036", linewidth=0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{second:.0f} s"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _text(value, panel.unit)))
    handles, labels = axes.get_legend_handles_labels()
    more = f" (and {len(labels) - _MAX_LEGENDS} more)" if len(labels) > _MAX_LEGENDS else ""
    axes.legend(
        handles[:_MAX_LEGENDS],
        [*labels[: _MAX_LEGENDS - 1], labels[_MAX_LEGENDS - 1] + more] if more else labels,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=4 if panel.width >= 12 else 2,
        frameon=False,
        fontsize=6,
    )


def _stat(axes: Any, panel: Panel, displayed: Sequence[Series]) -> None:
    axes.set(xticks=[], yticks=[])
    for i, one in enumerate(displayed):
        value = one.values[-1]
        red = panel.red_from is not None and value >= panel.red_from
        text = _text(value, panel.unit) + (f" {one.legend}" if len(displayed) > 1 else "")
        place = (i + 0.5) / len(displayed)
        axes.text(
            place,
            0.45,
            text,
            transform=axes.transAxes,
            fontsize=15,
            ha="center",
            va="center",
            color=_RED if red else _GREEN,
        )


def _table(axes: Any, _panel: Panel, displayed: Sequence[Series]) -> None:
    axes.set(xticks=[], yticks=[])
    for i, one in enumerate(displayed):
        axes.text(
            0.03, 0.85 - 0.15 * i, f"{one.legend}   {one.values[-1]:g}", transform=axes.transAxes
        )


def _text(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{value:.3g}" if value == 0 else f"{value * 100:.3g} %"
        case "s":
            return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
        case "cps":
            return f"{value:.3g}/s"
        case _:
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
