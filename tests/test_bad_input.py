"""One table: what a user can get wrong in the core, and the error that says so.

Each row gives the argument that the message must begin with, and words of what it got, what it
expects and what to do. All run in this process, so that none of them may end it by a signal.
"""

from dataclasses import replace

import pytest
import torch

from cerebsim import ArgumentError, Cerebellum, CircuitConfig, LearningConfig, ops, use_backend
from cerebsim.layers import GranuleLayer
from cerebsim.wiring import Wiring

NAN, INFINITY = float("nan"), float("inf")
CONFIG = CircuitConfig(12, 70, 3)
J = Wiring.draw(CONFIG)


def circuit(name, value):
    arguments = {"mossy_fibers": 12, "granule_cells": 70, "purkinje_cells": 3} | {name: value}
    return lambda: Cerebellum(**arguments)


def settings(name, value):
    return lambda: LearningConfig(**{name: value})


def network(train=False):
    return Cerebellum(12, 70, 3).train(train)


def x(B=6, d=12):
    return torch.rand(B, d, generator=torch.Generator().manual_seed(0))


def labels():
    return torch.arange(6) % 3


def spoilt(value):
    pictures = x()
    pictures[4, 3] = value
    return pictures


def fit(pictures=None, targets=None, test=None, **more):
    pictures = x() if pictures is None else pictures
    targets = labels() if targets is None else targets
    return lambda: network().fit((pictures, targets), test, progress=False, **{"epochs": 1} | more)


def learn(**other):
    rule = ops.Rule.of(LearningConfig(), 70, 3)
    arguments = {
        "x": x(),
        "t": torch.zeros(6, 3),
        "wiring": J,
        "W": torch.zeros(3, 70),
        "mu": torch.zeros(70),
        "square_avg": torch.zeros(3, 70),
        "rule": rule,
        "batch_size": 2,
    }
    return lambda: ops.learn_(**arguments | other)


def wiring(**other):
    return lambda: replace(J, **other)


def raw(name, *tensors):
    return lambda: getattr(torch.ops.cerebsim, name)(*tensors)


W = torch.zeros(3, 70)


def fired(words, B):
    return torch.zeros(words, B, dtype=torch.int32)


WHOLE = "a whole number >= 1"

ANATOMY = [
    (circuit(name, value), name, repr(value), WHOLE, "at least one")
    for name in ("mossy_fibers", "granule_cells", "purkinje_cells", "fan_in")
    for value in (0, -1, 2.0, "4", True, None)
] + [
    (circuit("fan_in", 13), "fan_in", "13", "at most mossy_fibers = 12", "Lower fan_in"),
    (circuit("wiring", "ring"), "wiring", "'ring'", "'random', 'local', 'full'", "Choose"),
    (circuit("initial_readout", "one"), "initial_readout", "'one'", "'normal', 'zero'", "Choose"),
    (circuit("threshold", NAN), "threshold", "nan", "a finite number", "0"),
    (circuit("threshold", INFINITY), "threshold", "inf", "a finite number", "0"),
    (circuit("seed", -1), "seed", "-1", "a whole number >= 0", "2**64"),
    (circuit("seed", 2**64), "seed", str(2**64), "below 2**64", "Choose"),
    (
        lambda: Cerebellum(12, 70, replacement=True, wiring="local"),
        "replacement",
        "True",
        "False with wiring='local'",
        "Only",
    ),
    (lambda: GranuleLayer(4, 9, fan_in=5), "fan_in", "5", "at most mossy_fibers = 4", "Lower"),
    (lambda: GranuleLayer(4, 0), "granule_cells", "0", WHOLE, "at least one"),
]

PICTURES = [
    (call, "x", got, expected, remedy)
    for train in (False, True)
    for call, got, expected, remedy in [
        (lambda t=train: network(t)(x(6, 13)), "(6, 13)", "12 values", "mossy_fibers"),
        (lambda t=train: network(t)(x()[0]), "(12,)", "(B, 12)", "Reshape"),
        (
            lambda t=train: network(t)(torch.rand(6, 1, 3, 5)),
            "(6, 1, 3, 5)",
            "12 values",
            "Reshape",
        ),
        (lambda t=train: network(t)(torch.tensor(1.0)), "()", "(B, 12)", "Reshape"),
        (lambda t=train: network(t)(x().tolist()), "list", "(B, 12)", "Reshape"),
        (lambda t=train: network(t)(x().byte()), "uint8", "torch.float32", ""),
        (lambda t=train: network(t)(x().to("meta")), "meta", "cpu", ".to()"),
        (
            lambda t=train: network(t)(spoilt(NAN)),
            "NaN or infinity in picture 4",
            "finite",
            "Clean",
        ),
        (lambda t=train: network(t)(spoilt(-INFINITY)), "picture 4", "finite", "Clean"),
    ]
]

OPERATIONS = [
    (lambda: ops.granule(x(6, 5), J), "x", "(6, 5)", "(B, 12)", "mossy_fibers"),
    (lambda: ops.granule(x()[0], J), "x", "(12,)", "(B, d)", "Flatten"),
    (lambda: ops.granule(x().long(), J), "x", "int64", "floats", ""),
    (lambda: ops.circuit(x(), J, W[:, :69]), "W", "(3, 69)", "(3, 70)", "Reshape"),
    (lambda: ops.circuit(x(), J, W.double()), "W", "float64", "float32", ".to()"),
    (lambda: ops.circuit(x(), J, W, torch.zeros(69)), "mu", "(69,)", "(70,)", "Reshape"),
    (lambda: ops.circuit(x(), J, W, torch.zeros(70, 1)), "mu", "(70, 1)", "(70,)", "Reshape"),
    (
        lambda: ops.circuit_backward_x(torch.zeros(6, 4), x(), J, W),
        "grad_y",
        "(6, 4)",
        "(6, 3)",
        "Reshape",
    ),
    (
        lambda: ops.circuit_backward_x(torch.zeros(6, 3), x(), J, W, fired(6, 2)),
        "fired",
        "(6, 2), torch.int32",
        "(3, 6), torch.int32",
        "circuit_fired",
    ),
    (
        lambda: ops.circuit_backward_x(torch.zeros(6, 3), x(), J, W, fired(3, 6).long()),
        "fired",
        "(3, 6), torch.int64",
        "(3, 6), torch.int32",
        "circuit_fired",
    ),
    (
        lambda: ops.circuit_backward_x(torch.zeros(5, 3), x(), J, W),
        "grad_y",
        "(5, 3)",
        "(6, 3)",
        "Reshape",
    ),
    (
        raw("granule_backward", torch.zeros(6, 71), x(), *J.operands),
        "grad_h",
        "(6, 71)",
        "(6, 70)",
        "Reshape",
    ),
    (
        raw("circuit_backward_W", torch.zeros(5, 3), x(), *J.operands, None),
        "grad_y",
        "(5, 3)",
        "(6, 3)",
        "Reshape",
    ),
    (
        lambda: network().loss_gradient(x(), lambda y: y[:, :2]),
        "grad_y",
        "(6, 2)",
        "(6, 3)",
        "Reshape",
    ),
    (
        lambda: network().loss_gradient(x(), lambda y: y.double()),
        "grad_y",
        "float64",
        "float32",
        ".to()",
    ),
]

LEARNING = [
    (learn(t=torch.zeros(6, 2)), "t", "(6, 2)", "(6, 3)", "Reshape"),
    (learn(t=torch.zeros(5, 3)), "t", "(5, 3)", "(6, 3)", "Reshape"),
    (learn(t=torch.zeros(6, 3).long()), "t", "int64", "float32", ".to()"),
    (learn(mu=torch.zeros(71)), "mu", "(71,)", "(70,)", "Reshape"),
    (learn(square_avg=torch.zeros(3, 71)), "square_avg", "(3, 71)", "(3, 70)", "Reshape"),
    (learn(square_avg=W.double()), "square_avg", "float64", "float32", ".to()"),
    (learn(W=torch.zeros(70, 3).T), "W", "strides", "contiguous", "in place"),
    (learn(mu=torch.zeros(140)[::2]), "mu", "strides", "contiguous", "in place"),
    (learn(batch_size=0), "batch_size", "0", WHOLE, "one by one"),
    (learn(batch_size=-3), "batch_size", "-3", WHOLE, "one by one"),
    (learn(order=torch.tensor([0, 6])), "order", "rows 0..6", "0..5", "row numbers"),
    (learn(order=torch.tensor([-1, 2])), "order", "rows -1..2", "0..5", "row numbers"),
    (learn(order=torch.tensor([0.0])), "order", "float32", "int64", "row numbers"),
    (learn(order=torch.zeros(2, 2).long()), "order", "(2, 2)", "(n,)", "row numbers"),
    (learn(x=spoilt(NAN)), "x", "NaN or infinity in picture 4", "finite", "Clean"),
    (learn(x=spoilt(INFINITY), batch_size=1), "x", "picture 4", "finite", "Clean"),
]

WIRINGS = [
    (wiring(weights=J.weights.double()), "weights", "float64", "float32", "Wiring.draw"),
    (wiring(weights=J.weights[0]), "weights", "(70,)", "(k, m)", "Wiring.draw"),
    (wiring(weights=J.weights * NAN), "weights", "NaN", "finite", ""),
    (wiring(indices=J.indices.long()), "indices", "int64", "int16 or int32", "Wiring.draw"),
    (wiring(indices=J.indices[:, 1:]), "indices", "(4, 69)", "(4, 70)", "Wiring.draw"),
    (wiring(indices=J.indices + 1000), "indices", "1000..1011", "0..11", "Check d"),
    (wiring(indices=J.indices - 1), "indices", "-1..10", "0..11", "Check d"),
    (wiring(indices=None), "weights", "(4, 70)", "(12, m)", "k = d"),
    (wiring(thresholds=torch.zeros(69)), "thresholds", "(69,)", "(70,)", "None for 0"),
]

SETTINGS = (
    [
        (settings(name, value), name, repr(value), WHOLE, "")
        for name in ("epochs", "batch_size")
        for value in (0, -1, 1.5, "7")
    ]
    + [
        (settings(name, value), name, "", "[0, 1)", "0.99")
        for name in ("decay", "ltd_decay")
        for value in (-0.1, 1, NAN)
    ]
    + [
        (settings("rms_eps", value), "rms_eps", "", "a number > 0", "1e-8")
        for value in (0, -1, NAN, INFINITY)
    ]
    + [
        (settings("learning_rate", value), "learning_rate", "", "a number > 0", "granule_cells")
        for value in (0, -1, NAN, INFINITY)
    ]
    + [(settings("stop_at", v), "stop_at", "", "(0, 1]", "never stops") for v in (0, 1.1, NAN)]
    + [
        (settings(name, "odd"), name, "'odd'", "one of", "Choose")
        for name in ("rule", "ltd_update", "error", "checkpoint")
    ]
    + [(settings("seed", -1), "seed", "-1", "a whole number >= 0", "")]
)

FIT = [
    (fit(targets=labels() + 1), "train labels", "1 to 3", "0..2", "purkinje_cells=4"),
    (fit(targets=labels() - 1), "train labels", "-1 to 1", "0..2", "Renumber"),
    (fit(targets=labels().float()), "train labels", "float32", "int64", ".long()"),
    (fit(targets=labels()[:, None]), "train labels", "(6, 1)", "(B,)", "flatten"),
    (fit(targets=labels()[:5]), "train", "6 pictures and 5 labels", "as many", "Match"),
    (fit(pictures=x(0), targets=labels()[:0]), "train", "no pictures", "at least one", "Check"),
    (fit(pictures=x(6, 11)), "train", "(6, 11)", "12 values", "mossy_fibers"),
    (fit(pictures=spoilt(NAN)), "", "NaN or infinity in picture 4", "finite", "Clean"),
    (fit(test=(x(), labels() + 1)), "test labels", "1 to 3", "0..2", "Renumber"),
    (fit(test=(x(0), labels()[:0])), "test", "no pictures", "at least one", "Check"),
    (lambda: network().fit(x(), epochs=1), "train", "Tensor", "(pictures, labels)", "data.train"),
    (fit(checkpoint="best_test"), "test", "None", "test pictures", "Pass test="),
    (fit(stop_at=0.9), "test", "None", "test pictures", "stop_at=None"),
    (fit(epoch=3), "epoch", "an unknown setting", "epochs, batch_size", "Check the name"),
    (fit(batch_size=0), "batch_size", "0", WHOLE, "picture by picture"),
]

BACKENDS = [
    (
        lambda: use_backend("gpu").__enter__(),
        "name",
        "'gpu'",
        "'auto', 'cpu', 'cuda', 'triton', 'reference'",
        "Choose",
    ),
    (circuit("device", "gpu"), "device", "gpu (Expected one of cpu, cuda", "device of", "doctor"),
    (circuit("device", "cuda:99"), "device", "cuda:99 (", "device of this machine", "'cpu'"),
]

TABLE = ANATOMY + PICTURES + OPERATIONS + LEARNING + WIRINGS + SETTINGS + FIT + BACKENDS


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("call", "argument", "got", "expected", "remedy"), TABLE)
def test_the_error_says_what_is_wrong_and_what_to_do(
    call, argument, got, expected, remedy, backend
):
    with use_backend(backend), pytest.raises(ArgumentError) as error:
        call()
    message = str(error.value)
    assert message.startswith(argument) and (argument == "" or error.value.argument == argument)
    named, what = message.split(": got ", 1)
    what, rest = what.split(", expected ", 1)
    for words, part in ((got, what), (expected, rest), (remedy, rest)):
        assert words in part, message


def test_a_backend_that_is_not_there_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("CEREBSIM_BACKEND", "gpu")
    with pytest.raises(ArgumentError, match="^CEREBSIM_BACKEND: got 'gpu', expected one of 'auto'"):
        network()(x())


def test_a_bad_picture_moves_no_state():
    for train in (True, False):
        net = network(train)
        mu, W = net.mu.clone(), net.W.clone()
        with pytest.raises(ArgumentError):
            net(spoilt(NAN))
        with pytest.raises(ArgumentError):
            net.fit((spoilt(NAN), labels()), epochs=1, progress=False)
        assert torch.equal(net.mu, mu) and torch.equal(net.W, W)


# What follows failed when it was written, or ended the process; see the report to the lead.


@pytest.mark.parametrize("train", [False, True])
def test_pictures_in_float64_for_a_float32_network_are_named_x(train):
    net = network(train)
    with pytest.raises(ArgumentError, match="^x: got .*float64.*expected.*float32"):
        net(x().double())
    assert not net.mu.any()


def test_an_empty_batch_does_not_spoil_mu():
    net = network(train=True)
    try:
        net(x(0))
    except ArgumentError as error:
        assert error.argument == "x"
    assert net.mu.isfinite().all()


def test_a_network_in_float64_can_learn():
    net = network().double()
    net.fit((x().double(), labels()), epochs=1, progress=False)
    assert net.W.dtype == torch.float64


def test_labels_in_a_list_are_named():
    with pytest.raises(ArgumentError, match="^train labels: got list"):
        fit(targets=[0, 1, 2, 0, 1, 2])()


@pytest.mark.parametrize("call", [circuit("threshold", "a"), settings("learning_rate", "a")])
def test_a_word_for_a_number_is_named(call):
    with pytest.raises(ArgumentError):
        call()


def test_the_coding_level_of_no_pictures_is_named():
    with pytest.raises(ArgumentError, match="^x: got"):
        network().coding_level(x(0))
    with pytest.raises(ArgumentError, match="^batch_size: got 0"):
        network().coding_level(x(), 0)


def test_a_loss_gradient_that_returns_nothing_is_named():
    """In a process of its own, since it used to end by a segmentation fault."""
    import subprocess
    import sys

    script = """
import torch
from cerebsim import ArgumentError, Cerebellum
for B in (2, 70):
    try:
        Cerebellum(12, 70, 3).loss_gradient(torch.rand(B, 12), lambda y: None)
    except ArgumentError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, (result.returncode, result.stderr)
    assert result.stdout.count("got None") == 2
