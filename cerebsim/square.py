"""Floor 5: the Square attack, which asks the network for outputs and never for a gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .ascent import Found
from .attackable import check_planes
from .attacks import Attack
from .errors import expect_integer, expect_number

# The share p of pixels in a square is halved after so many of 10,000 queries (their table).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square(Attack):
    """Random search for adv with |adv - x| <= eps inside the bounds, on the margin
    (Andriushchenko et al. 2020, L-infinity). Where a gradient is masked it is not misled.

    Starts with vertical stripes of +-eps; then each query sets a random square of the perturbation
    to +-eps, one sign per channel, and keeps it where the margin rises. The side of the square
    shrinks: p = 0.8 of the pixels at first, halved as the queries go by. Pictures (N, C, H, W).

    A picture that the model gets wrong already is a success as it is and left alone. One that
    withstands all queries is left with the highest margin found since the stripes.

    Random numbers are drawn for all pictures that still stand: so not for a batch, but what
    happens to a picture depends on which others there are.
    """

    eps: float | tuple[float, ...] = 0.1
    queries: int = 5000
    """Forward passes of a picture, after the one on the clean picture."""
    p: float = 0.8
    bounds: tuple[float, float] = (0.0, 1.0)
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        expect_integer(self.queries, "queries", 1, "The paper has 5000 and 10,000.")
        expect_number(self.p, "p", "a number in (0, 1]", lambda p: 0 < p <= 1, "The paper has 0.8.")
        expect_integer(self.seed, "seed", 0, "Any whole number draws squares.")

    def check(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        super().check(model, x, y)
        check_planes(x)

    def _found(self, eps: float, model, x, y, batch_size, progress) -> Found:
        return self.search(eps, model, x, y, batch_size, progress)[0]

    @torch.no_grad()
    def search(
        self,
        eps: float,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        batch_size: int = 256,
        progress: Callable[[int], object] | None = None,
    ) -> tuple[Found, Tensor]:
        """What is found at one eps, and (N,) int64 the query that fooled the model: 0 where x did
        itself, `queries` + 1 where none did. For a model in eval mode and pictures that `check`
        lets pass, at least one; `progress` as in `attack`."""
        random = np.random.default_rng(self.seed)
        report = progress or (lambda done: None)
        found = Found.seen(model, x.clone(), y, batch_size)
        needed = torch.where(found.success, 0, self.queries + 1)
        standing = len(x)
        for query in range(1, self.queries + 1):
            rows = (~found.success).nonzero().flatten()
            report(standing - len(rows))
            standing = len(rows)
            if not standing:
                break
            tried = self._tried(random, eps, query, x[rows], found.adversarial[rows])
            new = Found.seen(model, tried, y[rows], batch_size)
            # The stripes are where the search begins, whatever their margin.
            better = new.success | (new.score > found.score[rows]) | (query == 1)
            found.put(new.of(better), rows[better])
            needed[rows[new.success]] = query
        report(standing)
        return found, needed

    def _tried(
        self, random: np.random.Generator, eps: float, query: int, x: Tensor, best: Tensor
    ) -> Tensor:
        """(n, C, H, W): x with stripes at query 1, later the best so far with one more square."""
        n, c, h, w = x.shape

        def moved(*shape: int) -> Tensor:
            signs = torch.from_numpy(random.integers(0, 2, shape) * 2 - 1)
            return x + signs.to(x.device, x.dtype) * eps

        if query == 1:
            tried = moved(n, c, 1, w)
        else:
            inside = _squares(random, n, h, w, self._side(query, h, w)).to(x.device)
            tried = torch.where(inside, moved(n, c, 1, 1), best)
        return tried.clamp(*self.bounds)

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
