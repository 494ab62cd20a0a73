"""learn_: the delta rule, batch by batch, with everything on the device; see `reference.learn_`.

A batch is one `step`: a few launches that read where they are from a counter on the device. So the
step is the same every time, and on a GPU it is captured once as a CUDA graph and replayed.
"""

from collections.abc import Callable
from functools import partial as bind

import torch
import triton
import triton.language as tl

from ..errors import LearningInterrupted
from ..graphs import captured
from .activity import activity, readout_tile
from .launching import (
    BLOCK_B,
    BLOCK_M,
    OPTIONS,
    Synapses,
    block_of_outputs,
    blocks,
    on_its_device,
    slabs,
)
from .readout import BLOCK_S, launch_readout, outer_product, splits_of, sum_of_splits

BLOCK_D = 64  # mossy fibres of a tile when pictures are fetched
SMALL_BATCH = 16  # up to this many, blocks of 16 pictures
BATCHES_PER_TICK = 64


@triton.jit(do_not_specialize=["rows"])
def fetch_kernel(x, order, at, xT, rows, d, Bp, BLOCK_D: tl.constexpr, BLOCK_B: tl.constexpr):
    """xT[:, i] = x[order[at + i]] for i < rows, else 0. Program (mossy fibres, pictures)."""
    fibres = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    pictures = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    present = pictures < rows
    row = tl.load(order + tl.load(at) + pictures, mask=present, other=0)
    inside = present[:, None] & (fibres < d)[None, :]
    tile = tl.load(x + row[:, None] * d + fibres[None, :], mask=inside, other=0.0).to(tl.float32)
    to = fibres.to(tl.int64)[:, None] * Bp + pictures[None, :]
    tl.store(xT + to, tl.trans(tile), mask=(fibres < d)[:, None])


@triton.jit(do_not_specialize=["rows"])
def centre_kernel(
    xT, indices, weights, thresholds, mu, rows, rate, m, Bp,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """mu <- mu + rate (mean over the batch of h - mu). Program (tile of cells)."""
    cells = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.full((BLOCK_M, BLOCK_B), 0.0, tl.float32)
    for first in range(0, Bp, BLOCK_B):
        pictures = first + tl.arange(0, BLOCK_B)
        h = activity(xT, indices, weights, thresholds, cells, pictures, m, Bp, K)
        total += tl.where((pictures < rows)[None, :], h, 0.0)
    mean = tl.sum(total, axis=1) / rows
    before = tl.load(mu + cells, mask=cells < m, other=0.0).to(tl.float32)
    tl.store(mu + cells, before + rate * (mean - before), mask=cells < m)


@triton.jit(do_not_specialize=["rows"])
def error_kernel(
    partial, t, order, at, y, eT, rows, scale, first, slab, c, splits, Bp,
    BLOCK_S: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """y, and e = scale (y - t), 0 without a picture. Program (output, pictures)."""
    output = tl.program_id(0)
    places = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    total = sum_of_splits(partial, output, places, slab, c, splits, BLOCK_S)
    pictures = first + places
    present = pictures < rows
    place = tl.load(at) + pictures
    tl.store(y + place * c + output, total, mask=present)
    row = tl.load(order + place, mask=present, other=0)
    target = tl.load(t + row * c + output, mask=present, other=0.0).to(tl.float32)
    e = tl.where(present, scale * (total - target), 0.0)
    tl.store(eT + output.to(tl.int64) * Bp + pictures, e)


@triton.jit
def plasticity_kernel(
    xT, indices, weights, thresholds, W, mu, square_avg, eT, rate, forget, eps, m, c, Bp,
    K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """dW = e^T z; s <- s + forget (dW^2 - s); W <- W - rate dW / (sqrt(s) + eps), or plain.

    Program (tile of cells, block of outputs).
    """
    cells = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    dW = outer_product(
        xT, indices, weights, thresholds, mu, eT, outputs, cells, m, c, Bp, K, BLOCK_B
    )
    inside = (outputs < c)[:, None] & (cells < m)[None, :]
    at = outputs.to(tl.int64)[:, None] * m + cells[None, :]
    if square_avg is not None:
        s = readout_tile(square_avg, outputs, cells, m, c)
        s += forget * (dW * dW - s)
        tl.store(square_avg + at, s, mask=inside)
        dW = dW / (tl.sqrt(s) + eps)
    tl.store(W + at, readout_tile(W, outputs, cells, m, c) - rate * dW, mask=inside)


@on_its_device
def learn_(
    x,
    t,
    order,
    indices,
    weights,
    thresholds,
    W,
    mu,
    square_avg,
    batch_size,
    error_factor,
    learning_rate,
    decay,
    rms_eps,
    ltd_decay,
    ltd_before,
    tick=None,
):
    J = Synapses.of(indices, weights, thresholds)
    x, t, order = x.contiguous(), t.contiguous(), order.contiguous()
    d, c = x.shape[1], len(W)
    y = t.new_empty(len(order), c)
    block = 16 if batch_size <= SMALL_BATCH else BLOCK_B
    batch_size = min(batch_size, max(1, len(order)))
    Bp = blocks(batch_size, block) * block
    block_c, tiles, splits = block_of_outputs(c), blocks(J.m, BLOCK_M), splits_of(J.m)[1]
    xT, eT = (weights.new_empty(n, Bp) for n in (d, c))
    parts = list(slabs(Bp, splits * c, block))
    partial = weights.new_empty(splits, c, parts[0][1])
    at = torch.zeros(1, dtype=torch.int64, device=x.device)

    def centre(rows: int) -> None:
        centre_kernel[tiles,](
            xT, *J, mu, rows, 1 - ltd_decay, J.m, Bp, J.k, BLOCK_M, block, **OPTIONS
        )

    def step(rows: int) -> None:
        """The next `rows` pictures of the order, the whole rule."""
        fetch_kernel[blocks(d, BLOCK_D), Bp // block](
            x, order, at, xT, rows, d, Bp, BLOCK_D, block, **OPTIONS
        )
        if mu is not None and ltd_before:
            centre(rows)
        for first, size in parts:
            launch_readout(xT, J, W, mu, partial, first, size, block)
            error_kernel[c, size // block](
                partial, t, order, at, y, eT, rows, error_factor / rows, first, partial.shape[2],
                c, splits, Bp, BLOCK_S, block, **OPTIONS,
            )  # fmt: skip
        plasticity_kernel[tiles, blocks(c, block_c)](
            xT, *J, W, mu, square_avg, eT, learning_rate, 1 - decay, rms_eps, J.m, c, Bp,
            J.k, block_c, BLOCK_M, block, **OPTIONS,
        )  # fmt: skip
        if mu is not None and not ltd_before:
            centre(rows)
        at.add_(rows)

    try:
        _batches(step, batch_size, at, len(order), tick)
    except KeyboardInterrupt:
        done = int(at)  # waits for the device; the counter moves at the end of a batch
        raise LearningInterrupted(done, y[:done]) from None
    return y


def _batches(step: Callable, batch_size: int, at, n: int, tick: Callable | None) -> None:
    """Steps through n pictures. Where `at` is on a GPU all whole batches but the first, which
    compiles the kernels, are replays of one graph."""
    whole, rest = divmod(n, batch_size)
    batch = bind(step, batch_size)
    for number in range(1, whole + 1):
        batch()
        if number == 1 and whole > 2:
            batch = captured(batch, at.device)
        if tick is not None and number % BATCHES_PER_TICK == 0 and number * batch_size < n:
            tick(int(at))
    if rest:
        step(rest)
    if tick is not None and n:
        tick(int(at))
