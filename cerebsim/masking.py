"""Floor 8: may this robust accuracy be believed? The 17 checks on gradient masking, and a verdict.

A robust accuracy is an upper bound: it says what one attack did not manage. An attack that cannot
see its way (a masked gradient, a wrong loss, too few steps) makes any network look strong. The
checks are those of Carlini et al. 2019, Athalye et al. 2018, Tramer et al. 2020, Croce & Hein 2020,
Pintor et al. 2022 and Zimmermann et al. 2022, each with a threshold beside its computation.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from . import masking_binary as binary
from . import masking_figures as figures
from . import masking_gradient as gradient
from . import masking_losses as losses
from . import masking_others as others
from . import masking_search as search
from .attackable import check_pictures, evaluating
from .attacks import PGD
from .data import Data
from .errors import expect
from .losses import LOSSES
from .masking_case import Case, Effort, NotRun, share

Status = Literal["passed", "failed", "warning", "not run"]
MANY = 10_000
"""From this many pictures on, accuracies may differ by `FEW_POINTS` and no longer by `POINTS`."""
POINTS, FEW_POINTS = 0.02, 0.005


@dataclass(frozen=True)
class Check:
    """One row of the protocol: what is measured, when it passes, how it is drawn."""

    number: int
    name: str
    computation: Callable[[Case], dict]
    """Measured numbers, as JSON holds them; raises `NotRun` where the check makes no sense."""
    rule: Callable[[dict], gradient.Ruling]
    """Whether these numbers pass, and one sentence."""
    figure: Callable
    """Draws these numbers on a part of a matplotlib figure."""
    only_warns: bool = False


CHECKS = (
    Check(0, "Preconditions", gradient.preconditions, gradient.preconditions_hold,
          figures.table_of_preconditions),
    Check(1, "The gradient is right", gradient.gradient_agreement, gradient.gradient_is_right,
          figures.gradient_scatter),
    Check(2, "Zero gradients", gradient.zero_gradients, gradient.gradients_are_there,
          figures.norms_over_steps),
    Check(3, "One step against many", search.fgsm_and_pgd, search.pgd_is_stronger,
          figures.fgsm_bars),
    Check(4, "More iterations", search.more_steps, search.steps_suffice, figures.steps_curve),
    Check(5, "Step size", search.step_size, search.step_size_is_good, figures.step_size_curve),
    Check(6, "Restarts", search.restarts, search.restarts_gain_nothing, figures.restarts_curve),
    Check(7, "Radius up to 1", search.growing_eps, search.accuracy_falls_to_nothing,
          figures.eps_curve),
    Check(8, "Choice of loss", losses.choice_of_loss, losses.loss_is_well_chosen,
          figures.loss_bars),
    Check(9, "Scale and shift of the outputs", losses.scale_and_shift,
          losses.scale_does_not_matter, figures.scale_curve),
    Check(10, "The loss follows success", losses.loss_and_success, losses.loss_follows_success,
          figures.loss_scatter),
    Check(11, "No gradient at all", others.square, others.square_is_no_better,
          figures.square_curve),
    Check(12, "Noise", search.noise, search.noise_never_wins, figures.noise_strip),
    Check(13, "Transfer from other networks", others.transfer, others.transfer_is_no_better,
          figures.transfer_map),
    Check(14, "An independent strong attack", others.autoattack, others.ours_is_close,
          figures.autoattack_table),
    Check(15, "Binarization", binary.binarization, binary.the_findable_is_found,
          figures.binarization_scatter),
    Check(16, "Loss landscape", gradient.landscape, gradient.landscape_is_smooth,
          figures.landscape_contours, only_warns=True),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    number: int
    name: str
    status: Status
    sentence: str
    numbers: dict
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """The verdict on the robust accuracy that one attack reports. Prints as a table."""

    attack: dict
    n: int
    clean: float
    accuracy: float
    """What the attack under examination reports, 0..1."""
    worst_case: float
    """Per picture, over everything that was run at this eps or below: the number to report."""
    tried: dict[str, float]
    """The accuracy under each of these attacks."""
    findings: list[Finding]

    def numbers_of(self, status: Status) -> list[int]:
        return [finding.number for finding in self.findings if finding.status == status]

    @property
    def verdict(self) -> Literal["trusted", "trusted on condition", "not to be trusted"]:
        """A check that was not run never counts as passed: it makes trust conditional."""
        if self.numbers_of("failed"):
            return "not to be trusted"
        return "trusted on condition" if self.numbers_of("not run") else "trusted"

    @property
    def reason(self) -> str:
        """Why, in a sentence or two."""
        failed, missing = self.numbers_of("failed"), self.numbers_of("not run")
        if failed:
            return (
                f"PGD on {self.attack['loss']} reports {self.accuracy:.1%} right at eps "
                f"{self.attack['eps']:g}, but {_checks(failed)} failed; everything tried together "
                f"leaves {self.worst_case:.1%}."
            )
        trust = (
            f"PGD on {self.attack['loss']} reports {self.accuracy:.1%} right at eps "
            f"{self.attack['eps']:g}, and nothing that was tried contradicts it (worst case over "
            f"everything: {self.worst_case:.1%})."
        )
        if missing:
            trust += f" This holds on condition of {_checks(missing)}, not run here."
        return trust

    def as_dict(self) -> dict:
        """For JSON."""
        return {**asdict(self), "verdict": self.verdict, "reason": self.reason}

    @classmethod
    def from_dict(cls, record: dict) -> "Report":
        """The report in a record, whatever else the record holds."""
        named = {name: record[name] for name in cls.__dataclass_fields__}
        return cls(**named | {"findings": [Finding(**f) for f in record["findings"]]})

    def __str__(self) -> str:
        lines = [f"{self.verdict.upper()}: {self.reason}", ""]
        lines += [f"{f.number:>2}  {f.status:<8} {f.name}: {f.sentence}" for f in self.findings]
        return "\n".join(lines)


def examine(
    net: nn.Module,
    pictures: "tuple[Tensor, Tensor]",
    attack: PGD,
    *,
    sources: Mapping[str, nn.Module] | None = None,
    data: Data | None = None,
    effort: Effort | None = None,
    batch_size: int = 256,
    progress: Callable[[str], object] | None = None,
    kept: Callable[[str, Callable[[], dict]], dict] | None = None,
) -> Report:
    """All checks on the robust accuracy that `attack` reports for `net` on these pictures.

    net: any module that maps pictures to logits (N, c); checks that it cannot undergo are "not
    run". pictures: (x, y) as for an attack, e.g. `data.test.first(1000)`. attack: an untargeted
    `PGD` on a named loss at one eps. sources: at least three other networks for check 13; without
    them they are trained from `data`, if given. progress is told what is being done. kept is asked
    for what each check found, by the check's name and with the function that runs it, so that an
    examination can go on where it was stopped; it must belong to these very arguments.

    Where check 0 fails, nothing that follows would mean anything, and it is not run. Repeats
    itself on the same machine. Bad input is an `ArgumentError`.
    """
    expect(
        isinstance(attack, PGD) and isinstance(attack.eps, float) and not attack.targeted,
        "attack",
        repr(attack),
        "an untargeted PGD at one eps",
        "Examine one number at a time.",
    )
    expect(
        attack.loss in LOSSES,
        "attack",
        f"the loss {attack.loss!r}",
        f"one of {', '.join(LOSSES)}",
        "Name the loss.",
    )
    x, y = pictures
    parameter = next(net.parameters(), x)
    x, y = x.to(parameter.device), y.to(parameter.device)
    expect(len(x) > 0, "pictures", "none", "at least one", "Pass data.test.first(1000).")
    tolerance = FEW_POINTS if len(x) >= MANY else POINTS
    with evaluating(net):
        check_pictures(net, x, y, attack.bounds)
        case = Case(net, x, y, attack, tolerance, effort or Effort(), dict(sources or {}), data,
                    batch_size, progress)  # fmt: skip
        clean = case.clean_accuracy
        findings: list[Finding] = []
        for check in CHECKS:
            if findings and findings[0].status == "failed":
                findings.append(_stopped(check))
                continue
            run = partial(_found, check, case)
            found = run() if kept is None else kept(f"check {check.number}", run)
            case.recall(found["tried"], found["fooled"])
            findings.append(Finding(**found["finding"]))
        accuracy, worst = case.result.accuracy, share(~case.fooled)
    settings = case.result.settings
    return Report(settings, len(x), clean, accuracy, worst, case.tried, findings)


def _found(check: Check, case: Case) -> dict:
    """What this check finds, and what was tried and fooled up to its end, as JSON holds them."""
    case.say(f"{check.number} {check.name}")
    finding = asdict(_finding(check, case))
    return {"finding": finding, "tried": case.tried, "fooled": case.fooled.nonzero()[:, 0].tolist()}


def _finding(check: Check, case: Case) -> Finding:
    began = time.perf_counter()
    try:
        numbers = check.computation(case)
    except NotRun as reason:
        return Finding(check.number, check.name, "not run", f"Not run: {reason}.", {})
    passed, sentence = check.rule(numbers)
    failure: Status = "warning" if check.only_warns else "failed"
    seconds = round(time.perf_counter() - began, 3)
    status = "passed" if passed else failure
    return Finding(check.number, check.name, status, sentence, numbers, seconds)


def _stopped(check: Check) -> Finding:
    reason = "Not run: the preconditions fail, so nothing that follows would mean anything."
    return Finding(check.number, check.name, "not run", reason, {})


def _checks(numbers: list[int]) -> str:
    """E.g. "checks 3, 8 and 10"."""
    *most, last = map(str, numbers)
    return f"checks {', '.join(most)} and {last}" if most else f"check {last}"
