"""Floor 10: the commands that make circuits: train one, or a whole table of the paper.

One dataclass per command; its fields are the flags.
"""

import textwrap
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import tyro

from .backends import BACKENDS
from .config import CircuitConfig, LearningConfig
from .data import load_data
from .paper import reproduce
from .published import TABLES
from .trials import train_once, train_record

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
