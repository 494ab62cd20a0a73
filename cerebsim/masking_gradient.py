"""Floor 8: checks 0, 1, 2 and 16: is there a gradient, and is it the right one?

A computation takes the `Case` and returns measured numbers that JSON can hold; a rule takes those
and returns whether the check passes and one sentence.
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from .adversarial import AdversarialSet, verify
from .ascent import Plan, input_gradient
from .checkpoint import checksum
from .labels import decide
from .losses import loss_function
from .masking_case import Case, exactly, share
from .model import Cerebellum

Ruling = tuple[bool, str]

# Check 0: `adversarial.verify` holds |adversarial - x| to eps + 1e-6.
# Check 1, ours.
LEAST_COSINE = 0.9999
LEAST_AGREEMENT = 0.999
NEAR_ZERO = 1e-3  # of a picture's largest gradient: below it a sign means nothing
# Check 2, ours.
MOST_EXCESS_ZEROS = 0.01
# Check 16: Pintor et al. 2022 call a loss unstable beyond it.
MOST_VARIABILITY = 0.10

EXACT_BATCH = 16  # pictures at once where the definition holds h in float64
SHOWN = 2000  # points of a scatter that a record keeps


def preconditions(case: Case) -> dict:
    """Check 0: the network repeats itself and stays as it is, and the attack stays in its ball.

    Distance, bounds and accuracy are recomputed in float64 from the file that was saved.
    """
    state = _state(case)
    passes = [case.logits(case.x) for _ in range(case.effort.forwards)]
    result = case.result
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adversarial.safetensors"
        attacked = {case.eps: result.adversarial}
        AdversarialSet(case.x, case.y, attacked, case.attack.bounds).save(file)
        saved = AdversarialSet.load(file)
    with exactly(case.net) as exact:

        @torch.no_grad()
        def right(x: Tensor, y: Tensor) -> Tensor:
            parts = [
                decide(exact(part.double().to(case.x.device))) for part in x.split(EXACT_BATCH)
            ]
            return torch.cat(parts).cpu() == y

        (claim,) = verify(saved, right)
    return {
        "forwards": len(passes),
        "forwards_equal": all(torch.equal(passes[0], other) for other in passes[1:]),
        "eval": not any(module.training for module in case.net.modules()),
        "frozen": state == _state(case),
        "eps": case.eps,
        "distance": claim.distance,
        "low": claim.low,
        "high": claim.high,
        "faults": list(claim.faults),
        "accuracy": None if claim.faults else claim.accuracy,
        "accuracy_reported": result.accuracy,
        "tolerance": case.tolerance,
    }


def preconditions_hold(n: dict) -> Ruling:
    faults = list(n["faults"])
    if not n["forwards_equal"]:
        faults.append(f"{n['forwards']} forward passes of the same pictures differ")
    if not n["eval"]:
        faults.append("a part of the network is in train mode")
    if not n["frozen"]:
        faults.append("the attack changed the network")
    if n["accuracy"] is not None and abs(n["accuracy"] - n["accuracy_reported"]) > n["tolerance"]:
        faults.append(
            f"in float64 the saved pictures give {n['accuracy']:.1%}, "
            f"the attack reported {n['accuracy_reported']:.1%}"
        )
    if faults:
        return False, "The measurement itself is not sound: " + "; ".join(faults) + "."
    return True, (
        f"The network repeats itself and is left as it was; no pixel of the saved pictures moves "
        f"by more than {n['distance']:.6g}, and float64 finds {n['accuracy']:.1%} of them right."
    )


def gradient_agreement(case: Case) -> dict:
    """Check 1: the gradient that the attack uses against autograd on the definition, in float64.

    At random points of the ball, where no granule cell sits exactly on its threshold. Two
    gradients that are zero everywhere agree: check 2 is the one that minds.
    """
    n = case.effort.gradients
    x, y, bounds = case.x[:n], case.y[:n], case.attack.bounds
    start = Plan(case.eps, "margin", bounds, start="uniform", seed=case.attack.seed)
    x = (x + case.eps * start.directions(x, 0)).clamp(*bounds)
    loss = loss_function(case.attack.loss)
    fast = _gradients(case.net, loss, x, y, case.batch_size).double()
    with exactly(case.net) as exact:
        slow = torch.cat([
            _autograd(exact, loss, part.double(), labels)
            for part, labels in zip(x.split(EXACT_BATCH), y.split(EXACT_BATCH), strict=True)
        ])  # fmt: skip
    norms = fast.norm(dim=1) * slow.norm(dim=1)
    cosines = (fast * slow).sum(1) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    cosines[(fast == 0).all(1) & (slow == 0).all(1)] = 1.0
    largest = slow.abs().amax(1, keepdim=True)
    counted = (slow.abs() > NEAR_ZERO * largest) & (largest > 0)
    agreement = share((fast.sign() == slow.sign())[counted]) if counted.any() else 1.0
    every = max(1, fast.numel() // SHOWN)
    scale = slow.abs().amax().clamp_min(torch.finfo(slow.dtype).tiny)
    return {
        "pictures": len(x),
        "least_cosine": cosines.min().item(),
        "sign_agreement": agreement,
        "fast": (fast / scale).flatten()[::every].tolist(),
        "exact": (slow / scale).flatten()[::every].tolist(),
    }


def gradient_is_right(n: dict) -> Ruling:
    good = n["least_cosine"] >= LEAST_COSINE and n["sign_agreement"] >= LEAST_AGREEMENT
    return good, (
        f"On {n['pictures']} pictures the gradient used points where float64 points (cosine at "
        f"least {n['least_cosine']:.6f}), and {n['sign_agreement']:.2%} of its signs agree."
        if good
        else f"The gradient used is not the loss's gradient: cosine down to "
        f"{n['least_cosine']:.4f}, {n['sign_agreement']:.2%} of the signs agree."
    )


def zero_gradients(case: Case) -> dict:
    """Check 2: pictures and pixels without a gradient, at every step of the attack.

    A pixel that no granule cell reads has none by right: of d pixels a share (1 - 1/d)^(m k), the
    d (1 - 1/d)^(mk) pixels of the protocol. Other networks are held to read every pixel.
    """
    trace = case.trace
    unread = 0.0
    for module in case.net.modules():
        if isinstance(module, Cerebellum):
            c = module.config
            unread = (1 - 1 / c.mossy_fibers) ** (c.granule_cells * c.fan_in)
    quantiles = torch.tensor([0.05, 0.5, 0.95], dtype=trace.norms.dtype, device=case.x.device)
    return {
        "unread": unread,
        "zero_pixels": trace.zeros.mean(1).tolist(),
        "norms": trace.norms.quantile(quantiles, dim=1).T.tolist(),
        "pictures_without": share((trace.norms == 0).any(0)),
    }


def gradients_are_there(n: dict) -> Ruling:
    excess = max(n["zero_pixels"]) - n["unread"]
    good = n["pictures_without"] == 0 and excess <= MOST_EXCESS_ZEROS
    return good, (
        f"Every picture has a gradient at every step; {max(n['zero_pixels']):.2%} of the pixels "
        f"have none ({n['unread']:.2%} are read by no cell)."
        if good
        else f"{n['pictures_without']:.1%} of the pictures have no gradient at some step, and up "
        f"to {excess:.1%} of the pixels have none without reason: the attack is blind."
    )


def landscape(case: Case) -> dict:
    """Check 16: the attack's loss over (a, b) in [-eps, eps]^2, at x + a sign(gradient) + b r, r
    random signs, cut off at the bounds.

    variability: mean |loss - mean of its four neighbours on the grid| over the range of the loss.
    A plane has 0, noise about 0.3. (The indicator of Pintor et al. 2022, relative change in a
    small ball, would count the slope as well.)
    """
    n, side = case.effort.landscapes, case.effort.grid
    x, y = case.x[:n], case.y[:n]
    loss = loss_function(case.attack.loss)
    ascent = _gradients(case.net, loss, x, y, case.batch_size).sign().view_as(x)
    random = Plan(1.0, "margin", case.attack.bounds, start="corner", seed=case.attack.seed)
    noise = random.directions(x, 0)
    offsets = torch.linspace(-case.eps, case.eps, side, dtype=x.dtype, device=x.device)
    grids = []
    for picture, label, a, b in zip(x, y, ascent, noise, strict=True):
        steps = offsets.view(-1, 1, *[1] * a.ndim) * a + offsets.view(1, -1, *[1] * a.ndim) * b
        points = (picture + steps).flatten(0, 1).clamp(*case.attack.bounds)
        values = loss(case.logits(points), label.expand(len(points)))
        grids.append(values.view(side, side).double())
    grids = torch.stack(grids)
    neighbours = (grids[:, :-2, 1:-1] + grids[:, 2:, 1:-1] + grids[:, 1:-1, :-2]
                  + grids[:, 1:-1, 2:]) / 4  # fmt: skip
    rough = (grids[:, 1:-1, 1:-1] - neighbours).abs().mean((1, 2))
    spread = grids.flatten(1).amax(1) - grids.flatten(1).amin(1)
    variability = torch.where(spread > 0, rough / spread.clamp_min(1e-300), 0.0)
    return {
        "eps": case.eps,
        "variability": variability.tolist(),
        "mean_variability": variability.mean().item(),
        "grid": grids[0].tolist(),
    }


def landscape_is_smooth(n: dict) -> Ruling:
    good = n["mean_variability"] <= MOST_VARIABILITY
    return good, (
        f"Around a picture the loss is {'smooth' if good else 'rough'}: it departs from its "
        f"neighbourhood by {n['mean_variability']:.1%} of its range."
    )


def _state(case: Case) -> str:
    """A checksum of all parameters and buffers, mu among them."""
    return checksum(*case.net.parameters(), *case.net.buffers())


def _gradients(net, loss, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """What an attack climbs, (N, d): dL/dx as `input_gradient` has it."""
    parts = []
    for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):

        def pull(logits: Tensor, labels: Tensor = labels) -> Tensor:
            with torch.enable_grad():
                logits = logits.detach().requires_grad_()
                return torch.autograd.grad(loss(logits, labels).sum(), logits)[0]

        parts.append(input_gradient(net, part, pull)[1].flatten(1))
    return torch.cat(parts)


def _autograd(net, loss, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(loss(net(x), y).sum(), x)[0].flatten(1)
