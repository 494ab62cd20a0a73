"""Floor 0: what can be chosen. One dataclass is the Python API, the command line and the record.

Field names are the names used everywhere: in `Cerebellum(...)`, in `fit(...)`, as flags of the
command line (`--granule-cells`) and as keys of the JSON records.
"""

from dataclasses import dataclass
from typing import Literal

from .errors import expect, expect_choice, expect_integer, expect_number

WIRINGS = ("random", "local", "full")
RULES = ("rmsprop", "plain")


@dataclass(frozen=True)
class CircuitConfig:
    """The anatomy: with the seed it fixes every synapse that is not learned."""

    mossy_fibers: int
    """d, the number of inputs."""
    granule_cells: int
    """m, the number of granule cells."""
    purkinje_cells: int = 10
    """c, the number of outputs; 1 for a two-class task with targets -1 and +1."""
    fan_in: int = 4
    """k, inputs per granule cell; ignored by wiring "full", where k = d."""
    wiring: Literal["random", "local", "full"] = "random"
    """random: k inputs anywhere (RC); local: k neighbours; full: all d (FC)."""
    replacement: bool = False
    """Draw the inputs of a cell with replacement, as the paper's code does (random only)."""
    ltd: bool = True
    """Centre granule cells by a moving average of their responses."""
    threshold: float = 0.0
    """Firing threshold of every granule cell: h = relu(J^T x - threshold)."""
    initial_readout: Literal["normal", "zero"] = "normal"
    """W before learning: N(0, 1/m), as the paper's code, or zero."""
    seed: int = 0
    """Draws J and the initial W."""

    def __post_init__(self):
        for name in ("mossy_fibers", "granule_cells", "purkinje_cells"):
            expect_integer(getattr(self, name), name, 1, "Ask for at least one cell.")
        expect_choice(self.wiring, "wiring", WIRINGS)
        expect_choice(self.initial_readout, "initial_readout", ("normal", "zero"))
        if self.wiring == "full":
            object.__setattr__(self, "fan_in", self.mossy_fibers)
        expect_integer(self.fan_in, "fan_in", 1, "Give every granule cell at least one input.")
        expect(
            self.fan_in <= self.mossy_fibers or self.replacement,
            "fan_in",
            self.fan_in,
            f"at most mossy_fibers = {self.mossy_fibers}",
            "Lower fan_in, or pass replacement=True.",
        )
        expect(
            not self.replacement or self.wiring == "random",
            "replacement",
            self.replacement,
            f"False with wiring={self.wiring!r}",
            "Only wiring='random' draws inputs.",
        )
        expect_number(
            self.threshold, "threshold", "a finite number", lambda t: True, "0 is the paper's."
        )
        expect_integer(self.seed, "seed", 0, "Any whole number below 2**64 is a connectome.")
        expect(
            self.seed < 2**64, "seed", self.seed, "a number below 2**64", "Choose a smaller one."
        )


@dataclass(frozen=True)
class LearningConfig:
    """How W learns: the delta rule from the climbing-fibre error (paper eq. 3 and 4)."""

    epochs: int = 10
    batch_size: int = 50
    rule: Literal["rmsprop", "plain"] = "rmsprop"
    """rmsprop: the delta rule through RMSprop, as the paper; plain: the delta rule itself."""
    learning_rate: float | None = None
    """None: 0.5 / granule_cells, the paper's."""
    decay: float = 0.99
    """RMSprop's moving average of the squared gradient."""
    rms_eps: float = 1e-8
    """RMSprop's eps, outside the square root."""
    ltd_decay: float = 0.99
    """beta of the moving average mu <- beta mu + (1 - beta) mean_batch(h)."""
    ltd_update: Literal["before", "after", "exact"] = "before"
    """Update mu from the batch before it is subtracted from it (the paper's code), or after;
    exact: no moving average but the mean of h over all training pictures, taken before learning."""
    error: Literal["mean", "sum"] = "mean"
    """Gradient of the outputs: 2e/(Bc), the mean over batch and classes (the paper's code), or
    e/B, eq. 3 of the paper."""
    checkpoint: Literal["last", "best_test"] = "last"
    """Which epoch is kept. "best_test" chooses on the test set, as the paper's code does."""
    stop_at: float | None = None
    """Stop early at this test accuracy (0..1); the paper's code has 0.995."""
    seed: int = 0
    """Orders the pictures: epoch e has the order of (seed, e)."""

    def __post_init__(self):
        expect_integer(self.epochs, "epochs", 1, "Ask for at least one epoch.")
        expect_integer(self.batch_size, "batch_size", 1, "1 learns picture by picture.")
        expect_integer(self.seed, "seed", 0, "Any whole number orders the pictures.")
        expect_choice(self.rule, "rule", RULES)
        expect_choice(self.ltd_update, "ltd_update", ("before", "after", "exact"))
        expect_choice(self.error, "error", ("mean", "sum"))
        expect_choice(self.checkpoint, "checkpoint", ("last", "best_test"))
        positive, none = "a number > 0", "None is 0.5 / granule_cells."
        if self.learning_rate is not None:
            expect_number(
                self.learning_rate, "learning_rate", f"{positive}, or None", lambda v: v > 0, none
            )
        for name in ("decay", "ltd_decay"):
            share = "a number in [0, 1)"
            expect_number(getattr(self, name), name, share, lambda v: 0 <= v < 1, "0.99 is usual.")
        expect_number(self.rms_eps, "rms_eps", positive, lambda v: v > 0, "The paper has 1e-8.")
        if self.stop_at is not None:
            share = "an accuracy in (0, 1], or None"
            expect_number(self.stop_at, "stop_at", share, lambda v: 0 < v <= 1, "None never stops.")

    @property
    def beta(self) -> float:
        """The share of mu that a batch leaves: `ltd_decay`, or 1 where mu is exact and stays."""
        return 1.0 if self.ltd_update == "exact" else self.ltd_decay

    def rate(self, granule_cells: int) -> float:
        """The learning rate for m granule cells."""
        return 0.5 / granule_cells if self.learning_rate is None else self.learning_rate

    def error_scale(self, batch: int, purkinje_cells: int) -> float:
        """s in dL/dy = s (y - t), for a batch of this many pictures."""
        return 2 / (batch * purkinje_cells) if self.error == "mean" else 1 / batch


@dataclass(frozen=True)
class Preset:
    """Named settings of the three parts; what is not named keeps its default."""

    circuit: dict
    learning: dict
    attack: dict


PRESETS = {
    "default": Preset(circuit={}, learning={}, attack={}),
    # The authors' code where their text is silent; see docs in CONTRIBUTING.md.
    "paper": Preset(
        circuit={"replacement": True, "initial_readout": "normal"},
        learning={
            "rule": "rmsprop",
            "decay": 0.99,
            "rms_eps": 1e-8,
            "ltd_decay": 0.99,
            "ltd_update": "before",
            "error": "mean",
            "checkpoint": "best_test",
            "stop_at": 0.995,
        },
        attack={
            "loss": "mse",
            "alpha": 0.01,
            "steps": 40,
            "restarts": 1,
            "random_start": True,
            "clip_start": False,
            "keep": "last",
        },
    ),
}


def preset(name: str) -> Preset:
    """The preset of this name: "default" (sound) or "paper" (every quirk of the authors' code)."""
    expect_choice(name, "preset", tuple(PRESETS))
    return PRESETS[name]
