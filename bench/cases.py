"""The sizes, the inputs that every peer gets, and the right answers in float64."""

import copy
from collections.abc import Iterator
from functools import cache, cached_property

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cerebsim.config import CircuitConfig
from cerebsim.wiring import Wiring, draw_readout

d, c = 784, 10
SIZES = {
    "cpu": [(B, m, k) for m in (10_000, 200_000) for k in (1, 4, 50) for B in (1, 50, 256)],
    # The size of the paper first: what the time runs out on is left out.
    "cuda": [
        (B, m, 4) for m in (200_000, 10_000, 1_000_000, 10_000_000) for B in (50, 1024, 1, 10_000)
    ],
}
LARGEST_LESSON = 5 * 10**8  # h of all steps: beyond, float64 takes minutes to say what is right

# A PGD step, and the paper's learning.
ALPHA, EPS = 0.01, 0.1
RATE, DECAY, RMS_EPS, LTD_DECAY = 0.5, 0.99, 1e-8, 0.99  # RATE / m

# Largest error, relative to the largest entry of the right answer. An update of W is a small
# difference of float32 numbers, so less can be asked of it.
TOLERANCE = {"h": 1e-4, "y": 1e-4, "grad_x": 1e-4, "mu": 1e-4, "W_update": 1e-2, "x_next": 1e-3}


@cache
def circuit(m: int, k: int) -> tuple[Wiring, Tensor]:
    """J and W."""
    anatomy = CircuitConfig(mossy_fibers=d, granule_cells=m, purkinje_cells=c, fan_in=k)
    return Wiring.draw(anatomy), draw_readout(anatomy)


class Case:
    """One size: a circuit, a batch and the gradients that come back to it, on one device."""

    def __init__(self, B: int, m: int, k: int):
        self.B, self.m, self.k = self.size = B, m, k
        self.wiring, self.W = circuit(m, k)
        draw = torch.Generator().manual_seed(0)
        self.x = torch.rand(B, d, generator=draw)
        self.start = (self.x + 0.05 * torch.randn(B, d, generator=draw)).clamp(0, 1)
        self.labels = torch.randint(0, c, (B,), generator=draw)
        self.t = torch.nn.functional.one_hot(self.labels, c).float()
        # Learning runs several steps a call, as an epoch does, each on pictures of its own.
        self.steps = max(1, min(16, 200 // B))
        self.lesson = torch.rand(self.steps * B, d, generator=draw)
        answers = torch.randint(0, c, (self.steps * B,), generator=draw)
        self.lesson_t = torch.nn.functional.one_hot(answers, c).float()
        self.grad_y = torch.randn(B, c, generator=draw)
        # In the middle of learning: neither mu nor the square average is zero.
        self.mu = 0.1 + 0.01 * torch.rand(m, generator=draw)
        self.square_avg = 1e-4 + 1e-5 * torch.rand(c, m, generator=draw)
        self.bias = -(self.W @ self.mu)
        self.host = self  # has the right answers, in float64

    def on(self, device: torch.device) -> "Case":
        """The same on another device; the right answers stay on the host."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Wiring):
                setattr(other, name, value.to(device))
        return other

    @cached_property
    def grad_h(self) -> Tensor:
        draw = torch.Generator(self.x.device).manual_seed(1)
        return torch.randn(self.B, self.m, generator=draw, device=self.x.device)

    @cached_property
    def indices(self) -> Tensor:
        """(m, k) int64, as a user of the gather would hold them."""
        return self.wiring.indices.T.long().contiguous()

    @cached_property
    def weights(self) -> Tensor:
        """(m, k) float32."""
        return self.wiring.weights.T.contiguous()

    def matrix(self, dtype: type) -> scipy.sparse.csr_matrix:
        """J^T (m, d)."""
        starts = np.arange(0, self.m * self.k + 1, self.k, dtype=np.int32)
        weights = self.weights.cpu().numpy().astype(dtype).ravel()
        columns = self.indices.cpu().numpy().astype(np.int32).ravel()
        matrix = scipy.sparse.csr_matrix((weights, columns, starts), shape=(self.m, d))
        matrix.sort_indices()
        return matrix

    @cached_property
    def rows(self) -> list[int]:
        """The pictures that are checked: the first, one in the middle and the last."""
        return sorted({0, self.B // 2, self.B - 1})

    def errors(self, operation: str, found: dict[str, Tensor]) -> dict[str, float]:
        """Relative error of each result against float64, over its tolerance: right if < 1."""
        said = {}
        if operation == "granule_gradient":
            self.host.grad_h_rows = self.grad_h[self.rows].cpu()
        for name, right in getattr(self.host, f"right_{operation}").items():
            if name == "W_update":
                mine = found["W"].detach().cpu().double() - self.host.W.double()
            else:
                mine = found[name].detach()
                mine = (mine if name == "mu" else mine[self.rows]).cpu().double()
            mine = mine.numpy()
            assert mine.shape == right.shape, f"{name}: {mine.shape}, not {right.shape}"
            away = np.abs(mine - right)
            # The sign of a gradient near 0 is anybody's, so a few pixels of a step may differ.
            error = away.mean() / ALPHA if name == "x_next" else away.max() / np.abs(right).max()
            said[name] = error / TOLERANCE[name]
        return said

    # The right answers, in float64.

    @cached_property
    def _J(self) -> scipy.sparse.csr_matrix:
        return self.matrix(np.float64)

    def _h(self, x: Tensor) -> np.ndarray:
        return np.maximum(self._J @ x.numpy().astype(np.float64).T, 0).T

    def _grad_x(self, h: np.ndarray, grad_h: np.ndarray) -> np.ndarray:
        return (self._J.T @ (grad_h * (h > 0)).T).T

    @cached_property
    def right_granule(self) -> dict:
        return {"h": self._h(self.x[self.rows])}

    @cached_property
    def right_granule_gradient(self) -> dict:
        h = self._h(self.x[self.rows])
        return {"h": h, "grad_x": self._grad_x(h, self.grad_h_rows.double().numpy())}

    @cached_property
    def right_circuit(self) -> dict:
        h = self._h(self.x[self.rows])
        return {"y": h @ self.W.double().numpy().T + self.bias.double().numpy()}

    @cached_property
    def right_circuit_gradient(self) -> dict:
        h = self._h(self.x[self.rows])
        grad_h = self.grad_y[self.rows].double().numpy() @ self.W.double().numpy()
        return {**self.right_circuit, "grad_x": self._grad_x(h, grad_h)}

    @cached_property
    def right_pgd(self) -> dict:
        """Ascends 1/2 sum (y - t)^2."""
        W, rows = self.W.double().numpy(), self.rows
        h = self._h(self.start[rows])
        e = h @ W.T + self.bias.double().numpy() - self.t[rows].numpy()
        gradient = self._grad_x(h, e @ W)
        x = self.x[rows].numpy().astype(np.float64)
        moved = self.start[rows].numpy() + ALPHA * np.sign(gradient)
        return {"x_next": np.clip(np.clip(moved, x - EPS, x + EPS), 0, 1)}

    @cached_property
    def right_learn(self) -> dict:
        """After all steps; y is that of the last."""
        W, mu, square_avg = (a.double().numpy().copy() for a in (self.W, self.mu, self.square_avg))
        for x, t in self.batches():
            h = self._h(x)
            mu += (1 - LTD_DECAY) * (h.mean(0) - mu)
            h -= mu
            y = h @ W.T
            dW = (2 / (self.B * c) * (y - t.numpy())).T @ h
            square_avg += (1 - DECAY) * (dW**2 - square_avg)
            W -= RATE / self.m * dW / (np.sqrt(square_avg) + RMS_EPS)
        return {"y": y[self.rows], "mu": mu, "W_update": W - self.W.double().numpy()}

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """x and t of one learning step after another."""
        return zip(self.lesson.split(self.B), self.lesson_t.split(self.B), strict=True)
