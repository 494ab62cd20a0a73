"""Floor 5: AutoAttack, by the package pyautoattack (the extra `attacks`)."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .ascent import Found
from .attackable import check_planes
from .attacks import Attack
from .errors import CerebsimError, expect, expect_integer

_LEAST_OUTPUTS = 4
_MOST_TARGETS = 9


@dataclass(frozen=True)
class AutoAttack(Attack):
    """The standard version (Croce & Hein 2020), L-infinity: APGD on the cross-entropy, targeted
    APGD on the DLR, targeted FAB and Square, one after another on the pictures that still stand.

    None of the four has a setting, which makes it a common yardstick. Pictures (N, C, H, W) within
    0..1; models of at least 4 outputs. A picture that withstands all four is left as it was.

    Success is what the model decides on the pictures it returns, projected onto the ball once
    more. It repeats itself for the same batch_size, and leaves torch's own generator alone. Raises
    `CerebsimError` when made where pyautoattack is missing.
    """

    eps: float | tuple[float, ...] = 0.1
    seed: int = 0

    bounds = (0.0, 1.0)  # no field: it knows no others

    def __post_init__(self):
        super().__post_init__()
        expect_integer(self.seed, "seed", 0, "Any whole number draws a start.")
        _library()

    def check(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        super().check(model, x, y)
        check_planes(x)
        outputs = _outputs(model, x) if len(x) else _LEAST_OUTPUTS
        expect(
            outputs >= _LEAST_OUTPUTS,
            "model",
            f"{outputs} output{'s' if outputs > 1 else ''}",
            f"at least {_LEAST_OUTPUTS}, for AutoAttack's targeted DLR takes the fourth largest",
            "Attack by PGD and Square.",
        )

    def _found(self, eps: float, model, x, y, batch_size, progress) -> Found:
        with _frozen(model), torch.random.fork_rng(_seeded_devices()):
            theirs = _library().AutoAttack(
                model, eps=eps, norm="Linf", seed=self.seed, device=str(x.device)
            )
            targets = min(_MOST_TARGETS, _outputs(model, x) - 1)
            theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = targets
            made, _ = theirs.run_standard_evaluation(x, y, batch_size=batch_size)
        made = (x + (made - x).clamp(-eps, eps)).clamp(*self.bounds)
        if progress is not None:
            progress(len(x))
        return Found.seen(model, made, y, batch_size)


def _library():
    """pyautoattack, or the error that says how to get it."""
    try:
        import pyautoattack
    except ImportError:
        raise CerebsimError(
            "AutoAttack needs the package pyautoattack: pip install cerebsim[attacks]"
        ) from None
    return pyautoattack


@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor) -> int:
    return model(x[:1]).shape[1]


@contextmanager
def _frozen(model: nn.Module):
    """No gradient to the parameters: FAB calls backward(), which would gather one in them."""
    learning = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _seeded_devices() -> list[int]:
    """The GPU whose generator it seeds, also where the pictures are on the CPU."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []
