import csv
from dataclasses import asdict

import pytest
import torch

from cerebsim import Cerebellum, paper, plots, results, tables, trials
from cerebsim.baselines import CNNConfig
from cerebsim.data import Data, Pictures, load_data
from cerebsim.errors import ArgumentError, CerebsimError
from cerebsim.paper import network, reproduce, scaled
from cerebsim.published import TABLES, Row, printed

COLUMNS = [
    "clean",
    "noise_0.1",
    "fgsm_0.1",
    "pgd_0.1",
    "worst_0.1",
    "noise_0.3",
    "fgsm_0.3",
    "pgd_0.3",
    "worst_0.3",
]


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    """On networks as small as these, threads only wait for each other."""
    torch.set_num_threads(1)


TABLE2 = TABLES["table2"].rows
CIRCUITS = {name: row for name, row in TABLE2.items() if isinstance(row, Row)}


def pictures(n, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, side, side, generator=generator)
    return Pictures(x, torch.randint(10, (n,), generator=generator))


def blank(name, side):
    classes = tuple("0123456789")
    return Data(name, pictures(2, side), pictures(2, side), classes, checksum="0")


@pytest.fixture(scope="module")
def few():
    """A few of the digits, under the digits' name."""
    digits = load_data("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "DIGITS_SHARE", 200)  # m = 1,000 and 286
        yield Data("digits", digits.train.first(300), digits.test.first(40), digits.classes, "few")


@pytest.fixture(scope="module")
def done(few, tmp_path_factory):
    out = tmp_path_factory.mktemp("table2")
    torch.set_num_threads(1)
    return out, reproduce("table2", few, seeds=[0], out=out, limit=20, epochs=2)


def test_published_numbers_keep_the_order_that_the_paper_draws_its_claim_from():
    assert TABLE2["Cerebellum"].accuracy["pgd_0.1"] == 55.8
    assert TABLE2["Base"].accuracy["clean"] == 96.5
    assert max(TABLE2, key=lambda model: TABLE2[model].accuracy["pgd_0.1"]) == "Cerebellum"
    assert all(set(line.accuracy) < set(COLUMNS) for line in TABLE2.values())


def test_the_printed_tables_agree_where_they_print_one_circuit_twice():
    """Table 2's rows with random inputs are rows of table 6; table 7's FC rows are table 6's."""
    for name, same in [("Base + RC", "RC k=4"), ("Cerebellum", "RC + LTD k=4")]:
        assert TABLE2[name] == TABLES["table6"].rows[same]
    six, seven = TABLES["table6"].rows, TABLES["table7"].rows
    assert list(six) == list(seven) and len(six) == 31
    baseline = "Baseline CNN"
    assert TABLE2[baseline] == six[baseline] == seven[baseline] and TABLE2[baseline].doubt
    assert TABLE2[baseline].accuracy["fgsm_0.1"] == 77.6
    for name in six.keys() - {baseline}:
        assert (six[name].printed == seven[name].printed) == name.startswith("FC")
        assert bool(seven[name].doubt) == name.startswith("FC") and not six[name].doubt
    cerebellum = TABLE2["Cerebellum"]
    assert printed(50, cerebellum).accuracy["pgd_0.1"] == 55.8
    assert printed(1, cerebellum).accuracy["pgd_0.1"] == 95.2
    assert printed(7, cerebellum) is None
    assert printed(7, TABLE2[baseline]) == TABLE2[baseline]  # it has one batch size everywhere


@pytest.mark.parametrize(
    ("data", "side", "budget", "sizes"),
    [
        ("mnist", 28, 4_800_000, [5_970, 5_970, 200_000, 200_000]),
        ("digits", 8, 240_000, [2_857, 2_857, 10_000, 10_000]),
    ],
)
def test_the_four_models_have_one_synapse_budget(data, side, budget, sizes):
    data, circuits = blank(data, side), {}
    for name, row in CIRCUITS.items():
        circuits[name], _ = network(scaled(row, data), data, seed=3, epochs=10, batch_size=50)
    assert list(circuits) == list(TABLE2)[1:]
    assert [made.granule_cells for made in circuits.values()] == sizes
    for made in circuits.values():
        synapses = made.granule_cells * (made.fan_in + 2 * made.purkinje_cells)
        assert synapses == pytest.approx(budget, rel=1e-3)
        assert made.seed == 3
    anatomy = [(c.wiring, c.fan_in, c.ltd, c.replacement) for c in circuits.values()]
    full = side * side
    assert anatomy == [
        ("full", full, False, False),
        ("full", full, True, False),
        ("random", 4, False, True),
        ("random", 4, True, True),
    ]


def test_a_reproduction_leaves_records_table_figures_and_circuits(done):
    out, reproduction = done
    for path in reproduction.files:
        assert path.exists(), path
    assert {path.name for path in out.iterdir()} == {
        "records", "circuits", "table2.csv", "table2.md", "table2.png", "pictures.png"
    }  # fmt: skip
    records = {record["recipe"]["model"]: record for record in results.read_all(out / "records")}
    assert set(records) == set(TABLE2)
    for record in records.values():
        accuracy = record["accuracy"]
        assert set(COLUMNS) < set(accuracy)
        under_01 = [accuracy[key] for key in accuracy if key.endswith("_0.1")]
        assert accuracy["worst_0.1"] == min(under_01) or accuracy["worst_0.1"] < min(under_01)
        assert accuracy["worst_0.3"] <= accuracy["worst_0.1"] <= accuracy["clean"]
        assert record["evaluation"]["n"] == 20 and len(record["history"]["test_accuracy"]) == 2
        assert record["recipe"]["data"]["checksum"] == "few"
    # One attack's settings, as they were used: the paper's.
    used = records["Cerebellum"]["evaluation"]["rows"][4]["settings"]
    assert used["loss"] == "mse" and used["keep"] == "last" and used["alpha"] == 0.01
    assert reproduction.circuit.name.startswith("cerebellum-digits-seed-0")
    assert (reproduction.circuit / "train.json").exists()


def test_the_table_says_what_the_records_say(done):
    out, reproduction = done
    records = {record["recipe"]["model"]: record for record in results.read_all(out / "records")}
    lines = list(csv.DictReader((out / "table2.csv").read_text().splitlines()))
    assert [line["column"] for line in lines] == COLUMNS * 5
    for line in lines:
        record = records[line["model"]]
        share = record["accuracy"][line["column"]]
        if line["column"] == "clean":
            share = max(record["history"]["test_accuracy"])  # of all 40, 20 are attacked
        assert float(line["ours"]) == pytest.approx(100 * share, abs=1e-3)
        assert line["paper"] == "" and line["difference"] == ""  # nothing published on digits
    assert reproduction.table in (out / "table2.md").read_text()
    assert reproduction.table.count("ours") == 5 and "difference" not in reproduction.table


def test_what_is_on_disk_is_not_run_again_but_drawn_again(done, few, monkeypatch):
    out, first = done
    before = [(path, path.stat().st_mtime_ns) for path in sorted((out / "records").iterdir())]
    assert len(before) == 10  # a record and its pictures per model
    drawn = (out / "pictures.png").read_bytes()
    for name in ("table2.csv", "table2.md", "table2.png", "pictures.png"):
        (out / name).unlink()
    monkeypatch.setattr(trials, "train_once", lambda *args: pytest.fail("trains again"))
    again = reproduce("table2", few, seeds=[0], out=out, limit=20, epochs=2)
    assert again == first and all(path.exists() for path in again.files)
    assert (out / "pictures.png").read_bytes() == drawn
    after = [(path, path.stat().st_mtime_ns) for path in sorted((out / "records").iterdir())]
    assert after == before


def test_another_seed_is_another_trial_and_the_table_has_the_mean(done, few):
    out, _ = done
    both = reproduce("table2", few, seeds=[0, 123], out=out, limit=20, epochs=2)
    assert len(list((out / "records").glob("*.json"))) == 10
    shares = [
        100 * record["accuracy"]["noise_0.3"]
        for record in results.read_all(out / "records")
        if record["recipe"]["model"] == "Cerebellum"
    ]
    line = next(
        line
        for line in csv.DictReader((out / "table2.csv").read_text().splitlines())
        if (line["model"], line["column"]) == ("Cerebellum", "noise_0.3")
    )
    assert line["seeds"] == "0 123"
    assert float(line["ours"]) == pytest.approx(sum(shares) / 2, abs=1e-3)
    assert (float(line["lowest"]), float(line["highest"])) == pytest.approx(
        (min(shares), max(shares)), abs=1e-3
    )
    assert "range" in both.table


def test_lost_pictures_are_named(done, few):
    out, reproduction = done
    (kept,) = (out / "records").glob("cerebellum-digits-seed-0-*.safetensors")
    content = kept.read_bytes()
    kept.write_bytes(content[:100])
    with pytest.raises(CerebsimError, match=f"{kept.name} cannot be read"):
        reproduce("table2", few, seeds=[0], out=out, limit=20, epochs=2)
    kept.write_bytes(content)


def test_no_seed_is_an_error(few, tmp_path):
    with pytest.raises(ArgumentError, match="seeds"):
        reproduce("table2", few, seeds=[], out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_sound_attacks_may_see_fewer_pictures():
    """As if the paper's attacks ran on all of them and the others on the first."""
    digits = load_data("digits")
    net = Cerebellum(64, 1000)
    net.fit(digits.train.first(400), epochs=2, progress=False)
    attacks = trials.suite((0.02, 0.05), sound_eps=[0.02])
    every, first = (trials.attack_all(net, digits.test.first(n), attacks) for n in (61, 23))
    split = trials.attack_most(net, digits.test.first(61), attacks, few=23)
    assert split["accuracy"].keys() == every["accuracy"].keys()
    for name, share in split["accuracy"].items():
        same = first if name.startswith(("sound", "worst")) else every
        assert share == same["accuracy"][name], name
        assert first["accuracy"][name] != every["accuracy"][name]
    assert split["evaluation"]["n"] == 61 and split["sound_evaluation"]["n"] == 23
    assert 0 < split["accuracy"]["worst_0.05"] < split["accuracy"]["worst_0.02"] < 1


def test_a_table_says_where_the_worst_case_is_of_fewer_pictures(few, tmp_path):
    limits = {"limit": 20, "sound_limit": 8, "rows": ["Cerebellum"]}
    done = reproduce("table2", few, out=tmp_path, epochs=1, **limits)
    assert "attacked: the first 20. Worst case: the first 8." in done.note
    lines = csv.DictReader((tmp_path / "table2.csv").read_text().splitlines())
    pictures = {line["column"]: line["pictures"] for line in lines}
    assert pictures["clean"] == "40" and pictures["pgd_0.3"] == "20"
    assert pictures["worst_0.1"] == pictures["worst_0.3"] == "8"
    with pytest.raises(ArgumentError, match="limit"):
        reproduce("table2", few, out=tmp_path / "none", sound_limit=0)
    assert not (tmp_path / "none").exists()


def test_beside_published_numbers_the_table_has_the_difference(tmp_path):
    accuracy = dict.fromkeys(COLUMNS, 0.5) | {"fgsm_0.1": 0.615}
    anatomy = {"wiring": "random", "fan_in": 4, "granule_cells": 9, "ltd": True, "seed": 0}
    recipe = {"circuit": anatomy, "learning": {"epochs": 7, "batch_size": 1}}
    recipe["data"] = {"n_test": 10_000}
    record = {"recipe": recipe, "accuracy": accuracy, "evaluation": {"n": 1000}}
    record["history"] = {"test_accuracy": [0.8, 0.955, 0.9], "epoch_kept": 1}
    lines = {
        "Cerebellum": tables.Line([record], TABLE2["Cerebellum"]),
        "FC": tables.Line([record], TABLES["table7"].rows["FC m=1,000"]),
    }
    table, note, (csv_file, *_) = tables.write("t", "T", lines, tmp_path, tables.draw_table)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    where = cells[0].index("FGSM 0.1")
    assert note.startswith(
        "7 epochs at batch 1, seeds 0. Clean: all 10,000 test pictures; "
        "attacked: the first 1,000. Accuracies"
    )
    by_line = {line[1]: line for line in cells[2:5]}
    assert list(by_line) == ["paper", "ours", "difference"]
    assert [line[where] for line in by_line.values()] == ["62.0", "61.5", "-0.5"]
    assert by_line["paper"][cells[0].index("worst 0.1")] == ""
    doubted = {line[1]: line for line in cells[5:]}
    assert doubted["paper"][where] == "20.4 *" and doubted["difference"][where] == "+41.1"
    assert "The paper's figures marked * are table 6's figures again" in note
    written = list(csv.DictReader(csv_file.read_text().splitlines()))
    assert {line["doubt"] != "" for line in written if line["model"] == "FC"} == {True}
    lines = {line["column"]: line for line in written if line["model"] == "Cerebellum"}
    assert lines["fgsm_0.1"]["difference"] == "-0.5" and lines["worst_0.1"]["paper"] == ""
    # Clean pictures cost little: all of them, of the epoch that was kept.
    assert lines["clean"]["ours"] == "95.5" and lines["clean"]["pictures"] == "10000"
    assert lines["fgsm_0.1"]["pictures"] == "1000"


def test_figures_of_colour_pictures_and_of_formats(tmp_path):
    x = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 0])
    attacked = [plots.Attacked("PGD", (x + 0.1).clamp(0, 1), 1 - y)]
    figure = plots.attacked_pictures("t", ["cat", "dog"], x, y, y, attacked, eps=0.1)
    said = [axes.get_xlabel() for axes in figure.axes]
    assert said == ["cat", "dog", "cat"] + [""] * 3 + [
        "dog  (wrong)",
        "cat  (wrong)",
        "dog  (wrong)",
    ]
    assert plots.save(figure, tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert plots.save(figure, tmp_path / "a.pdf").read_bytes()[:4] == b"%PDF"


def test_bars_show_every_number_and_the_papers_mark():
    bars = {"Base": [plots.Bar(96.3, 96.0, 96.6, paper=95.0), plots.Bar(12.3, 12.3, 12.3)]}
    figure = plots.accuracy_bars("t", {"no attack": ["clean"], "eps = 0.1": ["noise"]}, bars)
    (axes,) = figure.axes
    assert [patch.get_height() for patch in axes.patches] == [96.3, 12.3]
    written = [text.get_text() for text in axes.texts]
    assert written == ["96.3", "12.3", "no attack", "eps = 0.1"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["the paper", "Base"]


def test_the_baseline_is_trained_by_its_own_recipe_and_named(few, tmp_path):
    """In table 7 too, whose circuits learn picture by picture."""
    rows = ["Baseline CNN", "RC + LTD k=2"]
    done = reproduce("table7", few, out=tmp_path, limit=10, epochs=1, rows=rows)
    records = {r["recipe"]["model"]: r for r in results.read_all(tmp_path / "records")}
    recipe = records["Baseline CNN"]["recipe"]
    assert recipe["circuit"] == asdict(CNNConfig(1, 8, 8))
    assert recipe["learning"]["batch_size"] == 50 and recipe["learning"]["rule"] == "adam"
    assert recipe["attacks"] == records["RC + LTD k=2"]["recipe"]["attacks"]
    assert done.note.startswith("1 epochs at batch 1, seeds 0. Clean: all 40 test pictures;")
    assert "convolutions of 16 and 32 filters, dense layers of 100 and 10 units; 1" in done.note
    lines = csv.DictReader((tmp_path / "table7.csv").read_text().splitlines())
    anatomy = {line["model"]: (line["wiring"], line["granule_cells"]) for line in lines}
    assert anatomy == {"Baseline CNN": ("", ""), "RC + LTD k=2": ("random", "1091")}
    (folder,) = (tmp_path / "circuits").glob("baseline-cnn-digits-seed-0-*")
    assert trials.load(folder).config.filters == 16


def test_two_doubts_have_two_marks(tmp_path):
    accuracy = dict.fromkeys(COLUMNS, 0.5)
    recipe = {"learning": {"epochs": 7, "batch_size": 1, "rule": "adam", "loss": "mse"}}
    recipe |= {
        "data": {"n_test": 10_000},
        "circuit": {"filters": 2, "hidden": 3, "classes": 4, "seed": 0},
    }
    record = {"recipe": recipe, "accuracy": accuracy, "evaluation": {"n": 1000}}
    record["history"] = {"test_accuracy": [0.8, 0.955, 0.9], "epoch_kept": 1}
    anatomy = {"wiring": "full", "fan_in": 784, "granule_cells": 9, "ltd": True, "seed": 0}
    circuit = record | {"recipe": recipe | {"circuit": anatomy}}
    rows = TABLES["table7"].rows
    lines = {
        "CNN": tables.Line([record], rows["Baseline CNN"]),
        "FC": tables.Line([circuit], rows["FC m=1,000"]),
    }
    table, note, _ = tables.write("t", "T", lines, tmp_path, tables.draw_table)
    assert "77.6 * " in table and "20.4 **" in table and "77.6 **" not in table
    assert "marked * are of a network that the paper does not describe." in note
    assert "marked ** are table 6's figures again" in note


def test_unknown_tables_and_rows_are_named(few, tmp_path):
    with pytest.raises(ArgumentError, match="name: got 'table4'"):
        reproduce("table4", few, out=tmp_path)
    with pytest.raises(ArgumentError, match="rows: got 'RC k=3', expected one of 'Baseline CNN'"):
        reproduce("table6", few, out=tmp_path, rows=["RC k=3"])
    assert list(tmp_path.iterdir()) == []


def test_any_table_at_its_own_batch_size(few, tmp_path):
    rows = ["FC + LTD m=1,000", "RC k=784", "RC + LTD k=2"]
    done = reproduce("table7", few, out=tmp_path, limit=10, epochs=1, rows=rows)
    records = {
        record["recipe"]["model"]: record for record in results.read_all(tmp_path / "records")
    }
    assert set(records) == set(rows)
    assert {record["recipe"]["learning"]["batch_size"] for record in records.values()} == {1}
    circuits = {name: record["recipe"]["circuit"] for name, record in records.items()}
    assert circuits["RC k=784"]["fan_in"] == 64 and circuits["RC k=784"]["wiring"] == "random"
    assert circuits["RC + LTD k=2"]["ltd"] and circuits["RC + LTD k=2"]["fan_in"] == 2
    assert done.table.count("ours") == 3 and (tmp_path / "table7.csv").exists()


def as_printed(table):
    """The lines of a table of the paper, as if ours were what it printed."""

    def line(row):
        record = {"recipe": {"circuit": vars(row)}}  # of the baseline: neither wiring nor size
        record["accuracy"] = {"worst_0.1": 0.01} | {k: v / 100 for k, v in row.accuracy.items()}
        record["history"] = {"test_accuracy": [row.accuracy["clean"] / 100], "epoch_kept": 0}
        return tables.Line([record], row)

    return {name: line(row) for name, row in TABLES[table].rows.items()}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_long_table_is_drawn_as_curves():
    figure = tables.draw_table("t", as_printed("table6"))
    full, random = figure.axes
    assert full.get_xlabel() == "granule cells m, FC" and random.get_xlabel() == "fan-in k, RC"
    drawn = {line.get_label(): line for line in random.get_lines()}
    k, shares = drawn["PGD 0.1, with LTD"].get_data()
    assert list(k) == [1, 2, 4, 10, 50, 200, 784]
    assert shares == pytest.approx([33.6, 57.3, 55.8, 24.4, 17.6, 14.8, 13.2])
    assert list(drawn["worst case 0.1, without LTD"].get_ydata()) == [1.0] * 7
    assert full.get_ylim() == random.get_ylim() == (0, 100)
    attacks = ["no attack", "FGSM 0.1", "PGD 0.1", "worst case 0.1"]
    assert legend(figure) == [*attacks, "without LTD", "with LTD", "the paper"]


def crosses(axes):
    """The sizes at which the paper's figures are drawn, by marker."""
    lines = [line for line in axes.get_lines() if line.get_marker() in "x+"]
    return {
        mark: sorted({x for line in lines if line.get_marker() == mark for x in line.get_xdata()})
        for mark in "x+"
    }


def test_figure_2_has_three_panels_of_fc_above_three_of_rc():
    figure = tables.draw_figure("t", as_printed("table6"))
    rows = [figure.axes[:3], figure.axes[3:]]
    ms = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000]
    grids = [("granule cells m, FC", ms), ("fan-in k, RC", [1, 2, 4, 10, 50, 200, 784])]
    for row, (label, sizes) in zip(rows, grids, strict=True):
        assert [axes.get_title("left") for axes in row] == ["a  no attack", "b  FGSM", "c  PGD"]
        for axes in row:
            assert axes.get_xlabel() == label and axes.get_xscale() == "log"
            assert crosses(axes) == {"x": sizes, "+": []}
    assert [axes.get_ylim() for axes in figure.axes] == [(80, 100), (0, 100), (0, 100)] * 2
    b, c = rows[1][1:]
    drawn = {line.get_label(): line for line in b.get_lines() if line.get_marker() == "o"}
    assert list(drawn) == [f"eps {eps}, with{ltd} LTD" for ltd in ("out", "") for eps in (0.1, 0.3)]
    styles = [line.get_linestyle() for line in drawn.values()]
    assert styles == ["--", "--", "-", "-"]
    colours = {name.partition(",")[0]: line.get_color() for name, line in drawn.items()}
    assert len(set(colours.values())) == 2
    shares = drawn["eps 0.3, with LTD"].get_ydata()
    assert shares == pytest.approx([33.1, 19.4, 23.4, 24.5, 29.3, 27.4, 20.4])
    drawn = {line.get_label(): line for line in c.get_lines() if line.get_marker() == "o"}
    assert list(drawn["worst case 0.1, with LTD"].get_ydata()) == [1.0] * 7
    assert drawn["eps 0.1, with LTD"].get_color() == colours["eps 0.1"]
    attacks = ["no attack", "eps 0.1", "eps 0.3", "worst case 0.1"]
    assert legend(figure) == [*attacks, "without LTD", "with LTD", "the paper"]


def test_figure_3_says_which_of_the_papers_figures_are_no_measurements():
    figure = tables.draw_figure("t", as_printed("table7"))
    full, random = crosses(figure.axes[1]), crosses(figure.axes[4])
    assert full["x"] == random["+"] == [] and len(full["+"]) == 8 and len(random["x"]) == 7
    again = "the paper: table 6's figures again, not measured at batch 1"
    assert legend(figure)[-2:] == ["the paper", again]


def test_a_figure_after_its_table_runs_nothing_again(few, tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "DIGITS_SHARE", 2000)
    rows = ["FC + LTD m=1,000", "RC k=4"]
    settings = {"seeds": [0, 1], "out": tmp_path, "limit": 5, "epochs": 1}
    reproduce("table6", few, rows=rows, **settings)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "train_once", lambda *args: pytest.fail("trains again"))
        done = reproduce("figure2", few, rows=rows, **settings)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    new = {path.name for path in after.keys() - before.keys()}
    assert new == {"figure2.csv", "figure2.md", "figure2.png"}
    assert {path: after[path] for path in before} == before
    assert new <= {path.name for path in done.files}
    of_table, of_figure = ((tmp_path / f"{n}.csv").read_text() for n in ("table6", "figure2"))
    assert of_figure == of_table
    said = (tmp_path / "figure2.md").read_text()
    assert said.startswith("# Figure 2, as we read it: table 6 on digits, batch 50\n")


def test_figure_3_learns_picture_by_picture_and_has_no_baseline(few, tmp_path):
    done = reproduce("figure3", few, out=tmp_path, limit=5, epochs=1, rows=["RC k=1"])
    (record,) = results.read_all(tmp_path / "records")
    assert record["recipe"]["learning"]["batch_size"] == 1 and "at batch 1," in done.note
    with pytest.raises(ArgumentError, match="rows: got 'Baseline CNN', expected one of 'FC m=1,0"):
        reproduce("figure3", few, out=tmp_path, rows=["Baseline CNN"])
