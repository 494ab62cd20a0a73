"""Floor 8: checks 11, 13 and 14: what others find who do not use this network's gradient."""

from dataclasses import asdict, replace

from torch import nn

from .attacks import PGD, Attack
from .autoattack import AutoAttack
from .baselines import CNN
from .errors import ArgumentError, CerebsimError, expect
from .labels import decide
from .masking_case import Case, NotRun, share
from .masking_gradient import Ruling
from .masking_search import ROUNDING
from .model import Cerebellum
from .square import Square

# Check 11.
MOST_SQUARE_GAIN = 0.002
SHOWN_QUERIES = 60
# Check 13.
LEAST_SOURCES = 3
# Check 14, ours.
MOST_AUTOATTACK_GAIN = 0.02


def square(case: Case) -> dict:
    """Check 11: an attack by outputs alone, against the attack by gradients."""
    effort = case.effort.queries
    attack = Square(case.eps, effort, bounds=case.attack.bounds, seed=case.attack.seed)
    _expect_fit(attack, case)
    _, needed = attack.search(case.eps, case.net, case.x, case.y, case.batch_size)
    case.count("Square", needed <= effort)
    at = sorted({round(effort ** (i / SHOWN_QUERIES)) for i in range(SHOWN_QUERIES + 1)})
    return {
        "queries": [0, *at],
        "accuracies": [share(needed > query) for query in (0, *at)],
        "attack": case.result.accuracy,
        "only_square": share((needed <= effort) & ~case.result.success),
    }


def square_is_no_better(n: dict) -> Ruling:
    found, used = n["accuracies"][-1], n["attack"]
    good = found >= used - MOST_SQUARE_GAIN - ROUNDING
    return good, (
        f"Without any gradient, {n['queries'][-1]:,} queries leave {found:.1%} right, the attack "
        f"leaves {used:.1%}"
        + (": the gradient helps." if good else ": a gradient that is worse than none is masked.")
    )


def transfer(case: Case) -> dict:
    """Check 13: pictures made on other networks, shown to this one.

    Each network makes its pictures by PGD on the margin with the examined attack's steps, a sound
    attack on each of them. accuracies[i][j]: of network j on the pictures of network i; this
    network is the last.
    """
    sources = dict(case.sources) or _trained(case)
    expect(
        all(isinstance(net, nn.Module) for net in sources.values()),
        "sources",
        [type(net).__name__ for net in sources.values()],
        "networks by name",
        "Pass {name: module}.",
    )
    if len(sources) < LEAST_SOURCES:
        raise NotRun(f"it needs at least {LEAST_SOURCES} other networks, there are {len(sources)}")
    nets = {**sources, "this network": case.net}
    attack = PGD(
        case.eps, steps=case.attack.steps, bounds=case.attack.bounds, seed=case.attack.seed
    )
    accuracies = []
    for name, net in nets.items():
        case.say(f"pictures made on {name}")
        made = case.run(attack, net=net).adversarial
        row = [decide(case.logits(made, other)) == case.y for other in nets.values()]
        accuracies.append([share(right) for right in row])
        if net is not case.net:
            case.count(f"transfer from {name}", ~row[-1])
    return {
        "names": list(nets),
        "accuracies": accuracies,
        "attack": case.result.accuracy,
        "trained_here": not case.sources,
    }


def _trained(case: Case) -> dict[str, nn.Module]:
    """Three other seeds of this circuit, smaller where it is large, a fully connected one of as
    many synapses, and where pictures have rows and columns a convolutional network.
    """
    if not isinstance(case.net, Cerebellum) or case.data is None:
        raise NotRun("no other networks were given, and none can be trained here")
    config, effort = case.net.config, case.effort
    cells = min(config.granule_cells, effort.source_cells)
    circuits = {
        f"seed {config.seed + i}": replace(config, granule_cells=cells, seed=config.seed + i)
        for i in range(1, LEAST_SOURCES + 1)
    }
    full = min(cells, max(1, cells * config.fan_in // config.mossy_fibers))
    circuits["FC"] = replace(config, granule_cells=full, wiring="full", replacement=False)
    device = case.x.device
    nets = {name: Cerebellum(**asdict(of), device=device) for name, of in circuits.items()}
    if case.x.ndim == 4 and config.purkinje_cells > 1:
        nets["CNN"] = CNN(*case.x.shape[1:], config.purkinje_cells, device=device)
    for name, net in nets.items():
        case.say(f"training {name}")
        net.fit(case.data.train, epochs=effort.source_epochs, progress=False)
    return nets


def transfer_is_no_better(n: dict) -> Ruling:
    least, name = min(zip([row[-1] for row in n["accuracies"][:-1]], n["names"], strict=False))
    good = least >= n["attack"] - ROUNDING
    return good, (
        f"Pictures made on {len(n['names']) - 1} other networks leave at least {least:.1%} right, "
        f"the attack on this one {n['attack']:.1%}."
        if good
        else f"Pictures made on another network ({name}) leave {least:.1%} right, the attack on "
        f"this very network {n['attack']:.1%}: it does not use what it sees."
    )


def autoattack(case: Case) -> dict:
    """Check 14: AutoAttack, standard (Croce & Hein 2020): four strong attacks without settings."""
    if case.attack.bounds != AutoAttack.bounds:
        raise NotRun("AutoAttack needs pictures within 0..1")
    try:
        attack = AutoAttack(case.eps, seed=case.attack.seed)
    except CerebsimError as error:  # pyautoattack is missing
        raise NotRun(error) from None
    _expect_fit(attack, case)
    theirs = case.run(attack, "AutoAttack").accuracy
    return {"theirs": theirs, "attack": case.result.accuracy, "clean": case.clean_accuracy}


def ours_is_close(n: dict) -> Ruling:
    good = n["attack"] <= n["theirs"] + MOST_AUTOATTACK_GAIN + ROUNDING
    return good, (
        f"AutoAttack leaves {n['theirs']:.1%} right, the attack {n['attack']:.1%}"
        + ("." if good else f": report {n['theirs']:.1%} and not ours.")
    )


def _expect_fit(attack: Attack, case: Case) -> None:
    """Raise `NotRun` unless the attack can take this network and these pictures."""
    try:
        attack.check(case.net, case.x, case.y)
    except ArgumentError as error:
        raise NotRun(str(error).rstrip(".")) from None
