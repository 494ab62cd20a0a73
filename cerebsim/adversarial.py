"""Floor 7: attacked pictures in a file that others can check without believing whoever wrote it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from . import results
from .errors import CerebsimError

FORMAT = 1
SLACK = 1e-6  # beyond eps and the bounds: x + delta is rounded to float32


@dataclass
class AdversarialSet:
    """Pictures x (N, ...), labels y (N), and for each eps the pictures that an attack made of x.

    A picture that no attack fooled stands as it is clean, so that the accuracy of a network on
    attacked[eps] is its worst case over the attacks.
    """

    x: Tensor
    y: Tensor
    attacked: dict[float, Tensor]
    bounds: tuple[float, float] = (0.0, 1.0)
    about: dict = field(default_factory=dict)
    """Whatever JSON says how it was made; no check reads it."""

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {"x": self.x, "y": self.y}
        tensors |= {f"attacked_{eps!r}": pictures for eps, pictures in self.attacked.items()}
        # Copies, for safetensors refuses tensors that share memory.
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        facts = {"format": FORMAT, "bounds": self.bounds, "about": self.about}
        content = safetensors.torch.save(tensors, metadata={"adversarial": json.dumps(facts)})
        results.write_bytes(path, content)

    @classmethod
    def load(cls, path: str | Path) -> "AdversarialSet":
        """Raises `CerebsimError`, naming the file and the reason, if it is none."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["adversarial"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']}, this cerebsim reads {FORMAT}")
            x, y = tensors.pop("x"), tensors.pop("y")
            attacked = {float(name.removeprefix("attacked_")): t for name, t in tensors.items()}
            if any(t.shape != x.shape for t in attacked.values()) or y.shape != x.shape[:1]:
                raise ValueError("pictures and labels of different shapes")
            return cls(x, y, dict(sorted(attacked.items())), tuple(facts["bounds"]), facts["about"])
        except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CerebsimError(
                f"{path} is no set of attacked pictures ({reason}). Write one with "
                "`cerebsim attack --save FILE` or AdversarialSet.save."
            ) from error


@dataclass(frozen=True)
class Claim:
    """What a set says at one eps, recomputed."""

    eps: float
    distance: float
    """Largest |attacked - x|, in float64."""
    low: float
    high: float
    """The least and the greatest pixel."""
    accuracy: float
    """Share of the attacked pictures that the network decides right."""
    faults: tuple[str, ...]
    """Why the set is no attack within eps; empty where it is one."""


def verify(claimed: AdversarialSet, right: Callable[[Tensor, Tensor], Tensor]) -> list[Claim]:
    """Recomputes distance, bounds and accuracy at every eps from the set alone.

    `right(x, y)` says for every picture whether the network decides it right, (N,) bool.
    """
    claims = []
    low, high = claimed.bounds
    for eps, pictures in claimed.attacked.items():
        exact = pictures.double()
        distance = float((exact - claimed.x.double()).abs().max()) if len(exact) else 0.0
        least, most = (float(v) for v in exact.aminmax()) if len(exact) else (low, high)
        faults = []
        if not bool(torch.isfinite(exact).all()):
            faults.append("NaN or infinity among the pixels")
        if not distance <= eps + SLACK:
            faults.append(f"a pixel moved by {distance:.6g}, more than eps = {eps:g}")
        if not (low - SLACK <= least and most <= high + SLACK):
            faults.append(f"pixels from {least:.6g} to {most:.6g}, outside {low:g}..{high:g}")
        accuracy = float("nan")
        if not faults:
            accuracy = float(right(pictures, claimed.y).double().mean())
        claims.append(Claim(eps, distance, least, most, accuracy, tuple(faults)))
    return claims
