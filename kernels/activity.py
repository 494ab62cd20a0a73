"""granule: h = relu(J^T x - threshold), whole, or a tile of it as every other kernel begins."""

import triton
import triton.language as tl

from .launching import (
    BLOCK_B,
    BLOCK_M,
    MAX_PICTURES,
    OPTIONS,
    Synapses,
    blocks,
    columns,
    on_its_device,
)

# Of products with W: true float32. Tensor cores would round both factors to 11 bits ("tf32").
PRECISION = tl.constexpr("ieee")


@triton.jit
def drive(xT, indices, weights, thresholds, cells, pictures, m, Bp, K: tl.constexpr):
    """u = J^T x - threshold for a tile (cells, pictures); cells from m on have u = 0.

    xT (d, Bp) holds the pictures of a mossy fibre side by side; indices and weights (K, m) are
    read along the cells, and their rows by advancing pointers, since K m may pass 2^31.
    """
    inside = cells < m
    u = tl.full((cells.shape[0], pictures.shape[0]), 0.0, tl.float32)
    for _ in tl.range(0, K, loop_unroll_factor=4):
        fibre = tl.load(indices + cells, mask=inside, other=0).to(tl.int64)
        weight = tl.load(weights + cells, mask=inside, other=0.0)
        heard = tl.load(xT + fibre[:, None] * Bp + pictures[None, :], mask=inside[:, None], other=0)
        u += weight[:, None] * heard
        indices += m
        weights += m
    if thresholds is not None:
        u -= tl.load(thresholds + cells, mask=inside, other=0.0)[:, None]
    return u


@triton.jit
def activity(xT, indices, weights, thresholds, cells, pictures, m, Bp, K: tl.constexpr):
    """h = relu(J^T x - threshold) for a tile (cells, pictures). NaN stays NaN, as in torch."""
    u = drive(xT, indices, weights, thresholds, cells, pictures, m, Bp, K)
    return tl.maximum(u, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def centred(xT, indices, weights, thresholds, mu, cells, pictures, m, Bp, K: tl.constexpr):
    """z = h - mu for a tile (cells, pictures)."""
    z = activity(xT, indices, weights, thresholds, cells, pictures, m, Bp, K)
    if mu is not None:
        z -= tl.load(mu + cells, mask=cells < m, other=0.0).to(tl.float32)[:, None]
    return z


@triton.jit
def readout_tile(W, outputs, cells, m, c):
    """W of a tile (outputs, cells) in float32, 0 outside."""
    inside = (outputs < c)[:, None] & (cells < m)[None, :]
    at = outputs.to(tl.int64)[:, None] * m + cells[None, :]
    return tl.load(W + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def columns_tile(rows, outputs, pictures, c, Bp):
    """A tile (outputs, pictures) of what stands in columns (c, Bp), 0 from c on."""
    at = outputs.to(tl.int64)[:, None] * Bp + pictures[None, :]
    return tl.load(rows + at, mask=(outputs < c)[:, None], other=0.0)


@triton.jit(do_not_specialize=["B"])
def granule_kernel(
    xT, indices, weights, thresholds, h, first, B, Bp, m,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Program (tile of cells, block of pictures). Computed with pictures side by side, as they are
    gathered; stored with cells side by side, as h lies."""
    cells = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    pictures = first + tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    tile = activity(xT, indices, weights, thresholds, cells, pictures, m, Bp, K)
    at = pictures.to(tl.int64)[:, None] * m + cells[None, :]
    tl.store(h + at, tl.trans(tile), mask=(pictures < B)[:, None] & (cells < m)[None, :])


@on_its_device
def granule(x, indices, weights, thresholds):
    J = Synapses.of(indices, weights, thresholds)
    B = len(x)
    xT = columns(x)
    h = x.new_empty(B, J.m)
    for first in range(0, B, MAX_PICTURES):
        grid = blocks(J.m, BLOCK_M), blocks(min(B - first, MAX_PICTURES), BLOCK_B)
        granule_kernel[grid](
            xT, *J, h, first, B, xT.shape[1], J.m, J.k, BLOCK_M, BLOCK_B, **OPTIONS
        )
    return h
