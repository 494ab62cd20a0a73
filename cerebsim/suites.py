"""Floor 5: the attacks that a robust accuracy should withstand before it is reported."""

from collections.abc import Sequence
from typing import Literal

from .attacks import FGSM, PGD, Attack, Noise
from .autoattack import AutoAttack
from .errors import expect_choice, expect_integer
from .square import Square

SUITES = ("default", "strong")
RESTARTS = 5


def attack_suite(
    suite: Literal["default", "strong"] = "default",
    eps: float | Sequence[float] = 0.1,
    outputs: int = 10,
) -> list[Attack]:
    """The attacks of this name, at one eps or several, on a network of c = `outputs` outputs.

    "default": noise, FGSM and PGD over {mse, ce, margin, dlr}, since one loss alone can mislead
    (mse and ce may climb without coming nearer to the boundary), a targeted PGD on the margin, and
    one with restarts. With fewer than 3 outputs there is neither dlr nor a target to choose.
    "strong": also `Square` and `AutoAttack`, which needs the extra `attacks`; they ask for pictures
    (N, C, H, W) within 0..1 and at least 4 outputs, and say so where there are none.

    Bad input is an `ArgumentError`.
    """
    expect_choice(suite, "suite", SUITES)
    expect_integer(outputs, "outputs", 1, "The number of Purkinje cells.")
    attacks: list[Attack] = [Noise(eps), Noise(eps, draws=10, kind="corner")]
    for loss in ("mse", "ce", "margin", *(["dlr"] if outputs >= 3 else [])):
        attacks += [FGSM(eps, loss=loss), PGD(eps, loss=loss)]
    if outputs >= 3:
        attacks.append(PGD(eps, loss="margin", targeted=True))
    attacks.append(PGD(eps, loss="margin", restarts=RESTARTS, seed=1))
    if suite == "strong":
        attacks += [Square(eps), AutoAttack(eps)]
    return attacks
