"""What a benchmark ran on, with the ceilings measured in the same run."""

import os
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import psutil
import torch

from cerebsim.results import environment

PACKAGES = ("torch", "numpy", "scipy", "pytest-benchmark")


def describe() -> dict:
    """Processor, cores, threads, memory, ceilings, versions and commit, as JSON."""
    return {
        **environment(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        **ceilings(torch.get_num_threads()),
    }


def ceilings(threads: int) -> dict:
    """Multiply-adds per second (float32, from registers) and bytes per second of a copy."""
    compiler = os.environ.get("CXX", "c++")
    flags = ["-O3", "-march=native", "-ffast-math", "-std=c++17", "-pthread"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        source = Path(__file__).with_name("peak.cpp")
        subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
        run = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
    multiply_adds, copied = map(float, run.stdout.split())
    return {"multiply_adds_per_second": multiply_adds, "copied_bytes_per_second": copied}
