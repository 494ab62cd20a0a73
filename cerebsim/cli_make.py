"""Floor 10: the commands that make circuits: train one, a table of the paper, or a scan.

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
from .paper import Reproduction, reproduce
from .published import FIGURES, TABLES
from .scan import SCANS, scan
from .trials import train_once, train_record

Backend = Literal[("auto", *BACKENDS)]


@dataclass(frozen=True, kw_only=True)
class ManyModels:
    """The flags of a command that trains and attacks many models."""

    data: str = "digits"
    """digits, mnist or folder:PATH. The paper has mnist."""
    data_dir: str | None = None
    """The folder that holds MNIST/raw."""
    limit: int | None = None
    """Attack only the first that many test pictures."""
    epochs: int = 10
    jobs: int = 1
    """So many processes share the trials; started by hand in one folder they share them too."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto: a GPU where torch finds one."""
    backend: Backend | None = None
    """None: CEREBSIM_BACKEND of the environment, or auto."""

    again = "Every finished trial is kept: the same command goes on from there."

    def folder(self, name: str) -> Path:
        """Where everything goes unless the command line says otherwise."""
        return Path("runs") / f"{name}-{self.data.partition(':')[0]}"


@dataclass(frozen=True, kw_only=True)
class _Trials(ManyModels):
    """The flags of a table or a scan, and what it prints."""

    seeds: tuple[int, ...] = (0,)
    """One trial per model and seed. The paper has 0 and 123."""
    sound_limit: int | None = None
    """Of the pictures attacked, make the attacks that the paper has not only on the first ones."""

    def say(self, done: Reproduction, *following: str) -> None:
        """Print the table, its files and what to do next."""
        print(f"{done.table}\n{textwrap.fill(done.note, 100)}\n\nWritten:")
        for path in done.files:
            print(f"  {path}")
        print("Next:")
        for line in (f"cerebsim attack {done.circuit} --eps 0.02 0.05", *following):
            print(f"  {line}")


@dataclass(frozen=True, kw_only=True)
class Reproduce(_Trials):
    """Repeat a table or figure of the paper: train and attack its models, print ours beside its.

    That figure 2 is table 6 drawn over the circuits' size, in panels a-c (no attack, FGSM, PGD),
    and figure 3 is table 7, is our reading: we have the paper's numbers and not its drawings.

    The same command goes on where it was stopped: a trial on disk is not run again.
    """

    table: tyro.conf.Positional[Literal[(*TABLES, *FIGURES)]]
    """Which one."""
    out: Path | None = None
    """Where everything goes. None: runs/TABLE-DATA, where TABLE of a figure is the one it draws."""
    batch_size: int | None = None
    """None: the table's own, 50, or 1 in table 7 and figure 3."""
    rows: tuple[str, ...] | None = None
    """Which models, as the table names them, e.g. "RC + LTD k=4". None: all."""

    def run(self) -> None:
        data = load_data(self.data, self.data_dir)
        out = self.out or self.folder(FIGURES.get(self.table, self.table))
        limits, learned = (self.limit, self.sound_limit), (self.epochs, self.batch_size)
        settings = *limits, *learned, self.rows, self.device, self.jobs
        done = reproduce(self.table, data, self.seeds, out, *settings)
        mnist = "cerebsim reproduce table2 --data mnist --limit 1000    # the paper's own data"
        own = "cerebsim train --help                                  # a circuit of your own"
        self.say(done, *([mnist] if self.data == "digits" else []), own)


@dataclass(frozen=True, kw_only=True)
class Scan(_Trials):
    """Train and attack circuits of growing size: over the cells m, or over the fan-in k.

    The paper's sizes are the defaults, on the digits a twentieth of the cells.

    The same command goes on where it was stopped: a trial on disk is not run again, also where it
    was run for a table.
    """

    by: tyro.conf.Positional[Literal[tuple(SCANS)]]
    """width: over m; sparsity: over k, with m = 4,800,000 / (k + 2c)."""
    granule_cells: tuple[int, ...] = ()
    """m; in a sparsity scan one value for all k."""
    fan_in: tuple[int, ...] = ()
    """k; in a width scan one value for all m, and none is FC, where k = d."""
    ltd: bool = True
    """Centre granule cells by a moving average of their responses."""
    out: Path | None = None
    """Where everything goes. None: runs/scan-DATA."""
    batch_size: int = 50

    def run(self) -> None:
        data = load_data(self.data, self.data_dir)
        out, sizes = self.out or self.folder("scan"), (self.granule_cells, self.fan_in, self.ltd)
        limits, learned = (self.limit, self.sound_limit), (self.epochs, self.batch_size)
        settings = *limits, *learned, self.device, self.jobs
        done = scan(self.by, data, *sizes, self.seeds, out, *settings)
        self.say(done, "cerebsim scan --help    # other sizes")


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
