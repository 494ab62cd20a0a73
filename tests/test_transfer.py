import pytest
import torch

from cerebsim import Cerebellum, results, transfer
from cerebsim.attacks import PGD
from cerebsim.baselines import CNN
from cerebsim.cli import main
from cerebsim.data import load_data
from cerebsim.errors import ArgumentError
from cerebsim.evaluation import accuracy

ATTACK = PGD(0.1, steps=10)


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    """On networks as small as these, threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two circuits trained by the command, of different seeds, and one for other pictures."""
    torch.set_num_threads(1)
    parent = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        words = ["train", "--data", "digits", "--granule-cells", "500", "--epochs", "2"]
        assert main([*words, "--seed", str(seed), "--out", str(parent / f"seed{seed}")]) == 0
    Cerebellum(16, 20).save(parent / "small")
    CNN(1, 8, 8).save(parent / "cnn")
    return parent


@pytest.fixture(scope="module")
def nets(folders):
    return {f"seed{seed}": Cerebellum.load(folders / f"seed{seed}") for seed in (0, 1)}


@pytest.fixture(scope="module")
def pictures():
    return load_data("digits").test.first(60)


def test_the_matrix_is_the_attack_on_the_source_seen_by_the_target(nets, pictures):
    done = []
    found = transfer.matrix(nets, pictures, ATTACK, progress=done.append)
    assert sum(done) == 2 * len(pictures)
    assert found.clean == {name: accuracy(net, pictures) for name, net in nets.items()}
    for source, net in nets.items():
        result = ATTACK.attack(net, *pictures)
        assert found.attacked[source][source] == result.accuracy < found.clean[source] - 0.1
        for target, other in nets.items():
            seen = accuracy(other, (result.adversarial, pictures.y))
            assert found.attacked[source][target] == seen >= found.attacked[target][target]


def test_a_network_and_its_copy_fall_for_the_same_pictures(nets, pictures):
    found = transfer.matrix({"a": nets["seed0"], "b": nets["seed0"]}, pictures, ATTACK)
    assert found.attacked["a"] == found.attacked["b"]
    assert found.attacked["a"]["a"] == found.attacked["a"]["b"]


def test_any_modules_will_do_and_keep_their_mode(nets, pictures):
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).train()
    found = transfer.matrix(nets | {"plain": plain}, pictures, ATTACK)
    assert plain.training and list(found.attacked) == ["seed0", "seed1", "plain"]


def test_the_figure_shows_every_number(nets, pictures):
    found = transfer.matrix(nets, pictures, ATTACK)
    axes, _ = transfer.draw("t", found).axes
    shown = [text.get_text() for text in axes.texts]
    rows = [found.clean, *found.attacked.values()]
    assert shown == [f"{100 * row[name]:.1f}" for row in rows for name in nets]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no attack", *nets]


def test_bad_networks_are_named(nets, pictures):
    with pytest.raises(ArgumentError, match="nets: got 1 network, expected at least two"):
        transfer.matrix({"a": nets["seed0"]}, pictures, ATTACK)
    with pytest.raises(ArgumentError, match="nets: got 'b', which does not take .*16 values"):
        transfer.matrix(nets | {"b": Cerebellum(16, 20)}, pictures, ATTACK)
    with pytest.raises(ArgumentError, match="nets: got 'b', which does not take"):
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(65, 10))
        transfer.matrix(nets | {"b": linear}, pictures, ATTACK)
    with pytest.raises(ArgumentError, match=r"attack: got eps=\(0.1, 0.3\), expected one eps"):
        transfer.matrix(nets, pictures, PGD([0.1, 0.3]))


def test_the_command_prints_draws_and_keeps_a_record(folders, tmp_path, capsys, monkeypatch):
    names = ["seed1", "cnn", "seed0"]
    words = ["--limit", "20", "--eps", "0.05", "--out", str(tmp_path)]
    line = ["transfer", *(str(folders / name) for name in names), *words]
    assert main(line) == 0
    out, err = capsys.readouterr()
    figure, path = sorted(tmp_path.iterdir(), key=lambda path: path.suffix == ".json")
    assert figure.read_bytes()[:4] == b"\x89PNG" and f"Record: {path}" in out
    record = results.read(path)
    assert record["recipe"]["attack"]["eps"] == 0.05 and record["recipe"]["limit"] == 20
    table = [[cell.strip() for cell in row.split("|")[1:-1]] for row in out.splitlines()]
    table = {row[0]: row[1:] for row in table if row}
    assert table["made on, shown to"] == names
    for source, shares in {"no attack": record["clean"], **record["attacked"]}.items():
        assert table[source] == [f"{100 * shares[name]:.2f}" for name in names]
    monkeypatch.setattr(transfer, "matrix", lambda *a, **k: pytest.fail("attacks again"))
    assert main(line) == 0 and capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["seed0"], "run_folders: got 1 folder, expected at least two"),
        ([], "run_folders: got 0 folders"),
        (["seed0", "seed0"], "run_folders: got one folder twice"),
        (["seed0", "nowhere"], "nowhere"),
        (["seed0", "small"], "nets: got 'small', which does not take pictures of shape (1, 8, 8)"),
        (["small", "seed0"], "Pass --data digits"),
    ],
)
def test_bad_folders_are_one_message(folders, names, message, tmp_path, capsys):
    words = ["transfer", *(str(folders / name) for name in names), "--out", str(tmp_path / "t")]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))
