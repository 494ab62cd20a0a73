"""Floor 8: from the records of a study to its table (CSV, Markdown) and its two figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import plots, results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTE = (
    "Accuracies in percent. PGD LOSS STEP: 40 steps, the last is kept, as in the paper, whose own "
    "is PGD mse 0.01. Square asks for outputs alone, for no gradient. Transfer: pictures made by "
    "PGD on the margin of the same circuit trained with batches of 50. Worst: over all but "
    "transfer. Against: share of the pictures on which PGD mse 0.01 raised the loss and carried "
    "the picture away from the boundary."
)


def write(
    records: Sequence[dict], attacks: Sequence[str], eps: float, out: Path
) -> tuple[str, tuple[Path, ...]]:
    """Write table and figures; the table and the files. Shares become percent."""
    import pandas as pd

    columns = ["clean", *attacks, "transfer", "worst", "against"]
    rows = [
        {"circuit": record["recipe"]["model"].replace(" + LTD", "")}
        | {key: record["recipe"][key] for key in ("ltd", "training")}
        | {column: _percent(record, column, eps) for column in columns}
        for record in records
    ]
    csv, md, png, steps = files = tuple(
        out / name for name in ("study.csv", "study.md", "study.png", "trajectory.png")
    )
    long = [
        row | {
            "updates": _updates(record),
            "pictures": record["evaluation"]["n"],
            "seed": record["recipe"]["circuit"]["seed"],
        }
        for row, record in zip(rows, records, strict=True)
    ]  # fmt: skip
    results.write_text(csv, pd.DataFrame(long).round(4).to_csv(index=False))
    names = list(rows[0])
    table = results.markdown(names, [[_cell(row[name]) for name in names] for row in rows])
    data = records[0]["recipe"]["data"]
    count = records[0]["evaluation"]["n"]
    title = f"{data['name']}, the first {count:,} test pictures, eps {eps:g}"
    results.write_text(md, f"# A study of table 7: {title}\n\n{table}\n{NOTE}\n")
    plots.save(_heat_map(title, rows, columns), png)
    plots.save(_trajectories(title, records), steps)
    return table, files


def _percent(record: dict, column: str, eps: float) -> float | None:
    if column == "against":
        return 100 * record["trajectory"]["against"]
    if column == "transfer":
        return None if record["transfer"] is None else 100 * record["transfer"]
    accuracy = record["accuracy"]
    return 100 * accuracy[column if column == "clean" else f"{column}_{eps:g}"]


def _updates(record: dict) -> int:
    """How many batches were learned."""
    recipe = record["recipe"]
    batches = -(-recipe["data"]["n_train"] // recipe["learning"]["batch_size"])
    return batches * len(record["history"]["train_accuracy"])


def _cell(value: str | float | None) -> str:
    return value if isinstance(value, str) else "" if value is None else f"{value:.1f}"


def _heat_map(title: str, rows: Sequence[dict], columns: Sequence[str]) -> "Figure":
    """A row per network, a column per accuracy."""
    from matplotlib.figure import Figure

    shown = [column for column in columns if column != "against"]
    figure = Figure(figsize=(4.6 + 0.75 * len(shown), 2.2 + 0.33 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{row['circuit']}, LTD {row['ltd']}, {row['training']}" for row in rows]
    plots.heat_map(axes, [[row[column] for column in shown] for row in rows], names, shown)
    axes.set_title(title, loc="left", fontsize=11)
    return figure


def _trajectories(title: str, records: Sequence[dict]) -> "Figure":
    """The paper's attack step by step on one circuit, the last, with the paper's LTD if there is
    one: a column for each training, and in its rows the outputs of the survivors, their loss, and
    their distance to the boundary. A dot is the clean pictures.
    """
    from matplotlib.figure import Figure

    found = {}
    for record in records:
        found.setdefault((record["recipe"]["ltd"], record["recipe"]["model"]), []).append(record)
    *_, (ltd, model) = sorted(found, key=lambda of: of[0] == "moving average")
    shown = found[ltd, model]
    figure = Figure(figsize=(1.2 + 3.9 * len(shown), 7.4), layout="constrained")
    grid = figure.subplots(len(_ROWS), len(shown), squeeze=False, sharex=True)
    heading = f"{model}, LTD {ltd}: the paper's PGD on {title}"
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    for column, record in zip(grid.T, shown, strict=True):
        path, n = record["trajectory"], record["evaluation"]["n"]
        heading = f"{record['recipe']['training']}: {path['survivors']:,} of {n:,} survive"
        column[0].set_title(heading, fontsize=10)
        for axes, (_, lines) in zip(column, _ROWS, strict=True):
            for i, (name, label) in enumerate(lines.items()):
                clean, *steps = path.get(name, [None])  # of no survivor there is none
                colour = plots.COLOURS[3 + i]
                axes.plot(range(len(steps)), steps, color=colour, label=label)
                axes.plot([-4], [clean], "o", color=colour, clip_on=False)
            axes.spines[["top", "right"]].set_visible(False)
        column[-1].set_xticks([-4, 0, 10, 20, 30, 40], ["clean", "0", "10", "20", "30", "40"])
        column[-1].set_xlabel("step, from the random start")
    for axes, (label, _) in zip(grid[:, 0], _ROWS, strict=True):
        axes.set_ylabel(label)
    grid[0, 0].legend(frameon=False, fontsize=8)
    return figure


_ROWS = (
    (
        "outputs, mean",
        {
            "own": "the right one",
            "best": "the best of the others",
            "others": "the mean of the others",
        },
    ),
    ("loss, mean", {"loss": "loss"}),
    ("distance, mean", {"distance": "distance to the boundary"}),
)
"""Of the survivors: what a row shows, and its lines by their names in a record."""
