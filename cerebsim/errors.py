"""Floor 0: every error a user can cause, each saying what to do about it."""

import math
from collections.abc import Callable


class CerebsimError(Exception):
    """Any error that cerebsim raises on purpose."""


class ArgumentError(CerebsimError, ValueError):
    """A bad argument: names it, what it got, what it expects and what to do."""

    def __init__(self, argument: str, got: object, expected: str, remedy: str):
        super().__init__(f"{argument}: got {got}, expected {expected}. {remedy}")
        self.argument = argument


class BackendUnavailable(CerebsimError, RuntimeError):
    """A backend asked for by name cannot serve this call."""


class CheckpointError(CerebsimError):
    """A checkpoint cannot be read or written; names the file and the reason."""


class DataNotFound(CerebsimError, FileNotFoundError):
    """Pictures are neither on this machine nor to be had."""


class OutOfMemory(CerebsimError, MemoryError):
    """A GPU has not the memory that an operation needs."""


class LearningInterrupted(KeyboardInterrupt):
    """Ctrl-C while learning: `done` pictures of the call were learned whole, with outputs `y`."""

    def __init__(self, done: int, y: object):
        super().__init__(f"interrupted after {done} pictures")
        self.done, self.y = done, y


def expect(condition: bool, argument: str, got: object, expected: str, remedy: str) -> None:
    """Raise `ArgumentError` unless `condition` holds."""
    if not condition:
        raise ArgumentError(argument, got, expected, remedy)


def expect_integer(value: object, argument: str, low: int, remedy: str) -> None:
    """Raise `ArgumentError` unless `value` is a whole number of at least `low`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    expect(whole and value >= low, argument, repr(value), f"a whole number >= {low}", remedy)


def expect_number(
    value: object, argument: str, expected: str, good: Callable[[float], bool], remedy: str
) -> None:
    """Raise `ArgumentError` unless `value` is a finite number for which `good(value)` holds."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number and math.isfinite(value) and good(value)
    expect(fits, argument, repr(value), expected, remedy)


def expect_choice(value: object, argument: str, choices: tuple[str, ...]) -> None:
    """Raise `ArgumentError` unless `value` is one of `choices`."""
    one_of = ", ".join(repr(c) for c in choices)
    expect(value in choices, argument, repr(value), f"one of {one_of}", "Choose one of them.")
