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
from types import ModuleType

import torch
from torch import Tensor

from . import native, reference
from .errors import BackendUnavailable, expect_choice

log = logging.getLogger("cerebsim")


@dataclass(frozen=True)
class Backend:
    """A module with the functions of `reference`, and what it can serve."""

    module: ModuleType
    devices: tuple[str, ...] | None  # None: any
    dtypes: tuple[torch.dtype, ...] | None
    unavailable: Callable[[], str | None]
    """Why it cannot be used on this machine, or None."""

    def refuses(self, x: Tensor) -> str | None:
        """Why it cannot serve this call, or None."""
        if reason := self.unavailable():
            return reason
        if self.devices is not None and x.device.type not in self.devices:
            return f"it serves {', '.join(self.devices)} tensors, x is on {x.device}"
        if self.dtypes is not None and x.dtype not in self.dtypes:
            return f"it serves {', '.join(map(str, self.dtypes))}, x is {x.dtype}"
        return None


# Fastest first; "triton" and "cuda" go above "reference".
BACKENDS = {
    "cpu": Backend(native, ("cpu",), (torch.float32,), native.unavailable),
    "reference": Backend(reference, None, None, lambda: None),
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


def select(x: Tensor, dense: bool) -> ModuleType:
    """The module that serves a call with this input; `dense`: the wiring is "full"."""
    name = chosen()
    if name != "auto":
        if reason := BACKENDS[name].refuses(x):
            raise BackendUnavailable(
                f"backend {name!r} cannot serve this call: {reason}. "
                "Choose another with use_backend or CEREBSIM_BACKEND, or 'auto'."
            )
        return reference if dense else BACKENDS[name].module
    if dense:  # a matrix product: torch's BLAS on every device is what a kernel would have to beat
        return reference
    for candidate, backend in BACKENDS.items():
        reason = backend.refuses(x)
        if reason is None:
            return backend.module
        if backend.devices is None or x.device.type in backend.devices:
            _say_once(candidate, reason)
    raise AssertionError("reference serves everything")


def status() -> dict[str, str | None]:
    """For every backend, why it is not available on this machine, or None."""
    return {name: backend.unavailable() for name, backend in BACKENDS.items()}


def _named(name: str, argument: str) -> str:
    expect_choice(name, argument, ("auto", *BACKENDS))
    return name


@cache
def _say_once(name: str, reason: str) -> None:
    log.warning("backend %r is not used: %s", name, reason)
