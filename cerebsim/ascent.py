"""Floor 5: the one loop of every attack.

`attacks` says what there is to choose and turns it into a `Plan`; a `Search` carries a plan out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from .errors import expect
from .graphs import captured
from .labels import decide
from .losses import Loss, loss_function, margin, picture_losses


@runtime_checkable
class HasLossGradient(Protocol):
    """A model that fuses its forward pass and its input gradient."""

    def loss_gradient(
        self, x: Tensor, output_gradient: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, c) and dL/dx, of dL/dlogits = output_gradient(logits); builds no graph."""


def input_gradient(
    model: nn.Module, x: Tensor, output_gradient: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits y (B, c) and dL/dx = (dy/dx)^T dL/dy, shaped as x; dL/dy = output_gradient(y).

    Through the model's own `loss_gradient` where it has one, else through autograd with respect
    to x alone: no parameter gathers a gradient.
    """
    if isinstance(model, HasLossGradient):
        return model.loss_gradient(x, output_gradient)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        gradient = None
        if logits.requires_grad:
            out = output_gradient(logits.detach())
            (gradient,) = torch.autograd.grad(logits, x, out, allow_unused=True)
    expect(
        gradient is not None,
        "model",
        "outputs that autograd cannot follow back to x",
        "a model differentiable in its input",
        "Look for detach() or no_grad() in its forward, or attack it with Noise.",
    )
    return logits.detach(), gradient


@dataclass(frozen=True)
class Plan:
    """What the loop is told, whichever attack asks."""

    eps: float
    loss: str | Loss
    bounds: tuple[float, float]
    alpha: float = 0.0
    steps: int = 0
    restarts: int = 1
    start: Literal["clean", "uniform", "corner"] = "clean"
    clip_start: bool = True
    keep: Literal["best", "last"] = "last"
    targeted: bool = False
    seed: int = 0

    def directions(self, x: Tensor, restart: int) -> Tensor | None:
        """u of a restart for the whole set: on the CPU, so that no batch or device changes it."""
        if self.start == "clean":
            return None
        # torch's CPU generator reads 32 bits of its seed: mix both numbers into them.
        (mixed,) = np.random.SeedSequence(self.seed, spawn_key=(restart,)).generate_state(1)
        u = torch.rand(x.shape, generator=torch.Generator().manual_seed(int(mixed)))
        u = u.mul_(2).sub_(1) if self.start == "uniform" else u.round_().mul_(2).sub_(1)
        return u.to(x.device, x.dtype)


@dataclass
class Found:
    """The best found so far for every picture."""

    adversarial: Tensor
    score: Tensor
    success: Tensor
    decisions: Tensor

    @classmethod
    def nothing(cls, x: Tensor) -> "Found":
        n = len(x)
        return cls(
            x.clone(),
            x.new_full((n,), float("-inf")),
            torch.zeros(n, dtype=torch.bool, device=x.device),
            torch.zeros(n, dtype=torch.int64, device=x.device),
        )

    @classmethod
    @torch.no_grad()
    def seen(cls, model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> "Found":
        """One picture or more as they are; success is a wrong decision, the score the margin."""
        logits = torch.cat([model(part) for part in x.split(batch_size)])
        decisions = decide(logits)
        return cls(x, picture_losses(margin, logits, y), decisions != y, decisions)

    def of(self, rows: Tensor) -> "Found":
        return Found(*(tensor[rows] for tensor in vars(self).values()))

    def put(self, other: "Found", rows: Tensor | slice = slice(None)) -> None:
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[rows] = theirs

    def consider(self, other: "Found") -> None:
        """Keep the other's pictures where they are better: success first, then score."""
        better = other.success & ~self.success
        better |= (other.success == self.success) & (other.score > self.score)
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            torch.where(better.view(-1, *[1] * (mine.ndim - 1)), theirs, mine, out=mine)


class Search:
    """One plan carried out on one set of pictures; holds the best found for each so far."""

    def __init__(self, plan: Plan, model: nn.Module, x: Tensor, y: Tensor):
        self.plan, self.model, self.x, self.y = plan, model, x, y
        self.found = Found.nothing(x)

    def run(self, batch_size: int, progress: Callable[[int], object] | None) -> None:
        """Carry the plan out; `progress` as in `attacks`."""
        plan = self.plan

        def report(rows: Tensor, finished: bool) -> None:
            if progress is not None:
                progress(len(rows) if finished else int(self.found.success[rows].sum()))

        climb = None
        if plan.keep == "best":
            for rows in self._survivors(batch_size):
                climb = self._on(rows, None, climb)
                climb.consider()
                self.found.put(climb.found, rows)
                report(rows, finished=False)
        for restart in range(plan.restarts):
            batches = self._survivors(batch_size)
            u = plan.directions(self.x, restart) if batches else None
            for rows in batches:
                climb = self._on(rows, None if u is None else u[rows], climb)
                climb.run()
                self.found.put(climb.found, rows)
                report(rows, finished=restart == plan.restarts - 1)

    def _survivors(self, batch_size: int) -> tuple[Tensor, ...]:
        """Indices of the pictures without success, in batches."""
        rows = (~self.found.success).nonzero().flatten()
        return rows.split(batch_size) if len(rows) else ()

    def _on(self, rows: Tensor, u: Tensor | None, climb: "Climb | None") -> "Climb":
        """A climb set on these pictures: the last one, if it has room for just as many."""
        if climb is None or len(climb.x) != len(rows):
            climb = Climb(self.plan, self.model, self.x[rows], self.y[rows])
        climb.set(self.x[rows], self.y[rows], u, self.found.of(rows))
        return climb


class Climb:
    """THE loop: one restart on one batch of pictures x with labels y, from x + eps u.

    Everything lies in buffers that stay where they are. So on a GPU, where a step of some thirty
    small kernels is bound by their launches, a step is recorded once as a CUDA graph and replayed,
    for all steps, restarts and batches of this size. That needs a model that builds no graph of its
    own (`HasLossGradient`) and a loss known not to look at its values on the way.
    """

    def __init__(self, plan: Plan, model: nn.Module, x: Tensor, y: Tensor):
        self.plan, self.model = plan, model
        self.loss = loss_function(plan.loss)
        self.x, self.y, self.adv = x.clone(), y.clone(), x.clone()
        self.direction = torch.empty_like(self.adv)
        self.found = Found.nothing(x)
        self.replay: Callable[[], None] | None = None
        self.blind = False  # a recorded step cannot stop to look at values
        self.finite = torch.ones((), dtype=torch.bool, device=x.device)

    def set(self, x: Tensor, y: Tensor, u: Tensor | None, found: Found) -> None:
        """Other pictures, a start, and what was found for them before."""
        self.x.copy_(x)
        self.y.copy_(y)
        self.adv.copy_(x if u is None else x + self.plan.eps * u)
        if self.plan.clip_start:
            self.adv.clamp_(*self.plan.bounds)
        self.found.put(found)

    def run(self) -> None:
        """All steps; the start is considered only where it lies within the bounds."""
        keeps, steps = self.plan.keep == "best", self.plan.steps
        if steps > 0:
            self.step(0, keeps and self.plan.clip_start)
        if can_record(self.plan, self.model, self.x):
            self._replay(steps - 1)
        else:
            for number in range(1, steps):
                self.step(number, keeps)
        self.consider()

    @torch.no_grad()
    def step(self, number: int, considers: bool, blind: bool = False) -> None:
        """adv <- clamp(clamp(adv + alpha sign(gradient), x - eps, x + eps), bounds)."""
        plan, x, adv, self.blind = self.plan, self.x, self.adv, blind
        logits, gradient = input_gradient(self.model, adv, self._pull)
        # The extremes carry a NaN along, and cost a tenth of isfinite on every pixel.
        self.finite &= torch.stack(gradient.aminmax()).isfinite().all()
        if not blind:
            self._expect_finite(f"step {number + 1} of {plan.steps}")
        if considers:
            self.consider(logits)
        # In place: at 256 pictures fresh memory costs several times the arithmetic.
        adv.add_(torch.sign(gradient, out=self.direction), alpha=plan.alpha)
        adv.sub_(x).clamp_(-plan.eps, plan.eps).add_(x).clamp_(*plan.bounds)

    def _replay(self, steps: int) -> None:
        """Step 1, which stands for all that follow step 0, so many times."""
        if self.replay is None:
            again = partial(self.step, 1, self.plan.keep == "best", blind=True)
            self.replay = captured(again, self.x.device)
        for _ in range(steps):
            self.replay()
        self.blind = False
        self._expect_finite(f"one of {self.plan.steps} steps")

    @torch.no_grad()
    def consider(self, logits: Tensor | None = None) -> None:
        """Keep `adv` for those pictures where it beats what was found."""
        logits = self.model(self.adv) if logits is None else logits
        score, decisions = self._score(logits), decide(logits)
        success = (decisions == self.y) if self.plan.targeted else (decisions != self.y)
        self.found.consider(Found(self.adv, score.to(self.found.score.dtype), success, decisions))

    def _score(self, logits: Tensor) -> Tensor:
        """What is climbed, (B,): the loss, or minus the loss if targeted."""
        losses = (_unchecked if self.blind else picture_losses)(self.loss, logits, self.y)
        return -losses if self.plan.targeted else losses

    def _pull(self, logits: Tensor) -> Tensor:
        """d(sum of scores)/d(logits), (B, c): a sum, so no picture feels another."""
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            score = self._score(logits)
            expect(
                score.requires_grad,
                "loss",
                "values cut off from the logits",
                "values differentiable in the logits",
                "Compute the loss with torch, without detach() or no_grad().",
            )
            return torch.autograd.grad(score.sum(), logits)[0]

    def _expect_finite(self, where: str) -> None:
        expect(
            bool(self.finite),
            "model",
            f"an input gradient with NaN or infinity in {where}",
            "a finite gradient",
            "Look in the model (or in your loss) for 0/0, sqrt or log at 0.",
        )


def can_record(plan: Plan, model: nn.Module, x: Tensor) -> bool:
    """Whether a step can be recorded; for two or three steps a recording does not pay."""
    known = isinstance(model, HasLossGradient) and isinstance(plan.loss, str)
    return x.is_cuda and known and plan.steps > 3


def _unchecked(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    return loss(logits, labels)
