"""Floor 1: J, the fixed random synapses from mossy fibres to granule cells.

A wiring is a function of (seed, granule index) and of nothing else: Philox 4x32-10 (Salmon et al.
2011) is keyed by the seed and counts (granule cell, draw), so the first m' cells of any wiring are
the wiring of m' cells, and a seed is a whole connectome on every machine. Normal variates come from
the inverse distribution function (Wichura 1988, AS 241) in float64 arithmetic that IEEE 754 fixes
to the last bit: additions, multiplications, divisions and square roots, no library logarithm.
"""

from dataclasses import dataclass
from typing import Protocol
from weakref import ref

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .config import CircuitConfig
from .errors import expect

_INPUTS, _WEIGHTS, _READOUT = range(3)  # what a draw is for: a stream of its own each
_CELLS_AT_ONCE = 1 << 15  # bounds the workspace of a draw


class Wired(Protocol):
    """Whatever has synapses: a `Wiring`, or a layer that holds one."""

    @property
    def operands(self) -> tuple[int, Tensor | None, Tensor, Tensor | None]:
        """(d, indices, weights, thresholds), as the operators take them."""


@dataclass(frozen=True, eq=False)
class Wiring:
    """J: granule cell i reads h_i = relu(sum_r weights[r, i] x[indices[r, i]] - thresholds[i]).

    indices (k, m), int16 where d <= 32,768, else int32; None for the dense matrix of "full", where
    input r is mossy fibre r. weights (k, m) float32, N(0, 1)/sqrt(k). thresholds (m) float32, or
    None for 0. k stands first so that the same synapse of neighbouring cells is contiguous.
    """

    d: int
    indices: Tensor | None
    weights: Tensor
    thresholds: Tensor | None = None

    def __post_init__(self):
        weights, indices = self.weights, self.indices
        shape = tuple(weights.shape)
        good = weights.ndim == 2 and weights.dtype == torch.float32 and min(shape) >= 1
        got = f"shape {shape} of {weights.dtype}"
        expect(good, "weights", got, "shape (k, m) of float32, k and m >= 1", "Use Wiring.draw.")
        expect(
            bool(torch.isfinite(weights).all()), "weights", "NaN or infinity", "finite numbers", ""
        )
        if indices is None:
            expect(self.k == self.d, "weights", got, f"shape ({self.d}, m)", "Full means k = d.")
        else:
            good = indices.shape == weights.shape and indices.dtype in (torch.int16, torch.int32)
            got = f"shape {tuple(indices.shape)} of {indices.dtype}"
            expect(good, "indices", got, f"shape {shape} of int16 or int32", "Use Wiring.draw.")
            low, high = (int(v) for v in indices.aminmax())
            within = f"0..{self.d - 1}"
            expect(0 <= low and high < self.d, "indices", f"{low}..{high}", within, "Check d.")
        if self.thresholds is not None:
            t = self.thresholds
            good = t.shape == (self.m,) and t.dtype == torch.float32
            got = f"shape {tuple(t.shape)} of {t.dtype}"
            expect(good, "thresholds", got, f"shape ({self.m},) of float32", "Or None for 0.")

    @property
    def operands(self) -> tuple[int, Tensor | None, Tensor, Tensor | None]:
        return self.d, self.indices, self.weights, self.thresholds

    @property
    def k(self) -> int:
        return self.weights.shape[0]

    @property
    def m(self) -> int:
        return self.weights.shape[1]

    def to(self, device: torch.device | str) -> "Wiring":
        """The same wiring on another device."""
        move = [
            t if t is None else t.to(device) for t in (self.indices, self.weights, self.thresholds)
        ]
        return Wiring(self.d, *move)

    def dense(self) -> Tensor:
        """J as a (d, m) matrix, for small cases and comparisons; repeated inputs add up."""
        return _scattered(self.indices, self.weights, self.d)

    @classmethod
    def draw(cls, config: CircuitConfig) -> "Wiring":
        """The wiring of this anatomy and seed, on the CPU.

        "random": k inputs anywhere, distinct by Floyd's algorithm, or with replacement as in the
        paper's code; "local": the k neighbours from a random start; "full": all. Uniform integers
        are the high word of a 32-bit product, so a mossy fibre's chance is even to within d/2^32.
        """
        d, m, k = config.mossy_fibers, config.granule_cells, config.fan_in
        full = config.wiring == "full"
        indices = None if full else np.empty((k, m), np.int16 if d <= 1 << 15 else np.int32)
        weights = np.empty((k, m), np.float32)
        for first in range(0, m, _CELLS_AT_ONCE):
            cells = np.arange(first, min(m, first + _CELLS_AT_ONCE))
            at = slice(first, first + len(cells))
            weights[:, at] = _normal(_words(config.seed, cells, _WEIGHTS, k)) / np.sqrt(k)
            if full:
                continue
            words = _words(config.seed, cells, _INPUTS, 1 if config.wiring == "local" else k)
            if config.wiring == "local":
                indices[:, at] = _below(words[0], d - k + 1) + np.arange(k)[:, None]
            elif config.replacement:
                indices[:, at] = _below(words, d)
            else:
                indices[:, at] = _distinct(words, d)
        thresholds = None
        if config.threshold != 0:
            thresholds = torch.full((m,), config.threshold, dtype=torch.float32)
        drawn = None if indices is None else torch.from_numpy(indices)
        return cls(d, drawn, torch.from_numpy(weights), thresholds)


_inverses = WeakTensorKeyDictionary()  # indices: {(d, cells): inverse}; gone with the indices


def inverse_of(indices: Tensor, d: int, cells: int | None = None) -> tuple[Tensor, Tensor]:
    """J read from the mossy fibres: starts (chunks d + 1) and synapses (k m), both int64.

    Granule cells are taken in chunks of `cells` (None: all in one). In chunk q mossy fibre p drives
    synapses[starts[q d + p] : starts[q d + p + 1]], each numbered r m + i and in rising order, so
    that a gradient to x is a gather with a fixed order of summation. On the device of `indices`
    (k, m), which must not change; built at the first call and kept as long as they live.
    """
    kept = _inverses.setdefault(indices, {})
    if (d, cells) not in kept:
        m = indices.shape[1]
        chunk = torch.arange(m, device=indices.device) // (cells or m)
        keys = (chunk * d + indices).flatten()
        counts = torch.bincount(keys, minlength=(int(chunk[-1]) + 1) * d)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        kept[d, cells] = starts, torch.argsort(keys, stable=True)
    return kept[d, cells]


_matrices = WeakTensorKeyDictionary()  # weights: (indices, what changes with their values, matrix)


def matrix_of(indices: Tensor, weights: Tensor, d: int) -> Tensor:
    """J as a (d, m) matrix; kept as long as these weights live and neither changes."""
    state = None if weights.is_inference() else (indices._version, weights._version, d)
    kept = _matrices.get(weights)
    if state is None or kept is None or kept[0]() is not indices or kept[1] != state:
        kept = _matrices[weights] = ref(indices), state, _scattered(indices, weights, d)
    return kept[2]


def _scattered(indices: Tensor | None, weights: Tensor, d: int) -> Tensor:
    if indices is None:
        return weights
    J = weights.new_zeros(d, weights.shape[1])
    return J.scatter_add_(0, indices.long(), weights)


def draw_readout(config: CircuitConfig) -> Tensor:
    """The initial W (c, m): N(0, 1/m), as the paper's code, or zero; from the seed like J."""
    c, m = config.purkinje_cells, config.granule_cells
    W = torch.zeros(c, m)
    if config.initial_readout == "normal":
        for first in range(0, m, _CELLS_AT_ONCE):
            cells = np.arange(first, min(m, first + _CELLS_AT_ONCE))
            normal = _normal(_words(config.seed, cells, _READOUT, c)) / np.sqrt(m)
            W[:, first : first + len(cells)] = torch.from_numpy(normal.astype(np.float32))
    return W


def _words(seed: int, cells: np.ndarray, stream: int, n: int) -> np.ndarray:
    """n random 32-bit words (n, cells) for every granule cell: Philox 4x32-10."""
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    blocks = -(-n // 4)
    cell, block = np.broadcast_arrays(
        cells.astype(np.uint64), np.arange(blocks, dtype=np.uint64)[:, None]
    )
    a, b, c, e = cell & low, cell >> shift, block, np.full_like(block, stream)
    key0, key1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    for _ in range(10):
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, e = (q >> shift) ^ b ^ key0, q & low, (p >> shift) ^ e ^ key1, p & low
        key0, key1 = (key0 + np.uint64(0x9E3779B9)) & low, (key1 + np.uint64(0xBB67AE85)) & low
    return np.stack([a, b, c, e], axis=1).reshape(4 * blocks, -1)[:n]


def _below(words: np.ndarray, n: int) -> np.ndarray:
    """Whole numbers in [0, n) from 32-bit words."""
    return ((words * np.uint64(n)) >> np.uint64(32)).astype(np.int64)


def _distinct(words: np.ndarray, d: int) -> np.ndarray:
    """k different numbers below d for every column of words (k, cells): Floyd's algorithm."""
    k = len(words)
    drawn = np.empty(words.shape, np.int16 if d <= 1 << 15 else np.int32)
    for r in range(k):
        top = d - k + r
        candidate = _below(words[r], top + 1)
        taken = (drawn[:r] == candidate).any(axis=0)
        drawn[r] = np.where(taken, top, candidate)
    return drawn


# Wichura 1988, PPND16, highest power first: the centre, |p - 1/2| <= 0.425, and the tails.
_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
     4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
     2.05319162663775882187e0, 1.0),
)  # fmt: skip


def _normal(words: np.ndarray) -> np.ndarray:
    """Standard normal variates, float64, from 32-bit words; |variate| < 6.4."""
    p = (words.astype(np.float64) + 0.5) * 2.0**-32
    q = p - 0.5
    centre = np.abs(q) <= 0.425
    normal = np.empty_like(p)
    inner = q[centre]
    normal[centre] = inner * _ratio(_CENTRE, 0.180625 - inner * inner)
    outer = ~centre
    r = np.sqrt(-_log(np.minimum(p[outer], 1 - p[outer])))
    normal[outer] = np.copysign(_ratio(_TAIL, r - 1.6), q[outer])
    return normal


def _ratio(coefficients: tuple, r: np.ndarray) -> np.ndarray:
    above, below = (np.full_like(r, row[0]) for row in coefficients)
    for i in range(1, len(coefficients[0])):
        above = above * r + coefficients[0][i]
        below = below * r + coefficients[1][i]
    return above / below


def _log(p: np.ndarray) -> np.ndarray:
    """Natural logarithm, the same to the last bit everywhere: 2 artanh((f-1)/(f+1)) + e ln 2."""
    f, e = np.frexp(p)
    small = f < 0.7071067811865476
    f, e = np.where(small, 2 * f, f), np.where(small, e - 1, e)
    s = (f - 1) / (f + 1)
    square = s * s
    series = np.zeros_like(s)
    for power in range(23, 0, -2):
        series = series * square + 1 / power
    return 2 * s * series + e * 0.6931471805599453
