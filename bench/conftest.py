"""How a time is taken: what fits, is right and is not hopeless is timed; the rest is written down.

A shared machine is twice as fast in one minute as in the next, so a peer and we take turns: before
each round of a peer one of ours is timed, and a ratio is of medians taken side by side. Each timed
call comes after an untimed one of its own, for the caches. Speed is never asserted. A wrong result
is an error and has no time.
"""

import time
from collections import defaultdict

import psutil
import pytest
import torch
from cases import SIZES, Case
from machine import describe
from peers import PEERS, Cerebsim, Peer

THREADS = 2
MEMORY_SHARE = 0.5  # of the memory that is free
PATIENCE = 2.0  # seconds that one call may take, as a smaller size foretells
SECONDS, ROUNDS = 0.15, (3, 15)  # the aim for all rounds of one time
WARM = 0.1  # seconds of a call beyond which caches no longer matter

left_out: list[dict] = []  # what was not timed, and why
taken: dict[tuple, dict[tuple, float]] = defaultdict(dict)  # (peer, operation): size: seconds


@pytest.fixture(scope="session", autouse=True)
def threads():
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: "B{}-m{}-k{}".format(*size))
def case(request) -> Case:
    return Case(*request.param)


@pytest.fixture(scope="module", params=PEERS, ids=lambda peer: peer.name)
def peer(request, case) -> Peer:
    return request.param(case)


@pytest.fixture
def measure(benchmark, case, peer):
    """`measure(operation)` checks and times one operation of one peer at one size."""
    size = dict(zip("Bmk", case.size, strict=True))
    steps = defaultdict(lambda: 1, learn=case.steps)  # of a call

    def leave_out(operation: str, **why) -> str:
        left_out.append({"operation": operation, "peer": peer.name, **size, **why})
        return f"{operation}, {peer.name}, {size}: {why}"

    def run(operation: str) -> None:
        need = peer.need(case, operation)
        if need > MEMORY_SHARE * psutil.virtual_memory().available:
            pytest.skip(leave_out(operation, needs_bytes=need))
        earlier = taken[peer.name, operation]
        expected = foretell(peer, case, earlier)
        if expected > PATIENCE:
            pytest.skip(leave_out(operation, expected_seconds=expected))

        call, ours = getattr(peer, operation), getattr(Cerebsim(case), operation)
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
            if not isinstance(peer, Cerebsim):
                ours()
                beside.append(timed(ours))
            if seconds < WARM:
                call()

        benchmark.pedantic(call, setup=our_turn, rounds=rounds)
        benchmark.extra_info["beside_seconds"] = beside

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
    output_json["machine"] = describe()
