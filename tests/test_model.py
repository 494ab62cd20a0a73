import logging
import multiprocessing
import subprocess
import sys
import textwrap
from copy import deepcopy

import pytest
import torch
from tolerances import BACKEND, FLOAT32, FLOAT64, assert_close_to_largest

from cerebsim import ArgumentError, BackendUnavailable, Cerebellum, backends, use_backend
from cerebsim.labels import targets


def network(**more) -> Cerebellum:
    net = Cerebellum(64, 700, **more)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net.W.add_(0.1 * torch.randn(net.W.shape, generator=g))
    net(torch.rand(40, 64, generator=g))  # moves mu
    return net.eval()


def pictures(B=9, seed=1) -> torch.Tensor:
    return torch.rand(B, 64, generator=torch.Generator().manual_seed(seed))


ANATOMIES = [{}, {"ltd": False}, {"wiring": "local"}, {"wiring": "full"}, {"threshold": 0.25}]


def test_it_is_an_ordinary_module():
    net = network()
    assert [name for name, _ in net.named_parameters()] == ["readout.W"]
    assert set(net.state_dict()) == {"readout.W", "centring.mu"}
    assert set(network(ltd=False).state_dict()) == {"readout.W"}
    assert net.W.requires_grad and net.W.shape == (10, 700) and net.mu.shape == (700,)
    assert network(ltd=False).mu is None
    assert "GranuleLayer(mossy_fibers=64, granule_cells=700, fan_in=4)" in repr(net)


@pytest.mark.parametrize("anatomy", ANATOMIES, ids=str)
def test_state_and_copies_carry_the_whole_network(anatomy):
    net, x = network(**anatomy), pictures()
    other = Cerebellum(64, 700, **anatomy).eval()
    assert not torch.equal(other(x), net(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    copy = deepcopy(net)
    assert torch.equal(copy(x), net(x))
    with torch.no_grad():
        copy.W.zero_()
    assert torch.equal(other(x), net(x))  # the copy has memory of its own


@pytest.mark.parametrize("anatomy", ANATOMIES, ids=str)
def test_in_eval_mode_it_repeats_itself_whatever_the_shape(anatomy):
    net, x = network(**anatomy), pictures()
    y = net(x)
    assert y.shape == (9, 10) and y.dtype == torch.float32
    expected = y.clone()
    with torch.no_grad():
        y.fill_(3)  # fresh and writable
    for shape in ((9, 64), (9, 1, 8, 8), (9, 4, 4, 4), (9, 8, 8)):
        assert torch.equal(net(x.view(shape)), expected)
    assert torch.equal(
        net(x.view(9, 1, 8, 8).contiguous(memory_format=torch.channels_last)), expected
    )
    assert net(x[:0]).shape == (0, 10)


def test_a_seed_is_a_network():
    x = pictures()
    a, b, c = (Cerebellum(64, 700, seed=seed).eval()(x) for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_mu_moves_in_train_mode_only():
    net, x = network(), pictures()
    before = net.mu.clone()
    net(x)
    net.loss_gradient(x, lambda y: y)
    net.train().loss_gradient(x, lambda y: y)
    assert torch.equal(net.mu, before)
    net(x)
    h = net.granule(x)
    torch.testing.assert_close(net.mu, before + 0.01 * (h.mean(0) - before))
    assert not network(ltd=False).train()(x).isnan().any()


@pytest.mark.parametrize("update", ["before", "after"])
def test_train_mode_subtracts_the_mu_that_the_setting_names(update):
    net, x = network().train(), pictures()
    net.centring.update = update
    old, h = net.mu.clone(), net.granule(x)
    y = net(x)
    mu = net.mu if update == "before" else old
    assert_close_to_largest(y, (h - mu) @ net.W.T, FLOAT32)
    y.sum().backward()
    assert_close_to_largest(net.W.grad, (h - mu).sum(0).expand(10, -1), FLOAT32)


@pytest.mark.parametrize("anatomy", [*ANATOMIES, {"purkinje_cells": 1}], ids=str)
def test_the_fused_gradient_is_autograds(anatomy):
    net, x = network(**anatomy), pictures().view(9, 1, 8, 8).requires_grad_()
    t = targets(torch.arange(9) % 2, net.config.purkinje_cells)
    y = net(x)
    loss = ((y - t) ** 2).sum()
    (expected,) = torch.autograd.grad(loss, x)
    logits, gradient = net.loss_gradient(x, lambda y: 2 * (y - t))
    assert torch.equal(logits, y) and gradient.shape == x.shape
    assert_close_to_largest(gradient, expected, FLOAT32)
    assert not gradient.requires_grad and not logits.requires_grad


def test_gradients_are_those_of_the_circuit_written_out():
    net, x = network(), pictures().double().requires_grad_()
    J, W, mu = (t.double() for t in (_dense(net), net.W.detach(), net.mu))
    W.requires_grad_()
    ((torch.relu(x @ J) - mu) @ W.T).square().sum().backward()
    inputs = pictures().requires_grad_()
    net(inputs).square().sum().backward()
    assert_close_to_largest(inputs.grad, x.grad, BACKEND)
    assert_close_to_largest(net.W.grad, W.grad, BACKEND)


def _dense(net):
    J = torch.zeros(64, net.config.granule_cells)
    return J.scatter_add_(0, net.granule.indices.long(), net.granule.weights)


def test_in_float64_the_reference_serves_it():
    net = network().to(torch.float64)
    x = pictures().double().requires_grad_()
    y = net(x)
    expected = (
        torch.relu(
            x
            @ net.granule.weights.new_zeros(64, 700).scatter_add_(
                0, net.granule.indices.long(), net.granule.weights
            )
        )
        - net.mu
    ) @ net.W.T
    assert y.dtype == torch.float64
    assert_close_to_largest(y, expected, FLOAT64)
    (a,), (b,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, expected))
    assert_close_to_largest(a, b, FLOAT64)


@pytest.mark.parametrize("anatomy", ANATOMIES, ids=str)
def test_the_coding_level_is_a_count(anatomy):
    net, x = network(**anatomy), pictures(23)
    active = (net.granule(x) > 0).float().mean()
    for batch_size in (5, 50):
        level = net.coding_level(x.view(23, 1, 8, 8), batch_size)
        assert level == pytest.approx(float(active))


def test_a_threshold_lowers_the_coding_level():
    levels = [Cerebellum(64, 2000, threshold=t).coding_level(pictures()) for t in (-0.5, 0, 0.3, 9)]
    assert levels == sorted(levels, reverse=True) and len(set(levels)) == 4
    assert levels[0] > 0.6 and 0.4 < levels[1] < 0.6 and levels[3] == 0


class Spy:
    """Counts the calls that reach a backend's circuit."""

    def __init__(self, monkeypatch):
        self.calls = []
        for name in ("cpu", "reference"):
            module = backends.BACKENDS[name].module
            real = module.circuit

            def circuit(*arguments, name=name, real=real):
                self.calls.append(name)
                return real(*arguments)

            monkeypatch.setattr(module, "circuit", circuit)


def test_a_backend_is_chosen_by_name(monkeypatch):
    net, x, spy = network(), pictures(), Spy(monkeypatch)
    monkeypatch.delenv("CEREBSIM_BACKEND", raising=False)
    fast = net(x)
    with use_backend("reference"):
        plain = net(x)
        with use_backend("cpu"):
            net(x)
        net(x)
    net(x)
    assert spy.calls == ["cpu", "reference", "cpu", "reference", "cpu"]
    assert_close_to_largest(fast, plain, FLOAT32)
    monkeypatch.setenv("CEREBSIM_BACKEND", "reference")
    net(x)
    with use_backend("cpu"):
        net(x)
    assert spy.calls[5:] == ["reference", "cpu"]


def test_a_backend_asked_for_by_name_serves_or_raises(monkeypatch):
    net, x = network().double(), pictures().double()
    with (
        use_backend("cpu"),
        pytest.raises(BackendUnavailable, match="'cpu'.*float32.*x is.*float64"),
    ):
        net(x)
    monkeypatch.setenv("CEREBSIM_BACKEND", "cpu")
    with pytest.raises(BackendUnavailable, match="CEREBSIM_BACKEND"):
        net(x)
    monkeypatch.setattr(backends.native, "_cpu", None)
    monkeypatch.setattr(backends.native, "_missing", "it was never built", raising=False)
    with pytest.raises(BackendUnavailable, match="it was never built"):
        network().float()(pictures())


def test_every_backend_says_why_it_is_not_there():
    status = backends.status()
    assert list(status) == ["cpu", "cuda", "triton", "reference"]
    assert status["reference"] is None
    if not torch.cuda.is_available():
        assert "no CUDA device" in status["triton"]
        assert status["cuda"]
        for name in ("cuda", "triton"):
            with use_backend(name), pytest.raises(BackendUnavailable, match=name):
                network()(pictures())


def test_auto_falls_back_and_says_so_once(monkeypatch, caplog):
    backends._say_once.cache_clear()
    monkeypatch.delenv("CEREBSIM_BACKEND", raising=False)
    net, x = network().double(), pictures().double()
    with caplog.at_level(logging.WARNING, "cerebsim"):
        net(x), net(x)
    (line,) = [r.getMessage() for r in caplog.records]
    assert "'cpu' is not used" in line and "float64" in line
    backends._say_once.cache_clear()


def _in_child(net, x, queue):
    y, gradient = net.loss_gradient(x, lambda y: y)
    queue.put((y.numpy().tobytes(), gradient.numpy().tobytes()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_the_same():
    # So few cells that torch fills no tensor on two threads: its OpenMP does not survive a fork.
    net = Cerebellum(64, 10_000).eval()
    x = pictures(70)
    y, gradient = net.loss_gradient(x, lambda y: y)  # on two threads, see cpu.cpp
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(net, x, queue), daemon=True)
    child.start()
    try:
        assert queue.get(timeout=20) == (y.numpy().tobytes(), gradient.numpy().tobytes())
    finally:
        child.kill()
        child.join()


def test_learning_and_attacking_add_less_than_100_megabytes():
    script = textwrap.dedent(
        """
        import re, torch
        from cerebsim import Cerebellum
        def kilobytes(name):
            return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
        torch.set_num_threads(2)
        net = Cerebellum(784, 200_000)
        x, y = torch.rand(150, 784), torch.arange(150) % 10
        small = Cerebellum(784, 10)  # loads what is loaded on first use
        small.fit((x, y), epochs=1, progress=False)
        small.loss_gradient(x, lambda y: y)
        open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
        before = kilobytes("VmRSS")
        net.fit((x, y), epochs=1, batch_size=50, progress=False)
        learning = kilobytes("VmHWM") - before
        for part in x.split(50):
            net.loss_gradient(part, lambda y: y)
            picture = part.clone().requires_grad_()
            net(picture).sum().backward()
        print(learning // 1024, (kilobytes("VmHWM") - before) // 1024)
        """
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    learning, both = map(int, result.stdout.split())
    assert 5 < learning <= both < 100  # the square average alone has 7.6


def test_arguments_of_the_settings_are_checked_where_they_are_given():
    with pytest.raises(ArgumentError, match="^fan_in: got 65, expected at most mossy_fibers = 64"):
        Cerebellum(64, 10, fan_in=65)
