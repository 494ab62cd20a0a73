import json

import pytest
import torch

from cerebsim import Cerebellum, load_data, paper, study
from cerebsim.errors import ArgumentError
from cerebsim.labels import decide
from cerebsim.losses import margin, mse
from cerebsim.paper import network, scaled
from cerebsim.published import TABLES
from cerebsim.square import Square
from cerebsim.trials import Trial, train_once

QUICK = {"circuits": ["RC k=4"], "ltd": ["none", "exact mean"], "limit": 20, "epochs": 1}


@pytest.fixture(scope="module")
def data():
    """Of the digits' circuits a tenth, and a Square that asks for little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "DIGITS_SHARE", 200)  # m = 1,000
        patch.setattr(study, "ATTACKS", study.ATTACKS | {"Square": Square((study.EPS,), 20)})
        yield load_data("digits")


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """A study of six networks: the folder, and what it printed."""
    out = tmp_path_factory.mktemp("study")
    return out, *study.study(data, out, **QUICK)


def records(out) -> dict:
    found = [json.loads(path.read_text()) for path in (out / "records").glob("*.json")]
    return {(r["recipe"]["ltd"], r["recipe"]["training"]): r for r in found}


def test_every_combination_is_a_record_and_a_row(done):
    out, table, files = done
    assert records(out).keys() == {
        (ltd, training) for ltd in QUICK["ltd"] for training in study.TRAININGS
    }
    assert table.count("\n") == 2 + 6
    assert [path.name for path in files] == ["study.csv", "study.md", "study.png", "trajectory.png"]
    assert all(path.stat().st_size > 500 for path in files)
    assert table in (out / "study.md").read_text()


def test_updates_are_matched_and_the_mean_is_exact(done):
    out, *_ = done
    for (ltd, training), record in records(out).items():
        recipe, learning = record["recipe"], record["recipe"]["learning"]
        updates = -(-recipe["data"]["n_train"] // learning["batch_size"]) * learning["epochs"]
        assert updates == (1437 if training == "batch 1" else 29)
        assert learning["batch_size"] == (50 if training == "batch 50" else 1)
        assert recipe["circuit"]["ltd"] == (ltd != "none")
        assert learning["ltd_update"] == ("exact" if ltd == "exact mean" else "before")
        assert (record["transfer"] is None) == (training == "batch 50")


def test_columns_are_the_attacks(done):
    out, *_ = done
    lines = (out / "study.csv").read_text().splitlines()
    assert set(study.ATTACKS) <= set(lines[0].split(","))
    for record in records(out).values():
        accuracy = record["accuracy"]
        least = min(accuracy[f"{name}_0.1"] for name in study.ATTACKS)
        assert 0 <= accuracy["worst_0.1"] <= least <= 1


def test_a_study_that_was_done_runs_nothing(done, data, monkeypatch):
    out, table, _ = done
    monkeypatch.setattr(study, "attack_all", None)
    assert study.study(data, out, **QUICK)[0] == table


def test_the_trajectory_is_that_of_the_survivors(data):
    net = Cerebellum(64, 2000, replacement=True)
    net.fit(data.train, epochs=1, progress=False)
    x, y = data.test.first(40)
    found = study.trajectory(net, x, y)
    made = study.PAPER_ATTACK.attack(net, x, y).adversarial
    with torch.no_grad():
        before, after = net(x), net(made)
    alive = (decide(before) == y) & (decide(after) == y)
    assert 0 < found["survivors"] == int(alive.sum()) < 40
    for name in ("own", "best", "others", "loss", "distance"):
        assert len(found[name]) == 2 + study.PAPER_ATTACK.steps
    own = before[alive].gather(1, y[alive, None]).mean()
    assert found["own"][0] == pytest.approx(float(own), rel=1e-5)
    own = after[alive].gather(1, y[alive, None]).mean()
    assert found["own"][-1] == pytest.approx(float(own), rel=1e-5)
    assert found["loss"][-1] == pytest.approx(float(mse(after, y)[alive].mean()), rel=1e-5)
    distance = -float(margin(after, y)[alive].mean())
    assert found["distance"][-1] == pytest.approx(distance, rel=1e-4)
    against = (mse(after, y) > mse(before, y)) & (margin(after, y) < margin(before, y))
    assert found["against"] == float(against.double().mean())


def test_nobody_survives(data):
    x, y = data.test.first(5)
    net = Cerebellum(64, 50)
    with torch.no_grad():
        wrong = (decide(net(x)) + 1) % 10
    assert study.trajectory(net, x, wrong) == {"survivors": 0, "against": pytest.approx(0, abs=1)}


def test_a_trained_network_is_shared_with_the_tables(data, tmp_path):
    """A folder of table 7 spares the study the longest of its trainings."""
    row = TABLES["table7"].rows["RC + LTD k=4"]
    model = network(scaled(row, data), data, seed=0, epochs=1, batch_size=1)
    trial = Trial("RC + LTD k=4", *model, data, tmp_path, (0.1,))
    train_once(data, trial.circuit, trial.learning, trial.folder)
    chosen = QUICK | {"ltd": ["moving average"], "trainings": ["batch 1"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "ATTACKS", {"FGSM": study.ATTACKS["FGSM"]})
        study.study(data, tmp_path, **chosen)
    assert trial.folder in list((tmp_path / "circuits").iterdir())
    assert len(list((tmp_path / "circuits").iterdir())) == 2  # this one and its twin


@pytest.mark.parametrize(
    ("argument", "value"),
    [("circuits", ["RC k=5"]), ("ltd", ["some"]), ("trainings", []), ("epochs", 60), ("limit", 0)],
)
def test_bad_input(data, tmp_path, argument, value):
    with pytest.raises(ArgumentError, match=argument):
        study.study(data, tmp_path, **QUICK | {argument: value})
    assert not list(tmp_path.iterdir())
