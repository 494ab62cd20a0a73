"""Floor 9: the recipes that repeat the paper's tables.

"Evaluating Adversarial Robustness in Simulated Cerebellum" (Liu, Li, Chen); its numbers are in
`published`. Every trial (a model and a seed) is a record of `results`; tables and figures are made
from the records alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from . import plots, tables
from .baselines import CNNConfig, CNNLearning
from .config import CircuitConfig, LearningConfig, preset
from .data import Data
from .errors import CerebsimError, expect, expect_choice
from .jobs import run_all
from .published import TABLES, Baseline, Row, printed
from .tables import EPS, Line
from .trials import Trial, circuit_settings

DIGITS_SHARE = 20
"""On the embedded digits a model has one granule cell for so many of the paper's."""

EXAMPLES = {"pgd": "PGD on MSE\n(the paper's)", "sound_margin": "PGD on margin"}


@dataclass(frozen=True)
class Reproduction:
    """A table made from records, with a note; the files written; the last network's folder."""

    table: str
    note: str
    files: tuple[Path, ...]
    circuit: Path


def circuit(row: Row, data: Data, seed: int) -> CircuitConfig:
    """The circuit of a row under preset "paper", for these pictures.

    On other pictures than the paper's a cell that read all 784 fibres reads all there are; on the
    embedded digits a twentieth of the cells make do, at the same budget m (k + 2c) for all rows
    that share one in the paper.
    """
    d, c = data.train.x[0].numel(), len(data.classes)
    fan_in = d if row.fan_in == 784 else min(row.fan_in, d)
    m = row.granule_cells
    if data.name == "digits":
        m = round(m * (row.fan_in + 20) / (fan_in + 2 * c) / DIGITS_SHARE)
    return CircuitConfig(
        mossy_fibers=d,
        granule_cells=m,
        purkinje_cells=c,
        fan_in=fan_in,
        wiring=row.wiring,
        ltd=row.ltd,
        seed=seed,
        **circuit_settings("paper", row.wiring),
    )


def network(
    row: Row | Baseline, data: Data, seed: int, epochs: int, batch_size: int
) -> tuple[CircuitConfig | CNNConfig, LearningConfig | CNNLearning]:
    """What is built for a row, and how it learns.

    The baseline learns by its own recipe, whose batch size no table changes.
    """
    if isinstance(row, Baseline):
        shape = data.train.x[0].shape
        return CNNConfig(*shape, len(data.classes), seed=seed), CNNLearning(epochs, seed=seed)
    settings = preset("paper").learning | {"epochs": epochs, "batch_size": batch_size}
    return circuit(row, data, seed), LearningConfig(**settings, seed=seed)


def reproduce(
    name: str,
    data: Data,
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs/table2",
    limit: int | None = None,
    epochs: int = 10,
    batch_size: int | None = None,
    rows: Sequence[str] | None = None,
    device: str = "cpu",
    jobs: int = 1,
) -> Reproduction:
    """Train the models of a table, attack them, and write records, table and figures.

    name: one of `published.TABLES`; seeds: the paper's are 0 and 123; limit: attack only the first
    that many test pictures; batch_size: of the circuits, None for the table's own; rows: None for
    all of the table's; device: as a `Cerebellum`'s; jobs: so many processes share the trials. On
    MNIST the paper's figures for a circuit and batch size stand beside ours, whichever table has
    them. Trials that have a record in out/records are not run again; a circuit's training that was
    interrupted goes on from its checkpoint in out/circuits, the baseline's begins anew; several
    calls, also of several processes, may work on one folder. Writes out/NAME.csv, .md, .png and
    out/pictures.png. Raises ArgumentError or CerebsimError (a record that cannot be read).
    """
    expect_choice(name, "name", tuple(TABLES))
    table = TABLES[name]
    rows = tuple(table.rows) if rows is None else tuple(rows)
    batch_size = table.batch_size if batch_size is None else batch_size
    expect(len(seeds) > 0, "seeds", list(seeds), "at least one seed", "The paper has 0 and 123.")
    for row in rows:
        expect_choice(row, "rows", tuple(table.rows))
    expect(len(rows) > 0, "rows", list(rows), "at least one", "Leave it out for all.")
    data.test.first(limit)  # a limit that is none is told before anything is trained
    trials = [
        Trial(
            row,
            *network(table.rows[row], data, seed, epochs, batch_size),
            data,
            Path(out),
            EPS,
            limit,
            device,
        )
        for seed in seeds
        for row in rows
    ]
    records = run_all(trials, jobs, name)
    of = {row: [r for t, r in zip(trials, records, strict=True) if t.model == row] for row in rows}
    lines = {
        row: Line(
            of[row],
            printed(batch_size, table.rows[row]) if data.name == "mnist" else None,
        )
        for row in rows
    }
    title = f"Table {name[5:]} on {data.name}, batch {batch_size}"
    text, note, files = tables.write(name, title, lines, Path(out))
    last = trials[-1]  # the Cerebellum, where it is among the models of table 2
    pictures = _draw_examples(last, Path(out) / "pictures.png")
    return Reproduction(text, note, (*files, pictures, last.record.parent), last.folder)


def _draw_examples(trial: Trial, path: Path) -> Path:
    """Draw the attacked pictures that were kept with a trial's record."""
    try:
        kept = safetensors.torch.load_file(trial.examples)
    except (OSError, safetensors.SafetensorError) as error:
        raise CerebsimError(
            f"{trial.examples} cannot be read ({error}). Delete it and the record beside it to run "
            "the trial again."
        ) from error
    eps = min(trial.eps)
    title = f"{trial.name}, attacked at eps = {eps:g}"
    clean = kept["x"], kept["y"], kept["decisions"]
    attacked = [
        plots.Attacked(label, kept[f"{name}.x"], kept[f"{name}.decisions"])
        for name, label in EXAMPLES.items()
    ]
    figure = plots.attacked_pictures(title, trial.data.classes, *clean, attacked, eps)
    return plots.save(figure, path)
