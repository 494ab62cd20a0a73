"""Floor 7: do pictures that fool one network fool another? (Papernot et al. 2016)

Pictures that transfer from a network without masked gradients defeat a network that withstands
attacks of its own: then what it withstood was the attack, not the perturbation.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import plots
from .attackable import evaluating
from .attacks import FGSM, PGD, Noise
from .errors import ArgumentError, expect
from .evaluation import accuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Transfer:
    """Accuracies, shares 0..1; the names are in the order in which the networks were given."""

    clean: dict[str, float]
    """target -> on the pictures as they are."""
    attacked: dict[str, dict[str, float]]
    """source -> target -> on the pictures made on the source; the diagonal is the white box."""


def matrix(
    nets: dict[str, nn.Module],
    pictures: Iterable[Tensor],
    attack: Noise | FGSM | PGD,
    batch_size: int = 256,
    progress: Callable[[int], object] | None = None,
) -> Transfer:
    """Attack every network, and show the pictures made on it to all of them.

    nets: name -> network of pictures (N, ...) to logits (N, c), each on its own device; at least
    two. pictures: x (N, ...) in the attack's bounds and labels y (N,), e.g. `data.Pictures`.
    attack: with one eps. With keep="best" it leaves alone what its source gets wrong as it is.
    progress(n): called as in `attacks`; the numbers add up to N for every network.
    Deterministic where attack and networks are. Raises `ArgumentError`, also for a network that
    does not take these pictures.
    """
    got = f"{len(nets)} network{'' if len(nets) == 1 else 's'}"
    expect(len(nets) >= 2, "nets", got, "at least two", "Pass a source and a target.")
    eps = attack.eps
    expect(not isinstance(eps, tuple), "attack", f"eps={eps}", "one eps", "Make a matrix for each.")
    x, y = pictures
    for name, net in nets.items():
        _expect_fits(name, net, x)
    clean = {name: accuracy(net, (x, y), batch_size) for name, net in nets.items()}
    attacked = {}
    for source, net in nets.items():
        at = _device(net, x)
        result = attack.attack(net, x.to(at), y.to(at), batch_size=batch_size, progress=progress)
        attacked[source] = {
            target: accuracy(other, (result.adversarial, y), batch_size)
            for target, other in nets.items()
        }
    return Transfer(clean, attacked)


def _device(net: nn.Module, x: Tensor) -> torch.device:
    return next(net.parameters(), x).device


def _expect_fits(name: str, net: nn.Module, x: Tensor) -> None:
    try:
        with evaluating(net), torch.no_grad():
            net(x[:1].to(_device(net, x)))
    except (ArgumentError, RuntimeError) as error:
        raise ArgumentError(
            "nets",
            f"{name!r}, which does not take pictures of shape {tuple(x.shape[1:])} ({error})",
            "networks of these pictures",
            "Leave it out, or pass pictures that all of them take.",
        ) from error


def draw(title: str, found: Transfer) -> "Figure":
    """The matrix as a heat map, in percent: a row per source, the first row without attack."""
    from matplotlib.figure import Figure

    names = list(found.clean)
    rows = {"no attack": found.clean} | found.attacked
    shares = [[100 * row[target] for target in names] for row in rows.values()]
    figure = Figure(figsize=(2.6 + 1.1 * len(names), 1.8 + 0.7 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    plots.heat_map(axes, shares, list(rows), names)
    axes.axhline(0.5, color="white", lw=3)
    axes.set_xlabel("target: the network that sees the pictures")
    axes.set_ylabel("source: made on")
    axes.set_title(title, loc="left", fontsize=11)
    return figure
