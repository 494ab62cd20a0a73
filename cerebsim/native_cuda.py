"""Floor 1: the CUDA kernels of csrc/ as functions of tensors; what `native` is for the CPU.

Signatures are those of `reference`. What the native code is owed is paid here: float32, contiguous
memory that stays alive during the call, workspace from torch's allocator, the current stream, the
device, errors as exceptions. Nothing but `learn_` waits for the GPU, so calls can be captured in
CUDA graphs, once a first call has built the inverse of the wiring. float16 and bfloat16 are
computed in float32 and rounded once. x is not checked for NaN, since that would wait: a NaN shows
in the outputs. The dense wiring ("full", indices None) is not served: its product is the BLAS's.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .errors import LearningInterrupted
from .graphs import captured
from .native import address
from .wiring import inverse_of

try:
    from . import _cuda
except ImportError as error:  # built without nvcc, or not at all
    _cuda = None
    _missing = (
        f"the CUDA extension is not built ({error}); with nvcc at hand, pip install . builds it"
    )

_OLDEST = (8, 0)  # the compute capability that csrc/cuda.cu is compiled for; newer ones run it too
_TICK_SECONDS = 0.1  # how often learn_ asks whether to stop
_BATCHES_OF_A_GRAPH = 16  # some 50 launches for one: what remains to launch no longer counts


def unavailable() -> str | None:
    """Why the CUDA kernels cannot be used here, or None."""
    if _cuda is None:
        return _missing
    if not torch.cuda.is_available():
        return "torch finds no CUDA device (torch.cuda.is_available() is False)"
    capability = torch.cuda.get_device_capability()
    if capability < _OLDEST:
        need, have = (".".join(map(str, c)) for c in (_OLDEST, capability))
        return f"the GPU has compute capability {have}, the kernels need {need} or later"
    return None


def too_large(d: int, m: int) -> str | None:
    """Why the kernels, whose offsets are 32-bit, do not take a circuit of this size, or None."""
    if d <= _cuda.MOST_FIBERS and m <= _cuda.MOST_CELLS:
        return None
    most = f"{_cuda.MOST_FIBERS:,} mossy fibres and {_cuda.MOST_CELLS:,} granule cells"
    return f"it takes at most {most}, the circuit has {d:,} and {m:,}"


def _ready(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as the kernels read them: floats in float32, contiguous."""
    return [
        t if t is None else (t.detach().float() if t.is_floating_point() else t).contiguous()
        for t in tensors
    ]


def _on(device: torch.device):
    """The block runs on this device. (The tests' emulator takes tensors of the CPU.)"""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _workspace(bytes_needed: int, device: torch.device) -> Tensor:
    return torch.empty(bytes_needed, dtype=torch.uint8, device=device)


def _wiring(d: int, indices: Tensor, weights: Tensor, thresholds: Tensor | None) -> "_cuda.Wiring":
    k, m = weights.shape
    wide = indices.dtype == torch.int32
    return _cuda.Wiring(d, m, k, address(indices), wide, address(weights), address(thresholds))


# weights: {d: (indices, version of weights, (starts, cells, weights))}; gone with the weights
_inverses = WeakTensorKeyDictionary()


def _inverse(d: int, indices: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """J read from the mossy fibres, as the kernels take it: see `wiring.inverse_of`; the granule
    cell and the weight of every synapse stand in its order. Built once for a wiring."""
    kept = _inverses.setdefault(weights, {})
    version = None if weights.is_inference() else weights._version
    if d not in kept or kept[d][0] is not indices or kept[d][1] != version:
        starts, synapses = inverse_of(indices, d, _cuda.INVERSE_CELLS)
        cells = (synapses % weights.shape[1]).int()
        in_order = weights.detach().float().flatten()[synapses]
        kept[d] = indices, version, (starts, cells, in_order)
    return kept[d][2]


def granule(x, indices, weights, thresholds):
    dtype, device = x.dtype, x.device
    x, indices, weights, thresholds = _ready(x, indices, weights, thresholds)
    h = x.new_empty(len(x), weights.shape[1])
    if h.numel():
        with _on(device):
            J = _wiring(x.shape[1], indices, weights, thresholds)
            workspace = _workspace(_cuda.granule_bytes(J, len(x)), device)
            rest = address(h), address(workspace), _stream(device)
            _cuda.granule(J, address(x), len(x), *rest)
    return h.to(dtype)


def granule_backward(grad_h, x, indices, weights, thresholds):
    dtype, device = x.dtype, x.device
    inverse = _inverse(x.shape[1], indices, weights)
    grad_h, x, indices, weights, thresholds = _ready(grad_h, x, indices, weights, thresholds)
    grad_x = torch.empty_like(x)
    if grad_x.numel():
        with _on(device):
            J = _wiring(x.shape[1], indices, weights, thresholds)
            workspace = _workspace(_cuda.granule_backward_bytes(J, len(x)), device)
            turned = _cuda.Inverse(*map(address, inverse))
            rest = address(grad_h), address(grad_x), address(workspace), _stream(device)
            _cuda.granule_backward(J, turned, address(x), len(x), *rest)
    return grad_x.to(dtype)


def circuit(x, indices, weights, thresholds, W, mu):
    dtype, device = x.dtype, x.device
    x, indices, weights, thresholds, W, mu = _ready(x, indices, weights, thresholds, W, mu)
    y = x.new_empty(len(x), len(W))
    if y.numel():
        with _on(device):
            J = _wiring(x.shape[1], indices, weights, thresholds)
            workspace = _workspace(_cuda.circuit_bytes(J, len(x), len(W)), device)
            readout = address(W), address(mu), len(W)
            rest = address(y), address(workspace), _stream(device)
            _cuda.circuit(J, address(x), len(x), *readout, *rest)
    return y.to(dtype)


def circuit_backward_x(grad_y, x, indices, weights, thresholds, W):
    dtype, device = x.dtype, x.device
    inverse = _inverse(x.shape[1], indices, weights)
    grad_y, x, indices, weights, thresholds, W = _ready(grad_y, x, indices, weights, thresholds, W)
    grad_x = torch.empty_like(x)
    if grad_x.numel():
        with _on(device):
            J = _wiring(x.shape[1], indices, weights, thresholds)
            workspace = _workspace(_cuda.circuit_backward_x_bytes(J, len(x), len(W)), device)
            turned = _cuda.Inverse(*map(address, inverse))
            readout = address(W), len(W), address(grad_y)
            rest = address(grad_x), address(workspace), _stream(device)
            _cuda.circuit_backward_x(J, turned, address(x), len(x), *readout, *rest)
    return grad_x.to(dtype)


def circuit_backward_W(grad_y, x, indices, weights, thresholds, mu):
    dtype, device = x.dtype, x.device
    grad_y, x, indices, weights, thresholds, mu = _ready(
        grad_y, x, indices, weights, thresholds, mu
    )
    c = grad_y.shape[1]
    grad_W = x.new_zeros(c, weights.shape[1])
    if len(x) and c:
        with _on(device):
            J = _wiring(x.shape[1], indices, weights, thresholds)
            rest = address(mu), c, address(grad_y), address(grad_W), _stream(device)
            _cuda.circuit_backward_W(J, address(x), len(x), *rest)
    return grad_W.to(dtype)


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
    dtype, device, c = t.dtype, x.device, len(W)
    x, t, order = _ready(x, t, order)
    indices, weights, thresholds = _ready(indices, weights, thresholds)
    given = [W, mu, square_avg]
    W, mu, square_avg = state = _ready(*given)
    J = _wiring(x.shape[1], indices, weights, thresholds)
    rule = _cuda.Rule(error_factor, learning_rate, decay, rms_eps, ltd_decay, ltd_before)
    y, at = t.new_empty(len(order), c), torch.zeros(1, dtype=torch.int64, device=device)

    def learn(pictures: int) -> None:
        """Puts the next so many, from the counter on, in the stream's queue."""
        workspace = _workspace(_cuda.learn_bytes(J, pictures, batch_size, c), device)
        call = address(x), address(t), address(order), address(at), pictures, batch_size
        learned = address(W), c, address(mu), address(square_avg), rule
        _cuda.learn(J, *call, *learned, address(y), address(workspace), _stream(device))

    # Counted on the device: a signal may come between a call and a line here that counts it.
    try:
        with _on(device):
            queue = learn
            if not _cuda.learns_in_one_kernel(J, batch_size, c):
                queue = _by_graphs(learn, _BATCHES_OF_A_GRAPH * batch_size, device)
            pictures, done = batch_size, 0  # of a turn: as many batches as take about _TICK_SECONDS
            while done < len(order):
                began = time.perf_counter()
                queue(min(pictures, len(order) - done))
                done = int(at)  # waits for the device
                if tick is not None:
                    tick(done)
                if time.perf_counter() - began < _TICK_SECONDS / 2:
                    pictures *= 2
    except KeyboardInterrupt:
        done = int(at)
        raise LearningInterrupted(done, y[:done].to(dtype)) from None
    finally:
        for tensor, computed in zip(given, state, strict=True):
            if tensor is not None and tensor.data_ptr() != computed.data_ptr():
                tensor.copy_(computed)
    return y.to(dtype)


def _by_graphs(learn: Callable[[int], None], whole: int, device: torch.device) -> Callable:
    """`learn`, with every `whole` pictures as the replay of a graph."""
    replay = None

    def queue(pictures: int) -> None:
        nonlocal replay
        replays, rest = divmod(pictures, whole)
        if replays and replay is None:
            replay = captured(partial(learn, whole), device)
        for _ in range(replays):
            replay()
        if rest:
            learn(rest)

    return queue
