"""Floor 8: the paper's tables: its published numbers as data, and the recipes that repeat them.

"Evaluating Adversarial Robustness in Simulated Cerebellum" (Liu, Li, Chen). Every trial (a model
and a seed) is a record of `results`; tables and figures are made from the records alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import safetensors.torch

from . import plots, results
from .config import CircuitConfig, LearningConfig, preset
from .data import Data
from .errors import CerebsimError, expect, expect_choice
from .trials import LOSSES, Trial, circuit_settings

# Accuracies in percent. The table's first line, a "Baseline CNN" (99.2, 77.6, 8.4, 48.2, 0.0), is
# left out: the paper gives no architecture to repeat.
_COLUMNS = ("clean", "fgsm_0.1", "fgsm_0.3", "pgd_0.1", "pgd_0.3")
TABLE2 = {
    "Base": dict(zip(_COLUMNS, (96.5, 36.8, 18.1, 14.8, 1.2), strict=True)),
    "Base + LTD": dict(zip(_COLUMNS, (96.7, 44.2, 21.8, 14.5, 1.2), strict=True)),
    "Base + RC": dict(zip(_COLUMNS, (96.0, 48.3, 18.2, 17.6, 0.5), strict=True)),
    "Cerebellum": dict(zip(_COLUMNS, (96.1, 62.0, 23.4, 55.8, 4.9), strict=True)),
}
# Table 7, batch 1. Its FC rows repeat table 6's digit for digit: they are not batch-1 measurements.
TABLE7 = {
    "Base + RC": dict(zip(_COLUMNS, (97.0, 48.2, 19.2, 33.9, 3.3), strict=True)),
    "Cerebellum": dict(zip(_COLUMNS, (97.2, 89.0, 67.6, 95.2, 48.0), strict=True)),
}
EPS = (0.1, 0.3)
BUDGET, DIGITS_BUDGET = 4_800_000, 240_000
"""m (k + 2c): synapses that a model of table 2 may have."""

EXAMPLES = {"pgd": "PGD on MSE\n(the paper's)", "sound_margin": "PGD on margin"}
_ANATOMY = ("wiring", "fan_in", "granule_cells", "ltd")

NOTE = (
    "Accuracies in percent. FGSM and PGD as in the paper: they climb the MSE; PGD keeps the last "
    "of 40 steps of 0.01. Worst case: right when clean, under these attacks and under PGD on "
    f"{', '.join(LOSSES)} that keeps the best iterate at the smallest eps. "
    "The paper has no noise and no worst case."
)


@dataclass(frozen=True)
class Reproduction:
    """A table made from records, with a note; the files written; the last circuit's folder."""

    table: str
    note: str
    files: tuple[Path, ...]
    circuit: Path


def paper_circuit(
    data: Data, wiring: str, fan_in: int, ltd: bool, granule_cells: int, seed: int
) -> CircuitConfig:
    """A circuit under preset "paper" for these pictures, one Purkinje cell per class."""
    return CircuitConfig(
        mossy_fibers=data.train.x[0].numel(),
        granule_cells=granule_cells,
        purkinje_cells=len(data.classes),
        fan_in=fan_in,
        wiring=wiring,
        ltd=ltd,
        seed=seed,
        **circuit_settings("paper", wiring),
    )


def table2_circuits(data: Data, seed: int) -> dict[str, CircuitConfig]:
    """The four models of table 2 at one synapse budget m (k + 2c).

    The budget is the paper's 4.8 million (m = 200,000 at k = 4, 5,970 at k = d = 784), and a
    twentieth of it on the embedded digits, so that they take well under a minute.
    """
    budget = DIGITS_BUDGET if data.name == "digits" else BUDGET
    d, c = data.train.x[0].numel(), len(data.classes)

    def circuit(wiring: str, fan_in: int, ltd: bool) -> CircuitConfig:
        m = round(budget / (fan_in + 2 * c))
        return paper_circuit(data, wiring, fan_in, ltd, m, seed)

    return {
        "Base": circuit("full", d, ltd=False),
        "Base + LTD": circuit("full", d, ltd=True),
        "Base + RC": circuit("random", 4, ltd=False),
        "Cerebellum": circuit("random", 4, ltd=True),
    }


def reproduce_table2(
    data: Data,
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs/table2",
    limit: int | None = None,
    epochs: int = 10,
    batch_size: int = 50,
    models: Sequence[str] = tuple(TABLE2),
    device: str = "cpu",
) -> Reproduction:
    """Train the four models of table 2, attack them, and write records, table and figures.

    seeds: the paper's are 0 and 123; limit: attack only the first that many test pictures; models:
    which of the four; device: as a `Cerebellum`'s. On MNIST the paper's figures stand beside ours:
    table 2's, and with batch_size 1 table 7's.
    Trials that have a record in out/records are not run again; a training that was interrupted
    goes on from its checkpoint in out/circuits. Writes out/table2.csv, .md, .png and
    out/pictures.png. Raises ArgumentError or CerebsimError (a record that cannot be read).
    """
    expect(len(seeds) > 0, "seeds", list(seeds), "at least one seed", "The paper has 0 and 123.")
    for model in models:
        expect_choice(model, "models", tuple(TABLE2))
    expect(len(models) > 0, "models", list(models), "at least one", "Leave it out for all four.")
    data.test.first(limit)  # a limit that is none is told before anything is trained
    from tqdm import tqdm

    settings = preset("paper").learning | {"epochs": epochs, "batch_size": batch_size}
    trials = [
        Trial(model, circuit, learning, data, Path(out), EPS, limit, device)
        for seed in seeds
        for learning in [LearningConfig(**settings, seed=seed)]
        for model, circuit in table2_circuits(data, seed).items()
        if model in models
    ]
    records: dict[str, list[dict]] = {}
    with tqdm(trials, desc="table 2", unit="trial") as bar:
        for trial in bar:
            bar.set_postfix_str(f"{trial.model}, seed {trial.circuit.seed}")
            records.setdefault(trial.model, []).append(trial.run())
    tables = {50: TABLE2, 1: TABLE7} if data.name == "mnist" else {}
    published = tables.get(batch_size, {})
    title = f"Table 2 on {data.name}, batch {batch_size}"
    table, note, files = _write("table2", title, records, published, Path(out))
    last = trials[-1]  # the Cerebellum, where it is among the models
    pictures = _draw_examples(last, Path(out) / "pictures.png")
    return Reproduction(table, note, (*files, pictures, last.record.parent), last.folder)


def _write(
    name: str,
    title: str,
    records: dict[str, list[dict]],
    published: dict[str, dict[str, float]],
    out: Path,
) -> tuple[str, str, list[Path]]:
    """Write table (long CSV, wide Markdown) and figure of records, {model: one per seed}."""
    import pandas as pd

    columns = ["clean", *(f"{a}_{e:g}" for e in EPS for a in ("noise", "fgsm", "pgd", "worst"))]
    bars = {
        model: [_bar(found, published.get(model, {}), column) for column in columns]
        for model, found in records.items()
    }
    csv, md, png = files = [out / f"{name}.{ending}" for ending in ("csv", "md", "png")]
    long = [
        {
            "model": model,
            **{key: records[model][0]["recipe"]["circuit"][key] for key in _ANATOMY},
            "column": column,
            "paper": bar.paper,
            "ours": round(bar.mean, 4),
            "lowest": round(bar.low, 4),
            "highest": round(bar.high, 4),
            "difference": None if bar.paper is None else round(bar.mean - bar.paper, 4),
            "seeds": " ".join(str(found["recipe"]["circuit"]["seed"]) for found in records[model]),
        }
        for model in bars
        for column, bar in zip(columns, bars[model], strict=True)
    ]
    results.write_text(csv, pd.DataFrame(long).to_csv(index=False))
    table = results.markdown(
        ["model", "", *(_heading(column) for column in columns)],
        [line for model in bars for line in _lines(model, bars[model])],
    )
    note = f"{_protocol(next(iter(records.values())))} {NOTE}"
    results.write_text(md, f"# {title}\n\n{table}\n{note}\n")
    groups = {"no attack": ["clean"]}
    groups |= {f"eps = {eps:g}": ["noise", "FGSM", "PGD\n(paper's)", "worst\ncase"] for eps in EPS}
    plots.save(plots.accuracy_bars(title, groups, bars), png)
    return table, note, files


def _protocol(records: list[dict]) -> str:
    """What the records of one model say of training and test, as a sentence."""
    first, seeds = records[0], [record["recipe"]["circuit"]["seed"] for record in records]
    learning, data = first["recipe"]["learning"], first["recipe"]["data"]
    return (
        f"{learning['epochs']} epochs at batch {learning['batch_size']}, "
        f"seeds {' '.join(map(str, seeds))}, "
        f"the first {first['evaluation']['n']:,} of {data['n_test']:,} test pictures."
    )


def _bar(records: list[dict], published: dict[str, float], column: str) -> plots.Bar:
    ours = [100 * record["accuracy"][column] for record in records]
    return plots.Bar(mean(ours), min(ours), max(ours), published.get(column))


def _heading(column: str) -> str:
    attack, _, eps = column.partition("_")
    return f"{attack.upper() if attack in ('fgsm', 'pgd') else attack} {eps}".strip()


def _lines(model: str, bars: Sequence[plots.Bar]) -> list[list[str]]:
    """The lines of one model: the paper (where there is one), ours, spread, difference."""
    lines = [["ours", *(f"{bar.mean:.1f}" for bar in bars)]]
    if any(bar.high > bar.low for bar in bars):
        lines.append(["range", *(f"{bar.low:.1f}-{bar.high:.1f}" for bar in bars)])
    if any(bar.paper is not None for bar in bars):
        paper = ["" if bar.paper is None else f"{bar.paper:.1f}" for bar in bars]
        gap = ["" if bar.paper is None else f"{bar.mean - bar.paper:+.1f}" for bar in bars]
        lines = [["paper", *paper], *lines, ["difference", *gap]]
    return [[model if i == 0 else "", *line] for i, line in enumerate(lines)]


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
