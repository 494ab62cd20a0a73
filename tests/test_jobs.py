import os
import signal
import subprocess
import sys
import time

import pytest

from cerebsim import jobs, paper, results, trials
from cerebsim.data import Data, load_data
from cerebsim.errors import ArgumentError, CerebsimError
from cerebsim.paper import reproduce

COMMAND = """
import sys
from cerebsim import paper
from cerebsim.data import Data, load_data
digits = load_data("digits")
few = Data("digits", digits.train.first(100), digits.test.first(40), digits.classes, "few")
paper.DIGITS_SHARE = 500
out, jobs = sys.argv[1], int(sys.argv[2])
rows = ["Base + RC", "Cerebellum"]
paper.reproduce("table2", few, [0, 1], out, limit=5, epochs=1, rows=rows, jobs=jobs)
"""
ROWS = ["Base + RC", "Cerebellum"]


@pytest.fixture
def few(monkeypatch):
    digits = load_data("digits")
    monkeypatch.setattr(paper, "DIGITS_SHARE", 500)
    return Data("digits", digits.train.first(100), digits.test.first(40), digits.classes, "few")


def start(out, count):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(out), str(count)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def records(out):
    found = results.read_all(out / "records")
    return {(r["recipe"]["model"], r["recipe"]["circuit"]["seed"]): r["started"] for r in found}


def test_processes_share_a_folder_and_run_nothing_twice(few, tmp_path, monkeypatch):
    """Two commands at once, one of them with two processes."""
    running = [start(tmp_path, 2), start(tmp_path, 1)]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    before = records(tmp_path)
    assert len(before) == 4
    assert not list(tmp_path.rglob("*.lock"))
    monkeypatch.setattr(trials, "train_once", lambda *args: pytest.fail("trains again"))
    done = reproduce("table2", few, [0, 1], tmp_path, limit=5, epochs=1, rows=ROWS)
    assert records(tmp_path) == before and done.table.count("ours") == 2


def test_a_trial_whose_process_was_killed_is_run_by_another(few, tmp_path):
    killed = start(tmp_path, 1)
    while not list(tmp_path.rglob("*.lock")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    reproduce("table2", few, [0, 1], tmp_path, limit=5, epochs=1, rows=ROWS)
    assert len(records(tmp_path)) == 4
    assert not list(tmp_path.rglob("*.lock"))


def test_only_one_process_at_a_time_has_a_trial(tmp_path):
    recipe, seen = {"name": "slow"}, []

    def run():
        seen.append(results.run_once(tmp_path, recipe, lambda: pytest.fail("twice"), wait=False))
        return {"found": 1}

    assert results.run_once(tmp_path, recipe, run)["found"] == 1
    assert seen == [None]
    assert (
        results.run_once(tmp_path, recipe, lambda: pytest.fail("again"), wait=False)["found"] == 1
    )


def test_a_trial_that_failed_can_be_run_again(tmp_path):
    def fail():
        raise CerebsimError("no")

    for _ in range(2):
        with pytest.raises(CerebsimError, match="^no$"):
            results.run_once(tmp_path, {"name": "t"}, fail)
    assert results.run_once(tmp_path, {"name": "t"}, lambda: {"found": 2})["found"] == 2


def test_a_process_that_fails_is_told(few, tmp_path):
    """Its trial's record is a folder, so it cannot be written."""
    with pytest.raises(ArgumentError, match="jobs: got 0"):
        reproduce("table2", few, out=tmp_path, jobs=0)
    trial = []

    def stop(trials, count, title):
        trial.extend(trials)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "run_all", stop)
        with pytest.raises(KeyboardInterrupt):
            reproduce("table2", few, out=tmp_path, limit=5, epochs=1, rows=["Cerebellum"])
    trial[0].record.mkdir(parents=True)
    with pytest.raises(CerebsimError, match="1 of 1|2 of 2 processes failed"):
        jobs._share(trial, 2, jobs.tqdm(total=1, disable=True))
