import numpy as np
import pytest
import torch
from torch import nn

from cerebsim import ArgumentError, Cerebellum, Square, load_data
from cerebsim.adversarial import SLACK
from cerebsim.losses import margin
from cerebsim.square import _squares

EPS, QUERIES = 0.2, 200


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


@pytest.fixture(scope="module")
def net(data):
    torch.set_num_threads(1)
    net = Cerebellum(64, 500, replacement=True)
    net.fit(data.train, epochs=3, progress=False)
    return net.eval()


@pytest.fixture(scope="module")
def pictures(data):
    return data.test.first(40)


def test_it_stays_in_its_ball_and_repeats_itself(net, pictures):
    x, y = pictures
    attack = Square(EPS, QUERIES)
    result = attack.attack(net, x, y, batch_size=7)
    assert (result.adversarial - x).abs().max() <= EPS + SLACK
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    logits = net(result.adversarial)
    assert torch.equal(result.decisions, logits.argmax(1))
    assert torch.equal(result.success, result.decisions != y)
    torch.testing.assert_close(result.loss, margin(logits, y))
    assert 0 < result.accuracy < (net(x).argmax(1) == y).double().mean()
    already = net(x).argmax(1) != y
    assert already.any() and torch.equal(result.adversarial[already], x[already])
    again = attack.attack(net, x, y)
    assert torch.equal(again.adversarial, result.adversarial)
    other = Square(EPS, QUERIES, seed=1).attack(net, x, y)
    assert not torch.equal(other.adversarial, result.adversarial)
    assert result.attack == "Square" and result.settings["eps"] == EPS


def by_hand(net, attack, x, y):
    """Their loop on all pictures at once, its random numbers drawn for those that stand."""
    random = np.random.default_rng(attack.seed)
    n, c, h, w = x.shape
    best, highest = x.clone(), margin(net(x), y)
    needed = [0 if m > 0 else attack.queries + 1 for m in highest]
    for query in range(1, attack.queries + 1):
        rows = [i for i in range(n) if highest[i] <= 0]
        if query > 1:
            side = attack._side(query, h, w)
            tops = random.integers(0, h - side + 1, len(rows))
            lefts = random.integers(0, w - side + 1, len(rows))
        signs = random.integers(0, 2, (len(rows), c, 1, w if query == 1 else 1)) * 2.0 - 1
        for j, i in enumerate(rows):
            where = (slice(None), slice(None), slice(None))
            if query > 1:
                square = slice(tops[j], tops[j] + side), slice(lefts[j], lefts[j] + side)
                where = (slice(None), *square)
            moved = (x[i] + attack.eps * torch.from_numpy(signs[j]).float()).clamp(0, 1)
            tried = best[i].clone()
            tried[where] = moved[where]
            found = margin(net(tried[None]), y[i : i + 1])[0]
            if found > highest[i] or query == 1:
                best[i], highest[i] = tried, found
                needed[i] = query if found > 0 else needed[i]
    return best, needed


def test_it_is_the_published_search(net, pictures):
    """And so it says after how many queries each picture fell."""
    x, y = (tensor[:12].clone() for tensor in pictures)
    y[0] = (y[0] + 1) % 10  # wrong already
    attack = Square(EPS, 60, seed=3)
    found, needed = attack.search(EPS, net, x, y, batch_size=5)
    with torch.no_grad():
        best, by_theirs = by_hand(net, attack, x, y)
    assert torch.equal(found.adversarial, best) and needed.tolist() == by_theirs
    assert 0 in by_theirs and 61 in by_theirs and len(set(by_theirs)) > 3
    assert torch.equal(found.success, needed <= 60)


def test_it_asks_for_outputs_only(data):
    class Opaque(nn.Module):
        """No gradient leads back to the picture, and whoever asks for one is told so."""

        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            assert not torch.is_grad_enabled()
            self.calls += 1
            x = (x.flatten(1) * 4).round()
            return torch.stack([x[:, :32].sum(1), x[:, 32:].sum(1)], 1)

    net = Opaque()
    x = data.test.x[:10]
    with torch.no_grad():
        y = net(x).argmax(1)
    net.calls = 0
    result = Square(0.3, queries=50).attack(net, x, y)
    assert result.accuracy < 1
    assert net.calls <= 2 + 50  # one picture to learn c, the clean ones, the queries


def test_a_tie_is_judged_by_the_decision():
    """Where two outputs are equal the margin is 0 and the first of them is decided for."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    result = Square(0.1, 3).attack(net, x, y)
    assert result.success.tolist() == [False, True] and result.decisions.tolist() == [0, 0]

    class Turning(nn.Module):
        """From the second query on another output is the equal one; the margin stays 0."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.tensor([[-1.0, 0, 0] if self.calls <= 2 else [0, 0, -1.0]])

    found, needed = Square(0.1, 3).search(0.1, Turning(), x[:1], torch.tensor([1]))
    assert needed.tolist() == [2]
    assert found.success.tolist() == [True] and found.decisions.tolist() == [0]


def test_several_eps_and_progress(net, pictures):
    x, y = pictures
    steps = []
    results = Square([0.05, EPS], 50).attack(net, x, y, progress=steps.append)
    assert [result.settings["eps"] for result in results] == [0.05, EPS]
    assert sum(steps) == 2 * len(x)
    assert torch.equal(results[1].adversarial, Square(EPS, 50).attack(net, x, y).adversarial)


def test_squares_are_squares_inside_the_picture():
    squares = _squares(np.random.default_rng(0), 500, 5, 7, 3)
    assert squares.shape == (500, 1, 5, 7) and (squares.flatten(1).sum(1) == 9).all()
    assert (squares.any(2).sum(2) == 3).all() and squares.any(0).all()
    sides = [Square(queries=10_000)._side(query, 28, 28) for query in (1, 11, 51, 8001)]
    assert sides == [25, 18, 13, 1]


def test_pictures_without_rows_and_columns_are_refused(net, pictures):
    x, y = pictures
    with pytest.raises(ArgumentError, match=r"x: got shape \(40, 64\), expected .*\(N, C, H, W\)"):
        Square(EPS).attack(net, x.flatten(1), y)
