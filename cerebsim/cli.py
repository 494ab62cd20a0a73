"""Floor 12: the command line.

An error that cerebsim raises on purpose is one line on stderr and exit code 2; Ctrl-C says how to
go on and is exit code 130.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import tyro

from . import doctor
from .backends import use_backend
from .cli_examine import Analyze, Attack, Verify
from .cli_make import Backend, Reproduce, Scan, Train
from .cli_masking import Masking
from .cli_study import Study
from .cli_transfer import Transfer
from .config import preset
from .errors import CerebsimError
from .trials import circuit_settings


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
        | Annotated[Scan, tyro.conf.subcommand("scan")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train or Train())]
        | Annotated[Attack, tyro.conf.subcommand("attack")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Analyze, tyro.conf.subcommand("analyze")]
        | Annotated[Transfer, tyro.conf.subcommand("transfer")]
        | Annotated[Masking, tyro.conf.subcommand("masking")]
        | Annotated[Study, tyro.conf.subcommand("study")]
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
