import random
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import BACKEND, FLOAT32, assert_close_to_largest

from cerebsim import native, ops, reference
from cerebsim.backends import use_backend
from cerebsim.config import CircuitConfig
from cerebsim.errors import ArgumentError, OutOfMemory
from cerebsim.wiring import Wiring, matrix_of


def rounded(J: Wiring) -> Wiring:
    """The wiring with weights in steps of 2^-8.

    With x in steps of 2^-6 and thresholds of 2^-2 every J^T x - threshold is exact in float32, so
    that no rounding decides whether a cell fires: where it fires is a step in the gradient.
    """
    return Wiring(J.d, J.indices, (J.weights * 256).round() / 256, J.thresholds)


class Case:
    """A circuit and what goes through it, all from a seed."""

    def __init__(self, B=17, m=1000, k=4, c=10, d=64, threshold=0.0, mu=True, seed=0, **kind):
        config = CircuitConfig(d, m, c, min(k, d) if not kind else k, threshold=threshold, **kind)
        self.J = rounded(Wiring.draw(config))
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randint(0, 65, (B, d), generator=g) / 64
        self.W = torch.randn(c, m, generator=g)
        self.mu = torch.rand(m, generator=g) if mu else None
        self.grad_h = torch.randn(B, m, generator=g)
        self.grad_y = torch.randn(B, c, generator=g)

    def results(self, module, dtype=torch.float32):
        """The five operations by a backend's own functions."""
        to = {
            name: t if t is None else t.to(dtype) for name, t in vars(self).items() if name != "J"
        }
        x, W, mu = to["x"], to["W"], to["mu"]
        J = self.J.operands[1:]
        return {
            "granule": module.granule(x, *J),
            "granule_backward": module.granule_backward(to["grad_h"], x, *J),
            "circuit": module.circuit(x, *J, W, mu),
            "circuit_backward_x": module.circuit_backward_x(to["grad_y"], x, *J, W),
            "circuit_backward_W": module.circuit_backward_W(to["grad_y"], x, *J, mu),
        }

    def kept(self, module):
        """The operations of an attack, which keep who fires; on the CPU alone."""
        x, *J = self.x, *self.J.operands[1:]
        y, fired = module.circuit_fired(x, *J, self.W, self.mu)
        grad_x = module.circuit_backward_x(self.grad_y, x, *J, self.W, fired)
        return {"circuit": y, "circuit_backward_x": grad_x}, fired


class Operators:
    """The registered operators, as `results` calls them."""

    def __init__(self, d):
        self.d = d

    def __getattr__(self, name):
        operator = getattr(torch.ops.cerebsim, name)
        gradient = name.endswith(("backward", "_x", "_W"))

        def call(*arguments):
            n = 2 if gradient else 1
            return operator(*arguments[:n], self.d, *arguments[n:])

        return call


def packed(fires) -> torch.Tensor:
    """What `fired` should be, by other means: bit g % 32 of fired[g // 32, b] is fires[b, g]."""
    bits = np.packbits(fires.numpy(), axis=1, bitorder="little")
    words = np.zeros((len(fires), -(-fires.shape[1] // 32) * 4), np.uint8)
    words[:, : bits.shape[1]] = bits
    return torch.from_numpy(words.view("<i4").T.copy())


def check(case: Case, module=None) -> None:
    """By the operators, or by a backend's own functions."""
    expected = case.results(reference, torch.float64)
    module = module or Operators(case.J.d)
    with use_backend("cpu"):
        got = case.results(module)
        kept, fired = case.kept(module)
    assert all(torch.equal(value, got[name]) for name, value in kept.items())
    assert torch.equal(fired, packed(expected["granule"] > 0))
    for name, value in got.items():
        try:
            assert_close_to_largest(value, expected[name], BACKEND)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


AXES = {
    "B": (0, 1, 7, 16, 17, 33, 64, 65, 130, 300),
    "m": (1, 63, 64, 65, 1000, 2049),
    "k": (1, 2, 3, 4, 50, 64),
    "c": (1, 3, 10, 23),
    "d": (1, 5, 64, 784),
}


@pytest.mark.usefixtures("each_instruction_set")
@pytest.mark.parametrize(("axis", "size"), [(a, n) for a, sizes in AXES.items() for n in sizes])
def test_cpu_is_the_reference_along_every_axis(axis, size):
    check(Case(**{axis: size}))


@pytest.mark.usefixtures("each_instruction_set")
@pytest.mark.parametrize("seed", range(40))
def test_cpu_is_the_reference_in_mixed_sizes(seed):
    draw = random.Random(seed)
    sizes = {axis: draw.choice(values) for axis, values in AXES.items()}
    sizes["k"] = draw.choice((sizes["k"], sizes["d"]))
    while sizes["B"] * sizes["m"] * sizes["k"] > 4e6:
        sizes["B"] //= 2
    check(
        Case(threshold=draw.choice((0, 0, 0.25, -0.5)), mu=draw.random() < 0.7, seed=seed, **sizes)
    )


@given(
    B=st.integers(0, 140),
    m=st.integers(1, 300),
    k=st.integers(1, 9),
    c=st.integers(1, 24),
    d=st.integers(1, 40),
    threshold=st.sampled_from([0, 0.5, -0.25]),
    mu=st.booleans(),
    kind=st.sampled_from([{}, {"replacement": True}, {"wiring": "local"}]),
)
@settings(max_examples=60)
def test_cpu_is_the_reference_for_any_shape(B, m, k, c, d, threshold, mu, kind):
    kind = kind or {"wiring": "random"}
    k = k if kind.get("replacement") else min(k, d)
    case = Case(B, m, k, c, d, threshold, mu, **kind)
    # Signs that cannot cancel: a single y near 0 has no relative precision in any float32.
    case.W = case.W.abs()
    case.mu = None if case.mu is None else -case.mu
    check(case)


def test_cpu_is_the_reference_where_a_cell_hears_the_same_fibre_twice():
    check(Case(d=5, k=50, m=130, replacement=True))
    check(Case(d=1, k=4, m=130, replacement=True))


@pytest.mark.usefixtures("each_instruction_set")
def test_cpu_is_the_reference_with_wide_indices():
    case = Case(B=18, d=40_000, m=65)
    assert case.J.indices.dtype == torch.int32 and case.J.indices.max() > 2**15
    check(case)
    check(Case(B=3, d=40_000, m=65, k=3))


@pytest.mark.usefixtures("each_instruction_set")
@pytest.mark.parametrize("threshold", [0.25, -0.5])
def test_thresholds_of_single_cells(threshold):
    case = Case(m=130)
    case.J = Wiring(64, case.J.indices, case.J.weights, threshold * torch.arange(130.0))
    check(case)
    plain = ops.granule(case.x, Wiring(64, case.J.indices, case.J.weights))
    assert ((ops.granule(case.x, case.J) > plain).any()) == (threshold < 0)


def test_cpu_is_the_reference_with_weights_as_drawn():
    J = Wiring.draw(CircuitConfig(64, 2000, fan_in=4))
    x, W = torch.rand(33, 64), torch.randn(10, 2000)
    h, y = ops.granule(x, J), ops.circuit(x, J, W)
    assert_close_to_largest(h, reference.granule(x.double(), *J.operands[1:]), BACKEND)
    y64 = reference.circuit(x.double(), *J.operands[1:], W.double(), None)
    assert_close_to_largest(y, y64, BACKEND)


def test_memory_may_lie_in_any_order():
    case = Case(B=20, d=40, m=130)
    whole = case.results(Operators(40))
    wide = torch.zeros(20, 80)
    wide[:, ::2] = case.x
    case.x = wide[:, ::2]
    case.W, case.grad_y, case.grad_h = (
        t.T.contiguous().T for t in (case.W, case.grad_y, case.grad_h)
    )
    scattered = torch.zeros(130, 3)
    scattered[:, 1] = case.mu
    case.mu = scattered[:, 1]
    J = case.J
    case.J = Wiring(40, *(t.T.contiguous().T for t in (J.indices, J.weights)))
    odd = (case.x, case.W, case.grad_y, case.grad_h, case.mu, case.J.indices, case.J.weights)
    assert not any(t.is_contiguous() for t in odd)
    for name, value in case.results(Operators(40)).items():
        if name == "circuit_backward_W":  # torch's outer product with mu rounds as strides have it
            assert_close_to_largest(value, whole[name], FLOAT32)
        else:
            assert torch.equal(value, whole[name]), name
    case.x = case.x.T.contiguous().T
    assert torch.equal(case.results(Operators(40))["circuit"], whole["circuit"])


def test_full_wiring_is_a_dense_product():
    for named in ("auto", "cpu"):
        case = Case(d=30, wiring="full", k=30)
        with use_backend(named):
            got = case.results(Operators(30))
        h = torch.relu(case.x.double() @ case.J.dense().double())
        assert_close_to_largest(got["granule"], h, BACKEND)
        z = h - case.mu.double()
        assert_close_to_largest(got["circuit"], z @ case.W.double().T, BACKEND)
        grad_u = (case.grad_y.double() @ case.W.double()) * (h > 0)
        expected = grad_u @ case.J.dense().double().T
        assert_close_to_largest(got["circuit_backward_x"], expected, BACKEND)


@pytest.mark.parametrize("kind", [{"wiring": "random"}, {"wiring": "full"}])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_gradients_are_those_of_finite_differences(kind, threshold):
    # As drawn, not rounded: a finite difference must not meet a cell just at its threshold.
    J = Wiring.draw(CircuitConfig(6, 9, 3, 3, threshold=threshold, seed=4, **kind))
    g = torch.Generator().manual_seed(1)
    x = torch.rand(4, 6, generator=g, dtype=torch.float64, requires_grad=True)
    W = torch.randn(3, 9, generator=g, dtype=torch.float64, requires_grad=True)
    mu = torch.rand(9, generator=g, dtype=torch.float64)
    h = ops.granule(x, J)
    assert (h > 0).any() and (h == 0).any()
    assert torch.autograd.gradcheck(lambda x: ops.granule(x, J), x)
    assert torch.autograd.gradcheck(lambda x, W: ops.circuit(x, J, W, mu), (x, W))
    assert torch.autograd.gradcheck(lambda x, W: ops.circuit(x, J, W), (x, W))


# The raw operators have no autograd formula on purpose, since autograd.Function stands outside
# them, so test_autograd_registration has nothing to find.
OPCHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("mu", [True, False])
def test_the_operators_keep_the_promises_of_their_schemas(k, mu):
    case = Case(B=5, m=70, k=k, c=3, d=9, mu=mu, threshold=0.25 if mu else 0)
    operators, J = torch.ops.cerebsim, case.J.operands
    calls = {
        operators.granule: (case.x, *J),
        operators.granule_backward: (case.grad_h, case.x, *J),
        operators.circuit: (case.x, *J, case.W, case.mu),
        operators.circuit_fired: (case.x, *J, case.W, case.mu),
        operators.circuit_backward_x: (case.grad_y, case.x, *J, case.W),
        operators.circuit_backward_W: (case.grad_y, case.x, *J, case.mu),
    }
    for operator, arguments in calls.items():
        torch.library.opcheck(operator.default, arguments, test_utils=OPCHECKS)
    order, square_avg = torch.tensor([3, 0, 4]), torch.zeros_like(case.W) if mu else None
    state = case.W, case.mu, square_avg
    learn = case.x, case.grad_y, order, *J, *state, 2, 0.2, 1e-3, 0.99, 1e-8, 0.99, True
    torch.library.opcheck(operators.learn_.default, learn, test_utils=OPCHECKS)


def compiled_and_eager(case: Case, **how):
    """Pairs of a value and its gradients to x and W: through torch.compile(**how), and not."""

    def both(x, W):
        h = ops.granule(x, case.J)
        y = ops.circuit(x * 2, case.J, W, case.mu)
        return h.sum() * 0.5 + (y * y).sum()

    def run(function):
        x, W = case.x.clone().requires_grad_(), case.W.clone().requires_grad_()
        value = function(x, W)
        value.backward()
        return value.detach(), x.grad, W.grad

    torch.compiler.reset()
    compiled = torch.compile(both, fullgraph=True, **how)
    return zip(run(compiled), run(both), strict=True)


def test_compiled_is_eager():
    for got, expected in compiled_and_eager(Case(B=6, m=130, c=3, d=20), backend="aot_eager"):
        assert torch.equal(got, expected)


def test_a_graph_may_be_gone_through_more_than_once():
    case = Case(m=130)
    x, W = case.x.clone().requires_grad_(), case.W.clone().requires_grad_()
    y = ops.circuit(x, case.J, W, case.mu)
    for weight in (case.grad_y, 2 * case.grad_y, case.grad_y):
        gx, gW = torch.autograd.grad(y, (x, W), weight, retain_graph=True)
        again = ops.circuit(x, case.J, W, case.mu)
        fx, fW = torch.autograd.grad(again, (x, W), weight)
        assert torch.equal(gx, fx) and torch.equal(gW, fW)
    h = ops.granule(x, case.J)
    first = torch.autograd.grad(h, x, case.grad_h, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(h, x, case.grad_h)[0])


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    case = Case(m=130)
    called = []
    for name in ("circuit", "circuit_fired", "circuit_backward_x", "circuit_backward_W"):
        real = getattr(reference, name)
        monkeypatch.setattr(
            reference, name, lambda *a, name=name, real=real: (called.append(name), real(*a))[1]
        )
    with use_backend("reference"):
        W = case.W.clone().requires_grad_()
        ops.circuit(case.x, case.J, W).sum().backward()
        x = case.x.clone().requires_grad_()
        ops.circuit(x, case.J, case.W).sum().backward()
    assert called == ["circuit", "circuit_backward_W", "circuit_fired", "circuit_backward_x"]


def test_outputs_are_fresh_and_writable():
    case = Case(m=130)
    kept = {name: t.clone() for name, t in vars(case).items() if name != "J"}
    first = case.results(Operators(64))
    for value in first.values():
        value.fill_(7)
    second = case.results(Operators(64))
    check(case)
    for name in first:
        assert first[name].data_ptr() != second[name].data_ptr()
        assert (first[name] == 7).all()
    for name, t in kept.items():
        assert torch.equal(t, getattr(case, name))
    y = ops.circuit(case.x.requires_grad_(), case.J, case.W)
    y += 1  # backward needs none of it
    y.sum().backward()


def test_a_second_derivative_is_refused():
    case = Case(m=130)
    x, W = case.x.requires_grad_(), case.W.requires_grad_()
    for y in (ops.granule(x, case.J), ops.circuit(x, case.J, W)):
        (gradient,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


# Where a cell reads every mossy fibre the CPU takes the BLAS.
EVERY_FIBRE = [{"wiring": "random"}, {"wiring": "random", "replacement": True}, {"wiring": "local"}]


@pytest.mark.parametrize("kind", EVERY_FIBRE)
@pytest.mark.parametrize("d", [2, 64])
def test_cells_that_read_every_fibre_are_a_product(kind, d, monkeypatch):
    case = Case(k=d, d=d, m=130, threshold=0.25, **kind)
    check(case, native)  # and the kernels could do it too
    for name in ("granule", "granule_backward", "circuit", "circuit_fired", "circuit_backward_x"):
        monkeypatch.setattr(native, name, None)
    assert ops.backend_of(case.x, case.J) == "reference"
    check(case)
    case.J.weights.neg_()
    check(case)
    case.J.indices.copy_(case.J.indices.flip(0))
    check(case)
    case.x[3, 0] = float("nan")
    with pytest.raises(ArgumentError, match="NaN or infinity in picture 3"):
        ops.circuit(case.x, case.J, case.W)


def test_the_matrix_of_a_wiring_is_made_once_and_not_kept():
    case = Case(k=64, m=130)
    J = case.J
    made = matrix_of(J.indices, J.weights, J.d)
    assert matrix_of(J.indices, J.weights, J.d) is made
    assert torch.equal(made, J.dense())
    other = Wiring(J.d, J.indices.flip(0), J.weights)
    assert torch.equal(matrix_of(other.indices, other.weights, J.d), other.dense())
    gone = weakref.ref(made)
    del made, case, J, other
    assert gone() is None


# Bit for bit. cpu.cpp gives a thread to every 50,000 multiply-adds: at m = 8,321 and B = 130 the
# smallest operation (granule) has 3.2 million and so runs on as many threads as it is given; the
# cells are summed in four chunks (in two at 4,161).
BITS = [
    {"wiring": "random", "k": 4},
    {"wiring": "random", "k": 3},
    {"wiring": "local", "k": 4},
]


@pytest.mark.usefixtures("each_instruction_set")
@pytest.mark.parametrize("kind", BITS)
def test_a_picture_does_not_depend_on_its_neighbours(kind):
    case = Case(B=130, m=4161, threshold=0.25, **kind)
    whole = case.results(Operators(64))
    del whole["circuit_backward_W"]  # a sum over the batch
    for size in (1, 7, 16, 50):
        for first in range(0, 130, size):
            at = slice(first, first + size)
            part = Case(m=4161, threshold=0.25, **kind)
            part.J, part.W, part.mu = case.J, case.W, case.mu
            part.x, part.grad_h, part.grad_y = case.x[at], case.grad_h[at], case.grad_y[at]
            part = part.results(Operators(64))
            for name, value in whole.items():
                assert torch.equal(part[name], value[at]), (name, size, first)
    mixed = torch.randperm(130, generator=torch.Generator().manual_seed(0))
    case.x, case.grad_h, case.grad_y = (t[mixed] for t in (case.x, case.grad_h, case.grad_y))
    moved = case.results(Operators(64))
    for name, value in whole.items():
        assert torch.equal(moved[name], value[mixed]), name


@pytest.mark.usefixtures("each_instruction_set")
@pytest.mark.parametrize("kind", BITS)
def test_the_number_of_threads_changes_no_bit(kind):
    case = Case(B=130, m=8321, **kind)
    results = {}
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        results[threads] = case.results(Operators(64))
    for threads in (2, 3, 4):
        for name, value in results[1].items():
            assert torch.equal(results[threads][name], value), (name, threads)


def test_too_little_memory_is_told_with_need_have_and_remedy(monkeypatch):
    """In torch's own words of a GPU; a test on one is in test_cuda.py."""
    said = (
        "CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total capacity of 79.25 GiB "
        "of which 1.50 GiB is free. Process 7 has 77 GiB memory in use. Of the allocated memory ..."
    )

    def granule(*arguments):
        raise torch.OutOfMemoryError(said)

    monkeypatch.setattr(reference, "granule", granule)
    case = Case()
    with use_backend("reference"), pytest.raises(OutOfMemory) as error:
        ops.granule(case.x, case.J)
    message = str(error.value)
    assert message.startswith("granule: CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has")
    assert "1.50 GiB is free. Use smaller batches" in message and "Process" not in message
