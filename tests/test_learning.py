import os
import signal
import subprocess
import sys
import textwrap
from copy import deepcopy

import pytest
import torch
from tolerances import (
    BACKEND,
    FLOAT64,
    RMSPROP_MEAN_IN_RATES,
    RMSPROP_OUTPUTS,
    SMOOTH_LEARNING,
    assert_close_to_largest,
)

from cerebsim import Cerebellum, load_data, native, ops, use_backend
from cerebsim import checkpoint as files
from cerebsim.config import CircuitConfig, LearningConfig
from cerebsim.errors import ArgumentError, CerebsimError, LearningInterrupted
from cerebsim.labels import targets
from cerebsim.layers import Centring, GranuleLayer, Readout
from cerebsim.wiring import Wiring, draw_readout


class Task:
    """Pictures with targets, and a circuit that learns them one call after another."""

    def __init__(self, m=200, c=10, batch_size=7, ltd=True, seed=0, pictures=40, **settings):
        circuit = {k: settings.pop(k) for k in ("threshold", "wiring", "fan_in") if k in settings}
        self.config = CircuitConfig(20, m, c, ltd=ltd, **circuit)
        self.learning = LearningConfig(batch_size=batch_size, **settings)
        self.rule = ops.Rule.of(self.learning, m, c)
        g = torch.Generator().manual_seed(seed)
        self.x = torch.rand(pictures, 20, generator=g)
        self.t = targets(torch.randint(0, max(2, c), (pictures,), generator=g), c)
        self.J = Wiring.draw(self.config)

    def fresh(self, dtype=torch.float32) -> dict:
        W = draw_readout(self.config).to(dtype)
        mu = torch.zeros(self.config.granule_cells, dtype=dtype) if self.config.ltd else None
        square_avg = torch.zeros_like(W) if self.learning.rule == "rmsprop" else None
        return {"W": W, "mu": mu, "square_avg": square_avg}

    def learn(self, order, cuts=(), dtype=torch.float32, **more) -> dict:
        """The state and outputs after `order`, learned in calls that end at `cuts`."""
        state, y = self.fresh(dtype), []
        x, t = self.x.to(dtype), self.t.to(dtype)
        edges = [0, *cuts, len(order)]
        for first, last in zip(edges, edges[1:], strict=False):
            part, size = order[first:last], self.learning.batch_size
            y.append(ops.learn_(x, t, self.J, **state, rule=self.rule, batch_size=size, order=part))
        return state | {"y": torch.cat(y)}

    def learn_by_autograd(self, order) -> dict:
        """The same in float64 by the layers, autograd and torch.optim."""
        config, learning = self.config, self.learning
        granule = GranuleLayer(
            20,
            config.granule_cells,
            config.fan_in,
            wiring=config.wiring,
            threshold=config.threshold,
        )
        readout = Readout(draw_readout(config).double())
        centring = torch.nn.Identity()
        if config.ltd:
            centring = Centring(config.granule_cells, learning.ltd_decay, learning.ltd_update)
            centring.double()
        rate = learning.rate(config.granule_cells)
        if learning.rule == "rmsprop":
            optimiser = torch.optim.RMSprop(
                [readout.W], lr=rate, alpha=learning.decay, eps=learning.rms_eps
            )
        else:
            optimiser = torch.optim.SGD([readout.W], lr=rate)
        outputs = []
        for rows in order.split(learning.batch_size):
            y = readout(centring(granule(self.x[rows].double())))
            error = y - self.t[rows].double()
            loss = (error**2).mean() if learning.error == "mean" else (error**2).sum() / len(y) / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            outputs.append(y.detach())
        square_avg = optimiser.state[readout.W].get("square_avg")
        mu = centring.mu if config.ltd else None
        return {"W": readout.W.detach(), "mu": mu, "square_avg": square_avg} | {
            "y": torch.cat(outputs)
        }


def order_of_50_steps(batch_size: int, pictures: int = 40) -> torch.Tensor:
    """50 batches with repeats, the last one smaller (but for batches of one)."""
    n = 50 * batch_size - batch_size // 3
    return torch.randint(0, pictures, (n,), generator=torch.Generator().manual_seed(1))


CASES = [
    {},
    {"batch_size": 1},
    {"batch_size": 50},
    {"batch_size": 70},
    {"ltd_update": "after"},
    {"ltd_update": "after", "batch_size": 1},
    {"ltd_update": "after", "batch_size": 70},
    {"ltd": False},
    {"ltd": False, "batch_size": 1},
    {"ltd": False, "batch_size": 50},
    {"error": "sum"},
    {"error": "sum", "batch_size": 1},
    {"threshold": 0.25},
    {"threshold": -0.25, "batch_size": 1},
    {"threshold": 0.25, "batch_size": 50, "ltd_update": "after"},
    {"m": 1},
    {"m": 63, "batch_size": 1},
    {"m": 1025, "batch_size": 17},
    {"c": 1},
    {"c": 1, "batch_size": 1},
    {"c": 23},
    {"c": 23, "batch_size": 50},
    {"wiring": "local"},
    {"wiring": "full", "batch_size": 50},
    {"fan_in": 20},
    {"fan_in": 20, "batch_size": 1, "threshold": 0.25},
    {"decay": 0.5, "ltd_decay": 0.0, "batch_size": 50},
]
RULES = {
    "rmsprop": {},
    "smooth": {"rms_eps": 0.05},
    "plain": {"rule": "plain", "learning_rate": 0.02},
}


@pytest.mark.usefixtures("each_instruction_set")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_learning_is_autograd_and_torch_optim(case, rule):
    torch.set_num_threads(1)  # products of a few hundred numbers
    task = Task(**case, **RULES[rule])
    order = order_of_50_steps(task.learning.batch_size)
    expected = task.learn_by_autograd(order)
    with use_backend("reference"):
        exact = task.learn(order, dtype=torch.float64)
    for name, value in expected.items():
        if value is None:
            assert exact[name] is None
        else:
            assert_close_to_largest(exact[name], value, FLOAT64)

    with use_backend("cpu"):
        fast = task.learn(order)
    if task.config.ltd:
        assert_close_to_largest(fast["mu"], expected["mu"], SMOOTH_LEARNING)
    W0 = task.fresh()["W"].double()
    if rule == "rmsprop":
        rate = task.learning.rate(task.config.granule_cells)
        assert_close_to_largest(fast["y"], expected["y"], RMSPROP_OUTPUTS)
        mean = float((fast["W"].double() - expected["W"]).abs().mean()) / rate
        assert mean < RMSPROP_MEAN_IN_RATES
    else:
        assert_close_to_largest(fast["W"].double() - W0, expected["W"] - W0, SMOOTH_LEARNING)
        assert_close_to_largest(fast["y"], expected["y"], SMOOTH_LEARNING)
        if rule == "smooth":
            assert_close_to_largest(fast["square_avg"], expected["square_avg"], SMOOTH_LEARNING)


def same(a: dict, b: dict) -> bool:
    return all(
        (value is None and b[name] is None) or torch.equal(value, b[name])
        for name, value in a.items()
    )


# With m = 30,001 a step is worth 28 x 30,001 multiply-adds a picture (two threads or more from a
# batch of one), see cpu.cpp.
@pytest.mark.usefixtures("each_instruction_set")
@pytest.mark.parametrize("settings", [{}, {"ltd_update": "after"}, {"ltd": False, "rule": "plain"}])
@pytest.mark.parametrize(("batch_size", "steps"), [(1, 12), (7, 4), (50, 3)])
def test_learning_does_not_depend_on_the_number_of_threads(batch_size, steps, settings):
    task = Task(m=30_001, batch_size=batch_size, **settings)
    order = torch.arange(batch_size * steps) % 40
    results = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        results.append(task.learn(order))
    assert all(same(results[0], other) for other in results[1:])


@pytest.mark.parametrize("settings", [{}, {"ltd_update": "after"}, {"ltd": False, "rule": "plain"}])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("batch_size", "n", "cuts"),
    [
        (1, 60, [1]),
        (1, 60, [7, 8, 59]),
        (7, 61, [7]),
        (7, 61, [14, 35, 56]),
        (50, 270, [50, 100]),
        (50, 270, [250]),
        (50, 251, [250]),
        (7, 64, [35, 63]),
    ],
)
def test_learning_may_be_cut_at_whole_batches(batch_size, n, cuts, backend, settings):
    task = Task(m=1025, batch_size=batch_size, **settings)
    order = torch.randint(0, 40, (n,), generator=torch.Generator().manual_seed(2))
    with use_backend(backend):
        assert same(task.learn(order), task.learn(order, cuts))


def test_an_order_left_out_is_all_pictures_in_turn():
    task = Task()
    state = task.fresh()
    y = ops.learn_(task.x, task.t, task.J, **state, rule=task.rule, batch_size=7)
    assert same(state | {"y": y}, task.learn(torch.arange(40)))


def test_a_tick_sees_progress_and_may_stop_the_learning():
    task, seen = Task(), []
    state = task.fresh()
    ops.learn_(task.x, task.t, task.J, **state, rule=task.rule, batch_size=7, tick=seen.append)
    assert seen == sorted(seen) and seen[-1] == 40

    for backend in ("cpu", "reference"):
        state = task.fresh()
        with use_backend(backend), pytest.raises(LearningInterrupted) as stop:
            ops.learn_(
                task.x, task.t, task.J, **state, rule=task.rule, batch_size=7, tick=_interrupt
            )
        done = stop.value.done
        assert len(stop.value.y) == done and (done % 7 == 0 or done == 40)
        with use_backend(backend):
            expected = task.learn(torch.arange(done))
        assert same(state | {"y": stop.value.y}, expected)

    with pytest.raises(ZeroDivisionError):  # any other error of a tick comes through
        ops.learn_(
            task.x,
            task.t,
            task.J,
            **task.fresh(),
            rule=task.rule,
            batch_size=7,
            tick=lambda n: 1 / 0,
        )


def _interrupt(done):
    raise KeyboardInterrupt


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_dense_wiring_is_learned_product_by_product(monkeypatch, batch_size):
    """However many batches a product is for; ticks and interruptions count over all of them."""
    task = Task(wiring="full", batch_size=batch_size)
    order = torch.arange(40)
    whole = task.learn(order)
    monkeypatch.setattr(native, "_DENSE_NUMBERS", 2 * batch_size * 200)
    for name, value in task.learn(order).items():
        assert_close_to_largest(value, whole[name].double(), RMSPROP_OUTPUTS)
    settings = {"rule": task.rule, "batch_size": batch_size}
    seen, state = [], task.fresh()
    ops.learn_(task.x, task.t, task.J, **state, **settings, tick=seen.append)
    assert seen == sorted(seen) and seen[-1] == 40 and len(seen) >= 40 // (2 * batch_size)

    def interrupt(done):
        if done > 2 * batch_size:
            raise KeyboardInterrupt

    state = task.fresh()
    with pytest.raises(LearningInterrupted) as stop:
        ops.learn_(task.x, task.t, task.J, **state, **settings, tick=interrupt)
    done = stop.value.done
    assert done > 2 * batch_size and done % batch_size == 0 and len(stop.value.y) == done
    for name, value in task.learn(torch.arange(done)).items():
        got = (state | {"y": stop.value.y})[name]
        assert_close_to_largest(got, value.double(), RMSPROP_OUTPUTS)
    task.x[3, 5] = torch.nan
    with pytest.raises(ArgumentError, match="picture 3"):
        task.learn(order)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def test_digits_are_learned(digits):
    net = Cerebellum(64, 5000)
    history = net.fit(digits.train, digits.test, epochs=6, progress=False)
    assert history.test_accuracy[-1] > 0.93
    assert history.train_accuracy[-1] > history.train_accuracy[0]
    assert len(history.train_accuracy) == len(history.seconds) == 6
    assert history.epoch_kept == 5
    assert not net.training
    right = (net(digits.test.x).argmax(1) == digits.test.y).float().mean()
    assert float(right) == pytest.approx(history.test_accuracy[-1])


@pytest.mark.parametrize("batch_size", [1, 50])
def test_two_classes_are_learned_by_one_purkinje_cell(digits, batch_size):
    x, y = digits.train
    keep = y < 2
    net = Cerebellum(64, 500, purkinje_cells=1)
    history = net.fit((x[keep], y[keep]), epochs=2, batch_size=batch_size, progress=False)
    assert history.train_accuracy[-1] > 0.95 and history.test_accuracy == [None, None]
    logits = net(x[keep])
    assert logits.shape == (int(keep.sum()), 1)
    assert ((logits[:, 0] > 0) == (y[keep] == 1)).float().mean() > 0.95


@pytest.mark.parametrize("batch_size", [1, 50])
@pytest.mark.parametrize("wiring", ["random", "full"])
def test_an_exact_mean_is_taken_once_and_stays(digits, wiring, batch_size):
    train = digits.train.first(230)
    net = Cerebellum(64, 300, wiring=wiring)
    settings = {"epochs": 2, "batch_size": batch_size, "progress": False}
    net.fit(train, ltd_update="exact", **settings)
    J = Wiring(64, *net.granule.operands[1:])
    mean = (train.x.flatten(1).double() @ J.dense().double()).relu().mean(0)
    assert_close_to_largest(net.mu, mean, BACKEND)
    mu, other = net.mu.clone(), Cerebellum(64, 300, wiring=wiring)
    net.train()
    net(train.x)
    assert torch.equal(net.mu, mu)
    # The same as a moving average that begins there and never moves.
    other.mu.copy_(mu)
    with pytest.raises(ArgumentError):
        other.fit(train, ltd_decay=1.0, **settings)
    other.fit(train, ltd_decay=1 - 1e-12, **settings)
    assert_close_to_largest(net.W, other.W.double(), RMSPROP_OUTPUTS)


# Resuming. 120 pictures, so that batches of 50 leave a smaller last one.
SMALL = {"epochs": 3, "progress": False}


def small(digits, n=120):
    return digits.train.first(n), digits.test.first(60)


def trained(digits, out=None, backend="auto", net=None, n=120, **settings):
    net = net or Cerebellum(64, 300)
    train, test = small(digits, n)
    with use_backend(backend):
        history = net.fit(train, test, out=out, **SMALL | settings)
    return net, history


def equal(a, b) -> bool:
    """Networks and histories, but for the seconds."""
    (net, history), (other, theirs) = a, b
    return (
        torch.equal(net.W, other.W)
        and torch.equal(net.mu, other.mu)
        and history.train_accuracy == theirs.train_accuracy
        and history.test_accuracy == theirs.test_accuracy
        and history.epoch_kept == theirs.epoch_kept
    )


def interrupt_after(calls: int, every: int, monkeypatch):
    """Sends a real SIGINT once `learn_` has been called often enough, and `every` pictures in."""
    real, count = ops.learn_, [0]

    def learn_(x, t, wiring, W, mu, square_avg, rule, batch_size, order=None, tick=None):
        count[0] += 1
        if count[0] != calls:
            return real(x, t, wiring, W, mu, square_avg, rule, batch_size, order, tick)
        # The native code calls tick by the clock, so the call is cut short for it.
        cut = order[:every]
        y = real(x, t, wiring, W, mu, square_avg, rule, batch_size, cut, None)
        os.kill(os.getpid(), signal.SIGINT)
        try:
            tick(every)
        except KeyboardInterrupt:
            raise LearningInterrupted(every, y) from None
        raise AssertionError("the signal went unnoticed")

    monkeypatch.setattr(ops, "learn_", learn_)


@pytest.mark.parametrize("kept", ["last", "best_test"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("batch_size", "calls", "every"),
    [(50, 2, 50), (50, 1, 100), (50, 3, 120), (1, 2, 37), (1, 1, 119), (7, 2, 119)],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    digits, tmp_path, monkeypatch, kept, backend, batch_size, calls, every
):
    settings = {"backend": backend, "batch_size": batch_size, "checkpoint": kept}
    whole = trained(digits, **settings)
    with monkeypatch.context() as patch:
        interrupt_after(calls, every, patch)
        with pytest.raises(KeyboardInterrupt):
            trained(digits, tmp_path, **settings)
    facts = files.load(tmp_path)[1]["progress"]
    assert (facts["epoch"], facts["done"]) == (calls - 1, every)
    assert Cerebellum.load(tmp_path)(digits.test.x[:3]).isfinite().all()
    assert equal(trained(digits, tmp_path, **settings), whole)
    assert torch.equal(Cerebellum.load(tmp_path).W, whole[0].W)


@pytest.mark.parametrize("settings", [{}, {"ltd_update": "exact"}])
def test_an_interrupted_run_goes_on_where_one_picture_is_left(
    digits, tmp_path, monkeypatch, settings
):
    """A batch of one picture, since it is the last, is still a batch of the settings' size."""
    whole = trained(digits, n=101, **settings)
    with monkeypatch.context() as patch:
        interrupt_after(2, 100, patch)
        with pytest.raises(KeyboardInterrupt):
            trained(digits, tmp_path, n=101, **settings)
    assert equal(trained(digits, tmp_path, n=101, **settings), whole)


@pytest.mark.parametrize("kept", ["last", "best_test"])
def test_more_epochs_of_a_finished_run_are_one_long_run(digits, tmp_path, kept):
    long = trained(digits, epochs=5, checkpoint=kept)
    trained(digits, tmp_path, epochs=2, checkpoint=kept)
    assert equal(trained(digits, tmp_path, epochs=5, checkpoint=kept), long)
    before = (tmp_path / files.NAME).read_bytes()
    assert equal(trained(digits, tmp_path, epochs=5, checkpoint=kept), long)  # nothing to do
    assert (tmp_path / files.NAME).read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 20},
        {"learning_rate": 1e-3},
        {"checkpoint": "best_test"},
        {"seed": 1},
        {"rule": "plain"},
        {"net": {"seed": 1}},
        {"net": {"ltd": False}},
        {"net": {"granule_cells": 301}},
        {"n": 119},
    ],
    ids=str,
)
def test_a_run_of_other_settings_is_not_gone_on_with(digits, tmp_path, other):
    trained(digits, tmp_path, epochs=1)
    before = (tmp_path / files.NAME).read_bytes()
    other = dict(other)
    anatomy = {"mossy_fibers": 64, "granule_cells": 300} | other.pop("net", {})
    name = next(iter(other), None) or next(n for n in anatomy if anatomy[n] not in (64, 300))
    name = {"n": "pictures"}.get(name, name)
    said = rf"^out: .*other (J, )?{name}\b.* Choose another folder"
    with pytest.raises(ArgumentError, match=said):
        trained(digits, tmp_path, net=Cerebellum(**anatomy), **other)
    assert (tmp_path / files.NAME).read_bytes() == before


@pytest.mark.parametrize("batch_size", [1, 50])
def test_divergence_is_an_error_that_says_what_to_do(digits, batch_size):
    with pytest.raises(CerebsimError, match="diverged in epoch 0.*learning_rate"):
        trained(digits, rule="plain", learning_rate=1e30, batch_size=batch_size)


def test_best_test_keeps_the_best_epoch(digits):
    settings = {"learning_rate": 0.02}
    scores = trained(digits, epochs=9, **settings)[1].test_accuracy
    worse = next(e for e in range(1, 9) if scores[e] < max(scores[:e]))
    best, history = trained(digits, checkpoint="best_test", epochs=worse + 1, **settings)
    kept = history.epoch_kept
    assert history.test_accuracy == scores[: worse + 1]
    assert kept == scores.index(max(scores[: worse + 1])) < worse
    at_that_time, _ = trained(digits, epochs=kept + 1, **settings)
    assert torch.equal(best.W, at_that_time.W) and torch.equal(best.mu, at_that_time.mu)


def test_stop_at_stops(digits, tmp_path):
    net, history = trained(digits, tmp_path, epochs=40, stop_at=0.6)
    scores = history.test_accuracy
    assert len(scores) < 40 and scores[-1] >= 0.6 and all(s < 0.6 for s in scores[:-1])
    again = trained(digits, tmp_path, epochs=40, stop_at=0.6)
    assert equal(again, (net, history))


def test_the_order_of_the_pictures_comes_from_the_seed_and_the_epoch(digits):
    from cerebsim.learning import order_of

    assert torch.equal(order_of(3, 2, 50).sort().values, torch.arange(50))
    assert torch.equal(order_of(3, 2, 50), order_of(3, 2, 50))
    for other in (order_of(3, 1, 50), order_of(4, 2, 50)):
        assert not torch.equal(order_of(3, 2, 50), other)
    torch.manual_seed(1)
    a = trained(digits)
    torch.manual_seed(2)
    assert equal(a, trained(digits))
    assert not equal(a, trained(digits, seed=1))


def test_fit_goes_on_from_the_weights_it_finds(digits):
    net, _ = trained(digits)
    before = deepcopy(net)
    trained(digits, net=net, epochs=1, seed=9)
    assert not torch.equal(net.W, before.W)
    train, _ = small(digits)
    after = before.fit(train, epochs=1, seed=9, progress=False)
    assert torch.equal(net.W, before.W) and after.train_accuracy[0] > 0.5


def test_ctrl_c_in_a_process_of_its_own_leaves_a_checkpoint(tmp_path):
    """A real signal at batch 1, in the middle of one long call of native code."""
    script = textwrap.dedent(
        """
        import sys, torch
        from cerebsim import Cerebellum
        torch.set_num_threads(1)
        x = torch.rand(60_000, 64)
        net = Cerebellum(64, 20_000)
        print("ready", flush=True)
        net.fit((x, torch.arange(60_000) % 10), epochs=9, batch_size=1, out=sys.argv[1],
                progress=False)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=0.6)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    finally:
        child.kill()
        child.communicate()
    assert (
        errors.rstrip()
        .splitlines()[-1]
        .startswith(("KeyboardInterrupt", "cerebsim.errors.LearningInterrupted"))
    )
    # CPython ends an unhandled KeyboardInterrupt by SIGINT once it has printed it; a subclass of
    # KeyboardInterrupt too. A crash would be another signal, with nothing printed.
    assert child.returncode in (-signal.SIGINT, 130, 1)
    tensors, facts = files.load(tmp_path)
    assert facts["progress"]["done"] > 0
    assert Cerebellum.load(tmp_path).W.isfinite().all()
