import errno
import json
import os
import subprocess
import sys

import pytest

from cerebsim.errors import CerebsimError
from cerebsim.results import (
    environment,
    git_commit,
    markdown,
    read_all,
    run_once,
    run_once_at,
    trial_path,
    write_text,
)

RECIPE = {"name": "Base + LTD, seed 0", "seed": 0, "config": {"fan_in": 4, "threshold": 0.1}}


def test_a_trial_runs_once(tmp_path):
    runs = []

    def run():
        runs.append(1)
        return {"accuracy": 0.1 + 0.2}

    first = run_once(tmp_path / "new" / "folder", RECIPE, run)
    second = run_once(tmp_path / "new" / "folder", RECIPE, run)
    assert len(runs) == 1 and first == second
    assert second["accuracy"] == 0.1 + 0.2 and second["recipe"] == RECIPE
    assert read_all(tmp_path / "new" / "folder") == [first]


def test_equal_recipes_have_one_file_and_others_another(tmp_path):
    path = trial_path(tmp_path, RECIPE)
    assert path.name.startswith("base-ltd-seed-0-") and path.suffix == ".json"
    shuffled = dict(reversed(RECIPE.items()))
    assert trial_path(tmp_path, shuffled) == path
    changed = {**RECIPE, "config": {"fan_in": 4, "threshold": 0.2}}
    assert trial_path(tmp_path, changed) != path


def test_the_file_name_does_not_change_between_processes(tmp_path):
    code = f"from cerebsim.results import trial_path; print(trial_path('x', {RECIPE!r}))"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert other.stdout.strip() == str(trial_path("x", RECIPE)), other.stderr


def test_a_file_with_another_recipe_is_not_taken_for_this_one(tmp_path):
    path = tmp_path / "train.json"
    run_once_at(path, RECIPE, dict)
    other = {**RECIPE, "config": {"fan_in": 5, "threshold": 0.1}}
    message = "config: fan_in is 4 there, 5 asked for"
    with pytest.raises(CerebsimError, match=message):
        run_once_at(path, other, dict)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 99, "recipe": {"name": "x"}}']
)
def test_a_damaged_record_is_named(tmp_path, text):
    path = trial_path(tmp_path, RECIPE)
    path.write_text(text)
    with pytest.raises(CerebsimError, match=f"{path.name} is not a readable record.*Delete it"):
        run_once(tmp_path, RECIPE, dict)


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CerebsimError, match="table.csv cannot be written.*No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CerebsimError, match="x.json cannot be written"):
        write_text(tmp_path / "file" / "x.json", "{}")


def test_a_failing_trial_leaves_nothing(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_once(tmp_path, RECIPE, fail)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_json_has_not_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        run_once(tmp_path, RECIPE, lambda: {"accuracy": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_the_environment_says_what_ran():
    import numpy
    import torch

    env = environment()
    assert env["torch"] == torch.__version__ and env["numpy"] == numpy.__version__
    assert env["threads"] == torch.get_num_threads() and env["cpu"]
    assert json.loads(json.dumps(env)) == env


def test_the_commit_is_not_that_of_a_folder_around_the_package(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    git("init", "-q")
    git("-c", "user.name=x", "-c", "user.email=x@y", "commit", "--allow-empty", "-qm", "x")
    head = subprocess.run(
        ["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    package = "cerebsim.results.__file__"
    monkeypatch.setattr(package, str(tmp_path / "lib" / "cerebsim" / "results.py"))
    git_commit.cache_clear()
    assert git_commit() is None
    monkeypatch.setattr(package, str(tmp_path / "cerebsim" / "results.py"))
    git_commit.cache_clear()
    assert git_commit() == head
    git_commit.cache_clear()


def test_markdown_is_aligned():
    assert markdown(["model", "%"], [["Base", "36.8"], ["Base + RC", ""]]) == (
        "| model     | %    |\n| --------- | ---- |\n| Base      | 36.8 |\n| Base + RC |      |\n"
    )
