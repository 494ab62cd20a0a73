"""Gradients to x: grad_x = J (grad_h * [h > 0]), where grad_h is given or W^T grad_y.

Two sweeps over a slab of pictures and a chunk of granule cells: the gradient of every cell, then
for every mossy fibre the sum over the cells it drives, a gather by the inverse index. No atomics;
what is between the sweeps stays within the workspace for any m.
"""

import triton
import triton.language as tl

from ..wiring import inverse_of
from .activity import PRECISION, columns_tile, drive, readout_tile
from .launching import (
    BLOCK_B,
    BLOCK_M,
    OPTIONS,
    WORKSPACE,
    Synapses,
    block_of_outputs,
    blocks,
    columns,
    on_its_device,
    slabs,
)

CHUNK = WORKSPACE // BLOCK_B  # granule cells of a chunk: one block of pictures fills the workspace
BLOCK_S = 128  # synapses of a mossy fibre summed side by side: so many loads are in flight


@triton.jit(do_not_specialize=["B"])
def granule_gradient_kernel(
    xT, indices, weights, thresholds, grad_h, grad_u, start, first, slab, B, Bp, m,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """grad_u[cell - start, place] = grad_h * [h > 0]. Program (cells, pictures)."""
    cells = start + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    places = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    pictures = first + places
    u = drive(xT, indices, weights, thresholds, cells, pictures, m, Bp, K)
    at = pictures.to(tl.int64)[:, None] * m + cells[None, :]
    given = (pictures < B)[:, None] & (cells < m)[None, :]
    grad = tl.trans(tl.load(grad_h + at, mask=given, other=0.0).to(tl.float32))
    at = (cells - start).to(tl.int64)[:, None] * slab + places[None, :]
    tl.store(grad_u + at, tl.where(u > 0, grad, 0.0), mask=(cells < m)[:, None])


@triton.jit
def circuit_gradient_kernel(
    xT, indices, weights, thresholds, W, grad_yT, grad_u, start, first, slab, Bp, m, c,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """grad_u[cell - start, place] = (W^T grad_y) * [h > 0]. Program as above."""
    cells = start + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    places = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    pictures = first + places
    grad = tl.full((BLOCK_M, BLOCK_B), 0.0, tl.float32)
    for output in range(0, c, BLOCK_C):
        outputs = output + tl.arange(0, BLOCK_C)
        tile = readout_tile(W, outputs, cells, m, c)
        e = columns_tile(grad_yT, outputs, pictures, c, Bp)
        grad = tl.dot(tl.trans(tile), e, grad, input_precision=PRECISION)
    u = drive(xT, indices, weights, thresholds, cells, pictures, m, Bp, K)
    at = (cells - start).to(tl.int64)[:, None] * slab + places[None, :]
    tl.store(grad_u + at, tl.where(u > 0, grad, 0.0), mask=(cells < m)[:, None])


@triton.jit
def fibre_kernel(
    starts, synapses, weights, grad_u, grad_xT, start, first, slab, Bp, m,
    NARROW: tl.constexpr, ADD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """grad_xT[fibre, picture] = (ADD: +=) sum of weights[s] grad_u[s % m - start], s its synapses.

    Program (mossy fibre, block of pictures). Synapses are taken BLOCK_S at a time from the fibre's
    first on: an order of summation that only the wiring decides. NARROW: k m < 2^31.
    """
    fibre = tl.program_id(0)
    places = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    end = tl.load(starts + fibre + 1)
    total = tl.full((BLOCK_S, BLOCK_B), 0.0, tl.float32)
    for at in range(tl.load(starts + fibre), end, BLOCK_S):
        lane = at + tl.arange(0, BLOCK_S)
        inside = lane < end
        synapse = tl.load(synapses + lane, mask=inside, other=0)
        if NARROW:
            synapse = synapse.to(tl.int32)
        weight = tl.load(weights + synapse, mask=inside, other=0.0)
        cell = (synapse % m - start).to(tl.int64)
        grad = tl.load(
            grad_u + cell[:, None] * slab + places[None, :], mask=inside[:, None], other=0.0
        )
        total += weight[:, None] * grad
    grad_x = tl.sum(total, axis=0)
    at = grad_xT + fibre.to(tl.int64) * Bp + first + places
    if ADD:
        grad_x += tl.load(at)
    tl.store(at, grad_x)


def _gradient(x, J: Synapses, inverse, cell_gradients):
    """grad_x by the two sweeps; `cell_gradients(grid, xT, grad_u, start, first)` is the first."""
    d, B = x.shape[1], len(x)
    chunk = min(J.m, CHUNK)
    starts, synapses = inverse
    xT = columns(x)
    grad_xT = xT.new_empty(xT.shape)
    for first, size in slabs(xT.shape[1], chunk):
        grad_u = xT.new_empty(chunk, size)
        for number, start in enumerate(range(0, J.m, chunk)):
            tiles = blocks(min(chunk, J.m - start), BLOCK_M)
            cell_gradients((tiles, blocks(size, BLOCK_B)), xT, grad_u, start, first)
            fibre_kernel[d, blocks(size, BLOCK_B)](
                starts[number * d :], synapses, J.weights, grad_u, grad_xT,
                start, first, size, xT.shape[1], J.m, J.k * J.m < 2**31, number > 0,
                BLOCK_S, BLOCK_B, **OPTIONS,
            )  # fmt: skip
    return x.new_empty(x.shape).copy_(grad_xT[:, :B].T)


def _inverse(indices, d):
    return inverse_of(indices, d, CHUNK if indices.shape[1] > CHUNK else None)


@on_its_device
def granule_backward(grad_h, x, indices, weights, thresholds):
    J = Synapses.of(indices, weights, thresholds)
    grad_h = grad_h.contiguous()

    def cell_gradients(grid, xT, grad_u, start, first):
        granule_gradient_kernel[grid](
            xT, *J, grad_h, grad_u, start, first, grad_u.shape[1], len(x), xT.shape[1], J.m,
            J.k, BLOCK_M, BLOCK_B, **OPTIONS,
        )  # fmt: skip

    return _gradient(x, J, _inverse(indices, x.shape[1]), cell_gradients)


@on_its_device
def circuit_backward_x(grad_y, x, indices, weights, thresholds, W):
    J = Synapses.of(indices, weights, thresholds)
    W, grad_yT = W.contiguous(), columns(grad_y)
    c = len(W)

    def cell_gradients(grid, xT, grad_u, start, first):
        circuit_gradient_kernel[grid](
            xT, *J, W, grad_yT, grad_u, start, first, grad_u.shape[1], xT.shape[1], J.m, c,
            J.k, block_of_outputs(c), BLOCK_M, BLOCK_B, **OPTIONS,
        )  # fmt: skip

    return _gradient(x, J, _inverse(indices, x.shape[1]), cell_gradients)
