import io
import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cerebsim import AutoAttack, Cerebellum, Square, suites
from cerebsim.attacks import FGSM, PGD, Noise
from cerebsim.errors import ArgumentError, CerebsimError
from cerebsim.evaluation import accuracy, evaluate
from cerebsim.suites import attack_suite


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    """On networks as small as these, threads only wait for each other."""
    torch.set_num_threads(1)


def task(n=60, d=16, c=3, seed=0):
    """A trained-looking net on noisy prototypes, with some mistakes."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.rand(c, d, generator=generator)
    y = torch.randint(c, (n,), generator=generator)
    x = (prototypes[y] + 0.5 * torch.randn(n, d, generator=generator)).clamp(0, 1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(d, c))
    with torch.no_grad():
        net[1].weight.copy_(prototypes)
        net[1].bias.copy_(-0.5 * prototypes.square().sum(1))
    return net, (x.reshape(n, 1, 4, 4), y)


def test_accuracy_in_any_batches():
    net, (x, y) = task()
    by_hand = (net(x).argmax(1) == y).double().mean().item()
    assert 0.5 < by_hand < 1
    for batch_size in (1, 7, 60, 1000):
        assert accuracy(net, (x, y), batch_size=batch_size) == by_hand


def test_accuracy_of_one_output():
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -1.0]]))
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.5]])
    assert accuracy(net, (x, torch.tensor([0, 1, 0, 0]))) == 0.75


def test_accuracy_is_taken_in_eval_mode():
    net, pictures = task()
    clean = accuracy(net, pictures)
    noisy = nn.Sequential(net, nn.Dropout(1.0)).train()
    assert accuracy(noisy, pictures) == clean and noisy[1].training
    evaluate(noisy, pictures, [FGSM(0.1)])
    assert noisy.training and noisy[1].training


def test_rows_are_the_attacks():
    net, (x, y) = task()
    attacks = [Noise(0.2), FGSM([0.05, 0.1], loss="mse"), PGD(0.1, steps=5, keep="last")]
    result = evaluate(net, (x, y), attacks)
    assert [r.name for r in result.rows] == ["Noise uniform", "FGSM mse", "FGSM mse", "PGD margin"]
    assert [r.eps for r in result.rows] == [0.2, 0.05, 0.1, 0.1]
    assert result.rows[0].accuracy == attacks[0].attack(net, x, y).accuracy
    assert result.rows[2].accuracy == attacks[1].attack(net, x, y)[1].accuracy
    assert result.rows[3].settings == attacks[2].attack(net, x, y).settings
    assert result.n == 60 and result.clean == accuracy(net, (x, y))


def test_the_worst_case_is_per_picture_over_clean_and_smaller_eps():
    class Scripted:
        """An attack that fools the net on the pictures it is told."""

        def __init__(self, eps, fooled):
            self.eps, self.fooled = eps, fooled

        def attack(self, net, x, y, *, batch_size, progress):
            success = torch.zeros(len(x), dtype=torch.bool)
            success[self.fooled] = True
            result = FGSM(self.eps).attack(net, x, y)
            result.success = success
            return result

    net, (x, y) = task(n=10)
    y = net(x).argmax(1)
    y[9] = (y[9] + 1) % 3  # one wrong when clean, on which every attack "fails"
    attacks = [Scripted(0.3, [4]), Scripted(0.1, [0, 1]), Scripted(0.1, [1, 2]), Scripted(0.2, [])]
    result = evaluate(net, (x, y), attacks)
    assert [r.accuracy for r in result.rows] == pytest.approx([0.9, 0.8, 0.8, 1.0])
    assert result.worst_case == pytest.approx({0.1: 0.6, 0.2: 0.6, 0.3: 0.5})
    assert list(result.worst_case) == [0.1, 0.2, 0.3]


DEFAULT = [
    "Noise uniform", "Noise corner", "FGSM mse", "PGD mse", "FGSM ce", "PGD ce", "FGSM margin",
    "PGD margin", "FGSM dlr", "PGD dlr", "PGD margin, targeted", "PGD margin",
]  # fmt: skip


def test_the_default_attacks():
    net, pictures = task()
    result = evaluate(net, pictures, eps=0.05)
    assert [row.name for row in result.rows] == DEFAULT
    assert {row.eps for row in result.rows} == {0.05}
    assert result.rows[-1].settings["restarts"] == 5
    assert 0 < result.worst_case[0.05] <= min(row.accuracy for row in result.rows) < result.clean
    named = evaluate(net, pictures, suite="default", eps=[0.05, 0.1], limit=5)
    assert list(named.worst_case) == [0.05, 0.1]
    assert list(evaluate(net, pictures, limit=5).worst_case) == [0.1]


def test_the_default_attacks_leave_out_what_outputs_do_not_have():
    for outputs, names in ((1, DEFAULT[:8]), (2, DEFAULT[:8]), (3, DEFAULT[:-1])):
        net = Cerebellum(16, 50, outputs)
        found = evaluate(net, (torch.rand(4, 16), torch.tensor([0, 1, 0, 1])))
        assert [row.name for row in found.rows] == [*names, "PGD margin"]


class Scripted:
    """What pyautoattack does here: it fools the network on one picture of those it is shown."""

    def __init__(self, model, *, eps, **settings):
        self.model, self.eps = model, eps
        self.apgd_targeted, self.fab = SimpleNamespace(), SimpleNamespace()

    def run_standard_evaluation(self, x, y, *, batch_size):
        made = x.clone()
        made[:1] = FGSM(self.eps).attack(self.model, x[:1], y[:1]).adversarial
        return made, None


@pytest.fixture
def scripted_autoattack(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", SimpleNamespace(AutoAttack=Scripted))
    monkeypatch.setattr(suites, "Square", partial(Square, queries=20))


def test_the_strong_attacks(scripted_autoattack):
    net, (x, y) = task(c=4)
    default = evaluate(net, (x, y), eps=[0.02, 0.05])
    strong = evaluate(net, (x, y), suite="strong", eps=[0.02, 0.05])
    names = [row.name for row in default.rows]
    assert [row.name for row in strong.rows] == names + 2 * ["Square"] + 2 * ["AutoAttack"]
    assert strong.rows[-3].settings["queries"] == 20  # and are those of Square(0.05)
    for eps in (0.02, 0.05):
        assert strong.worst_case[eps] <= default.worst_case[eps]
        assert not (strong.survived[eps] & ~default.survived[eps]).any()
        assert accuracy(net, (strong.attacked.attacked[eps], y)) == strong.worst_case[eps]


def test_what_square_and_autoattack_alone_fool_counts(scripted_autoattack):
    """Picture by picture, survival is the and of the rows."""
    net, (x, y) = task(c=4)
    attacks = [Square(0.05, 20), AutoAttack(0.05), Noise(0.05)]
    found = evaluate(net, (x, y), attacks)
    one_by_one = [~attack.attack(net, x, y).success for attack in attacks]
    assert torch.equal(found.survived[0.05], torch.stack(one_by_one).all(0))
    assert [row.accuracy for row in found.rows] == [
        alive.double().mean().item() for alive in one_by_one
    ]
    assert len({tuple(alive.tolist()) for alive in one_by_one}) == 3


def test_the_strong_attacks_say_what_they_cannot_run_on_before_any_begins(
    scripted_autoattack, monkeypatch
):
    monkeypatch.setattr(Noise, "_found", lambda *a: pytest.fail("an attack began"))
    four, (x, y) = task(c=4)
    three, labelled = task(c=3)
    for net, pictures, message in [
        (four, (x.flatten(1), y), r"x: got shape \(60, 16\), expected .*\(N, C, H, W\)"),
        (three, labelled, "model: got 3 outputs, expected at least 4"),
        (Cerebellum(16, 50, 1), (x, y % 2), "model: got 1 output, expected at least 4"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            evaluate(net, pictures, suite="strong")
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(CerebsimError, match=r"pip install cerebsim\[attacks\]"):
        evaluate(four, (x, y), suite="strong")


def test_a_suite_by_name():
    assert [type(a).__name__ for a in attack_suite()] == [name.split()[0] for name in DEFAULT]
    assert all(attack.eps == (0.1, 0.3) for attack in attack_suite("default", [0.1, 0.3]))
    for call, message in [
        (lambda: attack_suite("weak"), "suite: got 'weak', expected one of 'default', 'strong'"),
        (lambda: attack_suite(outputs=0), "outputs: got 0"),
        (lambda: attack_suite(eps=-1), "eps: got -1"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            call()


def test_a_targeted_attack_aims_at_the_likeliest_wrong_classes():
    net, (x, y) = task()
    attack = PGD(0.05, loss="margin", targeted=True, steps=7)
    found = evaluate(net, (x, y), [attack])
    logits = net(x).detach()
    others = logits.scatter(1, y[:, None], float("-inf")).argsort(1, descending=True)[:, :2]
    fooled = torch.zeros(len(x), dtype=torch.bool)
    for aim in others.T:
        fooled |= attack.attack(net, x, aim).success
    assert torch.equal(found.survived[0.05], ~fooled & (logits.argmax(1) == y))
    assert found.rows[0].accuracy == (~fooled).double().mean().item()
    assert fooled.any() and not fooled.all()


def test_the_attacked_pictures_are_the_worst_case_itself():
    net, (x, y) = task()
    found = evaluate(net, (x, y), [FGSM([0.02, 0.1], loss="mse"), PGD([0.02, 0.05], steps=5)])
    assert list(found.attacked.attacked) == [0.02, 0.05, 0.1]
    for eps, pictures in found.attacked.attacked.items():
        assert accuracy(net, (pictures, y)) == found.worst_case[eps]
        assert torch.equal(net(pictures).argmax(1) == y, found.survived[eps])
        alive = found.survived[eps] | (net(x).argmax(1) != y)
        assert torch.equal(pictures[alive], x[alive])
        assert float((pictures - x).abs().max()) <= eps + 1e-6
    assert found.survived[0.1].sum() < found.survived[0.02].sum()


def test_limit_takes_the_first_pictures():
    net, (x, y) = task()
    part = evaluate(net, (x, y), [FGSM(0.1)], limit=7)
    whole = evaluate(net, (x[:7], y[:7]), [FGSM(0.1)])
    assert part.n == 7 and part.clean == whole.clean and part.worst_case == whole.worst_case
    assert evaluate(net, (x, y), [], limit=1000).n == 60


def test_the_table():
    net, pictures = task()
    result = evaluate(net, pictures, [FGSM([2 / 255, 0.3])])
    lines = str(result).splitlines()
    assert lines[0] == "60 pictures"
    assert lines[1].split() == ["attack", "eps", "accuracy", "time"]
    assert lines[3].split() == ["clean", f"{100 * result.clean:.2f}", "%"]
    assert lines[4].split()[:3] == ["FGSM", "margin", "0.007843"]
    assert lines[-1].split() == ["worst", "case", "0.3", f"{100 * result.worst_case[0.3]:.2f}", "%"]
    assert len({line.index("%") for line in lines[3:]}) == 1
    assert str(evaluate(net, pictures, [], limit=1)).startswith("1 picture\n")


def test_the_record_is_json():
    net, pictures = task()
    record = evaluate(net, pictures, [Noise(0.1), PGD([0.1, 0.2], steps=3)]).as_dict()
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again["worst_case"] == record["worst_case"] and set(again["worst_case"]) == {
        "0.1",
        "0.2",
    }
    assert [r["settings"]["eps"] for r in again["rows"]] == [0.1, 0.1, 0.2]


def test_a_bar_on_a_terminal_only(monkeypatch, capsys):
    net, pictures = task()
    evaluate(net, pictures, [FGSM(0.1)])
    assert capsys.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for wanted in (True, False):
        monkeypatch.setattr(sys, "stderr", Terminal())
        evaluate(net, pictures, [FGSM(0.1)], progress=wanted)
        assert ("FGSM" in sys.stderr.getvalue()) == wanted


TWO = (torch.rand(2, 16), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": PGD(0.1)}, r"attacks: got PGD\(.*, expected a list of attacks"),
        ({"attacks": ["pgd"]}, "attacks: got 'pgd'"),
        ({"attacks": [PGD]}, "attacks: got <class"),
        (
            {"net": Cerebellum(16, 50, 1), "attacks": [PGD(0.1, targeted=True)], "pictures": TWO},
            "attacks: got a targeted attack on 1 output, expected at least 3 outputs",
        ),
        (
            {"net": Cerebellum(16, 50, 2), "attacks": [PGD(0.1, loss="dlr")], "pictures": TWO},
            "loss: got 'dlr' with 2",
        ),
        ({"suite": "strong"}, "suite: got 'strong' beside attacks, expected attacks, or a suite"),
        ({"suite": "default"}, "suite: got 'default' beside attacks"),
        ({"eps": 0.1}, "eps: got 0.1 beside attacks"),
        ({"attacks": None, "suite": "weak"}, "suite: got 'weak', expected one of 'default'"),
        ({"attacks": None, "eps": -1}, "eps: got -1"),
        ({"limit": 0}, "limit: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"net": lambda x: x}, "model: got function"),
        ({"pictures": (torch.rand(3, 16), torch.zeros(2).long())}, "got 3 pictures and 2 labels"),
        (
            {"pictures": (torch.rand(0, 16), torch.zeros(0).long())},
            "expected equally many, at least",
        ),
        (
            {"pictures": (torch.rand(2, 16), torch.tensor([0, 3]))},
            "pictures: got values from 0 to 3",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    net, pictures = task()
    call = {"net": net, "pictures": pictures, "attacks": [FGSM(0.1)]} | change
    with pytest.raises(ArgumentError, match=message):
        evaluate(**call)
