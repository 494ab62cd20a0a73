"""Floor 8: many trials, several processes, one folder.

Whoever takes a trial holds its lock, which the system takes back from a process that dies, however
it dies. So any number of processes, started here or by hand, share the trials of a folder: none is
lost and none is run twice.
"""

import multiprocessing
import os
import time
from collections.abc import Sequence

import torch
from tqdm import tqdm

from . import backends
from .errors import CerebsimError, expect_integer
from .trials import Trial

LOOK_SECONDS = 0.5  # how often the first process looks what the others have done


def run_all(trials: Sequence[Trial], jobs: int, title: str) -> list[dict]:
    """The records of all trials, in their order; those on disk are read, the others are run.

    jobs: processes; they divide torch's threads among them. Ctrl-C stops them all, each leaving
    what it has learned in a checkpoint. Raises `CerebsimError` where one of them failed.
    """
    expect_integer(jobs, "jobs", 1, "1 runs the trials one after another.")
    with tqdm(total=len(trials), desc=title, unit="trial") as bar:
        if jobs == 1:
            _work(trials, bar)
        else:
            _share(trials, jobs, bar)
    return [trial.run() for trial in trials]


def _work(trials: Sequence[Trial], bar: tqdm | None = None) -> None:
    """Runs what no other process runs, then waits for what the others have taken."""
    taken = []
    for trial in trials:
        if bar is not None:
            bar.set_postfix_str(f"{trial.model}, seed {trial.circuit.seed}")
        if trial.run(wait=False) is None:
            taken.append(trial)
        elif bar is not None:
            bar.update()
    for trial in taken:
        trial.run()
        if bar is not None:
            bar.update()


def _share(trials: Sequence[Trial], jobs: int, bar: tqdm) -> None:
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_worker, args=(trials, threads, backends.chosen()))
        for _ in range(jobs)
    ]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            time.sleep(LOOK_SECONDS)
            bar.update(sum(trial.record.exists() for trial in trials) - bar.n)
    finally:  # Ctrl-C has reached the workers too: they save what they have
        for worker in workers:
            worker.join()
    failed = [worker.exitcode for worker in workers if worker.exitcode != 0]
    if failed:
        raise CerebsimError(
            f"{len(failed)} of {jobs} processes failed (exit code {failed[0]}); their messages are "
            "above. What they finished is kept: the same command goes on from there."
        )


def _worker(trials: Sequence[Trial], threads: int, backend: str) -> None:
    torch.set_num_threads(threads)
    try:
        with backends.use_backend(backend):
            _work(trials)
    except KeyboardInterrupt:
        os._exit(130)  # said by the first process
