import csv

import pytest
import torch

from cerebsim import paper, results, trials
from cerebsim.data import Data, Pictures, load_data
from cerebsim.errors import ArgumentError
from cerebsim.paper import reproduce, scaled
from cerebsim.published import TABLES
from cerebsim.scan import FAN_INS, GRANULE_CELLS, circuits, scan

TABLE6 = TABLES["table6"].circuits


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    """On networks as small as these, threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def few(monkeypatch):
    digits = load_data("digits")
    monkeypatch.setattr(paper, "DIGITS_SHARE", 500)
    return Data("digits", digits.train.first(100), digits.test.first(40), digits.classes, "few")


def blank(name, side, classes=10):
    one = Pictures(torch.zeros(1, 1, side, side), torch.zeros(1, dtype=torch.int64))
    return Data(name, one, one, tuple(map(str, range(classes))), "0")


MNIST, DIGITS = blank("mnist", 28), blank("digits", 8)


@pytest.mark.parametrize("by", ["width", "sparsity"])
@pytest.mark.parametrize("ltd", [True, False])
def test_on_mnist_the_default_circuits_are_those_of_the_paper_by_name(by, ltd):
    """And so is m = 4.8e6 / (k + 2c)."""
    kind = {"width": "FC", "sparsity": "RC"}[by] + (" + LTD" if ltd else "")
    of_paper = {n: row.anatomy for n, row in TABLE6.items() if n.rpartition(" ")[0] == kind}
    found = {name: circuit.anatomy for name, circuit in circuits(by, MNIST, ltd=ltd).items()}
    assert len(found) == {"width": 8, "sparsity": 7}[by]
    assert found == of_paper


def test_on_the_digits_the_default_circuits_are_those_of_the_tables():
    of_table = {name: scaled(row, DIGITS).anatomy for name, row in TABLE6.items()}
    for by, ltd in (("width", True), ("width", False), ("sparsity", True), ("sparsity", False)):
        found = circuits(by, DIGITS, ltd=ltd)
        assert {name: circuit.anatomy for name, circuit in found.items()}.items() <= (
            of_table.items()
        )
        assert len(found) == {"width": 8, "sparsity": 6}[by]  # k = 64 stands for 200 and 784


def test_sizes_of_ones_own():
    def sizes(*words, **settings):
        return {n: c.anatomy for n, c in circuits(*words, **settings).items()}

    assert sizes("width", MNIST, granule_cells=[5_000, 300]) == {
        "FC + LTD m=5,000": ("full", 784, 5_000, True),
        "FC + LTD k=784 m=300": ("full", 784, 300, True),
    }
    assert sizes("width", MNIST, granule_cells=[1_000, 200_000, 10**7], fan_in=[4]) == {
        "RC + LTD k=4 m=1,000": ("random", 4, 1_000, True),
        "RC + LTD k=4": ("random", 4, 200_000, True),
        "RC + LTD k=4 m=10,000,000": ("random", 4, 10**7, True),
    }
    assert sizes("sparsity", MNIST, granule_cells=[600], fan_in=[7, 3], ltd=False) == {
        "RC k=7 m=600": ("random", 7, 600, False),
        "RC k=3 m=600": ("random", 3, 600, False),
    }
    assert sizes("sparsity", MNIST, fan_in=[3]) == {
        "RC + LTD k=3 m=208,696": ("random", 3, 208_696, True)
    }
    # On the digits a size that is given is that size, and the name of no other circuit.
    assert sizes("width", DIGITS, granule_cells=[479, 1_000]) == {
        "FC + LTD m=1,000": ("full", 64, 479, True),
        "FC + LTD k=64 m=1,000": ("full", 64, 1_000, True),
    }
    small = sizes("width", DIGITS, fan_in=[4])
    assert [anatomy[2] for anatomy in small.values()] == [m // 20 for m in GRANULE_CELLS]


def test_on_other_pictures_the_budget_counts_their_fibres_and_classes():
    """Fan-ins that are too large are left out; the last is all fibres there are."""
    two = circuits("sparsity", blank("folder:x", 10, classes=2))
    assert [circuit.fan_in for circuit in two.values()] == [1, 2, 4, 10, 50, 100]
    for circuit in two.values():
        assert circuit.granule_cells * (circuit.fan_in + 4) == pytest.approx(4.8e6, rel=1e-4)
    large = circuits("sparsity", blank("folder:x", 40))
    assert [circuit.fan_in for circuit in large.values()] == [*FAN_INS, 1600]
    assert {c.fan_in for c in circuits("width", blank("folder:x", 40)).values()} == {1600}


@pytest.mark.parametrize(
    ("by", "settings", "message"),
    [
        ("depth", {}, "by: got 'depth', expected one of 'width', 'sparsity'"),
        ("width", {"granule_cells": [0]}, "granule_cells: got 0, expected a whole number >= 1"),
        ("width", {"granule_cells": [1e3]}, "granule_cells: got 1000.0"),
        ("width", {"fan_in": [2, 4]}, "fan_in: got [2, 4], expected one value in a width scan. A "),
        ("sparsity", {"granule_cells": [5, 6]}, "granule_cells: got [5, 6], expected one value"),
        ("sparsity", {"fan_in": [65]}, "fan_in: got 65, expected at most the 64 fibres of digits"),
        ("width", {"seeds": []}, "seeds: got []"),
        ("width", {"limit": 0}, "limit: got 0"),
        ("width", {"epochs": 0}, "epochs: got 0"),
        ("width", {"batch_size": 0}, "batch_size: got 0"),
        ("width", {"jobs": 0}, "jobs: got 0"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(by, settings, message, tmp_path):
    with pytest.raises(ArgumentError) as caught:
        scan(by, DIGITS, out=tmp_path, **settings)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def lines(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_scan_in_the_folder_of_a_table_finds_its_records(few, tmp_path, monkeypatch):
    settings = {"out": tmp_path, "limit": 5, "epochs": 1}
    rows = ["RC + LTD k=784", "RC + LTD k=4", "FC + LTD m=1,000", "FC + LTD m=2,000"]
    reproduce("table6", few, rows=rows, **settings)
    monkeypatch.setattr(trials, "train_once", lambda *args: pytest.fail("trains again"))
    done = scan("sparsity", few, fan_in=[4, 64], **settings)
    assert {path.name for path in done.files} == {
        "sparsity.csv", "sparsity.md", "sparsity.png", "records"
    }  # fmt: skip
    for path in done.files:
        assert path.exists(), path
    scan("width", few, granule_cells=[19, 38], **settings)  # 1,000 and 2,000 cells, on the digits
    assert len(list((tmp_path / "records").glob("*.json"))) == 4
    found = lines(tmp_path / "sparsity.csv") + lines(tmp_path / "width.csv")
    assert found == sorted(lines(tmp_path / "table6.csv"), key=found.index)
    assert (tmp_path / "sparsity.md").read_text().startswith("# Sparsity scan on digits, batch 50")
    assert (tmp_path / "width.png").read_bytes()[:4] == b"\x89PNG"


def test_a_scan_that_was_stopped_goes_on_where_it_was(few, tmp_path, monkeypatch):
    begun, train = [], trials.train_once

    def stopped(*args):
        begun.append(args[1].granule_cells)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(trials, "train_once", stopped)
    words = "width", few, [10, 20, 30], [2], False, [0], tmp_path
    with pytest.raises(KeyboardInterrupt):
        scan(*words, limit=5, epochs=1)
    assert len(list((tmp_path / "records").glob("*.json"))) == 1
    assert not (tmp_path / "width.csv").exists()
    done = scan(*words, limit=5, epochs=1)
    assert begun == [10, 20, 20, 30]
    assert not list(tmp_path.rglob("*.lock"))
    assert {line["model"]: line["granule_cells"] for line in lines(tmp_path / "width.csv")} == {
        "RC k=2 m=10": "10", "RC k=2 m=20": "20", "RC k=2 m=30": "30"
    }  # fmt: skip
    recipes = [record["recipe"] for record in results.read_all(tmp_path / "records")]
    assert {recipe["circuit"]["ltd"] for recipe in recipes} == {False}
    assert {recipe["circuit"]["replacement"] for recipe in recipes} == {True}
    assert "# Width scan with k = 2 on digits" in (tmp_path / "width.md").read_text()
    assert done.table.count("ours") == 3 and "paper" not in done.table


def test_on_mnist_the_papers_figures_stand_beside_ours(tmp_path):
    """Those of FC at batch 1 with the remark that they are no measurement."""
    digits = load_data("digits")
    x, y = digits.train.first(20)
    few = Pictures(torch.nn.functional.interpolate(x, 28), y)  # as large as the paper's
    data = Data("mnist", few, few, digits.classes, "few")
    settings = {"granule_cells": [1_000, 50], "out": tmp_path, "limit": 5, "epochs": 1}
    scan("width", data, **settings)
    printed = {row["paper"] for row in lines(tmp_path / "width.csv") if row["column"] == "clean"}
    assert printed == {"94.4", ""}
    done = scan("width", data, batch_size=1, **settings)
    assert "94.4 *" in done.table and "marked * are table 6's figures again" in done.note
