"""AutoAttack as one of our attacks: pyautoattack itself, cut short, where it is installed."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cerebsim import PGD, AutoAttack, Cerebellum, load_data
from cerebsim.adversarial import SLACK
from cerebsim.errors import ArgumentError, CerebsimError

EPS = 0.05


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    """On networks as small as these, threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net():
    torch.set_num_threads(1)
    net = Cerebellum(64, 500)
    net.fit(load_data("digits").train, epochs=3, progress=False)
    return net


@pytest.fixture(scope="module")
def pictures():
    return load_data("digits").test.first(30)


@pytest.fixture
def theirs(monkeypatch):
    """pyautoattack with a short FAB and Square, which take most of its time."""
    library = pytest.importorskip("pyautoattack", reason="pip install pyautoattack")

    class Short(library.AutoAttack):
        made = []

        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            self.fab.n_iter, self.square.n_queries = 3, 10
            self.made.append(self)

    monkeypatch.setattr(library, "AutoAttack", Short)
    return Short


def test_its_result_is_what_the_model_says(net, pictures, theirs):
    x, y = pictures
    result = AutoAttack(EPS).attack(net, x, y)
    assert (result.adversarial - x).abs().max() <= EPS + SLACK
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    assert torch.equal(result.decisions, net(result.adversarial).argmax(1))
    assert torch.equal(result.success, result.decisions != y)
    ours = PGD(EPS).attack(net, x, y).accuracy
    assert 0 < result.accuracy <= ours < 0.9
    assert torch.equal(result.adversarial[~result.success], x[~result.success])
    again = AutoAttack(**json.loads(json.dumps(result.settings))).attack(net, x, y)
    assert torch.equal(again.adversarial, result.adversarial)
    (made, _) = theirs.made
    assert made.apgd_targeted.n_target_classes == made.fab.n_target_classes == 9
    assert (made.version, made.norm, made.seed) == ("standard", "Linf", 0)


def test_it_leaves_the_model_and_the_random_numbers_alone(theirs):
    """FAB calls backward(), and every attack of theirs seeds torch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 4)).train()
    net[1].bias.requires_grad_(False)
    x = torch.rand(6, 1, 8, 8)
    y = net(x).argmax(1)
    state, steps = torch.get_rng_state(), []
    results = AutoAttack([0.0, 1e-3]).attack(net, x, y, progress=steps.append)
    assert [result.accuracy for result in results] == [1, 1] and sum(steps) == 12
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters()) and net.training
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
    assert {made.fab.n_target_classes for made in theirs.made} == {3}  # of 4 outputs


def test_what_it_returns_is_judged_and_projected_by_us(net, pictures, monkeypatch):
    class Cheat:
        """Leaves the ball, and claims success."""

        def __init__(self, model, **settings):
            self.apgd_targeted, self.fab = SimpleNamespace(), SimpleNamespace()

        def run_standard_evaluation(self, x, y, *, batch_size):
            return x + 0.7, torch.full_like(y, -1)

    monkeypatch.setitem(sys.modules, "pyautoattack", SimpleNamespace(AutoAttack=Cheat))
    x, y = pictures
    result = AutoAttack(0.01).attack(net, x, y)
    torch.testing.assert_close(result.adversarial, (x + 0.01).clamp(0, 1))
    assert torch.equal(result.success, net((x + 0.01).clamp(0, 1)).argmax(1) != y)
    assert not result.success.all()


def test_without_pyautoattack_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(CerebsimError, match=r"pip install cerebsim\[attacks\]"):
        AutoAttack(0.1)


def test_bad_input_is_named(net, pictures, theirs):
    x, y = pictures
    for make, message in [
        (lambda: AutoAttack(-1), "eps: got -1"),
        (lambda: AutoAttack(seed=-1), "seed: got -1"),
        (lambda: AutoAttack().attack(net, x.flatten(1), y), r"x: got shape \(30, 64\)"),
        (lambda: AutoAttack().attack(net, 2 * x - 1, y), "x: got pixels from -1 to 1"),
        (
            lambda: AutoAttack().attack(Cerebellum(64, 50, 3), x, y % 3),
            "model: got 3 outputs, expected at least 4",
        ),
        (
            lambda: AutoAttack().attack(Cerebellum(64, 50, 1), x, y % 2),
            "model: got 1 output, expected at least 4",
        ),
    ]:
        with pytest.raises(ArgumentError, match=message):
            make()
    nothing = AutoAttack(EPS).attack(net, x[:0], y[:0])
    assert nothing.adversarial.shape == (0, 1, 8, 8) and nothing.accuracy != nothing.accuracy
