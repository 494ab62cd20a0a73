import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cerebsim import Square, backends, checkpoint, cli, cli_examine, paper, results, trials
from cerebsim.adversarial import AdversarialSet
from cerebsim.cli import main, parse
from cerebsim.config import PRESETS

SMALL = ["--data", "digits", "--granule-cells", "500", "--epochs", "2"]


@pytest.fixture(autouse=True)
def one_thread(two_threads, monkeypatch):
    """On networks as small as these, threads only wait for each other."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main(["train", *SMALL, "--seed", "3", "--out", str(folder)]) == 0
    return folder


def test_train_leaves_a_checkpoint_and_a_record(trained):
    record = results.read(trained / "train.json")
    circuit = record["recipe"]["circuit"]
    assert (circuit["granule_cells"], circuit["mossy_fibers"], circuit["seed"]) == (500, 64, 3)
    assert record["recipe"]["learning"]["seed"] == 3
    assert record["recipe"]["data"]["n_train"] == 1437
    assert record["history"]["test_accuracy"][-1] > 0.5
    assert (trained / checkpoint.NAME).exists()


def test_the_same_training_again_is_finished_already(trained, capsys, monkeypatch):
    before = (trained / "train.json").stat().st_mtime_ns
    monkeypatch.setattr(trials.Cerebellum, "fit", lambda *a, **k: pytest.fail("learns again"))
    code, out, _ = run(capsys, "train", *SMALL, "--seed", 3, "--out", trained)
    assert code == 0 and "was finished already" in out
    assert (trained / "train.json").stat().st_mtime_ns == before


def test_another_training_does_not_overwrite_this_one(trained, capsys):
    code, _, err = run(capsys, "train", *SMALL, "--seed", 4, "--out", trained)
    assert code == 2 and "holds another trial: circuit: seed is 3 there, 4 asked for" in err


def test_attack_prints_every_attack_and_keeps_a_record(trained, capsys, monkeypatch):
    words = ["attack", trained, "--eps", 0.05, 0.2, "--limit", 30]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "30 test pictures of digits" in out
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()]
    table = {line[0]: line[1:] for line in table if line}
    assert table["attack"] == ["eps 0.05", "eps 0.2"]
    assert len(table) == 10
    (path,) = (trained / "attacks").iterdir()
    accuracy = results.read(path)["accuracy"]
    assert table["worst case over all of these"] == [
        f"{100 * accuracy['worst_0.05']:.2f}", f"{100 * accuracy['worst_0.2']:.2f}"
    ]  # fmt: skip
    assert accuracy["worst_0.2"] < accuracy["clean"]
    monkeypatch.setattr(cli_examine, "attack_all", lambda *a: pytest.fail("attacks again"))
    assert run(capsys, *words) == (code, out, "")


def test_saved_pictures_are_verified_from_their_file(trained, tmp_path, capsys):
    file = tmp_path / "sets" / "attacked.safetensors"
    words = ["attack", trained, "--eps", 0.05, 0.1, "--limit", 30, "--save", file]
    code, out, err = run(capsys, *words)
    assert code == 0 and f"cerebsim verify {file} --model {trained}" in out, err
    (worst,) = [line for line in out.splitlines() if "worst case" in line]
    shares = [cell.strip() for cell in worst.split("|")[2:4]]
    code, out, err = run(capsys, "verify", file, "--model", trained)
    assert code == 0, err
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[2:]]
    assert [row[-1] for row in table[3:5]] == shares
    assert float(table[3][1]) <= 0.05 + 1e-6
    file.unlink()  # the record is there: the pictures are made again
    assert run(capsys, *words)[0] == 0 and file.exists()

    cheat = AdversarialSet.load(file)
    cheat.attacked[0.05] = cheat.attacked[0.1]
    cheat.save(file)
    code, out, err = run(capsys, "verify", file, "--model", trained)
    assert code == 2 and "eps 0.05: a pixel moved by 0.1" in err and "nan" in out


def test_attack_with_one_loss(trained, capsys):
    code, out, _ = run(capsys, "attack", trained, "--eps", 0.1, "--loss", "dlr", "--limit", 10)
    assert code == 0 and "PGD on dlr" in out and "margin" not in out


def test_a_strong_attack_is_recorded_with_its_own_recipe(trained, capsys, monkeypatch):
    class Nothing:
        """pyautoattack without its searches."""

        def __init__(self, model, **settings):
            self.apgd_targeted, self.fab = SimpleNamespace(), SimpleNamespace()

        def run_standard_evaluation(self, x, y, *, batch_size):
            return x, y

    monkeypatch.setitem(sys.modules, "pyautoattack", SimpleNamespace(AutoAttack=Nothing))
    monkeypatch.setattr(cli_examine, "Square", partial(Square, queries=100))
    words = ["attack", trained, "--eps", 0.1, "--limit", 25]
    plain, strong = (run(capsys, *words, *more)[1] for more in ((), ("--strong",)))
    paths = [Path(out.rpartition("Record: ")[2].strip()) for out in (plain, strong)]
    records = [results.read(path) for path in paths]
    assert set(records[1]["recipe"]["attacks"]) - set(records[0]["recipe"]["attacks"]) == {
        "square", "autoattack"
    }  # fmt: skip
    assert records[1]["recipe"]["attacks"]["square"]["queries"] == 100
    accuracy = records[1]["accuracy"]
    assert accuracy["autoattack_0.1"] == accuracy["clean"] > accuracy["square_0.1"]
    assert accuracy["worst_0.1"] <= records[0]["accuracy"]["worst_0.1"]
    (line,) = [line for line in strong.splitlines() if "Square, without any gradient" in line]
    assert f"| {100 * accuracy['square_0.1']:.2f} " in line
    assert "AutoAttack, standard" in strong and "Square" not in plain


def test_a_strong_attack_without_pyautoattack(trained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    code, _, err = run(capsys, "attack", trained, "--strong")
    assert code == 2 and "pip install cerebsim[attacks]" in err


def test_analyze_prints_draws_and_keeps_a_record(trained, capsys, monkeypatch):
    words = ["analyze", trained, "--limit", 50]
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert "50 test pictures of digits" in out and "| dimension " in out
    record, figure = sorted((trained / "analysis").iterdir())
    assert figure.read_bytes()[:4] == b"\x89PNG"
    layers = results.read(record)["layers"]
    assert layers["MF"]["n"] == 64 and 1 < layers["GC"]["dimension"] < 49
    assert f"{layers['GC']['dimension']:.1f}" in out
    monkeypatch.setattr(cli_examine, "analyze", lambda *a: pytest.fail("analyzes again"))
    assert run(capsys, *words) == (code, out, "")


def test_a_circuit_without_its_record_needs_the_data_named(trained, tmp_path, capsys):
    (tmp_path / checkpoint.NAME).write_bytes((trained / checkpoint.NAME).read_bytes())
    code, _, err = run(capsys, "attack", tmp_path, "--limit", 10)
    assert code == 2 and "Pass --data digits" in err
    code, out, _ = run(capsys, "attack", tmp_path, "--limit", 10, "--data", "digits")
    assert code == 0 and "10 test pictures" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "cifar"], "data: got 'cifar'"),
        (["train", "--data", "folder:nowhere"], "is not a folder"),
        (["train", "--granule-cells", "0"], "granule_cells: got 0"),
        (["train", "--fan-in", "65"], "fan_in: got 65"),
        (["train", "--purkinje-cells", "0"], "purkinje_cells: got 0"),
        (["train", "--epochs", "0"], "epochs: got 0"),
        (["train", "--learning-rate", "nan"], "learning_rate: got nan"),
        (["train", "--replacement", "--wiring", "full"], "replacement: got True"),
        (["attack", "nowhere"], "nowhere"),
        (["reproduce", "table2", "--limit", "0", "--seeds", "0"], "limit: got 0"),
        (["reproduce", "figure2", "--rows", "Baseline CNN"], "rows: got 'Baseline CNN'"),
        (["scan", "width", "--fan-in", "2", "4"], "fan_in: got [2, 4], expected one value"),
        (["scan", "sparsity", "--fan-in", "0"], "fan_in: got 0"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert code == 2 and out == ""
    said = [line for line in err.splitlines() if line.startswith("cerebsim: ")]
    assert len(said) == 1 and message in said[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [["train", "--foo"], ["fly"], ["attack"], ["reproduce", "table9"], ["scan", "depth"]]
)
def test_a_flag_that_is_not_there_is_exit_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["reproduce", "scan", "train", "attack", "verify", "transfer", "masking", "analyze", "doctor"],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    if command == "reproduce":
        said = " ".join(out.split())
        assert "our reading: we have the paper's numbers and not its drawings" in said
    if command == "train":
        for flag in ("--granule-cells", "--no-ltd", "--batch-size", "--preset", "--data-dir"):
            assert flag in out
        assert "--mossy-fibers" not in out


def test_the_preset_gives_what_the_line_does_not(tmp_path, capsys, monkeypatch):
    def settings(*words):
        monkeypatch.setattr(cli.Train, "run", lambda self: seen.append(self))
        seen = []
        assert main(["train", *words]) == 0
        return seen[0]

    paper = settings("--preset", "paper", "--checkpoint", "last", "--batch-size", "1")
    assert paper.replacement and paper.stop_at == PRESETS["paper"].learning["stop_at"]
    assert paper.checkpoint == "last" and paper.batch_size == 1
    assert not settings("--preset", "paper", "--wiring", "full").replacement
    assert not settings().replacement and settings().checkpoint == "last"


def test_reproduce_prints_the_table_and_where_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "DIGITS_SHARE", 200)
    words = ["--data", "digits", "--seeds", 0, "--limit", 10, "--epochs", 1, "--out", tmp_path]
    code, out, err = run(capsys, "reproduce", "table2", *words)
    assert code == 0, err
    assert out.count("| ours ") == 5
    assert "Cerebellum, seed 0" in err  # the progress bar
    for name in ("table2.md", "table2.png", "pictures.png", "records"):
        assert f"  {tmp_path / name}\n" in out
    (line,) = [line for line in out.splitlines() if "cerebsim attack" in line]
    code, out, _ = run(capsys, *line.split()[1:], "--limit", 5)
    assert code == 0 and "worst case" in out


def test_a_figure_and_a_scan_use_what_was_run_for_a_table(tmp_path, capsys, monkeypatch):
    """The figure by itself: its folder is its table's unless --out says otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper, "DIGITS_SHARE", 200)
    words = ["--limit", 5, "--epochs", 1]
    code, out, err = run(capsys, "reproduce", "figure2", "--rows", "RC k=1", "RC k=2", *words)
    assert code == 0 and "RC k=2, seed 0" in err
    for file in ("runs/table6-digits/figure2.csv", "runs/table6-digits/figure2.png"):
        assert f"  {file}\n" in out and (tmp_path / file).exists()
    monkeypatch.setattr(trials, "train_once", lambda *args: pytest.fail("trains again"))
    words += ["--fan-in", 1, 2, "--no-ltd", "--out", "runs/table6-digits"]
    code, out, err = run(capsys, "scan", "sparsity", *words)
    assert code == 0 and out.count("| ours ") == 2
    assert "  runs/table6-digits/sparsity.png\n" in out and "\nNext:\n  cerebsim attack runs" in out


def test_doctor_names_what_is_there_and_what_is_not(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(backends, "status", lambda: {"reference": None, "cuda": "no nvcc"})
    code, out, _ = run(capsys, "doctor", "--data-dir", tmp_path)
    assert code == 0
    assert "reference: available" in out and "cuda: not available: no nvcc" in out
    assert "mnist: not on this machine" in out and "digits: embedded" in out
    assert out.count("G multiply-adds/s") == 2


def test_ctrl_c_keeps_the_checkpoint_and_the_same_command_goes_on(tmp_path):
    """A training interrupted in a process of its own, then finished: equal to one in one go."""

    def words(out):
        settings = ["--granule-cells", "5000", "--epochs", "60", "--out", str(tmp_path / out)]
        return ["train", *settings]

    command = [sys.executable, "-m", "cerebsim", *words("stopped")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "stopped" / checkpoint.NAME).exists():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"stopped. {tmp_path / 'stopped'} keeps what was learned" in err
    assert "Traceback" not in err
    assert not (tmp_path / "stopped" / "train.json").exists()

    accuracies = []
    for out in ("stopped", "whole"):
        assert main(words(out)) == 0
        history = results.read(tmp_path / out / "train.json")["history"]
        accuracies.append((history["train_accuracy"], history["test_accuracy"]))
    assert accuracies[0] == accuracies[1]


def test_parse_reads_the_commands_of_the_issue():
    train = parse(
        "train --data mnist --data-dir d --granule-cells 200000 --fan-in 4 --ltd --epochs 10"
        " --batch-size 50 --seed 0 --out runs/cerebellum".split()
    )
    assert (train.granule_cells, train.fan_in, train.ltd, train.data_dir) == (200_000, 4, True, "d")
    attack = parse("attack runs/cerebellum --eps 0.1 0.3".split())
    assert attack.eps == (0.1, 0.3) and attack.run_folder.name == "cerebellum"
    table = parse("reproduce table2 --data mnist --data-dir d --seeds 0".split())
    assert table.seeds == (0,) and table.limit is None
    scan = parse("scan width --data mnist --granule-cells 1000 10000000 --fan-in 4".split())
    assert scan.granule_cells == (1_000, 10_000_000) and scan.fan_in == (4,) and scan.ltd
    assert not parse("scan sparsity --no-ltd".split()).ltd


def test_the_module_is_the_command():
    run = subprocess.run(
        [sys.executable, "-m", "cerebsim", "attack", os.devnull], capture_output=True, text=True
    )
    assert run.returncode == 2 and run.stderr.startswith("cerebsim: ")
