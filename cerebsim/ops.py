"""Floor 3: the three operations, for eager and compiled torch.

Each is a torch.library operator (schema, fake, kernel), wrapped in an `autograd.Function` outside
the operator; the backend is chosen inside its kernel (`backends`), so a compiled graph does not
hold one. J is fixed: nothing here has a gradient to it. Gradients are once differentiable.

Shapes: x (B, d), h (B, m), y and t (B, c), W (c, m), mu (m); floating point, on one device, W and
mu of x's dtype. The fast backends accumulate in float32 ("cpu" takes float32 alone, the GPU's take
bfloat16 and float16 too); a picture's results do not depend on its neighbours or on the number of
threads, bit for bit where k < d; where a cell reads every mossy fibre, as in the wiring "full", the
CPU takes the BLAS, and that is to rounding.
Errors: `ArgumentError` for a wrong shape, dtype, device, NaN or infinity.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import astuple, dataclass
from functools import wraps

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import backends
from .config import LearningConfig
from .errors import ArgumentError, OutOfMemory, expect
from .wiring import Wired, matrix_of

_J = "int d, Tensor? indices, Tensor weights, Tensor? thresholds"
_SCHEMAS = {
    "granule": f"(Tensor x, {_J}) -> Tensor",
    "granule_backward": f"(Tensor grad_h, Tensor x, {_J}) -> Tensor",
    "circuit": f"(Tensor x, {_J}, Tensor W, Tensor? mu) -> Tensor",
    "circuit_fired": f"(Tensor x, {_J}, Tensor W, Tensor? mu) -> (Tensor, Tensor)",
    "circuit_backward_x": f"(Tensor grad_y, Tensor x, {_J}, Tensor W, Tensor? fired=None)"
    " -> Tensor",
    "circuit_backward_W": f"(Tensor grad_y, Tensor x, {_J}, Tensor? mu) -> Tensor",
    "learn_": f"(Tensor x, Tensor t, Tensor order, {_J}, Tensor(a!) W, Tensor(b!)? mu, "
    "Tensor(c!)? square_avg, int batch_size, float error_factor, float learning_rate, "
    "float decay, float rms_eps, float ltd_decay, bool ltd_before) -> Tensor",
}


@dataclass(frozen=True)
class Rule:
    """The numbers of a learning step, as `learn_` takes them; see `reference.learn_`."""

    error_factor: float
    learning_rate: float
    decay: float
    rms_eps: float
    ltd_decay: float
    ltd_before: bool

    @classmethod
    def of(cls, config: LearningConfig, granule_cells: int, purkinje_cells: int) -> "Rule":
        return cls(
            error_factor=config.error_scale(1, purkinje_cells),
            learning_rate=config.rate(granule_cells),
            decay=config.decay,
            rms_eps=config.rms_eps,
            ltd_decay=config.beta,
            ltd_before=config.ltd_update == "before",
        )


def granule(x: Tensor, wiring: Wired) -> Tensor:
    """h = relu(J^T x - threshold), paper eq. 1: (B, d) -> (B, m), with a gradient to x."""
    if not torch.is_grad_enabled():  # the Function costs 0.1 ms even where nothing is recorded
        return torch.ops.cerebsim.granule(x, *wiring.operands)
    return _Granule.apply(x, *wiring.operands)


def circuit(x: Tensor, wiring: Wired, W: Tensor, mu: Tensor | None = None) -> Tensor:
    """y = W (h - mu), paper eq. 2: (B, d) -> (B, c), with gradients to x and W; stores no h."""
    if not torch.is_grad_enabled():
        return torch.ops.cerebsim.circuit(x, *wiring.operands, W, mu)
    return _Circuit.apply(x, *wiring.operands, W, mu, x.requires_grad)[0]


def circuit_fired(
    x: Tensor, wiring: Wired, W: Tensor, mu: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y of `circuit` without a graph, and `fired`, which makes `circuit_backward_x` faster.

    fired (ceil(m / 32), B), int32: bit g % 32 of fired[g // 32, b] says whether h[b, g] > 0. On a
    GPU it is (0, B): nothing is kept there.
    """
    return torch.ops.cerebsim.circuit_fired(x, *wiring.operands, W, mu)


def circuit_backward_x(
    grad_y: Tensor, x: Tensor, wiring: Wired, W: Tensor, fired: Tensor | None = None
) -> Tensor:
    """The gradient of `circuit` to x, (B, d), for attacks that build no graph.

    fired: as `circuit_fired` returned it for this x; without it h is worked out again.
    """
    return torch.ops.cerebsim.circuit_backward_x(grad_y, x, *wiring.operands, W, fired)


def learn_(
    x: Tensor,
    t: Tensor,
    wiring: Wired,
    W: Tensor,
    mu: Tensor | None,
    square_avg: Tensor | None,
    rule: Rule,
    batch_size: int,
    order: Tensor | None = None,
    tick: Callable[[int], None] | None = None,
) -> Tensor:
    """Learns the rows `order` (int64; None: all) of x batch by batch; see `reference.learn_`.

    W, mu and square_avg change in place (contiguous; mu None: no centring; square_avg None: the
    plain delta rule). Returns y (len(order), c), each picture's output before it was learned.
    `tick(done)` is called now and then. Ctrl-C ends the batch at hand and raises
    `LearningInterrupted` with the number of pictures learned whole. The result does not depend, bit
    for bit, on how a sequence is cut into calls at whole batches, nor on the number of threads.
    """
    if order is None:
        order = torch.arange(len(x), device=x.device)
    with _ticking(tick):
        arguments = *wiring.operands, W, mu, square_avg, batch_size, *astuple(rule)
        return torch.ops.cerebsim.learn_(x, t, order, *arguments)


class _Granule(torch.autograd.Function):
    @staticmethod
    def forward(x, d, indices, weights, thresholds):
        return torch.ops.cerebsim.granule(x, d, indices, weights, thresholds)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.d, *J = inputs
        ctx.save_for_backward(x, *J)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h):
        x, *J = ctx.saved_tensors
        grad_x = torch.ops.cerebsim.granule_backward(grad_h, x, ctx.d, *J)
        return grad_x, None, None, None, None


class _Circuit(torch.autograd.Function):
    @staticmethod
    def forward(x, d, indices, weights, thresholds, W, mu, fires):
        arguments = x, d, indices, weights, thresholds, W, mu
        if fires:  # only the gradient to x needs it
            return torch.ops.cerebsim.circuit_fired(*arguments)
        return torch.ops.cerebsim.circuit(*arguments), None

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.d, *rest, fires = inputs
        if fires:
            ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # or backward is handed m / 8 bytes of zeros a picture
        ctx.save_for_backward(x, *rest, output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, _):
        x, *J, W, mu, fired = ctx.saved_tensors
        grad_x = grad_W = None
        if grad_y is None:
            return (None,) * 8
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.cerebsim.circuit_backward_x(grad_y, x, ctx.d, *J, W, fired)
        if ctx.needs_input_grad[5]:
            grad_W = torch.ops.cerebsim.circuit_backward_W(grad_y, x, ctx.d, *J, mu)
        return grad_x, None, None, None, None, grad_W, None, None


# The operators. What a call needs beyond its tensors, the progress callback, reaches the kernel of
# learn_ through a context variable, since a schema cannot carry a function.
_tick: ContextVar[Callable[[int], None] | None] = ContextVar("cerebsim_tick", default=None)


@contextmanager
def _ticking(tick: Callable[[int], None] | None) -> Iterator[None]:
    token = _tick.set(tick)
    try:
        yield
    finally:
        _tick.reset(token)


def _expect_tensor(name: str, tensor: Tensor, shape: tuple, x: Tensor) -> None:
    if tensor.shape != shape or tensor.dtype != x.dtype or tensor.device != x.device:
        got = f"shape {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}"
        expected = f"shape {tuple(shape)}, {x.dtype} on {x.device}, as x and the wiring"
        raise ArgumentError(name, got, expected, "Reshape it, or move it with .to().")


def _expect_given(name: str, gradient: Tensor | None) -> None:
    """A torch operator takes None for any tensor; a kernel would read address 0."""
    expect(gradient is not None, name, None, "a tensor", "Return dL/dlogits, shape (B, c).")


def _check(x, d, weights, W=None, mu=None, grad_h=None, grad_y=None, t=None, fired=None):
    """Shapes, dtypes and devices of a call, from the tensors' descriptions alone."""
    if x.ndim != 2 or not x.is_floating_point():
        got = f"shape {tuple(x.shape)} of {x.dtype}"
        raise ArgumentError("x", got, "shape (B, d) of floats", "Flatten pictures: x.flatten(1).")
    if weights.device != x.device:
        remedy = "Move the network or the pictures with .to()."
        raise ArgumentError("x", f"device {x.device}", f"{weights.device}, as the wiring", remedy)
    if x.shape[1] != d:
        remedy = "Build the network with mossy_fibers equal to the picture's size."
        raise ArgumentError("x", f"shape {tuple(x.shape)}", f"shape (B, {d})", remedy)
    m = weights.shape[1]
    if W is not None:
        _expect_tensor("W", W, (W.shape[0], m), x)
    if mu is not None:
        _expect_tensor("mu", mu, (m,), x)
    if grad_h is not None:
        _expect_tensor("grad_h", grad_h, (x.shape[0], m), x)
    if grad_y is not None:
        _expect_tensor("grad_y", grad_y, (x.shape[0], grad_y.shape[-1] if W is None else len(W)), x)
    if t is not None:
        _expect_tensor("t", t, (x.shape[0], len(W)), x)
    if fired is not None:
        shape = _words(x, weights), x.shape[0]
        good = fired.shape == shape and fired.dtype == torch.int32 and fired.device == x.device
        got = f"shape {tuple(fired.shape)}, {fired.dtype} on {fired.device}"
        expected = f"shape {tuple(shape)}, torch.int32 on {x.device}"
        expect(good, "fired", got, expected, "Pass what circuit_fired returned for this x.")


def backend_of(x: Tensor, wiring: Wired) -> str:
    """The name of the backend that computes the outputs for x (B, d)."""
    return _choose(x, wiring.operands[1:])[0]


def _choose(x: Tensor, J: tuple[Tensor | None, Tensor, Tensor | None], learns: bool = False):
    """The name of the backend for a call, and J as it takes it."""
    indices, weights, thresholds = J
    d, (k, m) = x.shape[1], weights.shape
    name = backends.select(x, m, indices is None, learns)
    if name == "cpu" and indices is not None and k == d > 1:
        # A cell that reads every mossy fibre is a column of a matrix product: the BLAS is 1.2 to 14
        # times as fast (57 in the gradient to one picture). At k = d/2 it can be half as fast.
        indices, weights = None, matrix_of(indices, weights, d)
        name = backends.select(x, m, True, learns)
    return name, (indices, weights, thresholds)


def _serve(x: Tensor, J: tuple[Tensor | None, Tensor, Tensor | None], learns: bool = False):
    """The backend's module for a call, and J as it takes it."""
    name, J = _choose(x, J, learns)
    # The CPU's kernels look for NaN on their way. A CUDA graph cannot stop to look: whoever
    # captures one checks what goes in.
    captured = x.is_cuda and torch.cuda.is_current_stream_capturing()
    looks = name == "cpu" and J[0] is not None
    if not looks and not captured and not bool(torch.isfinite(x).all()):
        odd = int((~torch.isfinite(x)).any(dim=1).nonzero()[0])
        got = f"NaN or infinity in picture {odd}"
        raise ArgumentError("x", got, "finite numbers", "Clean the input.")
    return backends.BACKENDS[name].module, J


def _granule(x, d, indices, weights, thresholds):
    _check(x, d, weights)
    module, J = _serve(x, (indices, weights, thresholds))
    return module.granule(x, *J)


def _granule_fake(x, d, indices, weights, thresholds):
    _check(x, d, weights)
    return x.new_empty(x.shape[0], weights.shape[1])


def _granule_backward(grad_h, x, d, indices, weights, thresholds):
    _expect_given("grad_h", grad_h)
    _check(x, d, weights, grad_h=grad_h)
    module, J = _serve(x, (indices, weights, thresholds))
    return module.granule_backward(grad_h, x, *J)


def _granule_backward_fake(grad_h, x, d, indices, weights, thresholds):
    _check(x, d, weights, grad_h=grad_h)
    return x.new_empty(x.shape)


def _circuit(x, d, indices, weights, thresholds, W, mu):
    _check(x, d, weights, W=W, mu=mu)
    module, J = _serve(x, (indices, weights, thresholds))
    return module.circuit(x, *J, W, mu)


def _circuit_fake(x, d, indices, weights, thresholds, W, mu):
    _check(x, d, weights, W=W, mu=mu)
    return x.new_empty(x.shape[0], W.shape[0])


def _circuit_fired(x, d, indices, weights, thresholds, W, mu):
    _check(x, d, weights, W=W, mu=mu)
    module, J = _serve(x, (indices, weights, thresholds))
    if _words(x, weights):
        return module.circuit_fired(x, *J, W, mu)
    return module.circuit(x, *J, W, mu), x.new_empty(0, len(x), dtype=torch.int32)


def _circuit_fired_fake(x, d, indices, weights, thresholds, W, mu):
    y = _circuit_fake(x, d, indices, weights, thresholds, W, mu)
    return y, x.new_empty(_words(x, weights), x.shape[0], dtype=torch.int32)


def _words(x: Tensor, weights: Tensor) -> int:
    """The rows of `fired`; none on a GPU."""
    return 0 if x.is_cuda else -(-weights.shape[1] // 32)


def _circuit_backward_x(grad_y, x, d, indices, weights, thresholds, W, fired=None):
    _expect_given("grad_y", grad_y)
    _check(x, d, weights, W=W, grad_y=grad_y, fired=fired)
    module, J = _serve(x, (indices, weights, thresholds))
    if fired is None or not len(fired):
        return module.circuit_backward_x(grad_y, x, *J, W)
    return module.circuit_backward_x(grad_y, x, *J, W, fired)


def _circuit_backward_x_fake(grad_y, x, d, indices, weights, thresholds, W, fired=None):
    _check(x, d, weights, W=W, grad_y=grad_y, fired=fired)
    return x.new_empty(x.shape)


def _circuit_backward_W(grad_y, x, d, indices, weights, thresholds, mu):
    _expect_given("grad_y", grad_y)
    _check(x, d, weights, mu=mu, grad_y=grad_y)
    module, J = _serve(x, (indices, weights, thresholds))
    return module.circuit_backward_W(grad_y, x, *J, mu)


def _circuit_backward_W_fake(grad_y, x, d, indices, weights, thresholds, mu):
    _check(x, d, weights, mu=mu, grad_y=grad_y)
    return x.new_empty(grad_y.shape[1], weights.shape[1])


def _learn(x, t, order, d, indices, weights, thresholds, W, mu, square_avg, batch_size, *rule):
    _check(x, d, weights, W=W, mu=mu, t=t)
    expect(batch_size >= 1, "batch_size", batch_size, "a whole number >= 1", "1 learns one by one.")
    for name, state in (("W", W), ("mu", mu), ("square_avg", square_avg)):
        if state is not None and not state.is_contiguous():
            got = f"strides {state.stride()}"
            raise ArgumentError(name, got, "contiguous memory", "It is changed in place.")
    if square_avg is not None:
        _expect_tensor("square_avg", square_avg, W.shape, x)
    good = order.ndim == 1 and order.dtype == torch.int64 and order.device == x.device
    got = f"shape {tuple(order.shape)} of {order.dtype} on {order.device}"
    expect(good, "order", got, f"shape (n,) of torch.int64 on {x.device}", "Pass row numbers.")
    if order.numel():
        low, high = (int(v) for v in order.aminmax())
        good = 0 <= low and high < len(x)
        expect(good, "order", f"rows {low}..{high}", f"0..{len(x) - 1}", "Pass row numbers of x.")
    module, J = _serve(x, (indices, weights, thresholds), learns=True)
    return module.learn_(x, t, order, *J, W, mu, square_avg, batch_size, *rule, tick=_tick.get())


def _learn_fake(x, t, order, d, indices, weights, thresholds, W, mu, square_avg, batch_size, *rule):
    _check(x, d, weights, W=W, mu=mu, t=t)
    return t.new_empty(order.shape[0], t.shape[1])


_KERNELS = {
    "granule": (_granule, _granule_fake),
    "granule_backward": (_granule_backward, _granule_backward_fake),
    "circuit": (_circuit, _circuit_fake),
    "circuit_fired": (_circuit_fired, _circuit_fired_fake),
    "circuit_backward_x": (_circuit_backward_x, _circuit_backward_x_fake),
    "circuit_backward_W": (_circuit_backward_W, _circuit_backward_W_fake),
    "learn_": (_learn, _learn_fake),
}


def _with_remedy(name: str, kernel: Callable) -> Callable:
    """The kernel; where a GPU's memory does not suffice, torch's words for need and have and ours
    for what to do."""

    @wraps(kernel)
    def run(*arguments):
        try:
            return kernel(*arguments)
        except torch.OutOfMemoryError as error:
            said = ". ".join(str(error).split(". ")[:3])  # tried to allocate; capacity; free
            remedy = "Use smaller batches or fewer granule cells, or free what else is there."
            raise OutOfMemory(f"{name}: {said}. {remedy}") from error

    return run


for _name, (_kernel, _fake) in _KERNELS.items():
    torch.library.define(f"cerebsim::{_name}", _SCHEMAS[_name])
    torch.library.impl(f"cerebsim::{_name}", "default", _with_remedy(_name, _kernel))
    torch.library.register_fake(f"cerebsim::{_name}", _fake)
