"""Floor 11: the command that asks where the accuracies of table 7 come from.

Its fields are its flags.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .cli_make import ManyModels
from .data import load_data
from .study import CIRCUITS, LTD, TRAININGS, study
from .study_report import NOTE


@dataclass(frozen=True, kw_only=True)
class Study(ManyModels):
    """Settle table 7: vary training, LTD and attack one by one, and look where accuracy comes from.

    The same command goes on where it was stopped: a network on disk is not trained again.
    """

    circuits: tuple[Literal[tuple(CIRCUITS)], ...] = tuple(CIRCUITS)
    """Which circuits."""
    ltd: tuple[Literal[tuple(LTD)], ...] = tuple(LTD)
    """How they are centred."""
    trainings: tuple[Literal[tuple(TRAININGS)], ...] = tuple(TRAININGS)
    """How they learn."""
    seed: int = 0
    """Draws the synapses and orders the pictures."""
    limit: int | None = 1000
    """Attack only the first that many test pictures."""
    out: Path | None = None
    """Where everything goes. None: runs/study-DATA."""

    def run(self) -> None:
        data, out = load_data(self.data, self.data_dir), self.out or self.folder("study")
        chosen = self.circuits, self.ltd, self.trainings, self.seed, self.limit, self.epochs
        table, files = study(data, out, *chosen, self.device, self.jobs)
        print(f"{table}\n{textwrap.fill(NOTE, 100)}\n\nWritten:")
        for path in files:
            print(f"  {path}")
