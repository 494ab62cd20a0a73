"""The CUDA kernels. Here they run on an emulated GPU (cuda_on_host.h): the same sources, with their
indexing and barriers. Tests marked `gpu` run them on a real one."""

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pybind11
import pytest
import torch
from test_learning import CASES, RULES, Task, order_of_50_steps, same
from test_ops import Case
from tolerances import (
    BACKEND,
    RMSPROP_MEAN_IN_RATES,
    RMSPROP_OUTPUTS,
    ROUNDED_ONCE,
    SMOOTH_LEARNING,
    assert_close_to_largest,
)

from cerebsim import backends, native_cuda, reference
from cerebsim.errors import BackendUnavailable, LearningInterrupted
from cerebsim.wiring import Wiring

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
SHIM = ROOT / "tests" / "cuda_on_host.h"
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
NVCC = shutil.which(
    "nvcc", path=os.path.join(home, "bin") if (home := os.environ.get("CUDA_HOME")) else None
)
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
H100 = 132, 227 << 10  # multiprocessors, bytes of shared memory for a block
NO_ROOM = 132, 6000  # no tile of pictures fits the shared memory
OTHER_GPU = 7, 100 << 10


@pytest.fixture(scope="session")
def built(pytestconfig):
    """The emulated module; kept between runs until a source changes."""
    include = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    shared = ["-fPIC", "-fvisibility=hidden", "-std=c++17"]
    emulated = ["-O1", *shared, "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-include", str(SHIM)]
    commands = {
        "bind.o": [CXX, "-O0", *shared, *include, "-c", str(CSRC / "bind_cuda.cpp")],
        "host.o": [CXX, *emulated, "-x", "c++", "-c", str(CSRC / "cuda.cu")],
    }
    sources = sorted([*CSRC.glob("cuda*"), CSRC / "circuit.h", CSRC / "bind_cuda.cpp", SHIM])
    key = hashlib.sha256(repr(commands).encode())
    for source in sources:
        key.update(source.read_bytes())
    folder = Path(pytestconfig.cache.mkdir("cuda")) / key.hexdigest()[:16]
    module = folder / f"_cuda{SUFFIX}"
    if module.exists():
        return module
    for old in folder.parent.iterdir():
        shutil.rmtree(old)
    making = folder.with_suffix(".part")
    making.mkdir()
    running = [
        subprocess.Popen([*command, "-o", making / name], stderr=subprocess.PIPE, text=True)
        for name, command in commands.items()
    ]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said
    objects = [making / name for name in commands]
    subprocess.run([CXX, "-shared", *objects, "-o", making / module.name], check=True)
    making.rename(folder)
    return module


@pytest.fixture(scope="session")
def emulation(built):
    # Of another name than the real module, for pybind11 gives out one module of a name.
    spec = importlib.util.spec_from_file_location("emulated._cuda", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    emulate = ctypes.CDLL(str(built)).emulate
    emulate.argtypes = [ctypes.c_int64, ctypes.c_int64]
    return module, emulate


@pytest.fixture
def emulate(emulation, monkeypatch):
    """native_cuda on tensors of the CPU, by the emulated GPU; call it to choose another GPU."""
    module, choose = emulation
    monkeypatch.setattr(native_cuda, "_cuda", module)
    torch.set_num_threads(1)
    choose(*H100)
    return choose


def check(case: Case, dtype=torch.float32, device="cpu") -> dict:
    """The results, once they are those of the reference in float64 for the inputs as rounded."""
    case.x, case.W = case.x.to(device, dtype), case.W.to(device, dtype)
    case.grad_h, case.grad_y = case.grad_h.to(device, dtype), case.grad_y.to(device, dtype)
    case.mu = case.mu if case.mu is None else case.mu.to(device, dtype)
    case.J = case.J.to(device)
    got = case.results(native_cuda, dtype)
    for name, expected in case.results(reference, torch.float64).items():
        assert got[name].dtype == dtype and got[name].shape == expected.shape
        once = ROUNDED_ONCE[dtype] * expected.abs()
        allowed = once + BACKEND * expected.abs().amax() if expected.numel() else once
        assert ((got[name].double() - expected).abs() <= allowed).all(), name
    return got


SMALL = {"B": 9, "m": 150, "k": 4, "c": 10, "d": 40}
SHAPES = [
    *({"B": B} for B in (0, 1, 7, 33, 65)),
    *({"m": m} for m in (1, 63, 1000)),
    *({"k": k} for k in (1, 2, 3, 40)),
    *({"c": c} for c in (1, 3, 17, 70)),
    *({"d": d} for d in (4, 33, 784)),
    {"k": 50, "replacement": True, "d": 5},
    {"B": 70, "m": 300, "k": 50, "c": 17, "d": 90, "threshold": 0.25},
    {"threshold": 0.25},
    {"threshold": -0.5, "B": 33, "mu": False},
    {"wiring": "local"},
]
LARGE = [{"d": 33_000, "B": 70}, {"d": 784, "m": 20_000, "B": 1024}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_are_the_reference(emulate, shape):
    check(Case(**SMALL | shape))


@pytest.mark.parametrize("gpu", [H100, NO_ROOM])
def test_wide_indices(emulate, gpu):
    emulate(*gpu)
    case = Case(**SMALL)
    case.J = Wiring(40, case.J.indices.int(), case.J.weights)
    check(case)
    assert same(case.results(native_cuda), Case(**SMALL).results(native_cuda))


@pytest.mark.parametrize(
    "shape", [{"c": 3, "k": 1}, {"B": 65, "c": 17}, {"threshold": -0.5}], ids=str
)
def test_what_does_not_fit_the_shared_memory_is_read_where_it_lies(emulate, shape):
    emulate(*NO_ROOM)
    check(Case(**SMALL | shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_once(emulate, dtype):
    case = Case(**SMALL)
    case.x, case.W, case.grad_y = case.x / 2, case.W / 64, case.grad_y / 8  # within float16
    check(case, dtype)


def test_thresholds_of_single_cells(emulate):
    case = Case(**SMALL)
    thresholds = 0.25 * (torch.arange(150) % 5 - 2)
    case.J = Wiring(40, case.J.indices, case.J.weights, thresholds)
    check(case)


def test_memory_may_lie_in_any_order(emulate):
    case = Case(**SMALL)
    whole = case.results(native_cuda)
    for name in ("x", "W", "grad_h", "grad_y"):
        setattr(case, name, getattr(case, name).T.contiguous().T)
    case.mu = torch.stack([case.mu, case.mu], 1)[:, 0]
    J = case.J
    case.J = Wiring(40, J.indices.T.contiguous().T, J.weights.T.contiguous().T)
    assert not (case.x.is_contiguous() or case.mu.is_contiguous() or case.J.indices.is_contiguous())
    for name, value in case.results(native_cuda).items():
        assert torch.equal(value, whole[name]), name


def rows(case: Case, at) -> dict:
    part = Case(**SMALL)
    part.J, part.W, part.mu = case.J, case.W, case.mu
    part.x, part.grad_h, part.grad_y = case.x[at], case.grad_h[at], case.grad_y[at]
    results = part.results(native_cuda)
    del results["circuit_backward_W"]  # a sum over the batch
    return results


def check_neighbours(case: Case, sizes) -> None:
    whole = rows(case, slice(None))
    B = len(case.x)
    for size in sizes:
        for first in range(0, B, size):
            for name, value in rows(case, slice(first, first + size)).items():
                assert torch.equal(value, whole[name][first : first + size]), (name, size, first)
    mixed = torch.randperm(B, generator=torch.Generator().manual_seed(0)).to(case.x.device)
    for name, value in rows(case, mixed).items():
        assert torch.equal(value, whole[name][mixed]), name


@pytest.mark.parametrize("gpu", [H100, NO_ROOM])
def test_a_picture_does_not_depend_on_its_neighbours(emulate, gpu):
    emulate(*gpu)
    check_neighbours(Case(**SMALL | {"B": 67, "threshold": 0.25}), (9, 33, 64))


def test_the_number_of_multiprocessors_changes_no_bit(emulate):
    case = Case(**SMALL | {"B": 40, "m": 700})
    results = []
    for gpu in (H100, OTHER_GPU, (1, H100[1])):
        emulate(*gpu)
        results.append(case.results(native_cuda))
        for size in (1, 7):
            learned = learn(Task(m=700, batch_size=size), torch.arange(2 * size))
            results[-1] |= {(name, size): value for name, value in learned.items()}
    for other in results[1:]:
        assert same(results[0], other)


def test_a_weight_that_was_changed_is_used(emulate):
    case = Case(**SMALL)
    before = case.results(native_cuda)["circuit_backward_x"]
    case.J.weights.mul_(2)
    assert torch.equal(case.results(native_cuda)["circuit_backward_x"], 2 * before)


def test_a_nan_shows(emulate):
    case = Case(**SMALL)
    case.x[3, case.J.indices[0, 0]] = torch.nan
    got = case.results(native_cuda)
    assert got["granule"][3, 0].isnan() and got["circuit"][3].isnan().all()
    assert got["circuit"][[0, 1, 2, 4]].isfinite().all()


# Learning.
def learn(task: Task, order, cuts=(), tick=None, dtype=torch.float32, device="cpu") -> dict:
    """The state and outputs after `order`, learned in calls that end at `cuts`."""
    state = {n: v if v is None else v.to(device) for n, v in task.fresh(dtype).items()}
    x, t, order = task.x.to(device, dtype), task.t.to(device, dtype), order.to(device)
    J, rule, size = task.J.to(device), task.rule, task.learning.batch_size
    y, edges = [], [0, *cuts, len(order)]
    for first, last in zip(edges, edges[1:], strict=False):
        part = x, t, order[first:last], *J.operands[1:], *state.values(), size
        y.append(native_cuda.learn_(*part, *vars(rule).values(), tick=tick))
    return state | {"y": torch.cat(y)}


def check_learning(case: dict, rule: str, device="cpu") -> None:
    task = Task(**case, **RULES[rule])
    order = order_of_50_steps(task.learning.batch_size)
    expected = task.learn_by_autograd(order)
    fast = {n: v if v is None else v.cpu() for n, v in learn(task, order, device=device).items()}
    if task.config.ltd:
        assert_close_to_largest(fast["mu"], expected["mu"], SMOOTH_LEARNING)
    W0 = task.fresh()["W"].double()
    if rule == "rmsprop":
        rate = task.learning.rate(task.config.granule_cells)
        assert_close_to_largest(fast["y"], expected["y"], RMSPROP_OUTPUTS)
        mean = float((fast["W"].double() - expected["W"]).abs().mean()) / rate
        assert mean < RMSPROP_MEAN_IN_RATES
        return
    assert_close_to_largest(fast["W"].double() - W0, expected["W"] - W0, SMOOTH_LEARNING)
    assert_close_to_largest(fast["y"], expected["y"], SMOOTH_LEARNING)
    if rule == "smooth":
        assert_close_to_largest(fast["square_avg"], expected["square_avg"], SMOOTH_LEARNING)


SPARSE = [case for case in CASES if case.get("wiring") != "full"]
SPARSE.append({"c": 23, "batch_size": 1, "m": 140})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", SPARSE, ids=str)
def test_learning_is_autograd_and_torch_optim(emulate, case, rule):
    check_learning(case, rule)


@pytest.mark.parametrize("case", [{"batch_size": 50}, {"batch_size": 1}, {"c": 23}], ids=str)
def test_learning_where_no_tile_fits_the_shared_memory(emulate, case):
    emulate(*NO_ROOM)
    check_learning(case, "smooth")


CUTS = [(1, 60, [1]), (1, 60, [7, 8, 59]), (7, 61, [14, 35, 56]), (50, 251, [250]), (7, 64, [63])]


@pytest.mark.parametrize("settings", [{}, {"ltd_update": "after"}, {"ltd": False, "rule": "plain"}])
@pytest.mark.parametrize(("batch_size", "n", "cuts"), CUTS)
def test_learning_may_be_cut_at_whole_batches(emulate, batch_size, n, cuts, settings):
    task = Task(m=150, batch_size=batch_size, **settings)
    order = torch.randint(0, 40, (n,), generator=torch.Generator().manual_seed(2))
    assert same(learn(task, order), learn(task, order, cuts))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_learning_can_be_interrupted(emulate, batch_size):
    task, seen = Task(batch_size=batch_size), []
    whole = learn(task, torch.arange(40), tick=seen.append)
    assert seen == sorted(seen) and seen[-1] == 40 and seen[0] == batch_size
    assert same(whole, learn(task, torch.arange(40)))

    def interrupt(done):
        if done >= 3 * batch_size:
            raise KeyboardInterrupt

    state = task.fresh()
    call = task.x, task.t, torch.arange(40), *task.J.operands[1:], *state.values(), batch_size
    with pytest.raises(LearningInterrupted) as stop:
        native_cuda.learn_(*call, *vars(task.rule).values(), tick=interrupt)
    done = stop.value.done
    assert done == 3 * batch_size and len(stop.value.y) == done
    assert same(state | {"y": stop.value.y}, learn(task, torch.arange(done)))
    with pytest.raises(ZeroDivisionError):  # any other error of a tick comes through
        native_cuda.learn_(*call, *vars(task.rule).values(), tick=lambda done: 1 / 0)


@pytest.mark.parametrize("sizes", [{"c": 3}, {"c": 1025, "batch_size": 1}], ids=str)
def test_batches_are_learned_by_replays(emulate, monkeypatch, sizes):
    """Every 16 batches are a graph; here the graph is the call itself."""
    captured, queued = [], []

    def capture(step, device):
        captured.append(step.args)
        return lambda: queued.append(None) or step()

    task = Task(**{"m": 40, "batch_size": 3} | sizes)
    size = task.learning.batch_size
    order = torch.randint(0, 40, (70 * size + 2,), generator=torch.Generator().manual_seed(2))
    expected = learn(task, order, range(size, len(order), size))  # by calls of a batch: no replay
    monkeypatch.setattr(native_cuda, "captured", capture)
    monkeypatch.setattr(native_cuda, "_TICK_SECONDS", 1e9)  # calls of 1, 2, 4, 8, 16 ... batches
    assert same(learn(task, order), expected)
    assert captured == [(16 * size,)] and len(queued) == 1 + 2


def test_a_run_of_single_pictures_is_one_kernel_and_no_graph(emulate, monkeypatch):
    captured, task, order = [], Task(m=40, batch_size=1), torch.arange(40).repeat(2)
    monkeypatch.setattr(native_cuda, "captured", lambda step, _: captured.append(step) or step)
    assert same(learn(task, order), learn(task, order, [30]))
    assert captured == []


def test_so_many_pictures_are_taken_at_a_time_that_a_grid_holds_their_tiles(emulate):
    tiny, most = native_cuda._cuda.Wiring(1, 1, 1, 0, True, 0, 0), 65_535 * 32
    needed = [native_cuda._cuda.granule_backward_bytes(tiny, B) for B in (most - 32, most, 10**9)]
    assert needed[0] < needed[1] == needed[2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_state_in_half_precision_is_learned_in_float32_and_rounded_at_the_end(emulate, dtype):
    task = Task()
    task.x, task.t = task.x.to(dtype).float(), task.t.to(dtype).float()
    W0 = task.fresh(dtype)["W"].float()
    fresh = task.fresh
    task.fresh = lambda dtype=torch.float32: fresh(dtype) | {"W": W0.clone().to(dtype)}
    expected = learn(task, torch.arange(40))
    got = learn(task, torch.arange(40), dtype=dtype)
    for name, value in got.items():
        assert value.dtype == dtype and torch.equal(value, expected[name].to(dtype)), name


# The real module, as setup.py has nvcc build it, with warnings as errors.
@pytest.fixture(scope="session")
def real():
    found = importlib.util.find_spec("cerebsim._cuda")
    if found is None and (NVCC is None or os.environ.get("CEREBSIM_CUDA") == "0"):
        pytest.skip("nvcc is not on the PATH, or CEREBSIM_CUDA=0: cerebsim._cuda is not built")
    assert found is not None, "nvcc is there, but cerebsim._cuda is not built"
    return found.origin


def test_no_kernel_spills(real):
    """Of the machine code itself: what a kernel spills stands in its stack."""
    tool = shutil.which("cuobjdump") or pytest.importorskip("triton").knobs.nvidia.cuobjdump.path
    said = subprocess.run([tool, "-res-usage", real], capture_output=True, text=True, check=True)
    code = re.split(r"^arch = ", said.stdout, flags=re.M)[1:]
    found = {}
    for part in code:
        usage = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", part)
        found.setdefault(part.split()[0], {}).update({name: rest for name, *rest in usage})
    assert set(found) == {"sm_80", "sm_90"} and found["sm_80"].keys() == found["sm_90"].keys()
    for arch, kernels in found.items():
        assert len(kernels) > 20
        for name, (registers, stack, local) in kernels.items():
            assert stack == local == "0", f"{name} for {arch}: {registers} registers, {stack} bytes"


def test_the_module_imports_without_a_gpu(real):
    program = """
from cerebsim import native_cuda
assert native_cuda._cuda is not None
print(native_cuda.unavailable())
"""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "torch finds no CUDA device (torch.cuda.is_available() is False)\n"


def test_why_it_is_unavailable(monkeypatch):
    monkeypatch.setattr(native_cuda, "_cuda", None)
    monkeypatch.setattr(native_cuda, "_missing", "not built", raising=False)
    assert native_cuda.unavailable() == "not built"
    monkeypatch.setattr(native_cuda, "_cuda", object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in native_cuda.unavailable()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "7.5" in native_cuda.unavailable() and "8.0" in native_cuda.unavailable()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert native_cuda.unavailable() is None


def test_a_circuit_that_is_too_large_goes_to_another_backend(emulate, monkeypatch):
    row = replace(backends.BACKENDS["cuda"], devices=("cpu",), unavailable=lambda: None)
    table = {"cuda": row, "reference": backends.BACKENDS["reference"]}
    monkeypatch.setattr(backends, "BACKENDS", table)
    x = torch.zeros(1, 1)
    most_d, most_m = native_cuda._cuda.MOST_FIBERS, native_cuda._cuda.MOST_CELLS
    assert backends.select(x.expand(1, most_d), most_m, dense=False) == "cuda"
    for d, m in ((most_d + 1, 1), (1, most_m + 1)):
        assert backends.select(x.expand(1, d), m, dense=False) == "reference"
        with backends.use_backend("cuda"), pytest.raises(BackendUnavailable, match=f"{d:,} and"):
            backends.select(x.expand(1, d), m, dense=False)
    assert backends.select(x, 1, dense=True) == "reference"
    J = native_cuda._cuda.Wiring(most_d + 1, 1, 1, 0, True, 0, 0)
    with pytest.raises(RuntimeError, match="more mossy fibres"):  # and so do the kernels
        native_cuda._cuda.granule(J, 0, 1, 0, 0, 0)


# On a GPU.
@pytest.fixture
def gpu():
    if reason := native_cuda.unavailable():
        pytest.fail(reason)
    return "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ROUNDED_ONCE)
@pytest.mark.parametrize("shape", [*SHAPES, *LARGE], ids=str)
def test_gpu_is_the_reference(gpu, shape, dtype):
    case = Case(**SMALL | shape)
    if dtype != torch.float32:
        case.x, case.W, case.grad_y = case.x / 2, case.W / 64, case.grad_y / 8
    check(case, dtype, gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", SPARSE, ids=str)
def test_gpu_learning_is_autograd_and_torch_optim(gpu, case, rule):
    check_learning(case, rule, gpu)


def on_gpu(device="cuda", **shape) -> Case:
    case = Case(**{"B": 130, "m": 20_011, "d": 784} | shape)
    case.J = case.J.to(device)
    for name in ("x", "W", "mu", "grad_h", "grad_y"):
        setattr(case, name, getattr(case, name).to(device))
    return case


@pytest.mark.gpu
def test_gpu_a_picture_does_not_depend_on_its_neighbours(gpu):
    check_neighbours(on_gpu(), (1, 7, 50, 64))


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [1, 50])
def test_gpu_runs_are_the_same_to_the_last_bit(gpu, batch_size):
    case, task = on_gpu(), Task(m=20_011, batch_size=batch_size)
    order = torch.arange(2 * batch_size) % 40
    first = case.results(native_cuda) | learn(task, order, device=gpu)
    for _ in range(100):
        assert same(first, case.results(native_cuda) | learn(task, order, device=gpu))


@pytest.mark.gpu
def test_gpu_replays_of_a_graph_are_its_batches(gpu):
    task = Task(m=5000, batch_size=50)
    order = torch.randint(0, 40, (10_025,), generator=torch.Generator().manual_seed(3))
    whole = learn(task, order, device=gpu)
    for _ in range(10):
        assert same(whole, learn(task, order, range(100, len(order), 100), device=gpu))


@pytest.mark.gpu
def test_gpu_works_on_a_side_stream_and_on_a_second_device(gpu):
    case = on_gpu()
    expected = case.results(native_cuda)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        case.x.mul_(0.5)  # seen only by a kernel that waits for this stream
        got = case.results(native_cuda)
    side.synchronize()
    assert torch.equal(got["granule"], expected["granule"] / 2)
    assert torch.equal(got["circuit_backward_x"], expected["circuit_backward_x"])
    if torch.cuda.device_count() > 1:
        other = on_gpu("cuda:1").results(native_cuda)
        assert same(
            {n: v.cpu() for n, v in other.items()}, {n: v.cpu() for n, v in expected.items()}
        )


@pytest.mark.gpu
def test_gpu_forward_and_backward_are_captured_in_a_graph(gpu):
    case = on_gpu()

    def both():
        J = case.J.operands[1:]
        y = native_cuda.circuit(case.x, *J, case.W, case.mu)
        return y, native_cuda.circuit_backward_x(y, case.x, *J, case.W)

    both()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    for scale in (1.0, 0.5, 0.25):
        case.x.mul_(scale)
        graph.replay()
        for got, expected in zip(captured, both(), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.gpu
def test_gpu_out_of_memory_says_need_have_and_remedy(gpu):
    case = on_gpu()
    kept = torch.cuda.memory_reserved() + (256 << 20)
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, kept / whole))
    try:
        x = case.x[:1].expand(40_000, -1)
        with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate .* free"):
            native_cuda.granule(x, *case.J.operands[1:])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    check(Case(**SMALL), device=gpu)


@pytest.mark.gpu
def test_gpu_more_than_2_to_the_31_activities(gpu):
    case = on_gpu(B=2, m=2**20, c=3)
    x = case.x[:1].repeat(2**11 + 1, 1)
    x[-1] = case.x[1]
    h = native_cuda.granule(x, *case.J.operands[1:])
    assert h.numel() > 2**31
    expected = native_cuda.granule(case.x, *case.J.operands[1:])
    assert torch.equal(h[-2:], expected)
    grad_h = h.new_zeros(1).expand_as(h).clone()
    grad_h[-1] = case.grad_h[1]
    got = native_cuda.granule_backward(grad_h, x, *case.J.operands[1:])
    alone = native_cuda.granule_backward(case.grad_h, case.x, *case.J.operands[1:])
    assert torch.equal(got[-1], alone[1]) and not got[:-1].any()
