"""The whole package on a GPU, by each of its backends: operators, model, learning, attacks.

Each backend's kernels have their own tests (test_cuda.py, test_triton.py). All of this is skipped
where there is no CUDA device.
"""

import pytest
import torch
from test_ops import OPCHECKS, Case, compiled_and_eager
from tolerances import BACKEND, assert_close_to_largest

from cerebsim import PGD, Cerebellum, evaluate, load_data, ops, reference, use_backend
from cerebsim.errors import ArgumentError, BackendUnavailable, OutOfMemory

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["cuda", "triton"])
def backend(request):
    with use_backend(request.param):
        yield request.param


def on_gpu(**sizes) -> Case:
    case = Case(**sizes)
    for name, value in vars(case).items():
        setattr(case, name, value if value is None else value.to("cuda"))
    return case


def gradients(case: Case, dtype: torch.dtype) -> tuple:
    """h, y and the gradients to x and W by autograd."""
    x, W = (t.to(dtype).clone().requires_grad_() for t in (case.x, case.W))
    mu = None if case.mu is None else case.mu.to(dtype)
    h, y = ops.granule(x, case.J), ops.circuit(x, case.J, W, mu)
    (of_h,) = torch.autograd.grad(h, x, case.grad_h.to(dtype))
    return h, y, of_h, *torch.autograd.grad(y, (x, W), case.grad_y.to(dtype))


@pytest.mark.parametrize("sizes", [{}, {"B": 300, "m": 20_011, "d": 784}, {"B": 0}], ids=str)
def test_autograd_is_the_reference_in_float64(backend, sizes):
    case = on_gpu(**sizes)
    got = gradients(case, torch.float32)
    with use_backend("reference"):
        expected = gradients(case, torch.float64)
    for mine, right in zip(got, expected, strict=True):
        assert mine.is_cuda
        assert_close_to_largest(mine, right, BACKEND)


def test_more_mossy_fibres_than_the_cuda_kernels_take():
    """Backend "auto" goes on to one that does."""
    case = on_gpu(B=3, m=1000, d=2**23)
    got = gradients(case, torch.float32)
    with use_backend("reference"):
        expected = gradients(case, torch.float64)
    for mine, right in zip(got, expected, strict=True):
        assert_close_to_largest(mine, right, BACKEND)
    with use_backend("cuda"), pytest.raises(BackendUnavailable, match="mossy fibres"):
        ops.granule(case.x, case.J)


def test_the_gradient_is_the_slope(backend):
    """Of a loss that is linear where no cell's sign changes: exact but for rounding."""
    case = on_gpu(B=3, m=500)
    x = case.x.clone().requires_grad_()
    y = ops.circuit(x, case.J, case.W, case.mu)
    (gradient,) = torch.autograd.grad(y, x, case.grad_y)
    step = 1e-4 * torch.randn_like(x)
    J = case.J.operands[1:]
    x, W, mu, step = (t.double() for t in (case.x, case.W, case.mu, step))
    up, down = (reference.circuit(x + s * step, *J, W, mu) for s in (1, -1))
    same = (reference.granule(x + step, *J) > 0) == (reference.granule(x - step, *J) > 0)
    rows = same.all(1)
    slope = ((up - down) / 2 * case.grad_y).sum(1)[rows]
    assert_close_to_largest((gradient * step).sum(1)[rows], slope, BACKEND)


def test_operators_hold_torchs_contract(backend):
    case, operators = on_gpu(B=5, m=130, c=3), torch.ops.cerebsim
    J = case.J.operands
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
    order = torch.tensor([3, 0, 4], device="cuda")
    state = case.W, case.mu, torch.zeros_like(case.W)
    learn = case.x, case.grad_y, order, *J, *state, 2, 0.2, 1e-3, 0.99, 1e-8, 0.99, True
    torch.library.opcheck(operators.learn_.default, learn, test_utils=OPCHECKS)


def test_compiled_is_eager(backend):
    for got, expected in compiled_and_eager(on_gpu(B=6, m=130, c=3, d=20)):
        assert_close_to_largest(got, expected, BACKEND)


def test_a_network_learns_and_is_attacked_as_on_the_cpu(backend):
    data = load_data("digits")
    settings = dict(epochs=2, batch_size=50, progress=False)
    found = {}
    for device in ("cuda", "cpu"):
        with use_backend(backend if device == "cuda" else "cpu"):
            net = Cerebellum(64, 20_000, device=device)
            history = net.fit(data.train, data.test, **settings)
            result = evaluate(net, data.test, [PGD(0.05)], limit=200, batch_size=64)
        found[device] = history.test_accuracy[-1], result.worst_case[0.05]
    # RMSprop magnifies rounding (see tolerances.py): a few of 360 and of 200 pictures may differ.
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], abs=0.02)
    assert found["cuda"][1] == pytest.approx(found["cpu"][1], abs=0.05)


def test_learning_goes_on_from_a_checkpoint_on_the_gpu(backend, tmp_path):
    data = load_data("digits").train.first(300)
    settings = dict(batch_size=7, progress=False)
    whole = Cerebellum(64, 3000, device="cuda")
    whole.fit(data, epochs=3, **settings)
    for epochs in (1, 3):
        part = Cerebellum(64, 3000, device="cuda")
        part.fit(data, epochs=epochs, out=tmp_path, **settings)
    assert torch.equal(part.W, whole.W) and torch.equal(part.mu, whole.mu)
    assert torch.equal(Cerebellum.load(tmp_path, "cuda").W, whole.W)


def test_bad_pictures_are_errors(backend):
    net = Cerebellum(64, 3000, device="cuda").eval()
    x = torch.rand(5, 64, device="cuda")
    x[3, 7] = float("nan")
    with pytest.raises(ArgumentError, match="x: got NaN or infinity in picture 3"):
        net(x)
    with pytest.raises(ArgumentError, match="x: got device cpu"):
        net(torch.rand(5, 64))
    with pytest.raises(BackendUnavailable, match="float64"):
        net.double()(x.double())


def test_too_little_memory_is_an_error_with_a_remedy(backend):
    case = on_gpu(B=2, m=200_000)
    x = case.x[:1].expand(400_000, -1)  # h would take 320 GB
    with pytest.raises(OutOfMemory, match="granule: .*Tried to allocate.*Use smaller batches"):
        ops.granule(x, case.J)
    assert ops.granule(case.x, case.J).isfinite().all()


@pytest.mark.parametrize("cells", [2**20, 10**7])
def test_wide_networks_learn_and_are_attacked(backend, cells):
    net = Cerebellum(64, cells, device="cuda")
    data = load_data("digits")
    net.fit(data.train, epochs=1, batch_size=50, progress=False)
    result = evaluate(net, data.test, [PGD(0.1, steps=5)], limit=50)
    assert result.clean > 0.8 and result.worst_case[0.1] < result.clean
