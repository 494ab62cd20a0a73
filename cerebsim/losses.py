"""Floor 5: what an attack climbs.

Every loss takes logits (B, c), floating, and labels (B,), int64 in 0..classes-1, and returns one
number per picture (B,), of the logits' dtype, differentiable in the logits. An untargeted attack
ascends it with the true labels; a targeted attack descends it with the wanted ones. Labels are
not checked here: an attack checks them once, not at every step.

y_j is output j, t the target (`labels.targets`), l the label; with c = 1 there is one output y
and t = -1 or +1.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from .errors import expect, expect_choice
from .labels import targets

Loss = Callable[[Tensor, Tensor], Tensor]

_SMALLEST_SPREAD = 1e-12


def mse(logits: Tensor, labels: Tensor) -> Tensor:
    """1/2 sum_j (y_j - t_j)^2, the climbing-fibre error (paper eq. 3).

    The paper's attacks climb it; its mean over batch and classes, as the authors' code has it,
    differs by a positive factor only, which the sign of the gradient does not see. It also rises
    when all outputs fall together, which changes no decision: an attack with it alone can fail
    where the network is not robust.
    """
    t = targets(labels, logits.shape[1], logits.dtype)
    return 0.5 * (logits - t).square().sum(dim=1)


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    """log sum_j exp(y_j) - y_l, the cross-entropy (Goodfellow et al. 2015); softplus(-t y), c = 1.

    Its gradient vanishes where the network is sure of itself.
    """
    if logits.shape[1] == 1:
        return F.softplus(-_signed(logits, labels))
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j != l} y_j - y_l (Carlini & Wagner 2017, without its floor); -t y, c = 1.

    Positive only where the decision is wrong: it rises exactly when the boundary comes nearer.
    """
    if logits.shape[1] == 1:
        return -_signed(logits, labels)
    own = labels.unsqueeze(1)
    others = logits.scatter(1, own, float("-inf")).amax(dim=1)
    return others - logits.gather(1, own).squeeze(1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """(max_{j != l} y_j - y_l) / (y_(1) - y_(3)), y_(i) the i-th largest output.

    The difference of logits ratio (Croce & Hein 2020), with the sign under which it is ascended:
    the margin made blind to the scale of the logits. The denominator is held at 1e-12 and above,
    so that three equal outputs give a finite loss and gradient. For a targeted attack this same
    loss is descended; AutoAttack's targeted variant has another denominator. Needs c >= 3.
    """
    c = logits.shape[1]
    expect(
        c >= 3,
        "loss",
        f"'dlr' with {c} output{'s' if c > 1 else ''}",
        "at least 3 outputs, for it divides by the gap of the first to the third",
        "Use loss='margin'.",
    )
    largest = logits.topk(3, dim=1).values
    spread = (largest[:, 0] - largest[:, 2]).clamp_min(_SMALLEST_SPREAD)
    return margin(logits, labels) / spread


def _signed(logits: Tensor, labels: Tensor) -> Tensor:
    """t y, shape (B,): the one output, positive where it is right."""
    return (logits * targets(labels, 1, logits.dtype)).squeeze(1)


LOSSES: dict[str, Loss] = {"mse": mse, "ce": ce, "margin": margin, "dlr": dlr}


def loss_function(loss: str | Loss) -> Loss:
    """The loss of this name, or the callable itself; anything else is an `ArgumentError`."""
    if callable(loss):
        return loss
    expect_choice(loss, "loss", tuple(LOSSES))
    return LOSSES[loss]


def loss_name(loss: str | Loss) -> str:
    """What a record calls this loss: its name, or the callable's."""
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


def picture_losses(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """`loss(logits, labels)`, checked to be one finite floating number per picture."""
    values = loss(logits, labels)
    is_tensor = isinstance(values, Tensor)
    expect(
        is_tensor and values.shape == labels.shape and values.is_floating_point(),
        "loss",
        f"shape {tuple(values.shape)} of {values.dtype}" if is_tensor else type(values).__name__,
        f"one floating number per picture, shape {tuple(labels.shape)}",
        "Return the losses of the batch unreduced, e.g. with reduction='none'.",
    )
    expect(
        not (values - values).any(),  # 0, and NaN where not finite; cheaper than isfinite
        "loss",
        "NaN or infinity",
        "finite numbers",
        "Check the model's weights and outputs, and the loss if it is your own.",
    )
    return values
