"""Floor 8: from records to a table: CSV, Markdown and a figure. Nothing is run here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from . import plots, results
from .published import Baseline, Row
from .trials import LOSSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPS = (0.1, 0.3)
COLUMNS = ("clean", *(f"{a}_{e:g}" for e in EPS for a in ("noise", "fgsm", "pgd", "worst")))
OVER_SIZE = {
    "no attack": "clean",
    "FGSM 0.1": "fgsm_0.1",
    "PGD 0.1": "pgd_0.1",
    "worst case 0.1": "worst_0.1",
}
"""The columns of a panel of curves, by what they are called there."""
PANELS = {
    "a  no attack": {"no attack": "clean"},
    "b  FGSM": {"eps 0.1": "fgsm_0.1", "eps 0.3": "fgsm_0.3"},
    "c  PGD": {"eps 0.1": "pgd_0.1", "eps 0.3": "pgd_0.3", "worst case 0.1": "worst_0.1"},
}
"""The three panels of a figure of the paper, likewise."""
SIZES = {"granule_cells": "granule cells m", "fan_in": "fan-in k"}
_ANATOMY = ("wiring", "fan_in", "granule_cells", "ltd")
NOTE = (
    "Accuracies in percent. FGSM and PGD as in the paper: they climb the MSE; PGD keeps the last "
    "of 40 steps of 0.01. Worst case: right when clean, under these attacks and under PGD on "
    f"{', '.join(LOSSES)} that keeps the best iterate at the smallest eps. "
    "The paper has no noise and no worst case."
)


@dataclass(frozen=True)
class Line:
    """A model of a table: its records, one per seed, and what the paper printed, or None."""

    records: list[dict]
    paper: Row | Baseline | None

    @property
    def anatomy(self) -> dict:
        """Of a circuit as in `CircuitConfig`, of a baseline as in `CNNConfig`."""
        return self.records[0]["recipe"]["circuit"]

    @property
    def is_circuit(self) -> bool:
        return "wiring" in self.anatomy

    def printed(self, column: str) -> float | None:
        return None if self.paper is None else self.paper.accuracy.get(column)

    def pictures(self, column: str) -> int:
        """How many test pictures an accuracy is of."""
        record = self.records[0]
        if column == "clean":
            return record["recipe"]["data"]["n_test"]
        worst = column.startswith("worst") and "sound_evaluation" in record
        return record["sound_evaluation" if worst else "evaluation"]["n"]

    def bar(self, column: str) -> plots.Bar:
        ours = [100 * _accuracy(record, column) for record in self.records]
        doubt = "" if self.paper is None else self.paper.doubt
        return plots.Bar(mean(ours), min(ours), max(ours), self.printed(column), doubt)


def _accuracy(record: dict, column: str) -> float:
    """A share 0..1; without attack of all test pictures, however few are attacked."""
    history = record["history"]
    if column == "clean":
        return history["test_accuracy"][history["epoch_kept"]]
    return record["accuracy"][column]


Draw = Callable[[str, dict[str, Line]], "Figure"]
"""Makes a figure of a title and the lines of a table."""


def write(
    name: str, title: str, lines: dict[str, Line], out: Path, draw: Draw
) -> tuple[str, str, list[Path]]:
    """Write table (long CSV, wide Markdown) and figure; also the table and a note as text."""
    import pandas as pd

    bars = {model: [line.bar(column) for column in COLUMNS] for model, line in lines.items()}
    csv, md, png = files = [out / f"{name}.{ending}" for ending in ("csv", "md", "png")]
    long = [
        {
            "model": model,
            **{key: lines[model].anatomy.get(key, "") for key in _ANATOMY},
            "column": column,
            "paper": bar.paper,
            "ours": round(bar.mean, 4),
            "lowest": round(bar.low, 4),
            "highest": round(bar.high, 4),
            "difference": None if bar.paper is None else round(bar.mean - bar.paper, 4),
            "seeds": " ".join(str(r["recipe"]["circuit"]["seed"]) for r in lines[model].records),
            "pictures": lines[model].pictures(column),
            "doubt": bar.doubt,
        }
        for model in bars
        for column, bar in zip(COLUMNS, bars[model], strict=True)
    ]
    results.write_text(csv, pd.DataFrame(long).to_csv(index=False))
    doubts = [line.paper.doubt for line in lines.values() if line.paper and line.paper.doubt]
    marks = {doubt: " " + "*" * (i + 1) for i, doubt in enumerate(dict.fromkeys(doubts))}
    table = results.markdown(
        ["model", "", *(_heading(column) for column in COLUMNS)],
        [row for model, line in lines.items() for row in _rows(model, line, bars[model], marks)],
    )
    note = f"{_protocol(list(lines.values()))} {NOTE}"
    note += "".join(
        f" The paper's figures marked{mark} are {doubt}." for doubt, mark in marks.items()
    )
    results.write_text(md, f"# {title}\n\n{table}\n{note}\n")
    plots.save(draw(title, lines), png)
    return table, note, files


def draw_table(title: str, lines: dict[str, Line]) -> "Figure":
    """Bars of a short table, curves of a long one."""
    if len(lines) > len(plots.COLOURS):
        families = [_panel(*family, OVER_SIZE) for family in _families(lines)]
        return plots.accuracy_curves(title, [families])
    groups = {"no attack": ["clean"]}
    groups |= {f"eps = {eps:g}": ["noise", "FGSM", "PGD\n(paper's)", "worst\ncase"] for eps in EPS}
    bars = {model: [line.bar(column) for column in COLUMNS] for model, line in lines.items()}
    return plots.accuracy_bars(title, groups, bars)


def draw_figure(title: str, lines: dict[str, Line]) -> "Figure":
    """The panels a-c of a figure of the paper, FC above RC."""
    return plots.accuracy_curves(
        title,
        [
            [_panel(*family, shown, heading) for heading, shown in PANELS.items()]
            for family in _families(lines)
        ],
    )


def draw_scan(title: str, lines: dict[str, Line], size: str) -> "Figure":
    """Curves over one size, "granule_cells" or "fan_in"."""
    return plots.accuracy_curves(title, [[_panel(size, list(lines.values()), OVER_SIZE)]])


def _families(lines: dict[str, Line]) -> list[tuple[str, list[Line]]]:
    """Circuits whose cells read all fibres, over m, and those that read a few, over k."""
    families = [
        (size, [line for line in lines.values()
                if line.is_circuit and line.anatomy["wiring"] == wiring])
        for wiring, size in (("full", "granule_cells"), ("random", "fan_in"))
    ]  # fmt: skip
    return [(size, of) for size, of in families if of]


def _panel(size: str, lines: list[Line], shown: dict[str, str], heading: str = "") -> plots.Panel:
    curves = []
    for ltd in (False, True):
        of = {line.anatomy[size]: line for line in lines if line.anatomy["ltd"] == ltd}
        bars = {a: {n: line.bar(column) for n, line in of.items()} for a, column in shown.items()}
        if of:
            name = "with LTD" if ltd else "without LTD"
            curves.append(plots.Curve(name, bars, dashed=not ltd))
    kind = "FC" if lines[0].anatomy["wiring"] == "full" else "RC"
    return plots.Panel(f"{SIZES[size]}, {kind}", curves, heading)


def _protocol(lines: list[Line]) -> str:
    """What the records say of training and test, as sentences; all circuits learned alike."""
    circuits = [line for line in lines if line.is_circuit]
    first, *_ = records = (circuits or lines)[0].records
    seeds = [record["recipe"]["circuit"]["seed"] for record in records]
    learning, data = first["recipe"]["learning"], first["recipe"]["data"]
    n, every = first["evaluation"]["n"], data["n_test"]
    worst = (circuits or lines)[0].pictures("worst")
    said = (
        f"{learning['epochs']} epochs at batch {learning['batch_size']}, "
        f"seeds {' '.join(map(str, seeds))}. "
        + (f"All {n:,} test pictures." if n == every else
           f"Clean: all {every:,} test pictures; attacked: the first {n:,}.")
        + ("" if worst == n else f" Worst case: the first {worst:,}.")
    )  # fmt: skip
    return " ".join([said, *(_baseline(line) for line in lines if not line.is_circuit)])


def _baseline(line: Line) -> str:
    """The architecture and the training of a CNN, as a sentence."""
    cnn, learning = line.anatomy, line.records[0]["recipe"]["learning"]
    filters, units = (cnn["filters"], 2 * cnn["filters"]), (cnn["hidden"], cnn["classes"])
    return (
        "The CNN is ours (Wong & Kolter 2018): "
        f"convolutions of {filters[0]} and {filters[1]} filters, "
        f"dense layers of {units[0]} and {units[1]} units; "
        f"{learning['epochs']} epochs of {learning['rule'].title()} at batch "
        f"{learning['batch_size']} on the {learning['loss'].upper()}."
    )


def _heading(column: str) -> str:
    attack, _, eps = column.partition("_")
    return f"{attack.upper() if attack in ('fgsm', 'pgd') else attack} {eps}".strip()


def _rows(
    model: str, line: Line, bars: Sequence[plots.Bar], marks: dict[str, str]
) -> list[list[str]]:
    """The rows of one model: the paper (where there is one), ours, spread, difference."""
    rows = [["ours", *(f"{bar.mean:.1f}" for bar in bars)]]
    if any(bar.high > bar.low for bar in bars):
        rows.append(["range", *(f"{bar.low:.1f}-{bar.high:.1f}" for bar in bars)])
    if line.paper is not None:
        mark = marks.get(line.paper.doubt, "")
        paper = ["" if bar.paper is None else f"{bar.paper:.1f}{mark}" for bar in bars]
        gap = ["" if bar.paper is None else f"{bar.mean - bar.paper:+.1f}" for bar in bars]
        rows = [["paper", *paper], *rows, ["difference", *gap]]
    return [[model if i == 0 else "", *row] for i, row in enumerate(rows)]
