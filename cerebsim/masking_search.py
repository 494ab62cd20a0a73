"""Floor 8: checks 3 to 7 and 12: does the attack search as well as it can?

Accuracies are those of the attack under examination with one setting changed.
"""

from dataclasses import replace

import torch

from .attacks import FGSM, Noise
from .labels import classes
from .losses import margin
from .masking_case import Case, NotRun, share
from .masking_gradient import Ruling

# Check 4: the last doubling, ours; the running-best loss over the last 10 steps, ours.
MOST_DOUBLING_GAIN = 0.005
FIRST_STEPS = 5
LAST_STEPS = 10
STILL_MOVING = 0.05
MOST_MOVING = 0.05
# Check 5, ours.
STEP_SIZES = (1 / 40, 1 / 20, 1 / 10, 1 / 5, 1 / 2, 1.0, 2.0)
MOST_STEP_GAIN = 0.01
# Check 6, ours.
MOST_RESTART_GAIN = 0.005
# Check 7: chance at 0.5; at 1 every picture can be made any other, and the share left is ours.
CHANCE_AT, EVERYTHING_AT = 0.5, 1.0
MOST_AT_ALL = 0.001

ROUNDING = 1e-9  # of differences of shares, far below one picture


def fgsm_and_pgd(case: Case) -> dict:
    """Check 3: one step against the whole attack, on the same loss (Athalye et al. 2018)."""
    fgsm = case.run(FGSM(case.eps, loss=case.attack.loss, bounds=case.attack.bounds), "FGSM")
    return {
        "loss": case.attack.loss,
        "clean": case.clean_accuracy,
        "fgsm": fgsm.accuracy,
        "pgd": case.result.accuracy,
        "tolerance": case.tolerance,
    }


def pgd_is_stronger(n: dict) -> Ruling:
    good = n["pgd"] <= n["fgsm"] + n["tolerance"] + ROUNDING
    return good, (
        f"Many small steps leave {n['pgd']:.1%} right, one large step {n['fgsm']:.1%}: "
        + ("as it must be." if good else "a search that does worse than one step has lost its way.")
    )


def more_steps(case: Case) -> dict:
    """Check 4: 5, 10, ... iterations; and whether the loss still climbs when the attack stops.

    A picture still moves where its running-best loss gained, over the last 10 steps, more than 5 %
    of all it gained from the start (Pintor et al. 2022 scale it so).
    """
    steps = [FIRST_STEPS * 2**i for i in range(case.effort.doublings + 1)]
    accuracies = []
    for number in steps:
        case.say(f"{number} iterations")
        result = case.run(replace(case.attack, steps=number), f"{number} iterations")
        accuracies.append(result.accuracy)
    best = case.trace.losses.double().cummax(0).values
    gained = best[-1] - best[0]
    lately = best[-1] - best[max(0, len(best) - 1 - LAST_STEPS)]
    moving = lately > STILL_MOVING * gained.clamp_min(torch.finfo(gained.dtype).tiny)
    return {
        "steps": steps,
        "accuracies": accuracies,
        "examined": [case.attack.steps, case.result.accuracy],
        "moving": share(moving),
    }


def steps_suffice(n: dict) -> Ruling:
    gain = n["accuracies"][-2] - n["accuracies"][-1]
    good = gain <= MOST_DOUBLING_GAIN + ROUNDING and n["moving"] <= MOST_MOVING
    return good, (
        f"From {n['steps'][-2]} to {n['steps'][-1]} iterations the attack gains "
        f"{100 * gain:.1f} points; when it stops, its loss still climbs on {n['moving']:.1%} of "
        f"the pictures."
    )


def step_size(case: Case) -> dict:
    """Check 5: steps of eps/40 to 2 eps, beside the one that the attack has."""
    accuracies = []
    for ratio in STEP_SIZES:
        case.say(f"steps of {ratio:g} eps")
        attack = replace(case.attack, alpha=ratio * case.eps)
        accuracies.append(case.run(attack, f"steps of {ratio:g} eps").accuracy)
    return {
        "ratios": list(STEP_SIZES),
        "accuracies": accuracies,
        "examined": [case.result.settings["alpha"] / case.eps, case.result.accuracy],
    }


def step_size_is_good(n: dict) -> Ruling:
    ratio, accuracy = n["examined"]
    best = min(n["accuracies"])
    good = accuracy <= best + MOST_STEP_GAIN + ROUNDING
    return good, (
        f"Steps of {ratio:.3g} eps leave {accuracy:.1%} right; the best size tried leaves "
        f"{best:.1%}, {'hardly less' if good else 'less: the step was badly chosen'}."
    )


def restarts(case: Case) -> dict:
    """Check 6: one more random start after another, on those that survived so far."""
    if not case.attack.random_start:
        raise NotRun("the attack starts at the picture itself, so its restarts repeat each other")
    alive = ~case.result.success
    accuracies = [share(alive)]
    for number in range(1, case.effort.restarts):
        case.say(f"restart {number + 1}")
        rows = alive.nonzero().flatten()
        if len(rows):
            again = replace(case.attack, restarts=1, seed=case.attack.seed + number)
            found = again.attack(case.net, case.x[rows], case.y[rows], batch_size=case.batch_size)
            alive[rows[found.success]] = False
        accuracies.append(share(alive))
    case.count(f"{case.effort.restarts} restarts", ~alive)
    return {"accuracies": accuracies}


def restarts_gain_nothing(n: dict) -> Ruling:
    accuracies = n["accuracies"]
    half = len(accuracies) // 2
    gain = accuracies[half - 1] - accuracies[-1]
    good = gain <= MOST_RESTART_GAIN + ROUNDING
    return good, (
        f"From {half} to {len(accuracies)} random starts the attack gains {100 * gain:.1f} points"
        + (": luck plays no part." if good else ": more luck would find still more.")
    )


def growing_eps(case: Case) -> dict:
    """Check 7: eps up to 1, where the ball holds every picture that there is.

    The classes are as likely as each other, so that chance is 1 / classes.
    """
    low, high = case.attack.bounds
    grid = {0.0, case.eps / 4, case.eps / 2, case.eps, 2 * case.eps}
    grid = sorted(e for e in grid if e < CHANCE_AT) + [CHANCE_AT, EVERYTHING_AT]
    accuracies = []
    for eps in grid:
        case.say(f"eps {eps:g}")
        if eps == case.eps:
            accuracies.append(case.result.accuracy)
        else:
            attack = case.at(eps * (high - low) if eps >= CHANCE_AT else eps)
            accuracies.append(case.run(attack, f"eps {eps:g}" if eps < case.eps else None).accuracy)
    return {
        "eps": grid,
        "accuracies": accuracies,
        "clean": case.clean_accuracy,
        "chance": 1 / classes(case.clean.shape[1]),
    }


def accuracy_falls_to_nothing(n: dict) -> Ruling:
    eps, accuracies = n["eps"], n["accuracies"]
    at = dict(zip(eps, accuracies, strict=True))
    faults = []
    if abs(at[0.0] - n["clean"]) > ROUNDING:
        faults.append(f"at eps 0 it is {at[0.0]:.1%} and not the clean {n['clean']:.1%}")
    for i in range(1, len(eps)):
        if accuracies[i] > accuracies[i - 1] + ROUNDING:
            faults.append(f"it rises from eps {eps[i - 1]:g} to {eps[i]:g}")
    if at[CHANCE_AT] > n["chance"] + ROUNDING:
        faults.append(f"at eps 0.5, where all can be grey, {at[CHANCE_AT]:.1%} are left")
    if at[EVERYTHING_AT] > MOST_AT_ALL + ROUNDING:
        faults.append(f"at eps 1, where anything is allowed, {at[EVERYTHING_AT]:.1%} are left")
    if faults:
        return False, f"The accuracy does not fall as it must: {'; '.join(faults)}."
    return True, (
        f"The accuracy falls from the clean {n['clean']:.1%} to {at[EVERYTHING_AT]:.1%} where "
        "every change is allowed."
    )


def noise(case: Case) -> dict:
    """Check 12: uniform and corner noise, draws of each on every picture that the attack left.

    Noise can beat the attack only there. One draw on every picture shows what noise does at all.
    """
    alive = (~case.result.success).nonzero().flatten()
    one = case.run(Noise(case.eps, bounds=case.attack.bounds, seed=case.attack.seed), "noise")
    won = torch.zeros(len(alive), dtype=torch.bool, device=case.x.device)
    best = torch.full((len(alive),), float("-inf"), device=case.x.device)
    for kind in ("uniform", "corner"):
        if len(alive):
            case.say(f"{case.effort.draws} draws of {kind} noise on {len(alive)} pictures")
            tried = Noise(case.eps, case.effort.draws, kind, case.attack.bounds, case.attack.seed)
            x, y = case.x[alive], case.y[alive]
            found = tried.attack(case.net, x, y, batch_size=case.batch_size)
            won |= found.success
            best = best.maximum(found.loss)
    fooled = torch.zeros_like(case.result.success)
    fooled[alive[won]] = True
    case.count("noise on survivors", fooled | one.success)
    return {
        "draws": case.effort.draws,
        "one_draw": one.accuracy,
        "attack": case.result.accuracy,
        "tried": len(alive),
        "only_noise": int((won | one.success[alive]).sum()),
        "margins": {
            "no attack": margin(case.clean, case.y).tolist(),
            "one draw of noise": one.loss.tolist(),
            "noise on survivors": best.tolist(),
            "the attack": margin(case.logits(case.result.adversarial), case.y).tolist(),
        },
    }


def noise_never_wins(n: dict) -> Ruling:
    good = n["only_noise"] == 0
    left = f"the {n['tried']} pictures that the attack left" if n["tried"] else "no picture"
    return good, (
        f"Random noise fools none of {left}." if good and n["tried"]
        else "The attack left no picture on which noise could win." if good
        else f"Blind noise fools {n['only_noise']} of {left}: a search must beat chance."
    )  # fmt: skip
