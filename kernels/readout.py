"""circuit: y = W (h - mu) and its gradient to W, gather, relu and readout in one kernel; no h."""

import triton
import triton.language as tl

from .activity import PRECISION, centred, columns_tile, readout_tile
from .launching import (
    BLOCK_B,
    BLOCK_M,
    OPTIONS,
    Synapses,
    block_of_outputs,
    blocks,
    columns,
    contiguous,
    on_its_device,
    slabs,
)

SPLIT_CELLS = 256  # the least that one program sums
MAX_SPLITS = 512
BLOCK_S = 64  # splits of a tile when they are summed


@triton.jit
def readout_kernel(
    xT, indices, weights, thresholds, W, mu, partial, first, slab, Bp, m, c, split_cells,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """partial[split, o, picture] = sum over the cells i of the split of W[o, i] (h_i - mu_i).

    Program (split, block of pictures of the slab, block of outputs).
    """
    split = tl.program_id(0)
    places = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    outputs = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.full((BLOCK_C, BLOCK_B), 0.0, tl.float32)
    for start in range(0, split_cells, BLOCK_M):
        cells = split * split_cells + start + tl.arange(0, BLOCK_M)
        z = centred(xT, indices, weights, thresholds, mu, cells, first + places, m, Bp, K)
        tile = readout_tile(W, outputs, cells, m, c)
        total = tl.dot(tile, z, total, input_precision=PRECISION)
    at = (split * c + outputs).to(tl.int64)[:, None] * slab + places[None, :]
    tl.store(partial + at, total, mask=(outputs < c)[:, None])


@triton.jit
def sum_of_splits(partial, output, places, slab, c, splits, BLOCK_S: tl.constexpr):
    """y[places, output]: the splits in a fixed order, BLOCK_S sums side by side."""
    total = tl.full((BLOCK_S, places.shape[0]), 0.0, tl.float32)
    for start in range(0, splits, BLOCK_S):
        split = start + tl.arange(0, BLOCK_S)
        at = (split * c + output).to(tl.int64)[:, None] * slab + places[None, :]
        total += tl.load(partial + at, mask=(split < splits)[:, None], other=0.0)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["B"])
def sum_kernel(partial, y, first, slab, B, c, splits, BLOCK_S: tl.constexpr, BLOCK_B: tl.constexpr):
    """y[picture, o] = sum of partial[:, o, picture]. Program (output, block of pictures)."""
    output = tl.program_id(0)
    places = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    total = sum_of_splits(partial, output, places, slab, c, splits, BLOCK_S)
    pictures = first + places
    tl.store(y + pictures.to(tl.int64) * c + output, total, mask=pictures < B)


@triton.jit
def outer_product(
    xT, indices, weights, thresholds, mu, eT, outputs, cells, m, c, Bp,
    K: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """e^T z for a tile (outputs, cells), over all pictures; eT (c, Bp) is 0 where there is none."""
    total = tl.full((outputs.shape[0], cells.shape[0]), 0.0, tl.float32)
    for first in range(0, Bp, BLOCK_B):
        pictures = first + tl.arange(0, BLOCK_B)
        z = centred(xT, indices, weights, thresholds, mu, cells, pictures, m, Bp, K)
        e = columns_tile(eT, outputs, pictures, c, Bp)
        total = tl.dot(e, tl.trans(z), total, input_precision=PRECISION)
    return total


@triton.jit
def readout_gradient_kernel(
    xT, indices, weights, thresholds, mu, grad_yT, grad_W, m, c, Bp,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """grad_W = grad_y^T (h - mu). Program (tile of cells, block of outputs)."""
    cells = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = outer_product(
        xT, indices, weights, thresholds, mu, grad_yT, outputs, cells, m, c, Bp, K, BLOCK_B
    )
    at = outputs.to(tl.int64)[:, None] * m + cells[None, :]
    tl.store(grad_W + at, total, mask=(outputs < c)[:, None] & (cells < m)[None, :])


def splits_of(m: int) -> tuple[int, int]:
    """(cells of a split, splits): a function of m alone, so that y is."""
    cells = blocks(max(SPLIT_CELLS, blocks(m, MAX_SPLITS)), BLOCK_M) * BLOCK_M
    return cells, blocks(m, cells)


def launch_readout(xT, J: Synapses, W, mu, partial, first: int, size: int, block: int) -> None:
    """partial (splits, c, slab) of `size` pictures from `first` on, in blocks of `block`."""
    c, slab = partial.shape[1:]
    cells, splits = splits_of(J.m)
    block_c = block_of_outputs(c)
    readout_kernel[splits, blocks(size, block), blocks(c, block_c)](
        xT, *J, W, mu, partial, first, slab, xT.shape[1], J.m, c, cells,
        J.k, block_c, BLOCK_M, block, **OPTIONS,
    )  # fmt: skip


@on_its_device
def circuit(x, indices, weights, thresholds, W, mu):
    J = Synapses.of(indices, weights, thresholds)
    W, mu = W.contiguous(), contiguous(mu)
    B, c = len(x), len(W)
    xT = columns(x)
    y = x.new_empty(B, c)
    splits = splits_of(J.m)[1]
    for first, size in slabs(xT.shape[1], splits * c):
        partial = xT.new_empty(splits, c, size)
        launch_readout(xT, J, W, mu, partial, first, size, BLOCK_B)
        sum_kernel[c, blocks(size, BLOCK_B)](
            partial, y, first, size, B, c, splits, BLOCK_S, BLOCK_B, **OPTIONS
        )
    return y


@on_its_device
def circuit_backward_W(grad_y, x, indices, weights, thresholds, mu):
    J = Synapses.of(indices, weights, thresholds)
    xT, grad_yT = columns(x), columns(grad_y)
    c = len(grad_yT)
    grad_W = x.new_empty(c, J.m)
    block_c = block_of_outputs(c)
    readout_gradient_kernel[blocks(J.m, BLOCK_M), blocks(c, block_c)](
        xT, *J, contiguous(mu), grad_yT, grad_W, J.m, c, xT.shape[1],
        J.k, block_c, BLOCK_M, BLOCK_B, **OPTIONS,
    )  # fmt: skip
    return grad_W
