"""Floor 8: checks 8, 9 and 10: does the attack climb the right hill?"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .labels import decide
from .losses import loss_function, margin
from .masking_case import Case, NotRun, rescaled, share
from .masking_gradient import SHOWN, Ruling
from .masking_search import ROUNDING

# Check 8, ours.
MOST_BELOW = 0.02
# Check 9, ours.
SCALES = (1e-3, 1.0, 1e3, 1e6)
SHIFT = 10.0  # times the largest logit
MOST_CHANGE = 0.001
# Check 10, ours.
LEAST_AUROC = 0.9
MOST_AGAINST = 0.05


def choice_of_loss(case: Case) -> dict:
    """Check 8: the same attack on every loss, and what the logits do where it fails.

    logits: mean over the survivors of the examined attack, clean and attacked: the right class,
    the best of the others, and the mean of the rest.
    """
    accuracies, fooled = {}, case.result.success.clone()
    for loss in case.losses:
        case.say(f"loss {loss}")
        result = case.climbing(loss)
        accuracies[loss] = result.accuracy
        fooled |= result.success
    alive = ~case.result.success
    attacked = case.logits(case.result.adversarial)
    return {
        "loss": case.attack.loss,
        "clean": case.clean_accuracy,
        "accuracies": accuracies,
        "worst": share(~fooled),
        "survivors": int(alive.sum()),
        "logits": {
            "clean": summary(case.clean[alive], case.y[alive]),
            "attacked": summary(attacked[alive], case.y[alive]),
        },
    }


def summary(logits: Tensor, y: Tensor) -> list[float] | None:
    """Mean right output, mean best of the others, mean of all others; None without pictures."""
    if not len(y) or logits.shape[1] < 2:
        return None
    own = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    others = logits.sum(1).sub(own) / (logits.shape[1] - 1)
    best = own + margin(logits, y)
    return [values.double().mean().item() for values in (own, best, others)]


def loss_is_well_chosen(n: dict) -> Ruling:
    used = n["accuracies"][n["loss"]]
    good = used <= n["worst"] + MOST_BELOW + ROUNDING
    return good, (
        f"Climbing {n['loss']} leaves {used:.1%} right; taking for each picture the loss that "
        f"serves best leaves {n['worst']:.1%}"
        + ("." if good else ": most of the apparent robustness is the choice of the loss.")
    )


def scale_and_shift(case: Case) -> dict:
    """Check 9: every logit multiplied or shifted by one number, which changes no decision.

    The attack runs on the losses that should not notice. The shift is ten times the largest logit.
    """
    shift = SHIFT * case.clean.abs().max().item()
    nets = {f"x {scale:g}": rescaled(case.net, scale) for scale in SCALES if scale != 1}
    if case.clean.shape[1] > 1:  # one output is compared with 0, and a shift moves it
        nets["shifted"] = rescaled(case.net, shift=shift)
    accuracies = {}
    for loss in (name for name in case.losses if name in ("margin", "dlr")):
        accuracies[loss] = {"x 1": case.climbing(loss).accuracy}
        for name, net in nets.items():
            case.say(f"loss {loss}, logits {name}")
            attack = replace(case.attack, loss=loss)
            accuracies[loss][name] = case.run(attack, net=net).accuracy
    return {"shift": shift, "accuracies": accuracies}


def scale_does_not_matter(n: dict) -> Ruling:
    change = max(
        abs(accuracy - of_loss["x 1"])
        for of_loss in n["accuracies"].values()
        for accuracy in of_loss.values()
    )
    good = change <= MOST_CHANGE + ROUNDING
    return good, (
        f"Multiplying or shifting all outputs, which changes no decision, changes the accuracy "
        f"under {' and '.join(n['accuracies'])} by {100 * change:.1f} points at most."
    )


def loss_and_success(case: Case) -> dict:
    """Check 10: does a higher loss mean a fooled network (Tramer et al. 2020)?

    auroc: of the final loss, telling pictures that are decided wrong from those decided right;
    None where all are the same. against: share of pictures whose loss rose from the clean picture
    to the final one while the distance to the boundary, y_l - max_{j != l} y_j, rose too: there
    the attack climbs away from success. lost: share fooled at some step and not in the end.
    """
    if case.attack.targeted:
        raise NotRun("a targeted attack has no one loss to be compared over pictures")
    attacked = case.logits(case.result.adversarial)
    loss = loss_function(case.attack.loss)
    before, after = loss(case.clean, case.y), loss(attacked, case.y)
    nearer = margin(attacked, case.y) - margin(case.clean, case.y)
    wrong = decide(attacked) != case.y
    lost = case.trace.wrong(case).any(0) & ~case.result.success
    every = max(1, len(case.y) // SHOWN)
    return {
        "loss": case.attack.loss,
        "keep": case.attack.keep,
        "auroc": auroc(after[wrong].tolist(), after[~wrong].tolist()),
        "against": share((after > before) & (nearer < 0)),
        "lost": share(lost),
        "final": after[::every].tolist(),
        "margins": margin(attacked, case.y)[::every].tolist(),
    }


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """P(a positive > a negative) + P(equal) / 2; None where there are none of one kind."""
    if not len(positive) or not len(negative):
        return None
    a = torch.tensor(positive, dtype=torch.float64)
    b = torch.tensor(negative, dtype=torch.float64).sort().values
    below, up_to = torch.searchsorted(b, a), torch.searchsorted(b, a, right=True)
    return ((below + up_to).double().mean() / (2 * len(b))).item()


def loss_follows_success(n: dict) -> Ruling:
    most_lost = 0.0 if n["keep"] == "best" else MOST_AGAINST
    faults = []
    if n["auroc"] is not None and n["auroc"] < LEAST_AUROC:
        faults.append(
            f"a high loss tells a fooled picture from another with AUROC {n['auroc']:.2f} only "
            "(0.5 is a coin)"
        )
    if n["against"] > MOST_AGAINST:
        faults.append(f"on {n['against']:.1%} of the pictures it rises away from the boundary")
    if n["lost"] > most_lost:
        faults.append(f"{n['lost']:.1%} were fooled on the way and not at the end")
    if faults:
        return False, f"Climbing {n['loss']} is not getting nearer: {'; '.join(faults)}."
    told = (
        "all pictures ended alike, so there was nothing to tell apart"
        if n["auroc"] is None
        else f"a high loss means a fooled picture (AUROC {n['auroc']:.2f})"
    )
    return True, (
        f"The loss follows success: {told}; it rose away from the boundary on "
        f"{n['against']:.1%}, and {n['lost']:.1%} were fooled on the way and not at the end."
    )
