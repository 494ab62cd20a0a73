"""How pictures are laid out for the kernels, and cut into what is worked on at once.

A picture's results must not depend on its neighbours, bit for bit, so no shape of a block depends
on the batch: pictures stand in blocks of BLOCK_B columns, cells in blocks of BLOCK_M, and sums over
cells are cut where m alone says.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_B = 32  # pictures of a tile: 128 bytes of float32, one line of the cache
BLOCK_M = 64  # granule cells of a tile
# One stage: several would bring the gathers through shared memory, at the price of spilled
# registers. Fusion: u += weight * x is one rounding; asked for, since Triton's default changes.
OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
WORKSPACE = 1 << 23  # floats, 34 MB: what one kernel hands to the next stays in the L2 of an H100
MAX_PICTURES = 1 << 20  # of one launch: the second side of a grid has 65,535 blocks at most


class Synapses(NamedTuple):
    """J as the kernels read it: indices and weights (k, m), thresholds (m) or None."""

    indices: Tensor
    weights: Tensor
    thresholds: Tensor | None

    @classmethod
    def of(cls, indices: Tensor, weights: Tensor, thresholds: Tensor | None) -> "Synapses":
        return cls(indices.contiguous(), weights.contiguous(), contiguous(thresholds))

    @property
    def k(self) -> int:
        return self.weights.shape[0]

    @property
    def m(self) -> int:
        return self.weights.shape[1]


def contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def blocks(n: int, block: int) -> int:
    """How many blocks hold n."""
    return -(-n // block)


def columns(rows: Tensor) -> Tensor:
    """rows (B, n) as float32 (n, B), with zeros up to a whole number of blocks of pictures.

    So what one mossy fibre tells a block of pictures is one aligned load without a mask.
    """
    B, n = rows.shape
    transposed = rows.new_zeros(n, blocks(B, BLOCK_B) * BLOCK_B, dtype=torch.float32)
    transposed[:, :B] = rows.T
    return transposed


def slabs(
    pictures: int, floats_per_picture: int, block: int = BLOCK_B
) -> Iterator[tuple[int, int]]:
    """(first, size) of the slabs of pictures (whole blocks) whose workspace fits, or one block."""
    size = min(WORKSPACE // floats_per_picture, MAX_PICTURES) // block * block
    for first in range(0, pictures, size := max(size, block)):
        yield first, min(size, pictures - first)


def block_of_outputs(c: int) -> int:
    """Purkinje cells of a tile; 16 is the least depth that every `tl.dot` takes."""
    return 16 if c <= 16 else 32


def on_its_device(operation: Callable) -> Callable:
    """Launches on the device of the first argument, whichever is current."""

    @wraps(operation)
    def launched(first: Tensor, *arguments, **more):
        with torch.cuda.device_of(first):
            return operation(first, *arguments, **more)

    return launched
