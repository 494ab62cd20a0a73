"""Floor 7: how robust a network is, honestly: each attack, and the worst case over all of them."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from .attackable import evaluating
from .attacks import FGSM, PGD, Noise
from .errors import expect, expect_integer
from .labels import check_labels, decide


@dataclass(frozen=True)
class Row:
    """One attack at one eps: the share of pictures still decided right, 0..1."""

    attack: str
    eps: float
    accuracy: float
    seconds: float
    settings: dict

    @property
    def name(self) -> str:
        """The attack and what tells it from its like, e.g. "PGD margin" or "Noise uniform"."""
        return f"{self.attack} {self.settings.get('loss', self.settings.get('kind', ''))}".strip()


@dataclass(frozen=True)
class Evaluation:
    """Accuracies (0..1) on n pictures. Prints as a table."""

    n: int
    clean: float
    rows: list[Row]
    worst_case: dict[float, float]
    """eps -> share of pictures decided right when clean AND under every attack at this eps or at
    a smaller one (whose ball lies inside). An upper bound of the robust accuracy: it says what
    these attacks did not manage."""

    def as_dict(self) -> dict:
        """For JSON, whose keys are strings: worst_case has str(eps)."""
        return asdict(self) | {"worst_case": {str(e): a for e, a in self.worst_case.items()}}

    def __str__(self) -> str:
        pictures = "picture" if self.n == 1 else "pictures"
        lines = [
            (r.name, f"{r.eps:.4g}", _percent(r.accuracy), f"{r.seconds:.1f} s") for r in self.rows
        ]
        lines += [("worst case", f"{e:.4g}", _percent(a), "") for e, a in self.worst_case.items()]
        table = [
            ("attack", "eps", "accuracy", "time"),
            ("clean", "", _percent(self.clean), ""),
            *lines,
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        text = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in table
        ]
        return "\n".join([f"{self.n:,} {pictures}", text[0], rule, *text[1:]])


def worst_case_suite(eps: float | Sequence[float] = 0.1) -> list[PGD]:
    """The attacks whose per-picture worst case is reported: PGD over mse, ce and margin.

    One loss alone can mislead: mse and ce may climb without coming nearer to the boundary.
    """
    return [PGD(eps, loss=loss) for loss in ("mse", "ce", "margin")]


def accuracy(net: nn.Module, pictures: Iterable[Tensor], batch_size: int = 256) -> float:
    """Share of pictures decided right, 0..1, in eval mode and without a gradient.

    `pictures` are a `data.Pictures` or a pair (x, y) of floats (N, ...) and int64 (N,); they are
    moved to the device of `net`. Bad input is an `ArgumentError`.
    """
    with evaluating(net):
        x, y = _pictures(net, pictures, None)
        return _right(net, x, y, batch_size).double().mean().item()


def evaluate(
    net: nn.Module,
    pictures: Iterable[Tensor],
    attacks: Iterable | None = None,
    limit: int | None = None,
    batch_size: int = 256,
    progress: bool = True,
) -> Evaluation:
    """Accuracy of `net` on clean pictures, under each attack, and in the worst case over all.

    `pictures` as in `accuracy`; `limit` takes the first that many. `attacks` are untargeted
    `Noise`, `FGSM`, `PGD`, each with one eps or several; None: noise, FGSM and
    `worst_case_suite` at eps = 0.1. `progress` shows a bar per attack on a terminal.
    """
    if attacks is None:
        attacks = [Noise(0.1), FGSM(0.1), *worst_case_suite(0.1)]
    attacks = _checked(attacks)
    with evaluating(net):
        x, y = _pictures(net, pictures, limit)
        right = _right(net, x, y, batch_size)
        clean, rows, survived = right.double().mean().item(), [], {}
        for attack in attacks:
            levels = len(attack.eps) if isinstance(attack.eps, tuple) else 1
            with _bar(type(attack).__name__, levels * len(x), progress) as bar:
                update = None if bar is None else bar.update
                results = attack.attack(net, x, y, batch_size=batch_size, progress=update)
            for r in results if isinstance(results, list) else [results]:
                eps = r.settings["eps"]
                rows.append(Row(r.attack, eps, r.accuracy, r.seconds, r.settings))
                survived[eps] = survived.get(eps, right) & ~r.success

    worst_case = {}
    for eps in sorted(survived):
        right = right & survived[eps]
        worst_case[eps] = right.double().mean().item()
    return Evaluation(len(x), clean, rows, worst_case)


@torch.no_grad()
def _right(net: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """(N,) bool: is the decision right?"""
    expect_integer(batch_size, "batch_size", 1, "256 suits most models.")
    decisions = []
    for part in x.split(batch_size):
        logits = net(part)
        if not decisions:
            check_labels(y, logits.shape[1], "pictures")
        decisions.append(decide(logits))
    return torch.cat(decisions) == y


def _pictures(
    net: nn.Module, pictures: Iterable[Tensor], limit: int | None
) -> tuple[Tensor, Tensor]:
    """The first `limit` pictures and labels, on the device of `net`."""
    x, y = pictures
    expect(
        len(x) == len(y) and len(x) > 0,
        "pictures",
        f"{len(x)} pictures and {len(y)} labels",
        "equally many, at least one",
        "Pass a part of load_data(...), or a pair (x, y).",
    )
    if limit is not None:
        expect_integer(limit, "limit", 1, "None takes all pictures.")
        x, y = x[:limit], y[:limit]
    parameter = next(net.parameters(), x)
    return x.to(parameter.device), y.to(parameter.device)


def _checked(attacks: Iterable) -> list:
    """The attacks as a list, each of them one that `evaluate` can use."""
    several = isinstance(attacks, Iterable)
    for attack in (attacks := list(attacks) if several else [attacks]):
        instance = not isinstance(attack, type) and hasattr(attack, "attack")
        expect(
            several and instance and hasattr(attack, "eps"),
            "attacks",
            repr(attack),
            "a list of attacks",
            "Pass instances, in brackets: [Noise(0.1), PGD(0.1)].",
        )
        expect(
            not getattr(attack, "targeted", False),
            "attacks",
            repr(attack),
            "untargeted attacks, for the labels of the pictures are the true ones",
            "Call its attack(net, x, wanted) instead.",
        )
    return attacks


def _bar(attack: str, total: int, wanted: bool):
    """A progress bar, or None inside a context that does nothing."""
    if not wanted:
        return nullcontext()
    from tqdm import tqdm

    # disable=None: no bar where stderr is not a terminal.
    return tqdm(desc=attack, total=total, unit="picture", leave=False, disable=None)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
