"""Floor 5: L-infinity attacks in pixel space on any `nn.Module`: `Noise`, `FGSM`, `PGD`.

An adversarial picture lies in the ball |adv - x| <= eps (up to one rounding) and inside `bounds`.
There is one loop, in `ascent`; FGSM is one step of it, noise its random starts without a step.
Attacks that search otherwise (`square`, `autoattack`) are an `Attack` too.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Literal

from torch import Tensor, nn

from .ascent import Found, Plan, Search
from .attackable import check_pictures, evaluating
from .errors import expect, expect_choice, expect_integer
from .losses import Loss, loss_function, loss_name


@dataclass
class AttackResult:
    """What one attack at one eps did to N pictures; the tensors are on the pictures' device."""

    attack: str
    """Its class: "Noise", "FGSM", "PGD", "Square" or "AutoAttack"."""
    settings: dict
    """Every setting used, with this eps and the resolved alpha: `PGD(**settings)` repeats it.
    A loss of your own is recorded by its name."""
    adversarial: Tensor
    """(N, ...), as x. Where success is False: the picture with the highest loss found, or what the
    attack says it leaves."""
    success: Tensor
    """(N,) bool: the decision is wrong, or the wanted one if targeted."""
    loss: Tensor
    """(N,) of the adversarial pictures: high is good, or low if targeted."""
    decisions: Tensor
    """(N,) int64, the model's decisions on the adversarial pictures."""
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of pictures on which the attack failed, 0..1; NaN where there are none."""
        return (~self.success).double().mean().item()


class Attack(ABC):
    """What all attacks share: the settings' checks and the way from eps to results.

    A frozen dataclass with `eps` and `bounds` that says in `_found` what it finds at one eps.
    """

    targeted = False

    def __post_init__(self):
        eps = self.eps
        several = isinstance(eps, (list, tuple))
        for value in eps if several else (eps,):
            expect(
                _is_number(value) and 0 <= value < float("inf"),
                "eps",
                repr(value),
                "a finite number >= 0, or a list of them",
                "eps is the greatest change of a pixel, on the scale of `bounds`.",
            )
        expect(not several or len(eps) > 0, "eps", eps, "at least one eps", "Give one, e.g. 0.1.")
        bounds = self.bounds
        expect(
            isinstance(bounds, (list, tuple))
            and len(bounds) == 2
            and all(map(_is_number, bounds))
            and bounds[0] < bounds[1],
            "bounds",
            repr(bounds),
            "two numbers, low < high",
            "Pictures of this package have bounds=(0.0, 1.0).",
        )
        eps = tuple(float(e) for e in eps) if several else float(eps)
        object.__setattr__(self, "eps", eps)
        object.__setattr__(self, "bounds", (float(bounds[0]), float(bounds[1])))

    def attack(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int = 256,
        progress: Callable[[int], object] | None = None,
    ) -> "AttackResult | list[AttackResult]":
        """Attack pictures x (N, ...), floating and inside the bounds, of labels y (N,) int64.

        y are the true classes, or the wanted ones if targeted. The model maps (B, ...) to logits
        (B, c) on the device of x; it is put in eval mode for the time of the attack and its
        parameters and their .grad are left alone. A list of eps gives a list of results.

        `progress(n)` is called after each batch with the number of pictures done since the last
        call (n may be 0); these add up to N for each eps. So a bar's `update` can be passed.

        Deterministic: random numbers depend on (seed, restart) and the picture's place in x, not
        on batch_size or device. A model whose outputs do not depend on the batch gets the same
        adversarial pictures from any batch_size. (`Square` and `AutoAttack` repeat themselves too,
        and say what else their random numbers depend on.) Bad input is an `ArgumentError`.
        """
        several = isinstance(self.eps, tuple)
        expect_integer(batch_size, "batch_size", 1, "256 suits most models.")
        with evaluating(model):
            self.check(model, x, y)
            results = [
                self._result(eps, model, x.detach(), y, batch_size, progress)
                for eps in (self.eps if several else (self.eps,))
            ]
        return results if several else results[0]

    def check(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Raise `ArgumentError` unless `model`, in eval mode, can be attacked with x and y."""
        check_pictures(model, x, y, self.bounds)

    def _result(self, eps: float, model, x, y, batch_size, progress) -> AttackResult:
        """The result at one eps."""
        began = time.perf_counter()
        search = (eps, model, x, y, batch_size, progress)
        found = self._found(*search) if len(x) else Found.nothing(x)
        return AttackResult(
            attack=type(self).__name__,
            settings=self._settings(eps),
            adversarial=found.adversarial,
            success=found.success,
            loss=-found.score if self.targeted else found.score,
            decisions=found.decisions,
            seconds=time.perf_counter() - began,
        )

    @abstractmethod
    def _found(self, eps: float, model, x, y, batch_size, progress) -> Found:
        """What is found at one eps for one picture or more; the score is minus the loss if
        targeted. `progress` as in `attack`."""

    def _settings(self, eps: float) -> dict:
        """What repeats the attack at this eps, for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"eps": eps}


class _Planned(Attack):
    """An attack that the loop of `ascent` carries out, as `_plan` says."""

    @abstractmethod
    def _plan(self, eps: float) -> Plan:
        """The settings of the loop at one eps."""

    def _found(self, eps: float, model, x, y, batch_size, progress) -> Found:
        search = Search(self._plan(eps), model, x, y)
        search.run(batch_size, progress)
        return search.found

    def _settings(self, eps: float) -> dict:
        settings, plan = super()._settings(eps), self._plan(eps)
        if "alpha" in settings:
            settings["alpha"] = plan.alpha or None  # 0 where eps is 0, and no PGD takes it
        if "loss" in settings:
            settings["loss"] = loss_name(plan.loss)
        return settings


@dataclass(frozen=True)
class Noise(_Planned):
    """adv = clamp(x + eps u, bounds), u uniform in [-1, 1] or in its corners {-1, 1}.

    The weakest attack, a sanity check of the others. Of several draws the first goes to every
    picture and the next only to the survivors; a picture keeps the draw that fooled the model,
    else the one with the highest margin loss.
    """

    eps: float | tuple[float, ...] = 0.1
    draws: int = 1
    kind: Literal["uniform", "corner"] = "uniform"
    bounds: tuple[float, float] = (0.0, 1.0)
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        expect_integer(self.draws, "draws", 1, "Each draw is one more try per picture.")
        expect_choice(self.kind, "kind", ("uniform", "corner"))
        expect_integer(self.seed, "seed", 0, "Any whole number draws noise.")

    def _plan(self, eps: float) -> Plan:
        return Plan(
            eps, "margin", self.bounds, restarts=self.draws, start=self.kind, seed=self.seed
        )


@dataclass(frozen=True)
class FGSM(_Planned):
    """adv = clamp(x + eps sign(dL/dx), bounds) (Goodfellow et al. 2015), for every picture.

    It is `PGD(eps, alpha=eps, steps=1, random_start=False, keep="last")`. The paper's: loss="mse".
    """

    eps: float | tuple[float, ...] = 0.1
    loss: str | Loss = "margin"
    targeted: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        loss_function(self.loss)

    def _plan(self, eps: float) -> Plan:
        return Plan(eps, self.loss, self.bounds, alpha=eps, steps=1, targeted=self.targeted)


@dataclass(frozen=True)
class PGD(_Planned):
    """Projected gradient descent (Madry et al. 2018). With g = dL/dx at adv, one step is

        adv   = adv + alpha sign(g)             (minus, if targeted)
        delta = clamp(adv - x, -eps, eps)
        adv   = clamp(x + delta, bounds)

    from adv = clamp(x + eps u, bounds), u uniform in [-1, 1]. There is no other clamp; one more
    at the bounds before the second line would change nothing but roundings.

    keep="best" keeps per picture the best of the clean picture and of all iterates, the last one
    included, over all restarts: success goes first, then the higher loss. A picture that the
    model gets wrong already is a success as it is and left alone. So accuracy never passes the
    clean one; it costs steps + 1 forward passes per restart, after the one on the clean pictures.

    keep="last" looks at the last iterate of a restart only, and attacks every picture, as the
    paper does: a wrong decision can become right.

    With either, restarts after the first go to the survivors only. A zero gradient is no error,
    one that is not finite is.

    `PGD(eps, **PRESETS["paper"].attack)` is the paper's attack: MSE, 40 steps of 0.01, the start
    not clamped to the bounds before the first gradient, the last iterate, one restart.
    """

    eps: float | tuple[float, ...] = 0.1
    alpha: float | None = None
    """Size of a step; None: 2.5 eps / steps."""
    steps: int = 40
    restarts: int = 1
    random_start: bool = True
    """False starts at x; restarts then repeat each other."""
    clip_start: bool = True
    """Clamp the random start to the bounds; where not, it is no candidate for keep="best"."""
    keep: Literal["best", "last"] = "best"
    loss: str | Loss = "margin"
    """A name of `losses.LOSSES`, or a callable (logits (B, c), labels (B,)) -> (B,)."""
    targeted: bool = False
    """Labels are the wanted classes: the loss is descended, success is to reach them."""
    bounds: tuple[float, float] = (0.0, 1.0)
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        alpha = self.alpha
        expect(
            alpha is None or (_is_number(alpha) and 0 < alpha < float("inf")),
            "alpha",
            repr(alpha),
            "a finite number > 0, or None",
            "None is 2.5 * eps / steps.",
        )
        expect_integer(self.steps, "steps", 1, "The paper has 40; Noise takes no step.")
        expect_integer(self.restarts, "restarts", 1, "1 attacks once.")
        expect_choice(self.keep, "keep", ("best", "last"))
        expect_integer(self.seed, "seed", 0, "Any whole number draws a start.")
        loss_function(self.loss)

    def _plan(self, eps: float) -> Plan:
        return Plan(
            eps,
            self.loss,
            self.bounds,
            alpha=2.5 * eps / self.steps if self.alpha is None else self.alpha,
            steps=self.steps,
            restarts=self.restarts,
            start="uniform" if self.random_start else "clean",
            clip_start=self.clip_start,
            keep=self.keep,
            targeted=self.targeted,
            seed=self.seed,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
