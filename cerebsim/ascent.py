"""Floor 5: the one loop of every attack, and what it asks of a model and of pictures.

`attacks` says what there is to choose and turns it into a `Plan`; a `Search` carries a plan out.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from .errors import expect
from .labels import check_labels, decide
from .losses import Loss, loss_function, picture_losses


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


@contextmanager
def evaluating(model: nn.Module):
    """Put `model` in eval mode; restore the mode of it and of every submodule, also on error."""
    expect(
        isinstance(model, nn.Module),
        "model",
        type(model).__name__,
        "a torch.nn.Module",
        "Wrap a function in a small nn.Module.",
    )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])  # for models that do more than set the flag
        for module, mode in modes:
            module.training = mode


def check_pictures(model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float]) -> None:
    """Raise `ArgumentError` unless pictures, labels, bounds and the model's logits fit together."""
    tensor = isinstance(x, Tensor)
    expect(
        tensor and x.is_floating_point() and x.ndim >= 2,
        "x",
        f"shape {tuple(x.shape)} of {x.dtype}" if tensor else type(x).__name__,
        "a floating tensor of shape (N, ...)",
        "Scale pictures to the bounds, e.g. x.float() / 255, and keep the batch dimension.",
    )
    expect(
        isinstance(y, Tensor) and y.shape == x.shape[:1],
        "y",
        f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__,
        f"one label per picture, shape ({len(x)},)",
        "Pass the labels of these pictures.",
    )
    expect(
        y.device == x.device,
        "y",
        f"labels on {y.device}",
        f"the device of x, {x.device}",
        "Move them: y.to(x.device).",
    )
    if len(x) == 0:
        check_labels(y, 1, "y")
        return
    finite = torch.isfinite(x)
    expect(
        bool(finite.all()),
        "x",
        f"NaN or infinity in {int((~finite).flatten(1).any(1).sum())} of {len(x)} pictures",
        "finite pixels",
        "Clean the pictures.",
    )
    low, high = x.min().item(), x.max().item()
    expect(
        bounds[0] <= low and high <= bounds[1],
        "x",
        f"pixels from {low:.6g} to {high:.6g}",
        f"pixels inside bounds={bounds}",
        "Rescale the pictures (normalise inside the model), or pass their bounds to the attack.",
    )
    parameter = next(model.parameters(), None)
    expect(
        parameter is None or parameter.device == x.device,
        "x",
        f"pictures on {x.device}",
        "the device of the model" + ("" if parameter is None else f", {parameter.device}"),
        "Move them, or the model, with .to(device).",
    )
    with torch.no_grad():
        logits = model(x[:1])
    tensor = isinstance(logits, Tensor)
    expect(
        tensor and logits.is_floating_point() and logits.ndim == 2 and len(logits) == 1,
        "model",
        f"outputs of shape {tuple(logits.shape)} for one picture"
        if tensor
        else f"an output of type {type(logits).__name__}",
        "floating logits of shape (B, c)",
        "Wrap the model in an nn.Module that returns logits alone.",
    )
    check_labels(y, logits.shape[1], "y")


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


class Search:
    """One plan carried out on one set of pictures; holds the best found for each so far."""

    def __init__(self, plan: Plan, model: nn.Module, x: Tensor, y: Tensor):
        self.plan, self.model, self.x, self.y = plan, model, x, y
        self.loss = loss_function(plan.loss)
        self.adversarial = x.clone()
        self.score = x.new_full(y.shape, float("-inf"))
        self.success = torch.zeros_like(y, dtype=torch.bool)
        self.decisions = torch.zeros_like(y)

    def run(self, batch_size: int, progress: Callable[[int], object] | None) -> None:
        """Carry the plan out; `progress` as in `attacks`."""
        plan = self.plan

        def report(rows: Tensor, finished: bool) -> None:
            if progress is not None:
                progress(len(rows) if finished else int(self.success[rows].sum()))

        if plan.keep == "best":
            for rows in self._survivors(batch_size):
                self._consider(rows, self.x[rows])
                report(rows, finished=False)
        for restart in range(plan.restarts):
            batches = self._survivors(batch_size)
            u = plan.directions(self.x, restart) if batches else None
            for rows in batches:
                self._climb(rows, None if u is None else u[rows])
                report(rows, finished=restart == plan.restarts - 1)

    def _survivors(self, batch_size: int) -> tuple[Tensor, ...]:
        """Indices of the pictures without success, in batches."""
        rows = (~self.success).nonzero().flatten()
        return rows.split(batch_size) if len(rows) else ()

    def _climb(self, rows: Tensor, u: Tensor | None) -> None:
        """THE loop: one restart on the pictures `rows`, from x + eps u."""
        plan, x, y = self.plan, self.x[rows], self.y[rows]
        low, high = plan.bounds
        adv = x.clone() if u is None else x + plan.eps * u
        if plan.clip_start:
            adv.clamp_(low, high)
        direction = torch.empty_like(adv)
        for step in range(plan.steps):
            logits, gradient = input_gradient(self.model, adv, lambda z: self._pull(z, y))
            # The extremes carry a NaN along, and cost a tenth of isfinite on every pixel.
            finite = torch.stack(gradient.aminmax()).isfinite().all()
            expect(
                bool(finite),
                "model",
                f"an input gradient with NaN or infinity in step {step + 1} of {plan.steps}",
                "a finite gradient",
                "Look in the model (or in your loss) for 0/0, sqrt or log at 0.",
            )
            if plan.keep == "best" and (step > 0 or plan.clip_start):
                self._consider(rows, adv, logits)
            # In place: at 256 pictures fresh memory costs several times the arithmetic.
            adv.add_(torch.sign(gradient, out=direction), alpha=plan.alpha)
            adv.sub_(x).clamp_(-plan.eps, plan.eps).add_(x).clamp_(low, high)
        self._consider(rows, adv)

    def _score(self, logits: Tensor, y: Tensor) -> Tensor:
        """What is climbed, (B,): the loss, or minus the loss if targeted."""
        losses = picture_losses(self.loss, logits, y)
        return -losses if self.plan.targeted else losses

    def _pull(self, logits: Tensor, y: Tensor) -> Tensor:
        """d(sum of scores)/d(logits), (B, c): a sum, so no picture feels another."""
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            score = self._score(logits, y)
            expect(
                score.requires_grad,
                "loss",
                "values cut off from the logits",
                "values differentiable in the logits",
                "Compute the loss with torch, without detach() or no_grad().",
            )
            return torch.autograd.grad(score.sum(), logits)[0]

    @torch.no_grad()
    def _consider(self, rows: Tensor, adv: Tensor, logits: Tensor | None = None) -> None:
        """Keep `adv` for those pictures where it beats what is kept: success, then score."""
        y = self.y[rows]
        logits = self.model(adv) if logits is None else logits
        score, decisions = self._score(logits, y), decide(logits)
        success = (decisions == y) if self.plan.targeted else (decisions != y)
        kept = self.success[rows]
        better = (success & ~kept) | ((success == kept) & (score > self.score[rows]))
        chosen = better.nonzero().flatten()
        where = rows[chosen]
        self.adversarial[where] = adv.index_select(0, chosen)
        self.score[where] = score[chosen].to(self.score.dtype)
        self.success[where] = success[chosen]
        self.decisions[where] = decisions[chosen]
