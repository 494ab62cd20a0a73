"""Floor 8: what the checks on gradient masking share: the network, the pictures, the attack.

Accuracies are shares 0..1 here; a record and a report print them in percent.
"""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from .ascent import HasLossGradient, input_gradient
from .attacks import PGD, AttackResult
from .backends import use_backend
from .data import Data
from .labels import decide
from .losses import LOSSES, loss_function


class NotRun(Exception):
    """A check that makes no sense here, or lacks something; its message is the reason."""


@dataclass(frozen=True)
class Effort:
    """How long the checks search. The defaults are the protocol's; less is for trying out."""

    forwards: int = 5
    """Check 0: forward passes that must agree."""
    gradients: int = 256
    """Check 1: pictures whose gradient is compared with float64."""
    doublings: int = 5
    """Check 4: iterations go from 5 to 5 * 2^doublings."""
    restarts: int = 20
    """Check 6."""
    queries: int = 5000
    """Check 11: forward passes of the Square attack, a picture."""
    draws: int = 1000
    """Check 12: draws of each kind of noise, a picture."""
    source_cells: int = 20_000
    """Check 13: granule cells of the sources that are trained on the spot, at most."""
    source_epochs: int = 2
    """Check 13: their epochs."""
    binarized: int = 64
    """Check 15: pictures for which a readout is fitted."""
    inner_points: int = 999
    """Check 15: points inside the ball that it separates from one on the boundary."""
    landscapes: int = 16
    """Check 16: pictures whose landscape is measured."""
    grid: int = 21
    """Check 16: points on a side of a landscape."""


@dataclass
class Case:
    """One network, one set of pictures x (N, ...) with labels y (N,), one attack at one eps."""

    net: nn.Module
    x: Tensor
    y: Tensor
    attack: PGD
    tolerance: float = 0.02
    """By how much accuracies may differ by chance: 2 points at 1,000 pictures, 0.5 at 10,000."""
    effort: Effort = field(default_factory=Effort)
    sources: dict[str, nn.Module] = field(default_factory=dict)
    """Check 13: other networks, by name, whose adversarial pictures are tried on this one."""
    data: Data | None = None
    """Check 13: what sources are trained with where none are given."""
    batch_size: int = 256
    progress: Callable[[str], object] | None = None

    def __post_init__(self):
        self.fooled = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        self.tried: dict[str, float] = {}

    @property
    def eps(self) -> float:
        return self.attack.eps

    @cached_property
    def clean(self) -> Tensor:
        """Logits (N, c) of the pictures as they are."""
        return self.logits(self.x)

    @cached_property
    def clean_accuracy(self) -> float:
        right = decide(self.clean) == self.y
        self.fooled |= ~right
        return share(right)

    @cached_property
    def result(self) -> AttackResult:
        """What the attack under examination does."""
        return self.run(self.attack, "the attack examined")

    @cached_property
    def trace(self) -> "Trace":
        """The attack's first restart step by step, also beyond an early success."""
        return Trace.of(self)

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses that outputs of this number have."""
        return tuple(name for name in LOSSES if name != "dlr" or self.clean.shape[1] >= 3)

    def climbing(self, loss: str) -> AttackResult:
        """The same attack on another loss; run once."""
        if loss == self.attack.loss:
            return self.result
        if loss not in self._climbed:
            self._climbed[loss] = self.run(replace(self.attack, loss=loss), f"PGD on {loss}")
        return self._climbed[loss]

    @cached_property
    def _climbed(self) -> dict[str, AttackResult]:
        return {}

    def run(self, attack, name: str | None = None, net: nn.Module | None = None) -> AttackResult:
        """An attack on all pictures. With a name, what it fools counts for the worst case."""
        result = attack.attack(net or self.net, self.x, self.y, batch_size=self.batch_size)
        if name is not None:
            self.count(name, result.success)
        return result

    def count(self, name: str, fooled: Tensor) -> None:
        """An attack at this eps fooled these pictures (N,)."""
        self.fooled |= fooled
        self.tried[name] = share(~fooled)

    def recall(self, tried: dict[str, float], fooled: list[int]) -> None:
        """What was counted up to the end of a check, now or before the examination was stopped."""
        self.tried = dict(tried)
        self.fooled[fooled] = True

    def at(self, eps: float) -> PGD:
        """The attack at another eps; a fixed step grows with it, so that it can cross the ball."""
        alpha = self.attack.alpha
        if alpha is not None and eps > 0 and self.eps > 0:
            alpha *= eps / self.eps
        return replace(self.attack, eps=eps, alpha=alpha)

    @torch.no_grad()
    def logits(self, x: Tensor, net: nn.Module | None = None) -> Tensor:
        return torch.cat([(net or self.net)(part) for part in x.split(self.batch_size)])

    def say(self, what: str) -> None:
        if self.progress is not None:
            self.progress(what)


def share(wanted: Tensor) -> float:
    """Share of True, 0..1; 0 where there is none to choose from."""
    return wanted.double().mean().item() if wanted.numel() else 0.0


@contextmanager
def exactly(net: nn.Module):
    """The network in float64 by the definition: a copy, and the backend `reference` to serve it."""
    with use_backend("reference"):
        yield copy.deepcopy(net).double().eval()


def rescaled(net: nn.Module, scale: float = 1.0, shift: "float | Tensor" = 0.0) -> nn.Module:
    """scale * net(x) + shift: other numbers, the same decisions where shift is one number."""
    # Only what is fused inside may say so: an attack records the steps of such a model on a GPU.
    return (_FusedRescaled if isinstance(net, HasLossGradient) else _Rescaled)(net, scale, shift)


class _Rescaled(nn.Module):
    def __init__(self, net: nn.Module, scale: float, shift: "float | Tensor"):
        super().__init__()
        self.net, self.scale, self.shift = net, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale + self.shift


class _FusedRescaled(_Rescaled):
    def loss_gradient(
        self, x: Tensor, output_gradient: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        def inner(logits: Tensor) -> Tensor:
            return output_gradient(logits * self.scale + self.shift) * self.scale

        logits, gradient = self.net.loss_gradient(x, inner)
        return logits * self.scale + self.shift, gradient


class _Watched(nn.Module):
    """The network, which notes what every step of an attack sees."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss_gradient(
        self, x: Tensor, output_gradient: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        logits, gradient = input_gradient(self.net, x, output_gradient)
        flat = gradient.flatten(1)
        norms, zeros = flat.norm(dim=1), (flat == 0).double().mean(1)
        self.seen.append((logits.clone(), norms, zeros))
        return logits, gradient


@dataclass(frozen=True)
class Trace:
    """Step by step, S steps on N pictures: before step s and, at S, after the last."""

    logits: Tensor
    """(S + 1, N, c)"""
    losses: Tensor
    """(S + 1, N), of the loss that the attack climbs."""
    norms: Tensor
    """(S, N) of the input gradient, L2."""
    zeros: Tensor
    """(S, N), share of the pixels whose gradient is exactly 0."""

    @classmethod
    def of(cls, case: Case) -> "Trace":
        """keep="last" follows every picture to the end; a loss without a name is not recorded as
        a CUDA graph, in which nothing could be noted.
        """
        loss = loss_function(case.attack.loss)
        attack = replace(case.attack, keep="last", restarts=1, loss=loss)
        watched = _Watched(case.net)
        last = case.run(attack, net=watched).adversarial
        parts = []
        for field_ in zip(*watched.seen, strict=True):  # batch after batch, step after step
            batches = [
                torch.stack(field_[first : first + attack.steps])
                for first in range(0, len(field_), attack.steps)
            ]
            parts.append(torch.cat(batches, 1))
        logits, norms, zeros = parts
        logits = torch.cat([logits, case.logits(last)[None]])
        losses = torch.stack([loss(step, case.y) for step in logits])
        return cls(logits, losses, norms, zeros)

    def wrong(self, case: Case) -> Tensor:
        """(S + 1, N) bool; the start of an attack that does not clip it is no picture."""
        wrong = torch.stack([decide(step) != case.y for step in self.logits])
        if not case.attack.clip_start:
            wrong[0] = False
        return wrong
