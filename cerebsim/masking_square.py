"""Floor 8: the Square attack, which asks the network for outputs and never for a gradient.

Andriushchenko et al. 2020, L-infinity. Where a gradient is masked it is not misled.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .attackable import check_pictures, evaluating
from .losses import margin

# The share p of pixels in a square is halved after so many of 10,000 queries (their table).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square:
    """Random search for adv with |adv - x| <= eps inside the bounds, on the margin.

    Starts with vertical stripes of +-eps; then each query sets a random square of the perturbation
    to +-eps, one sign per channel, and keeps it where the margin rises. The side of the square
    shrinks: p = 0.8 of the pixels at first, halved as the queries go by. Pictures (N, C, H, W).

    It repeats itself, but is not blind to the batch: random numbers are drawn for all pictures
    still standing.
    """

    eps: float = 0.1
    queries: int = 5000
    p: float = 0.8
    bounds: tuple[float, float] = (0.0, 1.0)
    seed: int = 0

    def attack(
        self, model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 256
    ) -> tuple[Tensor, Tensor]:
        """(N, ...) pictures, and (N,) int64 the query that fooled the model, 0 where x did itself
        and `queries` + 1 where none did."""
        with evaluating(model), torch.no_grad():
            check_pictures(model, x, y, self.bounds)
            return self._search(model, x, y, batch_size)

    def _search(self, model, x: Tensor, y: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng(self.seed)

        def score(pictures: Tensor, labels: Tensor) -> Tensor:
            parts = zip(pictures.split(batch_size), labels.split(batch_size), strict=True)
            return torch.cat([margin(model(part), of) for part, of in parts])

        def signs(*shape: int) -> Tensor:
            drawn = random.integers(0, 2, shape) * 2 - 1
            return torch.from_numpy(drawn).to(x.device, x.dtype) * self.eps

        n, c, h, w = x.shape
        best, highest = x.clone(), score(x, y)
        needed = torch.where(highest > 0, 0, self.queries + 1)
        for query in range(1, self.queries + 1):
            rows = (highest <= 0).nonzero().flatten()
            if not len(rows):
                break
            if query == 1:
                tried = x[rows] + signs(len(rows), c, 1, w)
            else:
                side = self._side(query, h, w)
                inside = _squares(random, len(rows), h, w, side).to(x.device)
                moved = x[rows] + signs(len(rows), c, 1, 1)
                tried = torch.where(inside, moved, best[rows])
            tried = tried.clamp(*self.bounds)
            found = score(tried, y[rows])
            better = rows[(found > highest[rows]) | (query == 1)]
            chosen = (found > highest[rows]) | (query == 1)
            best[better], highest[better] = tried[chosen], found[chosen]
            needed[better[highest[better] > 0]] = query
        return best, needed

    def _side(self, query: int, h: int, w: int) -> int:
        share_of_all = query * 10_000 / self.queries
        p = self.p / 2 ** sum(share_of_all > after for after in _HALVED_AFTER)
        return int(np.clip(round((p * h * w) ** 0.5), 1, min(h, w)))


def _squares(random: np.random.Generator, n: int, h: int, w: int, side: int) -> Tensor:
    """(n, 1, h, w) bool: one square each, anywhere inside the picture."""
    top = torch.from_numpy(random.integers(0, h - side + 1, (n, 1)))
    left = torch.from_numpy(random.integers(0, w - side + 1, (n, 1)))
    rows, columns = torch.arange(h)[None] - top, torch.arange(w)[None] - left
    tall, wide = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    return (tall[:, :, None] & wide[:, None, :]).unsqueeze(1)
