"""Floor 11: the command that examines whether a robust accuracy can be believed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from . import masking, masking_report, results
from .attacks import PGD
from .cli_examine import data_of, digest
from .cli_make import Backend
from .config import preset
from .errors import expect
from .masking_case import Effort
from .trials import load

QUICK, FULL = 1_000, 10_000


@dataclass(frozen=True)
class Masking:
    """Say whether the robust accuracy that an attack reports can be believed: 17 checks."""

    run_folder: tyro.conf.Positional[Path]
    """The --out of the training."""
    attack: Literal["paper", "margin"] = "margin"
    """paper: PGD on mse with 40 steps of 0.01, the last iterate; margin: our PGD."""
    eps: float = 0.1
    """Greatest change of a pixel, on the scale 0..1."""
    full: bool = False
    """10,000 test pictures and not the first 1,000."""
    limit: int | None = None
    """That many test pictures, whatever --full says."""
    sources: tuple[Path, ...] = ()
    """Other networks, at least 3, whose pictures are tried on this one. None: trained here."""
    data: str | None = None
    """None: the data the circuit was trained with."""
    data_dir: str | None = None
    """None: where they were found then."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "Every finished check is kept: the same command goes on from there."

    def run(self) -> None:
        net = load(self.run_folder, self.device)
        data = data_of(self.run_folder, self.data, self.data_dir)
        limit = self.limit if self.limit is not None else FULL if self.full else QUICK
        expect(
            self.eps > 0, "eps", self.eps, "a number > 0", "At eps 0 there is nothing to examine."
        )
        settings = preset("paper").attack if self.attack == "paper" else {}
        attack, effort = PGD(self.eps, **settings), Effort()
        pictures = data.test.first(limit)
        recipe = {
            "name": f"masking {data.name} {self.attack} eps {self.eps:g}",
            "circuit": digest(self.run_folder),
            "attack": asdict(attack),
            "effort": asdict(effort),
            "sources": {str(path): digest(path) for path in self.sources},
            "limit": limit,
            "data": data.describe(),
        }
        folder = self.run_folder / "masking"

        def examine() -> dict:
            others = {str(path): load(path, self.device) for path in self.sources}
            with tqdm(total=len(masking.CHECKS), desc="masking", unit="check") as bar:

                def kept(name: str, check: Callable[[], dict]) -> dict:
                    found = results.run_once(folder / "checks", recipe | {"name": name}, check)
                    bar.update()
                    return found

                return masking.examine(
                    net,
                    pictures,
                    attack,
                    sources=others,
                    data=data,
                    effort=effort,
                    progress=bar.set_postfix_str,
                    kept=kept,
                ).as_dict()

        report = masking.Report.from_dict(results.run_once(folder, recipe, examine))
        path = results.trial_path(folder, recipe)
        title = f"{self.run_folder.name}, {len(pictures):,} test pictures of {data.name}"
        pdf = masking_report.save(report, title, path.with_suffix(".pdf"))
        print(f"{title}:\n\n{report}\n\nRecord: {path}\nReport: {pdf}")
