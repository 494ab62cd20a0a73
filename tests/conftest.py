"""What every test starts from: two torch threads, and memory that shows when it is read unset."""

import os

# cuBLAS asks for this before it starts, where algorithms must be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import hypothesis
import pytest
import torch

from cerebsim import native

THREADS = 2

# In this mode torch fills torch.empty with NaN (integers: their largest value), so that an
# operation that leaves a part of its output unwritten cannot pass by luck.
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True

hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(autouse=True)
def two_threads():
    """Undo what a test before this one did to the number of threads."""
    torch.set_num_threads(THREADS)


@pytest.fixture(params=native.instruction_sets())
def each_instruction_set(request):
    """Runs a test with the native kernels of every instruction set of this machine."""
    with native.use_instruction_set(request.param):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing and not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
