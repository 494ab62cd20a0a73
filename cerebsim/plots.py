"""Floor 7: figures from numbers and pictures. Nothing is computed here.

Every function returns a matplotlib Figure of its own, without pyplot and its global state;
`save` writes it. Colours are Okabe and Ito's, which the colour-blind tell apart.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .results import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .analysis import Layer

COLOURS = ("#999999", "#56B4E9", "#E69F00", "#0072B2", "#CC79A7", "#009E73")
RIGHT, WRONG = "#0072B2", "#D55E00"
_GREY = "#555555"
_CROSS = {"ms": 7, "mew": 1.5}


@dataclass(frozen=True)
class Bar:
    """Accuracies in percent of one model under one attack: ours (mean, lowest, highest), paper's.

    paper is None where nothing was published; doubt says why it is no measurement of this model.
    """

    mean: float
    low: float
    high: float
    paper: float | None = None
    doubt: str = ""


def accuracy_bars(
    title: str, groups: dict[str, Sequence[str]], models: dict[str, Sequence[Bar]]
) -> "Figure":
    """Grouped bars: one group of bars per attack, one bar per model, the paper's figure as a mark.

    groups: {heading: names of its attacks}, left to right; models: {name: one Bar per attack}.
    """
    figure = _figure(11.5, 4.8)
    axes = figure.add_subplot()
    width = 0.84 / len(models)
    names = [name for attacks in groups.values() for name in attacks]
    for i, (model, bars) in enumerate(models.items()):
        places = [place + (i - (len(models) - 1) / 2) * width for place in range(len(names))]
        means = [bar.mean for bar in bars]
        axes.bar(places, means, width * 0.92, label=model, color=COLOURS[i % len(COLOURS)])
        for place, bar in zip(places, bars, strict=True):
            if bar.high > bar.low:
                axes.vlines(place, bar.low, bar.high, color="black", lw=1)
            top = bar.high
            if bar.paper is not None and top < bar.paper < top + 11:
                top = bar.paper  # no room for the number between bar and mark
            axes.text(place, top + 1.5, f"{bar.mean:.1f}", ha="center", va="bottom", rotation=90,
                      fontsize=8, color=_GREY)  # fmt: skip
            if bar.paper is not None:
                axes.hlines(bar.paper, place - width / 2, place + width / 2, color="black", lw=2)
    if any(bar.paper is not None for bars in models.values() for bar in bars):
        axes.hlines([], 0, 0, color="black", lw=2, label="the paper")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 119)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, loc="left", fontsize=12, pad=30)
    edge = -0.5
    for heading, attacks in groups.items():
        axes.text(edge + len(attacks) / 2, 116, heading, ha="center", va="top", fontsize=10)
        edge += len(attacks)
        axes.axvline(edge, color="#cccccc", lw=1)
    axes.set_xlim(-0.5, edge)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False, borderaxespad=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    return figure


@dataclass(frozen=True)
class Curve:
    """A family of models: {attack: {size: Bar}}, and how its lines are drawn."""

    name: str
    bars: dict[str, dict[int, Bar]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes of accuracy over size: what the size is, the families drawn, what stands above."""

    size: str
    curves: Sequence[Curve]
    heading: str = ""


def accuracy_curves(title: str, panels: Sequence[Sequence[Panel]]) -> "Figure":
    """Accuracy over size, in rows of panels.

    A colour per attack, the same in all panels; the spread over seeds as a band; the paper's
    figures as crosses of that colour, upright where they are no measurement. The panels of a column
    share their axis, which begins at 0 or, where nothing lies below 50, at the ten below it all.
    """
    rows, columns = len(panels), max(map(len, panels))
    figure = _figure(max(6.4, 4.6 * columns), 3.6 * rows + 1.2)
    grid = figure.subplots(rows, columns, squeeze=False, sharey="col")
    curves = [curve for row in panels for panel in row for curve in panel.curves]
    attacks = list(dict.fromkeys(attack for curve in curves for attack in curve.bars))
    colours = dict(zip(attacks, COLOURS[1:], strict=False))
    for column in range(columns):
        drawn = [row[column] for row in panels]
        for axes, panel in zip(grid[:, column], drawn, strict=True):
            _draw_panel(axes, panel, colours)
        lowest = min(min(bar.low, bar.low if bar.paper is None else bar.paper)
                     for panel in drawn for bar in _bars(panel.curves))  # fmt: skip
        grid[0, column].set_ylim(0 if lowest < 50 else min(90, 10 * (lowest // 10)), 100)
        grid[0, column].locator_params(axis="y", steps=[1, 2, 5, 10])
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy, %")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    figure.legend(handles=_legend(curves, colours), loc="outside lower center", ncols=4,
                  frameon=False, fontsize=9)  # fmt: skip
    return figure


def _draw_panel(axes, panel: Panel, colours: dict[str, str]) -> None:
    from matplotlib.ticker import LogFormatter

    for curve in panel.curves:
        for attack, bars in curve.bars.items():
            label = f"{attack}, {curve.name}"
            _draw_curve(axes, bars, label, _style(curve), colours[attack])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(LogFormatter())  # names ticks where there are few decades
    axes.set_xlabel(panel.size)
    axes.set_title(panel.heading, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(curves: Sequence[Curve]) -> list[Bar]:
    return [bar for curve in curves for bars in curve.bars.values() for bar in bars.values()]


def _style(curve: Curve) -> str:
    return "--" if curve.dashed else "-"


def _draw_curve(axes, bars: dict[int, Bar], label: str, style: str, colour: str) -> None:
    sizes = sorted(bars)
    means, low, high = ([getattr(bars[s], f) for s in sizes] for f in ("mean", "low", "high"))
    axes.plot(sizes, means, style, marker="o", ms=4, color=colour, label=label, clip_on=False)
    axes.fill_between(sizes, low, high, color=colour, alpha=0.2, lw=0)
    for marker, doubted in (("x", False), ("+", True)):
        there = [s for s in sizes if bars[s].paper is not None and bool(bars[s].doubt) == doubted]
        axes.plot(there, [bars[s].paper for s in there], marker, color=colour, **_CROSS)


def _legend(curves: Sequence[Curve], colours: dict[str, str]) -> list:
    """What a colour, a line and a cross mean, each once."""
    from matplotlib.lines import Line2D

    def entry(label: str, marker: str, **settings) -> Line2D:
        return Line2D([], [], marker=marker, label=label, **({"color": "black"} | settings))

    styles = {curve.name: _style(curve) for curve in curves}
    doubts = sorted({bar.doubt for bar in _bars(curves) if bar.paper is not None})
    crosses = {f"the paper: {why}" if why else "the paper": "+" if why else "x" for why in doubts}
    return [
        *(entry(attack, "o", color=colour, ls="none") for attack, colour in colours.items()),
        *(entry(name, "", ls=style) for name, style in styles.items()),
        *(entry(label, marker, ls="none", **_CROSS) for label, marker in crosses.items()),
    ]


@dataclass(frozen=True)
class Attacked:
    """Pictures after an attack (N, C, H, W), its name, and the network's decisions on them (N,)."""

    name: str
    x: Tensor
    decisions: Tensor


def attacked_pictures(
    title: str,
    classes: Sequence[str],
    x: Tensor,
    y: Tensor,
    decisions: Tensor,
    attacks: Sequence[Attacked],
    eps: float,
) -> "Figure":
    """A column per picture: clean, then per attack its perturbation (signed) and the picture.

    Under each picture the network's decision, blue where right and orange where wrong. Red of a
    perturbation is more light, blue less; full colour is eps. Of colour pictures the perturbation
    is shown as grey + (perturbation / 2 eps).
    """
    rows = 1 + 2 * len(attacks)
    figure = _figure(1.15 * len(x) + 1.9, 1.32 * rows + 0.7)
    grid = figure.subplots(rows, len(x), squeeze=False)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")

    def show(row: int, label: str, pictures: Tensor, said: Tensor | None) -> None:
        for i, axes in enumerate(grid[row]):
            _show(axes, pictures[i], eps if said is None else None)
            if said is not None:
                right = int(said[i]) == int(y[i])
                axes.set_xlabel(
                    classes[int(said[i])] + ("" if right else "  (wrong)"),
                    color=RIGHT if right else WRONG,
                    fontsize=10,
                    labelpad=2,
                )
        grid[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)

    show(0, "clean", x, decisions)
    for i, attacked in enumerate(attacks):
        gain = f"x {0.5 / eps:.3g}"
        show(2 * i + 1, f"{attacked.name}\nperturbation\n{gain}", attacked.x - x, None)
        show(2 * i + 2, "attacked", attacked.x, attacked.decisions)
    return figure


def layer_spectra(
    title: str, layers: dict[str, "Layer"], figures: Sequence[Sequence[str]]
) -> "Figure":
    """The shares of variance of each layer's dimensions, falling, beside its figures.

    figures: a row per figure, its name and then its text for each layer.
    """
    figure = _figure(10.5, 4.2)
    axes, beside = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for i, (name, layer) in enumerate(layers.items()):
        shares = [share for share in layer.eigenvalues if share > 1e-9]
        label = f"{name}, dimension {layer.dimension:.1f}"
        axes.loglog(range(1, len(shares) + 1), shares, color=COLOURS[2 * i + 1], lw=2, label=label)
    axes.set_xlabel("eigenvalue of the covariance over pictures, by rank")
    axes.set_ylabel("share of the variance")
    axes.set_title(title, loc="left", fontsize=12)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    beside.axis("off")
    table = beside.table(
        [row[1:] for row in figures],
        rowLabels=[row[0] for row in figures],
        colLabels=list(layers),
        loc="center",
    )
    table.scale(1, 1.6)
    return figure


def heat_map(
    axes, percents: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str]
) -> None:
    """A matrix of accuracies in percent with its numbers, and a scale beside it; None is blank."""
    cells = [[float("nan") if value is None else value for value in row] for row in percents]
    image = axes.imshow(cells, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for i, row in enumerate(percents):
        for j, value in enumerate(row):
            if value is not None:
                colour = "black" if value > 55 else "white"
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.figure.colorbar(image, ax=axes, label="accuracy, %")


def save(figure: "Figure", path: str | Path) -> Path:
    """Write the figure (PNG, PDF or SVG by the file's ending) whole or not at all."""
    path = Path(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150)
    write_bytes(path, buffer.getvalue())
    return path


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _show(axes, picture: Tensor, eps: float | None) -> None:
    """Draw one picture (C, H, W), or a perturbation in -eps..eps if eps is given."""
    pixels = picture.permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        low, high, colours = (0, 1, "gray") if eps is None else (-eps, eps, "RdBu_r")
        axes.imshow(pixels[:, :, 0], vmin=low, vmax=high, cmap=colours)
    else:
        axes.imshow(pixels if eps is None else 0.5 + pixels / (2 * eps))
    axes.set_xticks([])
    axes.set_yticks([])
