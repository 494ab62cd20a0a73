"""Floor 5: one JSON file per trial; tables and figures are made from these files alone.

A record is {"format", "recipe", "environment", "started", ...what the trial found}. The recipe
(settings, seed, data with its checksum) says which trial it is; its hash names the file, so a trial
that exists is not run again. The environment (versions, machine, threads) says where it ran and is
no part of the name.
"""

import functools
import hashlib
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from .errors import CerebsimError
from .files import write_whole

FORMAT = 1


def canonical(recipe: dict) -> str:
    """The recipe as the one JSON text that equal recipes share: sorted keys, no spaces."""
    return json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)


def trial_path(folder: str | Path, recipe: dict) -> Path:
    """folder/<recipe["name"] as a slug>-<10 hex digits of the recipe's SHA-256>.json"""
    slug = re.sub(r"[^a-z0-9.]+", "-", str(recipe["name"]).lower()).strip("-")
    digest = hashlib.sha256(canonical(recipe).encode()).hexdigest()[:10]
    return Path(folder) / f"{slug}-{digest}.json"


def run_once(
    folder: str | Path, recipe: dict, run: Callable[[], dict], wait: bool = True
) -> dict | None:
    """The record of this recipe in the folder; `run()` finds what it holds if there is none.

    One process at a time runs a recipe: another that asks for it waits and then reads the record,
    or, with wait=False, gets None at once.
    """
    return run_once_at(trial_path(folder, recipe), recipe, run, wait)


def run_once_at(
    path: str | Path, recipe: dict, run: Callable[[], dict], wait: bool = True
) -> dict | None:
    """`run_once` with a file of the caller's choice, which must not hold another recipe."""
    path = Path(path)
    if path.exists():
        return _expected(path, recipe)
    from filelock import FileLock, Timeout

    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, blocking=wait):
            try:
                if not path.exists():
                    write_text(path, _run(recipe, run))
            finally:  # who waits opens the file anew at every try, so none holds a lock on this one
                lock.unlink(missing_ok=True)
    except Timeout:
        return None
    except OSError as error:
        raise CerebsimError(f"{path} cannot be written: {error}. Nothing was changed.") from error
    return _expected(path, recipe)


def _run(recipe: dict, run: Callable[[], dict]) -> str:
    started, clock = time.strftime("%Y-%m-%dT%H:%M:%S%z"), time.perf_counter()
    found = run()
    record = {
        "format": FORMAT,
        "recipe": recipe,
        "environment": environment(),
        "started": started,
        "seconds": round(time.perf_counter() - clock, 3),
        **found,
    }
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def _expected(path: Path, recipe: dict) -> dict:
    record = read(path)
    if canonical(record["recipe"]) != canonical(recipe):
        raise CerebsimError(
            f"{path} holds another trial: {_difference(record['recipe'], recipe)}. "
            "Choose another folder, or delete this one."
        )
    return record


def read(path: str | Path) -> dict:
    """The record in this file. Raises CerebsimError, naming the file, if it is not one."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}, this cerebsim reads {FORMAT}")
        record["recipe"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CerebsimError(
            f"{path} is not a readable record ({type(error).__name__}: {error}). Delete it to run "
            "the trial again."
        ) from error
    return record


def read_all(folder: str | Path) -> list[dict]:
    """All records of the folder, in the order of their file names."""
    return [read(path) for path in sorted(Path(folder).glob("*.json"))]


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of the text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all: whoever reads it sees the old content or the new one."""
    try:
        write_whole(Path(path), content)
    except OSError as error:
        raise CerebsimError(f"{path} cannot be written: {error}. Nothing was changed.") from error


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns padded so that the source is readable too."""
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "".join("| " + " | ".join(map(str.ljust, row, widths)) + " |\n" for row in cells)


def environment() -> dict:
    """What ran: versions, commit, machine, threads. The values are JSON."""
    return {
        "cerebsim": _version("cerebsim"),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout this package runs from ("-dirty" if changed), else None."""
    checkout = Path(__file__).parents[1]
    # Without .git beside the package, git would answer for whatever folder it is installed in.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run([*command, "--abbrev=40"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode().strip() or None


def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _difference(old: dict, new: dict) -> str:
    """The first setting in which two recipes differ, for a message."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
                return f"{key}: {_difference(old[key], new[key])}"
            return f"{key} is {old.get(key)} there, {new.get(key)} asked for"
    return "no difference"
