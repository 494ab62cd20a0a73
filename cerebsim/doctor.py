"""Floor 7: what is installed, what is missing and why, and how fast this machine is."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import torch

from . import backends, results
from .data import Pictures
from .errors import CerebsimError
from .mnist import cache_folder, find_mnist
from .model import Cerebellum

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "safetensors",
    "filelock",
    "scikit-learn",
    "matplotlib",
    "pandas",
    "tyro",
    "tqdm",
)


def examine(data_dir: str | None = None) -> Iterator[str]:
    """The report, line by line as it becomes known; the last lines take about two seconds."""
    env = results.environment()
    yield f"cerebsim    {env['cerebsim']}, commit {env['git_commit'] or 'unknown'}"
    yield f"python      {env['python']} on {env['platform']}"
    yield "packages    " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    yield f"processor   {env['cpu']}, {platform.machine()}"
    for n in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(n)
        size = f"{gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}"
        yield f"gpu         cuda:{n}: {gpu.name}, {size}"
    yield f"threads     torch uses {env['threads']} of {os.cpu_count()}"
    for name, reason in backends.status().items():
        yield f"backend     {name}: {'available' if reason is None else 'not available: ' + reason}"
    yield "data        digits: embedded"
    mnist = find_mnist(data_dir)
    where = f"found in {mnist}" if mnist else "not on this machine; downloaded when first asked for"
    yield f"data        mnist: {where}"
    cache = cache_folder()
    yield f"cache       {cache}{'' if cache.is_dir() else ' (made when something is downloaded)'}"
    try:
        yield from _speed()
    except CerebsimError as error:
        yield f"speed       not measured: {error}"


def _speed() -> Iterator[str]:
    """Forward pass and training step at the paper's size, on random pictures."""
    d, m, k, c, batch = 784, 200_000, 4, 10, 50
    net = Cerebellum(d, m, c, fan_in=k, device="auto").eval()
    device = net.W.device
    yield f"speed       on {device}: d={d}, m={m:,}, k={k}, c={c}, batches of {batch}:"
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(10 * batch, 1, 28, 28, generator=generator)
    pictures = Pictures(x, torch.randint(c, (len(x),), generator=generator))
    shown = x[:batch].to(device)
    with torch.no_grad():
        seconds = _best_time(lambda: net(shown).cpu())  # the copy waits for a GPU
    # A granule cell gathers k inputs and feeds c outputs; learning feeds c back once more.
    yield _line("forward", seconds, batch * m * (k + c))
    steps = len(x) // batch
    seconds = _best_time(lambda: net.fit(pictures, epochs=1, batch_size=batch, progress=False))
    yield _line("training step", seconds / steps, batch * m * (k + 2 * c))


def _line(what: str, seconds: float, multiply_adds: int) -> str:
    rate = multiply_adds / seconds / 1e9
    return f"            {what}: {1e3 * seconds:.1f} ms, {rate:.1f} G multiply-adds/s"


def _best_time(work: Callable[[], object], budget: float = 0.8) -> float:
    """The shortest of the runs that fit into the budget, in seconds; one run warms up."""
    work()
    times, end = [], time.perf_counter() + budget
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "MISSING"
