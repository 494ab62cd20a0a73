"""Floor 1: the CPU kernels of csrc/ as functions of tensors; the only file that knows addresses.

Signatures are those of `reference`. What the native code is owed is paid here: float32, contiguous
memory that stays alive during the call, the thread count, errors as exceptions. Of the dense wiring
("full", indices None) only `learn_` is served: the rest are products, and the BLAS's.
"""

from contextlib import contextmanager

import torch
from torch import Tensor

from . import reference
from .errors import LearningInterrupted, expect

try:
    from . import _cpu
except ImportError as error:  # a source tree without a build, or a platform without the compiler
    _cpu = None
    _missing = f"the native extension is not built ({error}); pip install . builds it"


_DENSE_NUMBERS = 1 << 22  # of h at a time, 16 MB


def unavailable() -> str | None:
    """Why the native kernels cannot be used here, or None."""
    return _missing if _cpu is None else None


def instruction_set() -> str:
    """What the kernels run with: "avx512", "avx2" or "baseline", the best that this machine has."""
    return _cpu.instruction_set()


def instruction_sets() -> list[str]:
    """All that this machine can run, the best first; none where the extension is not built."""
    return [] if _cpu is None else _cpu.instruction_sets()


@contextmanager
def use_instruction_set(name: str):
    """Runs the kernels with one of `instruction_sets()` instead of the best, so that tests reach
    each; for the whole process. Results of two sets differ by rounding."""
    before = _cpu.instruction_set()
    _cpu.use_instruction_set(name)
    try:
        yield
    finally:
        _cpu.use_instruction_set(before)


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _ready(*tensors: Tensor | None) -> list[Tensor | None]:
    return [t if t is None else t.detach().contiguous() for t in tensors]


def _wiring(d: int, indices: Tensor, weights: Tensor, thresholds: Tensor | None) -> "_cpu.Wiring":
    k, m = weights.shape
    wide = indices.dtype == torch.int32
    return _cpu.Wiring(d, m, k, address(indices), wide, address(weights), address(thresholds))


def _call(kernel, x: Tensor, *arguments):
    """Runs a kernel; x is checked for NaN and infinity on the way, at no cost of its own."""
    try:
        return kernel(*arguments)
    except _cpu.NotFinite:
        odd = int((~torch.isfinite(x)).any(dim=1).nonzero()[0])
        expect(
            False, "x", f"NaN or infinity in picture {odd}", "finite numbers", "Clean the input."
        )


def granule(x, indices, weights, thresholds):
    x, indices, weights, thresholds = _ready(x, indices, weights, thresholds)
    J = _wiring(x.shape[1], indices, weights, thresholds)
    h = x.new_empty(len(x), weights.shape[1])
    _call(_cpu.granule, x, J, address(x), len(x), address(h), torch.get_num_threads())
    return h


def granule_backward(grad_h, x, indices, weights, thresholds):
    grad_h, x, indices, weights, thresholds = _ready(grad_h, x, indices, weights, thresholds)
    J = _wiring(x.shape[1], indices, weights, thresholds)
    grad_x = torch.empty_like(x)
    arguments = address(x), len(x), address(grad_h), address(grad_x), torch.get_num_threads()
    _call(_cpu.granule_backward, x, J, *arguments)
    return grad_x


def circuit(x, indices, weights, thresholds, W, mu):
    return _circuit(x, indices, weights, thresholds, W, mu, None)


def circuit_fired(x, indices, weights, thresholds, W, mu):
    fired = x.new_empty(-(-weights.shape[1] // 32), len(x), dtype=torch.int32)
    return _circuit(x, indices, weights, thresholds, W, mu, fired), fired


def _circuit(x, indices, weights, thresholds, W, mu, fired):
    x, indices, weights, thresholds, W, mu = _ready(x, indices, weights, thresholds, W, mu)
    J = _wiring(x.shape[1], indices, weights, thresholds)
    y = x.new_empty(len(x), len(W))
    arguments = address(x), len(x), address(W), address(mu), len(W), address(fired), address(y)
    _call(_cpu.circuit, x, J, *arguments, torch.get_num_threads())
    return y


def circuit_backward_x(grad_y, x, indices, weights, thresholds, W, fired=None):
    grad_y, x, indices, weights, thresholds, W = _ready(grad_y, x, indices, weights, thresholds, W)
    (fired,) = _ready(fired)
    J = _wiring(x.shape[1], indices, weights, thresholds)
    grad_x = torch.empty_like(x)
    readout = address(W), len(W), address(grad_y), address(fired)
    arguments = address(x), len(x), *readout, address(grad_x), torch.get_num_threads()
    _call(_cpu.circuit_backward_x, x, J, *arguments)
    return grad_x


def circuit_backward_W(grad_y, x, indices, weights, thresholds, mu):
    grad_y, x, mu = _ready(grad_y, x, mu)
    indices, weights, thresholds = _ready(indices, weights, thresholds)
    J = _wiring(x.shape[1], indices, weights, thresholds)
    c = grad_y.shape[1]
    grad_W = x.new_empty(c, weights.shape[1])
    arguments = address(x), len(x), address(mu), c, address(grad_y), address(grad_W)
    _call(_cpu.circuit_backward_W, x, J, *arguments, torch.get_num_threads())
    return grad_W


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
    if indices is None:
        state = W, mu, square_avg
        rule = batch_size, error_factor, learning_rate, decay, rms_eps, ltd_decay, ltd_before
        return _learn_dense(x, t, order, weights, thresholds, state, rule, tick)
    x, t, order = _ready(x, t, order)
    indices, weights, thresholds = _ready(indices, weights, thresholds)
    J = _wiring(x.shape[1], indices, weights, thresholds)
    rule = _cpu.Rule(error_factor, learning_rate, decay, rms_eps, ltd_decay, ltd_before)
    y = t.new_empty(len(order), len(W))
    state = address(W), len(W), address(mu), address(square_avg)
    pictures = address(x), address(t), address(order), len(order)
    arguments = *pictures, batch_size, *state, rule, address(y)
    done, interrupted = _call(_cpu.learn, x, J, *arguments, torch.get_num_threads(), tick)
    if interrupted:
        raise LearningInterrupted(done, y[:done])
    return y


def _learn_dense(x, t, order, weights, thresholds, state, rule, tick):
    """Learning with the dense wiring. h does not depend on W, so the BLAS makes many batches of it
    at once, and it is learned by a wiring in which every granule cell has one input, its h.
    """
    m, batch_size = weights.shape[1], rule[0]
    itself = torch.arange(m, dtype=torch.int32)[None], torch.ones(1, m), None
    pictures = max(1, _DENSE_NUMBERS // (m * batch_size)) * batch_size
    y = t.new_empty(len(order), t.shape[1])
    for first in range(0, len(order), pictures):
        rows = order[first : first + pictures]
        h = reference.granule(x[rows], None, weights, thresholds)
        here = torch.arange(len(rows))
        so_far = None if tick is None else lambda done, first=first: tick(first + done)
        try:
            y[first : first + len(rows)] = learn_(h, t[rows], here, *itself, *state, *rule, so_far)
        except LearningInterrupted as stop:
            done = first + stop.done
            y[first:done] = stop.y
            raise LearningInterrupted(done, y[:done]) from None
    return y
