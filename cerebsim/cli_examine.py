"""Floor 11: the commands that examine a circuit that was made: attack, verify, analyze.

One dataclass per command; its fields are the flags.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from . import checkpoint, plots, results
from .adversarial import AdversarialSet, verify
from .analysis import Layer, analyze
from .autoattack import AutoAttack
from .cli_make import Backend
from .data import Data, load_data
from .errors import CerebsimError, expect
from .labels import check_labels, decide
from .model import Cerebellum
from .square import Square
from .trials import LOSSES, attack_all, load, suite, train_record


@dataclass(frozen=True)
class Attack:
    """Attack a trained circuit: noise, FGSM and PGD as in the paper, and the worst case."""

    run_folder: tyro.conf.Positional[Path]
    """The --out of the training."""
    eps: tuple[float, ...] = (0.1, 0.3)
    """Greatest change of a pixel, on the scale 0..1."""
    loss: tuple[Literal["mse", "ce", "margin", "dlr"], ...] = LOSSES
    """What the sound PGD climbs, each for itself; the worst case is over all."""
    strong: bool = False
    """Also Square and AutoAttack (pip install cerebsim[attacks]), which take many times as long."""
    data: str | None = None
    """None: the data the circuit was trained with."""
    data_dir: str | None = None
    """None: where they were found then."""
    limit: int | None = None
    """Attack only the first that many test pictures."""
    save: Path | None = None
    """Also write the pictures of the worst case to this file, for `cerebsim verify`."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "Nothing of this attack is kept: the same command begins it anew."

    def run(self) -> None:
        net = load(self.run_folder, self.device)
        data = data_of(self.run_folder, self.data, self.data_dir)
        attacks = suite(self.eps, self.loss)
        if self.strong:
            attacks |= {"square": Square(self.eps), "autoattack": AutoAttack(self.eps)}
        recipe = {
            "name": f"attack {data.name}",
            "circuit": digest(self.run_folder),
            "attacks": {name: asdict(attack) for name, attack in attacks.items()},
            "limit": self.limit,
            "data": data.describe(),
        }
        folder = self.run_folder / "attacks"
        pictures = data.test.first(self.limit)

        def attack() -> dict:
            return attack_all(net, pictures, attacks, self.save)

        record = results.run_once(folder, recipe, attack)
        if self.save is not None and not self.save.exists():  # the record was there already
            attack()
        accuracy = record["accuracy"]
        lines = [["no attack", *(f"{100 * accuracy['clean']:.2f}" for _ in self.eps)]]
        for attack in (*attacks, "worst"):
            cells = [f"{100 * accuracy[f'{attack}_{eps:g}']:.2f}" for eps in self.eps]
            lines.append([_LABELS[attack], *cells])
        print(f"Accuracy in percent on {len(pictures):,} test pictures of {data.name}:\n")
        print(results.markdown(["attack", *(f"eps {eps:g}" for eps in self.eps)], lines))
        print(f"Record: {results.trial_path(folder, recipe)}")
        if self.save is not None:
            print(f"Check the pictures: cerebsim verify {self.save} --model {self.run_folder}")


@dataclass(frozen=True)
class Verify:
    """Check attacked pictures from their file alone: distance, bounds, and what a circuit sees."""

    file: tyro.conf.Positional[Path]
    """From `cerebsim attack --save`, or from AdversarialSet.save."""
    model: Path
    """The --out of a training."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "The same command begins anew."

    def run(self) -> None:
        net, claimed = load(self.model, self.device), AdversarialSet.load(self.file)
        device = next(net.parameters()).device

        @torch.no_grad()
        def right(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            logits = torch.cat([net(part.to(device)).cpu() for part in x.split(256)])
            check_labels(y, logits.shape[1], "labels of the file")
            return decide(logits) == y

        claims = verify(claimed, right)
        clean = float(right(claimed.x, claimed.y).double().mean())
        rows = [["clean", "", "", f"{100 * clean:.2f}"]]
        for claim in claims:
            pixels = f"{claim.low:.6g}..{claim.high:.6g}"
            rows.append(
                [f"{claim.eps:g}", f"{claim.distance:.7f}", pixels, f"{100 * claim.accuracy:.2f}"]
            )
        print(f"{len(claimed.x):,} pictures, recomputed from {self.file}:\n")
        print(results.markdown(["eps", "largest change", "pixels", "accuracy, %"], rows))
        faults = [f"eps {claim.eps:g}: {fault}" for claim in claims for fault in claim.faults]
        if faults:
            raise CerebsimError(f"{self.file} is no attack: {'; '.join(faults)}")


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
    "square": "Square, without any gradient",
    "autoattack": "AutoAttack, standard",
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
