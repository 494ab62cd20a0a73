"""Floor 5: the delta rule over epochs, with checkpoints that go on bit for bit.

The order of the pictures in epoch e is a permutation drawn from (seed, e) alone, whole epochs run
inside one call of `ops.learn_`, and a checkpoint holds W, mu, the square average and the position,
so that a run that was cut short ends in the same bits as one that was not.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import checkpoint, ops
from .config import LearningConfig
from .errors import CerebsimError, LearningInterrupted, expect
from .labels import check_labels, decide, targets
from .wiring import Wired


@dataclass
class Circuit:
    """What learning changes, in place: W (c, m) and mu (m, or None without LTD); J stays."""

    wiring: Wired
    W: Tensor
    mu: Tensor | None


@dataclass
class History:
    """What happened, epoch by epoch; accuracies are shares in [0, 1]."""

    train_accuracy: list[float] = field(default_factory=list)
    """Of each picture just before it was learned, over the epoch."""
    test_accuracy: list[float | None] = field(default_factory=list)
    """After the epoch; None without test pictures."""
    seconds: list[float] = field(default_factory=list)
    """Learning and testing of the epoch, this machine's time."""
    epoch_kept: int = -1
    """The epoch, from 0, whose W and mu the network has; -1 before the first ends."""


@dataclass
class State:
    """Everything a run is between two batches; what a checkpoint holds."""

    tensors: dict[str, Tensor]
    """W, and where the settings have them mu, square_avg, and with "best_test" best_W, best_mu."""
    history: History
    epoch: int = 0
    done: int = 0
    """Pictures of this epoch that were learned."""
    correct: int = 0
    """How many of those were decided rightly."""
    elapsed: float = 0.0
    """Seconds spent on this epoch before an interruption."""
    finished: bool = False

    def progress(self) -> dict:
        """What a checkpoint says beside the tensors."""
        names = ("epoch", "done", "correct", "elapsed")
        return {"history": asdict(self.history)} | {name: getattr(self, name) for name in names}


def order_of(seed: int, epoch: int, pictures: int) -> Tensor:
    """The order of the pictures in an epoch, a function of (seed, epoch)."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(pictures))


def accuracy(circuit: Circuit, x: Tensor, y: Tensor, batch_size: int = 256) -> float:
    """Share of right decisions on pictures x (N, d) with labels y (N)."""
    right = 0
    for first in range(0, len(x), batch_size):
        at = slice(first, first + batch_size)
        right += int(
            (decide(ops.circuit(x[at], circuit.wiring, circuit.W, circuit.mu)) == y[at]).sum()
        )
    return right / len(x)


def mean_activity(wiring: Wired, x: Tensor, batch_size: int = 50) -> Tensor:
    """The mean (m) of h over pictures x (N, d), summed in float64; batch_size bounds the memory."""
    parts = (ops.granule(part, wiring) for part in x.split(batch_size))
    return sum(h.sum(0, dtype=torch.float64) for h in parts) / len(x)


@torch.no_grad()
def learn(
    circuit: Circuit,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None,
    config: LearningConfig,
    settings: dict,
    out: Path | None,
    progress: bool,
) -> History:
    """Runs `config.epochs` epochs from where `out` left off, and ends with the one to be kept.

    `settings` are stored with the checkpoint and must be the same when a run goes on. Raises
    `ArgumentError` for bad pictures or labels, or where `out` holds a run of other settings, and
    `CerebsimError` where the outputs overflow. On Ctrl-C saves and raises `KeyboardInterrupt`.
    """
    c = len(circuit.W)
    for name, pictures in (("train", train), ("test", test)):
        if pictures is not None:
            _check_pictures(name, *pictures, c)
    expect(
        config.checkpoint == "last" and config.stop_at is None or test is not None,
        "test",
        None,
        "test pictures, since checkpoint='best_test' or stop_at look at them",
        "Pass test=, or checkpoint='last' and stop_at=None.",
    )
    x, y = train
    pictures = checkpoint.checksum(x, y) if out else None
    settings = settings | {"learning": asdict(config), "pictures": pictures}
    state = _start(circuit, config, settings, out)
    if config.ltd_update == "exact" and circuit.mu is not None and state.epoch + state.done == 0:
        circuit.mu.copy_(mean_activity(circuit.wiring, x))
    rule = ops.Rule.of(config, circuit.W.shape[1], c)
    t = targets(y, c, x.dtype)
    with _interrupts_held() as pressed, _bar(progress, config.epochs * len(x)) as show:
        while not state.finished:
            began, before = time.perf_counter(), state.done

            def tick(done: int, before: int = before) -> None:
                show(state.epoch * len(x) + before + done)
                if pressed:
                    raise KeyboardInterrupt

            order = order_of(config.seed, state.epoch, len(x))[before:].to(x.device)
            W, mu, square_avg = circuit.W, circuit.mu, state.tensors.get("square_avg")
            arguments = x, t, circuit.wiring, W, mu, square_avg, rule, config.batch_size
            try:
                outputs = ops.learn_(*arguments, order=order, tick=tick)
            except LearningInterrupted as stop:
                _count(state, stop.y, y[order[: stop.done]])
                state.elapsed += time.perf_counter() - began
                _save(out, state, settings)
                raise
            _count(state, outputs, y[order])
            _end_epoch(circuit, test, config, state, len(x), began)
            _save(out, state, settings)
    _keep(circuit, config, state)
    if pressed:
        raise KeyboardInterrupt  # during the last epoch's test or save, which were not torn apart
    return state.history


def _check_pictures(name: str, x: Tensor, y: Tensor, c: int) -> None:
    same = len(x) == len(y)
    expect(same, name, f"{len(x)} pictures and {len(y)} labels", "as many of both", "Match them.")
    expect(len(x) > 0, name, "no pictures", "at least one", "Check the data set.")
    if not bool(torch.stack(x.aminmax()).isfinite().all()):  # a NaN comes through both
        odd = next(i for i, picture in enumerate(x) if not bool(picture.isfinite().all()))
        got = f"NaN or infinity in picture {odd}"
        expect(False, name, got, "finite pixels", "Clean the pictures.")
    check_labels(y, c, f"{name} labels")


def _start(circuit: Circuit, config: LearningConfig, settings: dict, out: Path | None) -> State:
    """The state that `out` holds, or a new one; the circuit's tensors are the state's."""
    tensors = {"W": circuit.W}
    if circuit.mu is not None:
        tensors["mu"] = circuit.mu
    if config.rule == "rmsprop":
        tensors["square_avg"] = torch.zeros_like(circuit.W)
    if out is None or not (out / checkpoint.NAME).exists():
        return State(tensors, History())
    saved, found = checkpoint.load(out)
    differ = _differences(found["settings"], settings)
    expect(
        not differ,
        "out",
        f"a run in {out} with other {', '.join(differ)}",
        "a new folder, or the run to go on with",
        "Choose another folder, or the same settings and pictures.",
    )
    for name, tensor in tensors.items():
        tensor.copy_(saved.pop(name))
    progress = found["progress"]
    history = History(**progress.pop("history"))
    state = State(tensors | saved, history, **progress)
    state.finished = state.epoch >= config.epochs or _stops(config, state.history)
    return state


def _differences(found: dict, wanted: dict) -> list[str]:
    """Names of settings that differ; a run may go on to more epochs than it was begun with."""
    names = []
    for part in wanted.keys() | found.keys():
        a, b = found.get(part), wanted.get(part)
        if isinstance(a, dict) and isinstance(b, dict):
            names += [
                key for key in a.keys() | b.keys() if key != "epochs" and a.get(key) != b.get(key)
            ]
        elif a != b:
            names.append(part)
    return sorted(names)


def _count(state: State, outputs: Tensor, labels: Tensor) -> None:
    if not bool(torch.isfinite(outputs).all()):
        raise CerebsimError(
            f"learning diverged in epoch {state.epoch}: outputs overflow. Lower learning_rate, or "
            "leave it out for 0.5 / granule_cells."
        )
    state.done += len(labels)
    state.correct += int((decide(outputs) == labels).sum())


def _end_epoch(
    circuit: Circuit, test, config: LearningConfig, state: State, pictures: int, began: float
) -> None:
    history = state.history
    history.train_accuracy.append(state.correct / pictures)
    history.test_accuracy.append(None if test is None else accuracy(circuit, *test))
    if config.checkpoint == "last":
        history.epoch_kept = state.epoch
    elif history.test_accuracy[-1] > max(history.test_accuracy[:-1], default=-1.0):
        history.epoch_kept = state.epoch
        state.tensors["best_W"] = circuit.W.clone()
        if circuit.mu is not None:
            state.tensors["best_mu"] = circuit.mu.clone()
    history.seconds.append(state.elapsed + time.perf_counter() - began)
    state.epoch, state.done, state.correct, state.elapsed = state.epoch + 1, 0, 0, 0.0
    state.finished = state.epoch >= config.epochs or _stops(config, history)


def _stops(config: LearningConfig, history: History) -> bool:
    return config.stop_at is not None and any(a >= config.stop_at for a in history.test_accuracy)


def _keep(circuit: Circuit, config: LearningConfig, state: State) -> None:
    if config.checkpoint == "best_test":
        circuit.W.copy_(state.tensors["best_W"])
        if circuit.mu is not None:
            circuit.mu.copy_(state.tensors["best_mu"])


def _save(out: Path | None, state: State, settings: dict) -> None:
    if out is not None:
        facts = {"settings": settings, "progress": state.progress()}
        checkpoint.save(out, state.tensors, facts)


@contextmanager
def _interrupts_held() -> Iterator[list]:
    """Ctrl-C fills the list instead of raising, so that no batch, test or save is torn apart."""
    pressed: list = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # signals reach the main thread only
        return
    old = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, old)


@contextmanager
def _bar(progress: bool, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over all epochs, on a terminal only; yields show(pictures done)."""
    if not progress:
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=" pictures", desc="learning", disable=None, leave=None) as bar:
        yield lambda done: bar.update(done - bar.n)
