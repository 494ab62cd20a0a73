"""Floor 9: the recipes that repeat the paper's tables and figures.

"Evaluating Adversarial Robustness in Simulated Cerebellum" (Liu, Li, Chen); its numbers are in
`published`. Every trial (a model and a seed) is a record of `results`; tables and figures are made
from the records alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import safetensors.torch

from . import plots, tables
from .baselines import CNNConfig, CNNLearning
from .config import CircuitConfig, LearningConfig, preset
from .data import Data
from .errors import CerebsimError, expect, expect_choice
from .jobs import run_all
from .published import FIGURES, TABLES, Baseline, Circuit, printed
from .tables import EPS, Line
from .trials import Trial, circuit_settings

DIGITS_SHARE = 20
"""On the embedded digits a model has one granule cell for so many of the paper's."""

EXAMPLES = {"pgd": "PGD on MSE\n(the paper's)", "sound_margin": "PGD on margin"}


@dataclass(frozen=True)
class Reproduction:
    """A table made from records, with a note; the files written; the last of the trials."""

    table: str
    note: str
    files: tuple[Path, ...]
    last: Trial = field(compare=False)

    @property
    def circuit(self) -> Path:
        """The folder of the last network."""
        return self.last.folder


def scaled(row: Circuit | Baseline, data: Data) -> Circuit | Baseline:
    """A circuit of the paper as it is built for these pictures; a baseline as it is.

    On other pictures than the paper's a cell that read all 784 fibres reads all there are; on the
    embedded digits a twentieth of the cells make do, at the same budget m (k + 2c) for all rows
    that share one in the paper.
    """
    if isinstance(row, Baseline):
        return row
    d, c = data.train.x[0].numel(), len(data.classes)
    fan_in = d if row.fan_in == 784 else min(row.fan_in, d)
    m = row.granule_cells
    if data.name == "digits":
        m = round(m * (row.fan_in + 20) / (fan_in + 2 * c) / DIGITS_SHARE)
    return replace(row, fan_in=fan_in, granule_cells=m)


def network(
    model: Circuit | Baseline, data: Data, seed: int, epochs: int, batch_size: int
) -> tuple[CircuitConfig | CNNConfig, LearningConfig | CNNLearning]:
    """What is built, with the numbers of cells and inputs given, and how it learns: preset "paper".

    The baseline learns by its own recipe, whose batch size no table changes.
    """
    if isinstance(model, Baseline):
        shape = data.train.x[0].shape
        return CNNConfig(*shape, len(data.classes), seed=seed), CNNLearning(epochs, seed=seed)
    circuit = CircuitConfig(
        mossy_fibers=data.train.x[0].numel(),
        granule_cells=model.granule_cells,
        purkinje_cells=len(data.classes),
        fan_in=model.fan_in,
        wiring=model.wiring,
        ltd=model.ltd,
        seed=seed,
        **circuit_settings("paper", model.wiring),
    )
    settings = preset("paper").learning | {"epochs": epochs, "batch_size": batch_size}
    return circuit, LearningConfig(**settings, seed=seed)


def tabulate(
    name: str,
    title: str,
    models: dict[str, Circuit | Baseline],
    draw: tables.Draw,
    data: Data,
    seeds: Sequence[int],
    out: str | Path,
    limit: int | None,
    sound_limit: int | None,
    epochs: int,
    batch_size: int,
    device: str,
    jobs: int,
) -> Reproduction:
    """Train and attack models by their names; write out/NAME.csv, .md and .png.

    All else is as `reproduce` says.
    """
    expect(len(seeds) > 0, "seeds", list(seeds), "at least one seed", "The paper has 0 and 123.")
    data.test.first(limit).first(sound_limit)  # what is no limit is told before the training
    trials = [
        Trial(
            model,
            *network(models[model], data, seed, epochs, batch_size),
            data,
            Path(out),
            EPS,
            limit,
            sound_limit,
            device,
        )
        for seed in seeds
        for model in models
    ]
    records = run_all(trials, jobs, name)
    lines = {
        model: Line(
            [record for trial, record in zip(trials, records, strict=True) if trial.model == model],
            printed(batch_size, models[model]) if data.name == "mnist" else None,
        )
        for model in models
    }
    title = f"{title} on {data.name}, batch {batch_size}"
    text, note, files = tables.write(name, title, lines, Path(out), draw)
    return Reproduction(text, note, (*files, trials[-1].record.parent), trials[-1])


def reproduce(
    name: str,
    data: Data,
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs/table2",
    limit: int | None = None,
    sound_limit: int | None = None,
    epochs: int = 10,
    batch_size: int | None = None,
    rows: Sequence[str] | None = None,
    device: str = "cpu",
    jobs: int = 1,
) -> Reproduction:
    """Train the models of a table, attack them, and write records, table and figures.

    name: one of `published.TABLES` or `published.FIGURES`; seeds: the paper's are 0 and 123; limit:
    attack only the first that many test pictures; sound_limit: make the sound attacks, which the
    paper has not, on the first that many of these; batch_size: of the circuits, None for the
    table's own; rows: None for all of the table's; device: as a `Cerebellum`'s; jobs: so many
    processes share the trials. On MNIST the paper's figures for a circuit and batch size stand
    beside ours, whichever table has them. Trials that have a record in out/records are not run
    again; a circuit's training that was interrupted goes on from its checkpoint in out/circuits,
    the baseline's begins anew; several calls, also of several processes, may work on one folder.
    Writes out/NAME.csv, .md, .png and, of a table, out/pictures.png.

    A figure runs the circuits of its table and draws their accuracies over their size. That figure
    2 is table 6 in panels a-c (no attack, FGSM, PGD) and figure 3 is table 7 likewise is our
    reading: we have the paper's numbers and not its drawings.

    Raises ArgumentError or CerebsimError (a record that cannot be read).
    """
    expect_choice(name, "name", (*TABLES, *FIGURES))
    drawn = FIGURES.get(name, name)
    table, number = TABLES[drawn], drawn.removeprefix("table")
    known = table.rows if name in TABLES else table.circuits
    rows = tuple(known) if rows is None else tuple(rows)
    for row in rows:
        expect_choice(row, "rows", tuple(known))
    expect(len(rows) > 0, "rows", list(rows), "at least one", "Leave it out for all.")
    models = {row: scaled(known[row], data) for row in rows}
    batch_size = table.batch_size if batch_size is None else batch_size
    settings = data, seeds, out, limit, sound_limit, epochs, batch_size, device, jobs
    if name in FIGURES:
        title = f"Figure {name[6:]}, as we read it: table {number}"
        return tabulate(name, title, models, tables.draw_figure, *settings)
    done = tabulate(name, f"Table {number}", models, tables.draw_table, *settings)
    # The last is the Cerebellum, where it is among the models of table 2.
    pictures = _draw_examples(done.last, Path(out) / "pictures.png")
    return replace(done, files=(*done.files, pictures))


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
