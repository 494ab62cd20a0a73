"""Floor 7: how robust a network is, honestly: each attack, and the worst case over all of them."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from .adversarial import AdversarialSet
from .attackable import evaluating
from .attacks import Attack, AttackResult
from .errors import expect, expect_integer
from .labels import check_labels, decide
from .suites import attack_suite


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
        name = f"{self.attack} {self.settings.get('loss', self.settings.get('kind', ''))}".strip()
        return f"{name}, targeted" if self.settings.get("targeted") else name


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
    survived: dict[float, Tensor] = field(repr=False, compare=False)
    """eps -> (n,) bool, picture by picture what `worst_case` is the mean of."""
    attacked: AdversarialSet = field(repr=False, compare=False)
    """At each eps the pictures that fooled the network, each made at the smallest eps that did, and
    the clean ones of those that survived: to be saved, and verified by others."""

    def as_dict(self) -> dict:
        """For JSON, whose keys are strings: worst_case has str(eps). Without the pictures."""
        return {
            "n": self.n,
            "clean": self.clean,
            "rows": [asdict(row) for row in self.rows],
            "worst_case": {str(e): a for e, a in self.worst_case.items()},
        }

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


TARGETS = 3
"""Wrong classes that a targeted attack aims at, one after another, the likeliest first."""


def accuracy(net: nn.Module, pictures: Iterable[Tensor], batch_size: int = 256) -> float:
    """Share of pictures decided right, 0..1, in eval mode and without a gradient.

    `pictures` are a `data.Pictures` or a pair (x, y) of floats (N, ...) and int64 (N,); they are
    moved to the device of `net`. Bad input is an `ArgumentError`.
    """
    with evaluating(net):
        x, y = _pictures(net, pictures, None)
        logits = _logits(net, x, batch_size)
        check_labels(y, logits.shape[1], "pictures")
        return (decide(logits) == y).double().mean().item()


def evaluate(
    net: nn.Module,
    pictures: Iterable[Tensor],
    attacks: Iterable | None = None,
    suite: Literal["default", "strong"] | None = None,
    eps: float | Sequence[float] | None = None,
    limit: int | None = None,
    batch_size: int = 256,
    progress: bool = True,
) -> Evaluation:
    """Accuracy of `net` on clean pictures, under each attack, and in the worst case over all.

    `pictures` as in `accuracy`; `limit` takes the first that many. `attacks` are `Noise`, `FGSM`,
    `PGD`, `Square`, `AutoAttack`, each with one eps or several; in their place `suite` ("default")
    and `eps` (0.1) name those of `attack_suite`. A targeted attack aims at the `TARGETS` likeliest
    wrong classes of each picture in turn; any wrong decision counts. `progress` shows a bar per
    attack on a terminal.

    Bad input is an `ArgumentError`, also a suite or an eps beside `attacks`; pictures and outputs
    that an attack cannot take are one before the first begins.
    """
    with evaluating(net):
        x, y = _pictures(net, pictures, limit)
        logits = _logits(net, x, batch_size)
        check_labels(y, logits.shape[1], "pictures")
        attacks = _attacks(attacks, suite, eps, logits.shape[1])
        for attack in attacks:
            if isinstance(attack, Attack):
                attack.check(net, x, y)
        right = decide(logits) == y
        clean, rows, found = right.double().mean().item(), [], {}
        for attack in attacks:
            aims = _wrong_classes(logits, y) if getattr(attack, "targeted", False) else [y]
            levels = len(attack.eps) if isinstance(attack.eps, tuple) else 1
            with _bar(type(attack).__name__, levels * len(aims) * len(x), progress) as bar:
                update = None if bar is None else bar.update
                tried = [
                    attack.attack(net, x, aim, batch_size=batch_size, progress=update)
                    for aim in aims
                ]
            for results in zip(*(r if isinstance(r, list) else [r] for r in tried), strict=True):
                rows.append(_row(results))
                at = found.setdefault(rows[-1].eps, _Fooled(x, right))
                for result in results:
                    at.add(result)

    survived, attacked, smaller = {}, {}, _Fooled(x, right)
    for radius in sorted(found):
        smaller.add_all(found[radius])
        survived[radius], attacked[radius] = smaller.right.clone(), smaller.pictures.clone()
    worst_case = {radius: alive.double().mean().item() for radius, alive in survived.items()}
    bounds = next((attack.bounds for attack in attacks if hasattr(attack, "bounds")), (0.0, 1.0))
    about = {"attacks": [asdict(row) for row in rows]}
    pictures = AdversarialSet(x, y, attacked, bounds, about)
    return Evaluation(len(x), clean, rows, worst_case, survived, pictures)


class _Fooled:
    """Which pictures are still decided right, and the pictures that fooled the network."""

    def __init__(self, x: Tensor, right: Tensor):
        self.pictures, self.right = x.clone(), right.clone()

    def add(self, result: AttackResult) -> None:
        self._take(result.success, result.adversarial)

    def add_all(self, other: "_Fooled") -> None:
        self._take(~other.right, other.pictures)

    def _take(self, fooled: Tensor, pictures: Tensor) -> None:
        new = fooled & self.right
        self.pictures[new] = pictures[new]
        self.right &= ~fooled


def _row(results: Sequence[AttackResult]) -> Row:
    """One attack at one eps, at however many classes it was aimed."""
    fooled = torch.stack([result.success for result in results]).any(0)
    accuracy = (~fooled).double().mean().item()
    first, seconds = results[0], sum(result.seconds for result in results)
    return Row(first.attack, first.settings["eps"], accuracy, seconds, first.settings)


def _wrong_classes(logits: Tensor, y: Tensor) -> list[Tensor]:
    """The likeliest wrong class of every picture, the second likeliest ...: `TARGETS` of them."""
    classes = logits.shape[1]
    expect(
        classes >= 3,
        "attacks",
        f"a targeted attack on {classes} output{'s' if classes > 1 else ''}",
        "at least 3 outputs, where there is a wrong class to choose",
        "Attack untargeted.",
    )
    others = logits.scatter(1, y.unsqueeze(1), float("-inf"))
    return list(others.topk(min(TARGETS, classes - 1), dim=1).indices.T)


@torch.no_grad()
def _logits(net: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    expect_integer(batch_size, "batch_size", 1, "256 suits most models.")
    return torch.cat([net(part) for part in x.split(batch_size)])


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


def _attacks(attacks: Iterable | None, suite, eps, outputs: int) -> list:
    """The attacks as a list, each of them one that `evaluate` can use, or those of a suite."""
    if attacks is None:
        named, radius = "default" if suite is None else suite, 0.1 if eps is None else eps
        return attack_suite(named, radius, outputs)
    for name, value in (("suite", suite), ("eps", eps)):
        expect(
            value is None,
            name,
            f"{value!r} beside attacks",
            "attacks, or a suite at an eps",
            "Give each attack its own eps, or leave attacks out.",
        )
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
