import pytest
import torch

from cerebsim import Cerebellum, checkpoint, results, trials
from cerebsim.baselines import CNN, CNNConfig, CNNLearning
from cerebsim.data import Data, load_data
from cerebsim.errors import ArgumentError, CerebsimError, CheckpointError
from cerebsim.evaluation import accuracy


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    """On networks as small as these, threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture
def few(digits):
    return Data("digits", digits.train.first(100), digits.test.first(20), digits.classes, "few")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 5, 11)])
def test_the_network_fits_any_pictures(shape):
    net = CNN(*shape, classes=7)
    assert net(torch.rand(3, *shape)).shape == (3, 7)
    with pytest.raises(ArgumentError, match=r"x: got shape \(3, 4\), expected pictures \(B, "):
        net(torch.rand(3, 4))


def test_the_architecture_is_the_one_that_is_cited():
    """On MNIST 16 and 32 filters of 4x4, then 7 * 7 * 32 -> 100 -> 10."""
    net = CNN(1, 28, 28)
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim > 1]
    assert shapes == [(16, 1, 4, 4), (32, 16, 4, 4), (100, 1568), (10, 100)]


def test_the_seed_draws_the_weights():
    one, same, other = (next(CNN(1, 8, 8, seed=seed).parameters()) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_it_learns_the_digits_and_repeats_itself(digits):
    def learned(order, threads=1):
        torch.set_num_threads(threads)
        net = CNN(1, 8, 8)
        history = net.fit(digits.train, digits.test, epochs=4, seed=order, progress=False)
        assert torch.get_num_threads() == threads
        return net, history

    (net, history), (again, _), (other, _) = learned(0), learned(0, threads=2), learned(1)
    assert history.test_accuracy[-1] == accuracy(net, digits.test) > 0.8
    assert history.test_accuracy[0] < history.test_accuracy[-1] and history.epoch_kept == 3
    assert len(history.train_accuracy) == len(history.seconds) == 4 and not net.training
    for a, b, c in zip(net.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_it_is_saved_and_loaded(few, tmp_path):
    net = CNN(1, 8, 8, seed=2)
    net.fit(few.train, epochs=1, out=tmp_path, progress=False)
    for loaded in (CNN.load(tmp_path), trials.load(tmp_path)):
        assert loaded.config == net.config and not loaded.training
        assert torch.equal(loaded(few.test.x), net(few.test.x))
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        CNN.load(tmp_path)
    Cerebellum(64, 20).save(tmp_path)
    assert isinstance(trials.load(tmp_path), Cerebellum)
    with pytest.raises(CheckpointError, match="holds a circuit. Use Cerebellum.load"):
        CNN.load(tmp_path)


def test_a_training_on_disk_is_not_run_again(few, tmp_path, monkeypatch):
    settings = CNNConfig(1, 8, 8), CNNLearning(epochs=1)
    net, record = trials.train_once(few, *settings, tmp_path)
    assert results.read(tmp_path / "train.json") == record
    assert record["recipe"]["circuit"]["filters"] == 16 and record["backend"] == "torch"
    monkeypatch.setattr(CNN, "fit", lambda *a, **k: pytest.fail("learns again"))
    again, same = trials.train_once(few, *settings, tmp_path)
    assert same == record and torch.equal(again(few.test.x), net(few.test.x))
    with pytest.raises(CerebsimError, match="holds another trial: circuit: hidden is 100 there"):
        trials.train_once(few, CNNConfig(1, 8, 8, hidden=9), settings[1], tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CNN(0, 8, 8), "channels: got 0"),
        (lambda: CNN(1, 3, 8), "height: got 3"),
        (lambda: CNN(1, 8, 8, classes=1), "classes: got 1"),
        (lambda: CNN(1, 8, 8, filters=0), "filters: got 0"),
        (lambda: CNN(1, 8, 8, seed=-1), "seed: got -1"),
        (lambda: CNNLearning(epochs=0), "epochs: got 0"),
        (lambda: CNNLearning(learning_rate=0), "learning_rate: got 0"),
        (lambda: CNNLearning(rule="sgd"), "rule: got 'sgd'"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_bad_labels_are_named(few):
    with pytest.raises(
        ArgumentError, match=r"train labels: got values from 0 to 9, expected 0\.\.4"
    ):
        CNN(1, 8, 8, classes=5).fit(few.train, progress=False)
