"""What a benchmark ran on, with the ceilings measured in the same run."""

import os
import statistics
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import psutil
import torch

from cerebsim.results import environment

PACKAGES = ("torch", "numpy", "scipy", "pytest-benchmark")


def describe(device: str) -> dict:
    """Processor or GPU, memory, ceilings, versions and commit, as JSON."""
    machine = {
        **environment(),
        "device": device,
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    if device == "cpu":
        return machine | ceilings(torch.get_num_threads())
    return machine | gpu() | gpu_ceilings()


def gpu() -> dict:
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0]
    return {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "driver": driver,
        "cuda": torch.version.cuda,
        "triton": metadata.version("triton"),
    }


def gpu_ceilings() -> dict:
    """As `ceilings`; the multiply-adds are those of torch's float32 matrix product, no TF32."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda") for _ in range(2))
    c = torch.empty_like(a)
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    return {
        "multiply_adds_per_second": n**3 / gpu_seconds(lambda: torch.matmul(a, b, out=c)),
        "copied_bytes_per_second": 2 * source.nbytes / gpu_seconds(lambda: target.copy_(source)),
    }


def gpu_seconds(call, rounds: int = 20) -> float:
    """The median of several, by the device's own clock."""
    call()
    seconds = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000)
    return statistics.median(seconds)


def ceilings(threads: int) -> dict:
    """Multiply-adds per second (float32, from registers), of all threads and of one alone, and
    bytes per second of a copy. Two threads that are no faster than one share a core.
    """
    compiler = os.environ.get("CXX", "c++")
    flags = ["-O3", "-march=native", "-ffast-math", "-std=c++17", "-pthread"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        source = Path(__file__).with_name("peak.cpp")
        subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
        (one, _), (multiply_adds, copied) = (measured([program, str(n)]) for n in (1, threads))
    return {
        "multiply_adds_per_second": multiply_adds,
        "multiply_adds_per_second_of_one_thread": one,
        "copied_bytes_per_second": copied,
    }


def measured(program: list) -> list[float]:
    run = subprocess.run(program, check=True, capture_output=True, text=True)
    return [float(number) for number in run.stdout.split()]
