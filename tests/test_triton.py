"""The Triton kernels against the reference in float64: in Triton's interpreter, and on a GPU.

Every test that takes `backend` runs twice: on CPU tensors, interpreted, and (marker gpu) compiled
on a CUDA device. Ahead-of-time compilation needs no GPU.
"""

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from test_learning import Task
from test_ops import Case
from tolerances import BACKEND, ROUNDED_ONCE, SMOOTH_LEARNING, assert_close_to_largest

import cerebsim
from cerebsim import reference
from cerebsim.errors import LearningInterrupted
from cerebsim.wiring import Wiring

triton = pytest.importorskip("triton")  # before TRITON_INTERPRET is set: see interpreted()


class Backend(NamedTuple):
    kernels: ModuleType
    device: str


@pytest.fixture(scope="session")
def interpreted() -> ModuleType:
    """A copy of cerebsim.kernels of its own, decorated while TRITON_INTERPRET was set.

    Triton and the package's real kernels, imported or not, stay as they are for the other tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setattr(cerebsim, "kernels", None, raising=False)
        for name in _modules():
            patch.delitem(sys.modules, name)
        module = importlib.import_module("cerebsim.kernels")
        for name in _modules():
            del sys.modules[name]
    return module


def _modules() -> list[str]:
    return [name for name in sys.modules if f"{name}.".startswith("cerebsim.kernels.")]


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def backend(request, monkeypatch) -> Backend:
    if request.param == "cuda":
        if os.environ.get("TRITON_INTERPRET"):
            pytest.skip("TRITON_INTERPRET is set")
        return Backend(importlib.import_module("cerebsim.kernels"), "cuda")
    from triton.runtime.interpreter import InterpretedFunction

    # Triton's own functions were compiled ones when triton was imported.
    monkeypatch.setattr(triton.language, "sum", InterpretedFunction(triton.language.sum.fn))
    return Backend(request.getfixturevalue("interpreted"), "cpu")


def moved(case: Case, device: str) -> Case:
    case.J = case.J.to(device)
    for name, value in vars(case).items():
        if isinstance(value, torch.Tensor):
            setattr(case, name, value.to(device))
    return case


def check(backend: Backend, case: Case, dtype=torch.float32) -> None:
    """The five operations against the reference in float64, on inputs rounded to dtype."""
    case = moved(case, backend.device)
    for name, value in vars(case).items():
        if isinstance(value, torch.Tensor):
            setattr(case, name, value.to(dtype))
    expected = case.results(reference, torch.float64)
    for name, value in case.results(backend.kernels, dtype).items():
        assert value.dtype == dtype and value.is_contiguous()
        try:
            assert_close_to_largest(value, expected[name], BACKEND + ROUNDED_ONCE[dtype])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


MANY = {"k": 50, "d": 2, "replacement": True}  # the same fibre 25 times
CASES = [
    {"B": 33, "m": 1000, "k": 2, "c": 3},
    {"B": 7, "m": 1000, "k": 4, "c": 10},
    {"B": 1, "m": 1000, "k": 1, "c": 17},
    {"B": 7, "m": 63, "c": 3} | MANY,
    {"B": 33, "m": 63, "k": 4, "c": 17},
    {"B": 1, "m": 63, "k": 2, "c": 10},
    {"B": 33, "m": 1, "c": 10} | MANY,
    {"B": 7, "m": 1, "k": 4, "c": 3},
    {"B": 1, "m": 1, "k": 1, "c": 1},
    {"B": 7, "m": 63, "k": 4, "c": 37},
    {"B": 0, "m": 63},
    {"B": 7, "m": 63, "threshold": 0.25, "mu": False},
    {"B": 33, "m": 63, "threshold": -0.5, "c": 1},
    {"B": 7, "m": 130, "k": 16, "d": 16, "c": 3},
    {"B": 7, "m": 130, "k": 4, "d": 1, "c": 3, "replacement": True},
    {"B": 7, "m": 130, "k": 3, "c": 3, "wiring": "local"},
]


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_kernels_are_the_reference(backend, sizes):
    check(backend, Case(**{"d": 8} | sizes))


def test_kernels_are_the_reference_with_thresholds_of_single_cells(backend):
    case = Case(B=7, m=130, d=8)
    case.J = Wiring(8, case.J.indices, case.J.weights, 0.25 * (torch.arange(130.0) % 5 - 2))
    check(backend, case)


def test_kernels_are_the_reference_with_wide_indices(backend):
    case = Case(B=3, m=65, d=40_000)
    # In the interpreter a program for each of 40,000 fibres would take minutes: h and y only.
    assert case.J.indices.dtype == torch.int32 and case.J.indices.max() > 2**15
    case = moved(case, backend.device)
    J = case.J.operands[1:]
    for operation, more in (("granule", ()), ("circuit", (case.W, case.mu))):
        got = getattr(backend.kernels, operation)(case.x, *J, *more)
        more = [t.double() for t in more]
        expected = getattr(reference, operation)(case.x.double(), *J, *more)
        assert_close_to_largest(got, expected, BACKEND)
    case = Case(B=3, m=65, d=8)
    case.J = Wiring(8, case.J.indices.int(), case.J.weights)
    check(backend, case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_kernels_take_halves_and_sum_in_float32(backend, dtype):
    check(backend, Case(B=33, m=70, c=3, d=8), dtype)


def test_memory_may_lie_in_any_order(backend):
    case = moved(Case(B=7, m=130, c=3, d=16), backend.device)
    whole = case.results(backend.kernels)
    case.x = torch.zeros(7, 32, device=backend.device)[:, ::2].copy_(case.x)
    for name in ("W", "grad_y", "grad_h"):
        setattr(case, name, getattr(case, name).T.contiguous().T)
    case.mu = torch.zeros(130, 3, device=backend.device)[:, 1].copy_(case.mu)
    case.J = Wiring(16, *(t.T.contiguous().T for t in (case.J.indices, case.J.weights)))
    odd = (case.x, case.W, case.grad_y, case.grad_h, case.mu, case.J.indices, case.J.weights)
    assert not any(t.is_contiguous() for t in odd)
    for name, value in case.results(backend.kernels).items():
        assert torch.equal(value, whole[name]), name


def test_a_picture_does_not_depend_on_its_neighbours(backend):
    case = moved(Case(B=40, m=300, c=3, d=4, threshold=0.25), backend.device)
    whole = case.results(backend.kernels)
    del whole["circuit_backward_W"]  # a sum over the batch
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).to(backend.device)
    x, grad_h, grad_y = case.x, case.grad_h, case.grad_y
    for rows in (order, order[:1], order[1:8]):
        case.x, case.grad_h, case.grad_y = x[rows], grad_h[rows], grad_y[rows]
        part = case.results(backend.kernels)
        for name, value in whole.items():
            assert torch.equal(part[name], value[rows]), (name, len(rows))


def module_of(kernels: ModuleType, function: str) -> ModuleType:
    """The globals that a function of the backend reads, in the copy at hand."""
    return getattr(kernels, function).__wrapped__.__globals__


def test_the_workspace_is_bounded(backend, monkeypatch):
    """Slabs of pictures change no bit; chunks of granule cells only the order of a sum."""
    case = moved(Case(B=40, m=150, c=3, d=4), backend.device)
    whole = case.results(backend.kernels)
    slabs = module_of(backend.kernels, "circuit")["slabs"]
    assert list(slabs(96, 150)) == [(0, 96)]
    monkeypatch.setitem(slabs.__globals__, "WORKSPACE", 64 * 150)
    assert list(slabs(96, 150)) == [(0, 64), (64, 32)]
    monkeypatch.setitem(slabs.__globals__, "WORKSPACE", 31)
    assert list(slabs(96, 150)) == [(0, 32), (32, 32), (64, 32)]
    for name, value in case.results(backend.kernels).items():
        assert torch.equal(value, whole[name]), name
    monkeypatch.setitem(module_of(backend.kernels, "granule_backward"), "CHUNK", 64)
    check(backend, case)


def test_nan_is_not_lost(backend):
    case = moved(Case(B=3, m=130, d=16), backend.device)
    case.x[1] = torch.nan
    J = case.J.operands[1:]
    for value in (
        backend.kernels.granule(case.x, *J),
        backend.kernels.circuit(case.x, *J, case.W, case.mu),
    ):
        assert value[1].isnan().all() and value[[0, 2]].isfinite().all()


# Learning.


def learn(
    kernels, task: Task, order, cuts=(), device="cpu", dtype=torch.float32, tick=None
) -> dict:
    """The state and outputs after `order`, learned in calls that end at `cuts`."""
    state = {n: t if t is None else t.to(device) for n, t in task.fresh(dtype).items()}
    x, t = task.x.to(device, dtype), task.t.to(device, dtype)
    J, size, rule = task.J.to(device).operands[1:], task.learning.batch_size, astuple(task.rule)
    edges, y = [0, *cuts, len(order)], []
    for first, last in zip(edges, edges[1:], strict=False):
        part = order[first:last].to(device)
        y.append(kernels.learn_(x, t, part, *J, *state.values(), size, *rule, tick=tick))
    return state | {"y": torch.cat(y)}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a if a[n] is not None)


def some_order(n: int) -> torch.Tensor:
    return torch.randint(0, 40, (n,), generator=torch.Generator().manual_seed(1))


SMOOTH = {"rms_eps": 0.05, "c": 3}
PLAIN = {"rule": "plain", "learning_rate": 0.02, "c": 3}
LEARNING = [
    SMOOTH,
    PLAIN,
    SMOOTH | {"ltd_update": "after"},
    PLAIN | {"ltd_update": "after", "threshold": -0.25},
    SMOOTH | {"ltd": False, "c": 10},
    PLAIN | {"ltd": False, "c": 1},
    SMOOTH | {"batch_size": 1, "m": 63},
    SMOOTH | {"batch_size": 33, "c": 37, "m": 63, "threshold": 0.25},
    PLAIN | {"m": 600},
]


@pytest.mark.parametrize("settings", LEARNING, ids=str)
def test_learning_is_the_reference(backend, settings):
    task = Task(**settings)
    size = task.learning.batch_size
    order = some_order((4 if size < 16 else 2) * size - size // 3)  # the last batch is shorter
    expected = learn(reference, task, order, dtype=torch.float64)
    got = {n: v if v is None else v.cpu() for n, v in learn(*task_on(backend, task, order)).items()}
    W0 = task.fresh()["W"].double()
    assert_close_to_largest(got["W"].double() - W0, expected["W"] - W0, SMOOTH_LEARNING)
    for name in ("y", "mu", "square_avg"):
        assert (got[name] is None) == (expected[name] is None)
        if got[name] is not None:
            assert_close_to_largest(got[name], expected[name], SMOOTH_LEARNING)


def task_on(backend: Backend, task: Task, order, cuts=()):
    return backend.kernels, task, order, cuts, backend.device


@pytest.mark.parametrize("settings", [SMOOTH, PLAIN | {"ltd_update": "after"}], ids=str)
@pytest.mark.parametrize(
    ("size", "n", "cuts"), [(1, 4, [1]), (7, 24, [7, 21]), (7, 15, [14]), (33, 70, [66])]
)
def test_learning_may_be_cut_at_whole_batches(backend, size, n, cuts, settings):
    task = Task(m=63, batch_size=size, **settings)
    order = some_order(n)
    whole = learn(*task_on(backend, task, order))
    assert same(whole, learn(*task_on(backend, task, order, cuts)))


def test_learning_nothing_changes_nothing(backend):
    task = Task()
    state = learn(*task_on(backend, task, some_order(0)))
    assert state["y"].shape == (0, 10) and torch.equal(state["W"].cpu(), task.fresh()["W"])


def test_learning_in_slabs_changes_no_bit(backend, monkeypatch):
    task, order = Task(m=63, batch_size=70, **SMOOTH), some_order(80)
    whole = learn(*task_on(backend, task, order))
    slabs = module_of(backend.kernels, "circuit")["slabs"]
    monkeypatch.setitem(slabs.__globals__, "WORKSPACE", 32)
    assert same(whole, learn(*task_on(backend, task, order)))


def test_a_tick_sees_progress_and_may_stop_the_learning(backend, monkeypatch):
    monkeypatch.setitem(module_of(backend.kernels, "learn_"), "BATCHES_PER_TICK", 2)
    task, order, seen = Task(m=63, **SMOOTH), some_order(20), []
    learn(*task_on(backend, task, order), tick=seen.append)
    assert seen == [14, 20]

    def interrupt(done):
        raise KeyboardInterrupt

    state = {n: t.to(backend.device) for n, t in task.fresh().items()}
    x, t, at = (v.to(backend.device) for v in (task.x, task.t, order))
    J = task.J.to(backend.device).operands[1:]
    with pytest.raises(LearningInterrupted) as stop:
        backend.kernels.learn_(
            x, t, at, *J, *state.values(), 7, *astuple(task.rule), tick=interrupt
        )
    assert stop.value.done == 14
    got = state | {"y": stop.value.y}
    assert same(got, learn(*task_on(backend, task, order[:14])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_learning_in_halves_keeps_their_dtype(backend, dtype):
    """One batch: mu is rounded when it has moved, and what is computed with it once more."""
    task = Task(m=63, **SMOOTH)
    task.x, task.t = task.x.to(dtype).float(), task.t.to(dtype).float()
    order = some_order(7)
    got = learn(*task_on(backend, task, order), dtype=dtype)
    state = {n: v.double() for n, v in task.fresh(dtype).items()}
    task.fresh = lambda _: state
    expected = learn(reference, task, order, dtype=torch.float64)
    for name, value in got.items():
        assert value.dtype == dtype
        assert_close_to_largest(value.cpu(), expected[name], BACKEND + 2 * ROUNDED_ONCE[dtype])


def test_every_batch_is_learned_once_where_most_are_replays(interpreted, monkeypatch):
    """The way through the batches that a GPU takes, with a graph that is the step itself."""
    learning = module_of(interpreted, "learn_")
    captured, learned, at = [], [], torch.zeros(1, dtype=torch.int64)
    monkeypatch.setitem(learning, "captured", lambda step, _: captured.append(len(learned)) or step)
    for n in (3, 7, 14, 20, 21, 23):
        learned.clear()
        learning["_batches"](learned.append, 7, at, n, None)
        assert learned == [7] * (n // 7) + [n % 7] * (n % 7 > 0)
    assert captured == [1, 1]  # only where more than two batches are whole: 21 and 23


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [1, 50])
def test_a_graph_is_its_steps(batch_size):
    """On a GPU the batches after the first are replays of a graph; call by call they are not."""
    from cerebsim import kernels

    task = Task(m=5000, batch_size=batch_size)
    order = some_order(200 * batch_size + batch_size // 2)
    whole = learn(kernels, task, order, device="cuda")
    cuts = range(2 * batch_size, len(order), 2 * batch_size)
    for _ in range(10):
        assert same(whole, learn(kernels, task, order, cuts, device="cuda"))


@pytest.mark.gpu
def test_a_full_circuit_on_a_side_stream_repeats_itself():
    from cerebsim import kernels

    case = moved(Case(B=300, m=200_000, d=784), "cuda")
    check(Backend(kernels, "cuda"), case)
    first = case.results(kernels)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            again = case.results(kernels)
            assert all(torch.equal(again[name], value) for name, value in first.items())


# Ahead of time.

AOT = Path(__file__).with_name("triton_aot.py")
TARGETS = ("sm_80", "sm_90")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, dict]:
    """What triton_aot.py says for every target; a process for each."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))

    def report(target: str) -> dict:
        command = [sys.executable, "-W", "error", AOT, target]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with ThreadPoolExecutor() as pool:
        return dict(zip(TARGETS, pool.map(report, TARGETS), strict=True))


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_without_spills_and_with_wide_loads(compiled, target):
    report = compiled[target]
    assert report["missing"] == []
    for facts in report["kernels"]:
        assert facts["spilled"] == 0, facts
        assert facts["shared"] <= 48 * 1024, facts
        assert facts["loads of 16 bytes"] > 0, facts
