"""Floor 11: the command that shows pictures made on one network to the others.

Its fields are its flags.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from . import plots, results, transfer
from .attacks import PGD
from .cli_examine import data_of, digest
from .cli_make import Backend
from .errors import expect
from .trials import load


@dataclass(frozen=True)
class Transfer:
    """Attack every network by PGD on its margin and show the pictures to all: who fools whom?"""

    run_folders: tyro.conf.Positional[tuple[Path, ...]]
    """The --out of two trainings or more, or folders in the circuits of a table."""
    eps: float = 0.1
    """Greatest change of a pixel, on the scale 0..1."""
    limit: int | None = None
    """The first that many test pictures."""
    data: str | None = None
    """None: the data the first network was trained with."""
    data_dir: str | None = None
    """None: where they were found then."""
    out: Path = Path("runs/transfer")
    """Where record and figure go."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "Nothing of this matrix is kept: the same command begins it anew."

    def run(self) -> None:
        folders = _named(self.run_folders)
        attack = PGD(self.eps, loss="margin")
        nets = {name: load(folder, self.device) for name, folder in folders.items()}
        data = data_of(self.run_folders[0], self.data, self.data_dir)
        pictures = data.test.first(self.limit)
        recipe = {
            "name": f"transfer {data.name}",
            "networks": {name: digest(folder) for name, folder in folders.items()},
            "attack": asdict(attack),
            "limit": self.limit,
            "data": data.describe(),
        }

        def show() -> dict:
            total = len(nets) * len(pictures)
            with tqdm(total=total, desc="PGD", unit="picture", leave=False, disable=None) as bar:
                return asdict(transfer.matrix(nets, pictures, attack, progress=bar.update))

        record = results.run_once(self.out, recipe, show)
        found = transfer.Transfer(  # in the order of this command line
            {name: record["clean"][name] for name in nets},
            {name: record["attacked"][name] for name in nets},
        )
        title = (
            f"{len(pictures):,} test pictures of {data.name}, PGD on the margin, eps {self.eps:g}"
        )
        path = results.trial_path(self.out, recipe)
        plots.save(transfer.draw(title, found), path.with_suffix(".png"))
        rows = [
            [source, *(f"{100 * accuracy[target]:.2f}" for target in nets)]
            for source, accuracy in {"no attack": found.clean, **found.attacked}.items()
        ]
        print(f"Accuracy in percent, {title}:\n")
        print(results.markdown(["made on, shown to", *nets], rows))
        print(f"Record: {path}\nFigure: {path.with_suffix('.png')}")


def _named(folders: tuple[Path, ...]) -> dict[str, Path]:
    """The folders by their last names, or by their paths where two have the same name."""
    distinct = len({folder.resolve() for folder in folders})
    expect(
        len(folders) >= 2,
        "run_folders",
        f"{len(folders)} folder{'' if len(folders) == 1 else 's'}",
        "at least two",
        "Name a source and a target.",
    )
    expect(
        distinct == len(folders),
        "run_folders",
        "one folder twice",
        "different folders",
        "Name each network once.",
    )
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return dict(zip(names, folders, strict=True))
