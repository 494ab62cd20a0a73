"""Floor 4: the three layers of the circuit as ordinary modules, for use on their own.

`Cerebellum` is the three in a row; its evaluation fuses them. The state that is not learned (J) is
drawn again from the seed and so is not in `state_dict`.
"""

import torch
from torch import Tensor, nn

from . import ops
from .config import CircuitConfig
from .wiring import Wiring


class GranuleLayer(nn.Module):
    """A fast sparse expansion, h = relu(J^T x - threshold), paper eq. 1: fan_in inputs a cell.

    (B, d) -> (B, m), float32 (any float dtype on the reference backend), differentiable to x. J is
    fixed, random and a function of (seed, cell): see `wiring.Wiring.draw`. Never allocates B m k
    numbers.
    """

    def __init__(
        self,
        mossy_fibers: int,
        granule_cells: int,
        fan_in: int = 4,
        wiring: str = "random",
        replacement: bool = False,
        threshold: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        config = CircuitConfig(
            mossy_fibers,
            granule_cells,
            fan_in=fan_in,
            wiring=wiring,
            replacement=replacement,
            threshold=threshold,
            seed=seed,
        )
        drawn = Wiring.draw(config)
        self.mossy_fibers = mossy_fibers
        self.register_buffer("indices", drawn.indices, persistent=False)
        self.register_buffer("weights", drawn.weights, persistent=False)
        self.register_buffer("thresholds", drawn.thresholds, persistent=False)

    @property
    def operands(self) -> tuple[int, Tensor | None, Tensor, Tensor | None]:
        """J as the operators take it; see `wiring.Wiring.operands`."""
        return self.mossy_fibers, self.indices, self.weights, self.thresholds

    def forward(self, x: Tensor) -> Tensor:
        return ops.granule(x, self)

    def extra_repr(self) -> str:
        k, m = self.weights.shape
        return f"mossy_fibers={self.mossy_fibers}, granule_cells={m}, fan_in={k}"


class Centring(nn.Module):
    """LTD: z = h - mu, with mu <- beta mu + (1 - beta) mean_batch(h) while training.

    mu (m) starts at 0 and is frozen in eval mode. `update` "before" moves mu from the batch before
    it is subtracted from it (the paper's code), "after" afterwards. With decay 1 mu stays.
    """

    def __init__(self, granule_cells: int, decay: float = 0.99, update: str = "before"):
        super().__init__()
        self.decay, self.update = decay, update
        self.register_buffer("mu", torch.zeros(granule_cells))

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h - self.mu
        old = self.mu.clone()
        with torch.no_grad():
            if len(h):  # no pictures have no mean
                self.mu += (1 - self.decay) * (h.mean(0) - self.mu)
        return h - (self.mu.clone() if self.update == "before" else old)


class Readout(nn.Module):
    """Purkinje cells: y = W z, paper eq. 2; W (c, m) is the one thing that is learned."""

    def __init__(self, W: Tensor):
        super().__init__()
        self.W = nn.Parameter(W)

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.linear(z, self.W)
