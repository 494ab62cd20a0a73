"""Floor 2: which backend serves which device, and why one is not available. The one table.

"auto" takes the first backend of the table that can serve a call and says once, in the log, why a
faster one could not. A backend asked for by name, with `use_backend` or the environment variable
CEREBSIM_BACKEND, serves the call or raises `BackendUnavailable` with the reason.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from . import native
from .errors import ArgumentError, BackendUnavailable, expect_choice

log = logging.getLogger("cerebsim")


@dataclass(frozen=True)
class Backend:
    """Functions with the signatures of `reference`, and what they can serve. A GPU's keep nothing
    for a gradient: they have no `circuit_fired`."""

    path: str
    """Their module, imported at the first use: `import cerebsim` brings in no Triton."""
    devices: tuple[str, ...] | None  # None: any
    dtypes: tuple[torch.dtype, ...] | None
    unavailable: Callable[[], str | None]
    """Why it cannot be used on this machine, or None."""
    learns_dense: bool = False
    """Whether it learns where J is a matrix too. All else of that is a matrix product: torch's
    BLAS, which `reference` calls, is what a kernel would have to beat."""
    too_large: Callable[[int, int], str | None] = lambda d, m: None
    """Why it cannot take a circuit of d mossy fibres and m granule cells, or None."""

    @property
    def module(self) -> ModuleType:
        return import_module(self.path)

    def refuses(self, x: Tensor, m: int) -> str | None:
        """Why it cannot serve this call, or None."""
        if reason := self.unavailable():
            return reason
        if self.devices is not None and x.device.type not in self.devices:
            return f"it serves {', '.join(self.devices)} tensors, x is on {x.device}"
        if self.dtypes is not None and x.dtype not in self.dtypes:
            return f"it serves {', '.join(map(str, self.dtypes))}, x is {x.dtype}"
        return self.too_large(x.shape[1], m)


@cache  # torch asks the driver every time
def _no_cuda() -> str | None:
    return import_module("cerebsim.native_cuda").unavailable()


def _too_large_for_cuda(d: int, m: int) -> str | None:
    return import_module("cerebsim.native_cuda").too_large(d, m)


@cache
def _no_triton() -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed; it comes with torch for CUDA, or by pip install triton"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than compute capability 8.0, which the kernels are compiled for"
    return None


_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Tried from the top. "cuda" stands before "triton" because it keeps x in shared memory, needs three
# launches for a batch where Triton needs six, and learns picture by picture in one launch for a
# whole run. That is counted, not measured: neither has run on a GPU yet.
BACKENDS = {
    "cpu": Backend("cerebsim.native", ("cpu",), (torch.float32,), native.unavailable, True),
    "cuda": Backend(
        "cerebsim.native_cuda", ("cuda",), _GPU_DTYPES, _no_cuda, too_large=_too_large_for_cuda
    ),
    "triton": Backend("cerebsim.kernels", ("cuda",), _GPU_DTYPES, _no_triton),
    "reference": Backend("cerebsim.reference", None, None, lambda: None),
}

_chosen: ContextVar[str | None] = ContextVar("cerebsim_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every operation uses this backend ("auto", or a name of the table) or
    raises.
    """
    token = _chosen.set(_named(name, "name"))
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen() -> str:
    """The backend asked for: by `use_backend`, by CEREBSIM_BACKEND, or "auto"."""
    return _chosen.get() or _named(os.environ.get("CEREBSIM_BACKEND") or "auto", "CEREBSIM_BACKEND")


def select(x: Tensor, m: int, dense: bool, learns: bool = False) -> str:
    """The name of the backend that serves a call with the input x (B, d) of a circuit of m granule
    cells; `dense`: its J is a matrix; `learns`: the call is `learn_`.
    """

    def serves_wiring(name: str) -> bool:
        return not dense or (learns and BACKENDS[name].learns_dense)

    name = chosen()
    if name != "auto":
        if reason := BACKENDS[name].refuses(x, m):
            raise BackendUnavailable(
                f"backend {name!r} cannot serve this call: {reason}. "
                "Choose another with use_backend or CEREBSIM_BACKEND, or 'auto'."
            )
        return name if serves_wiring(name) else "reference"
    for candidate, backend in BACKENDS.items():
        if backend.devices is not None and x.device.type not in backend.devices:
            continue
        if candidate != "reference" and not serves_wiring(candidate):
            continue
        reason = backend.refuses(x, m)
        if reason is None:
            return candidate
        _say_once(candidate, reason)
    raise AssertionError("reference serves everything")


def device_of(device: torch.device | str | None) -> torch.device:
    """The device of this name; "auto": a GPU where torch finds one, else the CPU; None: the CPU.

    Raises `ArgumentError` where torch knows no such device or this machine has none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device("cpu" if device is None else device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        remedy = "Choose 'cpu'; `cerebsim doctor` says what this machine has."
        raise ArgumentError(
            "device", f"{device} ({reason})", "a device of this machine", remedy
        ) from None
    return device


def status() -> dict[str, str | None]:
    """For every backend, why it is not available on this machine, or None."""
    return {name: backend.unavailable() for name, backend in BACKENDS.items()}


def _named(name: str, argument: str) -> str:
    expect_choice(name, argument, ("auto", *BACKENDS))
    return name


@cache
def _say_once(name: str, reason: str) -> None:
    log.warning("backend %r is not used: %s", name, reason)
