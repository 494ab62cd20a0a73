"""How a time is taken: what fits, is right and is not hopeless is timed; the rest is written down.

A shared machine is twice as fast in one minute as in the next, so a peer and we take turns: before
each round of a peer one of ours is timed, and a ratio is of medians taken side by side. Each timed
call comes after an untimed one of its own, for the caches. Speed is never asserted. A wrong result
is an error and has no time.
"""

import time
from collections import defaultdict
from collections.abc import Callable

import psutil
import pytest
import torch
from cases import LARGEST_LESSON, SIZES, Case
from machine import describe
from peers import PEERS, Cerebsim, Peer

from cerebsim import use_backend

THREADS = 2
BUDGET = {"cpu": 3600, "cuda": 180}  # seconds for all; what comes later is left out
MEMORY_SHARE = 0.5  # of the memory that is free
PATIENCE = 2.0  # seconds that one call may take, as a smaller size foretells
SECONDS, ROUNDS = 0.15, (3, 15)  # the aim for all rounds of one time
WARM = 0.1  # seconds of a call beyond which caches no longer matter

left_out: list[dict] = []  # what was not timed, and why
taken: dict[tuple, dict[tuple, float]] = defaultdict(dict)  # (peer, operation): size: seconds


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu")


def pytest_generate_tests(metafunc):
    device = metafunc.config.getoption("device")
    sizes, peers = SIZES[device], PEERS[device]
    ids = ["B{}-m{}-k{}".format(*size) for size in sizes]
    metafunc.parametrize("case", sizes, ids=ids, indirect=True, scope="module")
    names = [peer.name for peer in peers]
    metafunc.parametrize("peer", peers, ids=names, indirect=True, scope="module")


@pytest.fixture(scope="session")
def device(request) -> str:
    torch.set_num_threads(THREADS)
    torch.set_float32_matmul_precision("highest")  # no TF32: every peer computes in float32
    return request.config.getoption("device")


@pytest.fixture(scope="session")
def end(device) -> float:
    return time.monotonic() + BUDGET[device]


@pytest.fixture(scope="module")
def case(request, device) -> Case:
    case = Case(*request.param)
    return case if device == "cpu" else case.on(device)


@pytest.fixture(scope="module")
def peer(request, case) -> Peer:
    return request.param(case)


@pytest.fixture
def measure(benchmark, device, end, case, peer):
    """`measure(operation)` checks and times one operation of one peer at one size."""
    size = dict(zip("Bmk", case.size, strict=True))
    steps = defaultdict(lambda: 1, learn=case.steps)  # of a call

    def leave_out(operation: str, **why) -> str:
        left_out.append({"operation": operation, "peer": peer.name, **size, **why})
        return f"{operation}, {peer.name}, {size}: {why}"

    def run(operation: str) -> None:
        if time.monotonic() > end:
            pytest.skip(leave_out(operation, budget_seconds=BUDGET[device]))
        if operation == "learn" and case.steps * case.B * case.m > LARGEST_LESSON:
            pytest.skip(leave_out(operation, unchecked_h=case.steps * case.B * case.m))
        need = peer.need(case, operation)
        if need > MEMORY_SHARE * free_memory(device):
            pytest.skip(leave_out(operation, needs_bytes=need))
        earlier = taken[peer.name, operation]
        expected = foretell(peer, case, earlier)
        if expected > PATIENCE:
            pytest.skip(leave_out(operation, expected_seconds=expected))

        call = finished(getattr(peer, operation), peer)
        us = Cerebsim(case)
        ours = finished(getattr(us, operation), us)
        errors = case.errors(operation, call())
        if not all(error < 1 for error in errors.values()):
            pytest.fail("WRONG: " + leave_out(operation, wrong=errors))

        seconds = timed(call)
        earlier[case.size] = seconds / steps[operation]
        rounds = round(min(max(SECONDS / seconds, ROUNDS[0]), ROUNDS[1])) if seconds < 1 else 1
        benchmark.extra_info.update(
            operation=operation, peer=peer.name, **size, steps=steps[operation]
        )
        beside = []

        def our_turn():
            if type(peer) is not Cerebsim:
                ours()
                beside.append(timed(ours))
            if seconds < WARM:
                call()

        benchmark.pedantic(call, setup=our_turn, rounds=rounds)
        benchmark.extra_info["beside_seconds"] = beside

    return run


def free_memory(device: str) -> int:
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def finished(call: Callable[[], dict], peer: Peer) -> Callable[[], dict]:
    """The call with the peer's backend, until a GPU is done with it."""

    def run() -> dict:
        with use_backend(peer.backend):
            result = call()
        if peer.case.x.is_cuda:
            torch.cuda.synchronize()
        return result

    return run


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def foretell(peer: Peer, case: Case, earlier: dict[tuple, float]) -> float:
    """Seconds of one call, in proportion to the work of a smaller size; 0 where there is none.

    A single picture foretells nothing: what it takes is mostly not the picture's.
    """
    B, m, k = case.size
    smaller = [size for size in earlier if 1 < size[0] <= B and size[1] == m and size[2] <= k]
    if not smaller:
        return 0.0
    largest = max(smaller, key=lambda size: peer.work(*size))
    return earlier[largest] * peer.work(B, m, k) / peer.work(*largest)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["left_out"] = left_out
    output_json["machine"] = describe(config.getoption("device"))
