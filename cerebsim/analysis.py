"""Floor 7: what the granule layer does to a set of pictures, without ever holding the layer.

Cells are taken in tiles, so that memory holds P x tile numbers and the P x P Gram matrix (P
pictures), never B m or m m.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from . import ops
from .errors import expect, expect_integer
from .model import Cerebellum

TILE = 4096  # granule cells at once
PAIRED = 2000  # cells whose correlations are taken, each with each


@dataclass(frozen=True)
class Layer:
    """One layer's response r (P, n) to P pictures.

    dimension: (sum l)^2 / sum l^2 over the eigenvalues l of the covariance over pictures, between 1
    and min(P - 1, n), or 0 where nothing varies (Litwin-Kumar et al. 2017).
    sparseness: mean over pictures of (n - (sum_i r_i)^2 / sum_i r_i^2) / (n - 1), 0 where all cells
    are equally active and 1 where one is (Vinje & Gallant 2000, as Cayco-Gajic et al. 2017 use it);
    a picture without any activity counts as 0.
    active: share of r > 0. correlation: mean |Pearson's r| over pairs of cells that respond
    differently to some pictures; of the first `paired` cells, which in a random wiring are a random
    sample. eigenvalues: of the covariance, falling, as shares of their sum.
    """

    n: int
    dimension: float
    sparseness: float
    active: float
    correlation: float
    paired: int
    eigenvalues: list[float]


@torch.no_grad()
def analyze(net: Cerebellum, x: Tensor, tile: int = TILE) -> dict[str, Layer]:
    """The layers "MF" (the pictures themselves) and "GC" (h, before mu, which shifts and changes no
    dimension or correlation) for pictures x (P, ...), P >= 3, as `Cerebellum` takes them.

    Gram matrices are summed in float64, products in the network's dtype. `tile` bounds the memory,
    not the result.
    """
    expect(
        len(x) >= 3, "x", f"{len(x)} pictures", "at least 3", "A thousand tell a dimension well."
    )
    expect_integer(tile, "tile", 1, "It bounds the memory.")
    x = x.to(net.W.device).flatten(1)
    return {
        "MF": _layer([x], x.shape[1]),
        "GC": _layer(tiles(net, x, tile), net.config.granule_cells),
    }


def tiles(net: Cerebellum, x: Tensor, tile: int) -> Iterator[Tensor]:
    """h of the network (P, cells), tile by tile."""
    d, *J = net.granule.operands
    for first in range(0, net.config.granule_cells, tile):
        part = (None if t is None else t[..., first : first + tile].contiguous() for t in J)
        yield ops.granule(x, SimpleNamespace(operands=(d, *part)))


def _layer(parts: Iterable[Tensor], n: int) -> Layer:
    gram, total, squares, active, sample = 0.0, 0.0, 0.0, 0, []
    for r in parts:
        gram = gram + (r @ r.T).double()
        total = total + r.double().sum(1)
        squares = squares + r.double().square().sum(1)
        active += int((r > 0).sum())
        if sum(part.shape[1] for part in sample) < min(n, PAIRED):
            sample.append(r.double())
    P = len(gram)
    # Subtracting each cell's mean over the pictures, from the products alone.
    rows = gram.mean(0)
    values = torch.linalg.eigvalsh(gram - rows - rows[:, None] + rows.mean()).clamp_min(0).flip(0)
    sparseness = (n - total**2 / squares) / max(n - 1, 1)
    cells = torch.cat(sample, 1)[:, :PAIRED]
    total_variance, of_squares = float(values.sum()), float(values.square().sum())
    return Layer(
        n=n,
        dimension=total_variance**2 / of_squares if of_squares > 0 else 0.0,
        sparseness=float(sparseness.nan_to_num(0.0).mean()),
        active=active / (P * n),
        correlation=_mean_correlation(cells),
        paired=cells.shape[1],
        eigenvalues=[float(v) / total_variance if of_squares > 0 else 0.0 for v in values],
    )


def _mean_correlation(cells: Tensor) -> float:
    """Mean |r| over the pairs of columns (P, n) that are not constant; 0 where there is no pair."""
    centred = cells - cells.mean(0)
    norms = centred.norm(dim=0)
    centred = centred[:, norms > 0] / norms[norms > 0]
    n = centred.shape[1]
    if n < 2:
        return 0.0
    pairs = (centred.T @ centred).abs()
    return float((pairs.sum() - pairs.diagonal().sum()) / (n * (n - 1)))
