"""Floor 9: the command line. One dataclass per command; its fields are the flags.

An error that cerebsim raises on purpose is one line on stderr and exit code 2; Ctrl-C says how to
go on and is exit code 130.
"""

import hashlib
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import checkpoint, doctor, plots, results
from .analysis import Layer, analyze
from .backends import BACKENDS, use_backend
from .config import CircuitConfig, LearningConfig, preset
from .data import Data, load_data
from .errors import CerebsimError, expect
from .model import Cerebellum
from .paper import reproduce
from .published import TABLES
from .trials import LOSSES, attack_all, circuit_settings, suite, train_once, train_record

Backend = Literal[("auto", *BACKENDS)]


@dataclass(frozen=True)
class Reproduce:
    """Repeat a table of the paper: train its models, attack them, print ours beside the paper's.

    The same command goes on where it was stopped: a trial on disk is not run again.
    """

    table: tyro.conf.Positional[Literal[tuple(TABLES)]]
    """Which one."""
    data: str = "digits"
    """digits, mnist or folder:PATH. The paper has mnist."""
    data_dir: str | None = None
    """The folder that holds MNIST/raw."""
    seeds: tuple[int, ...] = (0,)
    """One trial per model and seed. The paper has 0 and 123."""
    limit: int | None = None
    """Attack only the first that many test pictures."""
    out: Path | None = None
    """Where everything goes. None: runs/TABLE-DATA."""
    epochs: int = 10
    batch_size: int | None = None
    """None: the table's own, 50, or 1 in table 7."""
    rows: tuple[str, ...] | None = None
    """Which models, as the table names them, e.g. "RC + LTD k=4". None: all."""
    jobs: int = 1
    """So many processes share the trials; started by hand in one folder they share them too."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "Every finished trial is kept: the same command goes on from there."

    def run(self) -> None:
        data = load_data(self.data, self.data_dir)
        out = self.out or Path("runs") / f"{self.table}-{self.data.partition(':')[0]}"
        settings = self.limit, self.epochs, self.batch_size, self.rows, self.device, self.jobs
        done = reproduce(self.table, data, self.seeds, out, *settings)
        print(f"{done.table}\n{textwrap.fill(done.note, 100)}\n\nWritten:")
        for path in done.files:
            print(f"  {path}")
        print("Next:")
        print(f"  cerebsim attack {done.circuit} --eps 0.02 0.05")
        if self.data == "digits":
            print("  cerebsim reproduce table2 --data mnist --limit 1000    # the paper's own data")
        print("  cerebsim train --help                                  # a circuit of your own")


@dataclass(frozen=True)
class Train(LearningConfig, CircuitConfig):
    """Train a circuit. The same command again goes on where it was stopped."""

    mossy_fibers: tyro.conf.Suppress[int] = 0
    granule_cells: int = 200_000
    """m, the number of granule cells."""
    purkinje_cells: int | None = None
    """c, the number of outputs. None: one for each class; 1 will do for two classes."""
    seed: int = 0
    """Draws the synapses and orders the pictures."""
    data: str = "digits"
    """digits, mnist or folder:PATH."""
    data_dir: str | None = None
    """The folder that holds MNIST/raw."""
    out: Path = Path("runs/cerebellum")
    """Where checkpoint and record go."""
    preset: Literal["default", "paper"] = "default"
    """paper: every setting that is not given is as in the paper's own code."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    @property
    def again(self) -> str:
        return f"{self.out} keeps what was learned: the same command goes on from there."

    def __post_init__(self):
        """Checks nothing yet: mossy_fibers is known when the data are."""

    def run(self) -> None:
        data = load_data(self.data, self.data_dir)
        settings = asdict(self) | {"mossy_fibers": data.train.x[0].numel()}
        if self.purkinje_cells is None:
            settings["purkinje_cells"] = len(data.classes)
        circuit, learning = (
            config(**{field.name: settings[field.name] for field in fields(config)})
            for config in (CircuitConfig, LearningConfig)
        )
        done = train_record(self.out).exists()
        _, record = train_once(data, circuit, learning, self.out, self.device)
        history = record["history"]
        kept, epochs = history["epoch_kept"], len(history["test_accuracy"])
        right = 100 * history["test_accuracy"][kept]
        print(f"{self.out} {'was finished already' if done else 'is finished'}: of {epochs} epochs")
        print(
            f"number {kept + 1} is kept, {right:.2f} % right on {len(data.test):,} test pictures."
        )
        print(f"Next: cerebsim attack {self.out} --eps 0.1 0.3")


@dataclass(frozen=True)
class Attack:
    """Attack a trained circuit: noise, FGSM and PGD as in the paper, and the worst case."""

    run_folder: tyro.conf.Positional[Path]
    """The --out of the training."""
    eps: tuple[float, ...] = (0.1, 0.3)
    """Greatest change of a pixel, on the scale 0..1."""
    loss: tuple[Literal["mse", "ce", "margin", "dlr"], ...] = LOSSES
    """What the sound PGD climbs, each for itself; the worst case is over all."""
    data: str | None = None
    """None: the data the circuit was trained with."""
    data_dir: str | None = None
    """None: where they were found then."""
    limit: int | None = None
    """Attack only the first that many test pictures."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "Nothing of this attack is kept: the same command begins it anew."

    def run(self) -> None:
        net = Cerebellum.load(self.run_folder, self.device)
        data = data_of(self.run_folder, self.data, self.data_dir)
        attacks = suite(self.eps, self.loss)
        recipe = {
            "name": f"attack {data.name}",
            "circuit": digest(self.run_folder),
            "attacks": {name: asdict(attack) for name, attack in attacks.items()},
            "limit": self.limit,
            "data": data.describe(),
        }
        folder = self.run_folder / "attacks"
        pictures = data.test.first(self.limit)
        record = results.run_once(folder, recipe, lambda: attack_all(net, pictures, attacks))
        accuracy = record["accuracy"]
        lines = [["no attack", *(f"{100 * accuracy['clean']:.2f}" for _ in self.eps)]]
        for attack in (*attacks, "worst"):
            cells = [f"{100 * accuracy[f'{attack}_{eps:g}']:.2f}" for eps in self.eps]
            lines.append([_LABELS[attack], *cells])
        print(f"Accuracy in percent on {len(pictures):,} test pictures of {data.name}:\n")
        print(results.markdown(["attack", *(f"eps {eps:g}" for eps in self.eps)], lines))
        print(f"Record: {results.trial_path(folder, recipe)}")


def data_of(run_folder: Path, data: str | None, data_dir: str | None) -> Data:
    """The data of this name, or those the circuit in the folder was trained with."""
    if data is not None:
        return load_data(data, data_dir)
    path = train_record(run_folder)
    expect(
        path.exists(),
        "data",
        f"nothing, and there is no {path} that would name them",
        "the data to use",
        "Pass --data digits, mnist or folder:PATH.",
    )
    trained = results.read(path)
    return load_data(trained["recipe"]["data"]["name"], data_dir or trained["data_dir"])


def digest(run_folder: Path) -> str:
    """Which circuit the folder holds: the SHA-256 of its checkpoint."""
    return hashlib.sha256((run_folder / checkpoint.NAME).read_bytes()).hexdigest()


_LABELS = {
    "noise": "noise, uniform",
    "fgsm": "FGSM on mse, as the paper",
    "pgd": "PGD on mse, as the paper",
    "sound_mse": "PGD on mse, best iterate",
    "sound_ce": "PGD on ce, best iterate",
    "sound_margin": "PGD on margin, best iterate",
    "sound_dlr": "PGD on dlr, best iterate",
    "worst": "worst case over all of these",
}


@dataclass(frozen=True)
class Analyze:
    """Measure what the granule layer does to pictures: dimension, sparseness, correlation."""

    run_folder: tyro.conf.Positional[Path]
    """The --out of the training."""
    data: str | None = None
    """None: the data the circuit was trained with."""
    data_dir: str | None = None
    """None: where they were found then."""
    limit: int | None = 1000
    """The first that many test pictures; the dimension can be no greater."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "Nothing of this analysis is kept: the same command begins it anew."

    def run(self) -> None:
        net = Cerebellum.load(self.run_folder, self.device)
        data = data_of(self.run_folder, self.data, self.data_dir)
        pictures = data.test.first(self.limit)
        recipe = {
            "name": f"analyze {data.name}",
            "circuit": digest(self.run_folder),
            "limit": self.limit,
            "data": data.describe(),
        }
        folder = self.run_folder / "analysis"

        def layers() -> dict:
            return {"layers": {name: asdict(v) for name, v in analyze(net, pictures.x).items()}}

        record = results.run_once(folder, recipe, layers)
        found = {name: Layer(**layer) for name, layer in record["layers"].items()}
        rows = [
            [text, *(form(layer) for layer in found.values())] for text, form in _FIGURES.items()
        ]
        title = f"{len(pictures):,} test pictures of {data.name}"
        path = results.trial_path(folder, recipe).with_suffix(".png")
        plots.save(plots.layer_spectra(title, found, rows), path)
        print(f"{title}:\n\n{results.markdown(['', *found], rows)}")
        print(f"Record: {results.trial_path(folder, recipe)}\nFigure: {path}")


_FIGURES = {
    "cells": lambda layer: f"{layer.n:,}",
    "dimension": lambda layer: f"{layer.dimension:.1f}",
    "population sparseness": lambda layer: f"{layer.sparseness:.3f}",
    "active": lambda layer: f"{layer.active:.1%}",
    "mean absolute correlation": lambda layer: f"{layer.correlation:.3f} of {layer.paired:,} cells",
}


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, what is missing and why, and how fast this machine is."""

    data_dir: str | None = None
    """Also look for MNIST in this folder."""
    backend: Backend | None = None
    """What the speed is measured with. None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "The same command begins anew."

    def run(self) -> None:
        for line in doctor.examine(self.data_dir):
            print(line, flush=True)


def parse(words: Sequence[str] | None, train: Train | None = None):
    """The command of a command line; `train` has the defaults of the command train."""
    commands = (
        Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train or Train())]
        | Annotated[Attack, tyro.conf.subcommand("attack")]
        | Annotated[Analyze, tyro.conf.subcommand("analyze")]
        | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    )
    return tyro.cli(
        commands,
        prog="cerebsim",
        description="A simulated cerebellum that learns pictures and is attacked.",
        args=words,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (None: this process's) and return its exit code."""
    command = parse(words)
    if isinstance(command, Train) and command.preset != "default":
        circuit = circuit_settings(command.preset, command.wiring)
        command = parse(words, Train(**circuit, **preset(command.preset).learning))
    try:
        with use_backend(command.backend) if command.backend else nullcontext():
            command.run()
    except CerebsimError as error:
        print(f"cerebsim: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ncerebsim: stopped. {command.again}", file=sys.stderr)
        return 130
    return 0
