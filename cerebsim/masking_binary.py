"""Floor 8: check 15, the binarization test of Zimmermann et al. 2022.

A question with a known answer: a readout is fitted that tells one point on the boundary of the
ball from many inside. So there is an adversarial picture, and a sound attack finds it.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .analysis import TILE, tiles
from .attacks import Noise
from .labels import decide
from .masking_case import Case, NotRun, rescaled
from .masking_gradient import Ruling
from .model import Cerebellum

# Check 15, ours.
LEAST_FOUND = 0.95
# Theirs: inner points fill 0.95 of the ball, and the threshold lies at 0.999 of the way from the
# highest score of an inner point to the score of the boundary point.
INNER = 0.95
CLOSENESS = 0.999


class _Refitted(nn.Module):
    """A copy of the network with a readout of its own on z, the input of its last layer."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = copy.deepcopy(net).eval()
        parts = list(self.net.modules())
        circuits = [part for part in parts if isinstance(part, Cerebellum)]
        layers = [part for part in parts if isinstance(part, nn.Linear)]
        if not circuits and not layers:
            raise NotRun("the network has no readout that could be fitted anew")
        self.circuit = circuits[-1] if circuits else None
        self.layer = None if circuits else layers[-1]
        if self.circuit is not None:
            self.circuit.centring = None  # mu is a shift, which the threshold takes up
        self.shift = 0.0

    def tiles(self, x: Tensor) -> Iterator[Tensor]:
        """z (P, cells), tile by tile."""
        caught = []
        part = self.layer if self.circuit is None else self.circuit
        hook = part.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
        with torch.no_grad():
            self.net(x)
            hook.remove()
            if self.circuit is None:
                yield caught[0]
            else:
                yield from tiles(self.circuit, caught[0].flatten(1), TILE)

    def classifier(self, w: Tensor, threshold: float, scale: float) -> nn.Module:
        """Two outputs, -s/2 and s/2 with s = (w z - threshold) / scale."""
        both = torch.stack([-w, w]) / (2 * scale)
        if self.circuit is None:
            self.layer.weight = nn.Parameter(both)
            self.layer.bias = None
        else:
            self.circuit.readout.W = nn.Parameter(both)
        shift = torch.tensor([threshold, -threshold], device=w.device) / (2 * scale)
        return rescaled(self.net, shift=shift.to(w.dtype))

    def fit(self, points: Tensor) -> "nn.Module | None":
        """The last point against the others: w = z_last - mean(z_others); None if that fails.

        It is one step of the delta rule (paper eq. 4) from W = 0 where both kinds weigh the same.
        Zimmermann et al. fit a logistic regression; see `binarization` for why we do not.
        """
        w = torch.cat([z[-1] - z[:-1].mean(0) for z in self.tiles(points)])
        scores, first = 0.0, 0
        for z in self.tiles(points):
            scores = scores + z.double() @ w[first : first + z.shape[1]].double()
            first += z.shape[1]
        inner, boundary = scores[:-1].max(), scores[-1]
        if not boundary > inner:
            return None
        threshold = inner + CLOSENESS * (boundary - inner)
        scale = boundary - scores[:-1].mean()
        net = self.classifier(w, threshold.item(), scale.item())
        with torch.no_grad():
            said = decide(net(points))
        return net if said[-1] == 1 and not said[:-1].any() else None


def binarization(case: Case) -> dict:
    """Check 15: for each picture, does the attack find what is certainly there?

    The boundary point is a random corner of the ball, the inner points are uniform in 0.95 of it,
    the picture itself among them. Random noise gets as many tries as the attack has steps.

    Where pictures have few pixels a readout that fits 1,000 points exactly (logistic regression,
    least squares) is a spike around one of them: on digits at m = 500 it has solutions that no
    ascent finds, and a sound PGD fails, which says nothing about gradients. The difference of
    means has the same known solution on a hill that can be climbed.
    """
    if case.attack.loss == "dlr":
        raise NotRun("the loss dlr needs three outputs, and this test has two")
    if case.eps == 0:
        raise NotRun("the ball of eps 0 holds one point")
    refitted = _Refitted(case.net)
    generator = torch.Generator().manual_seed(case.attack.seed)
    low, high = case.attack.bounds
    found, random, apart = [], [], 0
    for picture in case.x[: case.effort.binarized]:
        u = torch.rand(case.effort.inner_points + 1, *picture.shape, generator=generator) * 2 - 1
        u = u.to(case.x) * INNER
        u[0], u[-1] = 0, u[-1].sign()
        net = refitted.fit((picture + case.eps * u).clamp(low, high))
        if net is None:
            continue
        apart += 1
        x = picture.unsqueeze(0)
        inside = torch.zeros(1, dtype=torch.int64, device=x.device)
        result = case.attack.attack(net, x, inside)
        noise = Noise(case.eps, case.attack.steps, bounds=case.attack.bounds)
        chance = noise.attack(net, x, inside)
        found.append(_score(net, result.adversarial))
        random.append(_score(net, chance.adversarial))
    if not apart:
        raise NotRun("no readout could tell the boundary point from the points inside")
    return {
        "pictures": len(case.x[: case.effort.binarized]),
        "fitted": apart,
        "found": sum(s > 0 for s in found) / apart,
        "random": sum(s > 0 for s in random) / apart,
        "scores": found,
        "random_scores": random,
    }


@torch.no_grad()
def _score(net: nn.Module, x: Tensor) -> float:
    """s of a picture: positive where it is called the boundary point."""
    own, other = net(x)[0].tolist()
    return other - own


def the_findable_is_found(n: dict) -> Ruling:
    good = n["found"] >= LEAST_FOUND
    return good, (
        f"On {n['fitted']} problems that certainly have a solution the attack finds it in "
        f"{n['found']:.1%}, random noise in {n['random']:.1%}"
        + ("." if good else ": what it does not find may well be there.")
    )
