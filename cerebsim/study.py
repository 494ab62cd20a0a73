"""Floor 9: where the accuracies of the paper's table 7 come from, one factor at a time.

Trained picture by picture a cerebellum seems to withstand PGD (95.2 % at eps 0.1), trained with
batches of 50 it does not (55.8 %). The study trains circuits of three widths under both and under
what differs between them, and attacks each with the paper's PGD, with its step and its loss varied,
and without any gradient. Every network is a record of `results`; `study_report` makes table and
figures from the records alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from . import paper, study_report
from .attacks import FGSM, PGD
from .config import preset
from .data import Data
from .errors import expect, expect_choice
from .evaluation import accuracy
from .jobs import run_all
from .labels import decide
from .losses import loss_function, margin
from .masking_case import Case, share
from .masking_losses import summary
from .paper import scaled
from .published import TABLES
from .square import Square
from .trials import Trial, attack_all, train_once, training_recipe

EPS = 0.1
QUERIES = 1000  # of the Square attack, a picture
PAPER_ATTACK = PGD(EPS, **preset("paper").attack)
ATTACKS = {
    "FGSM": FGSM((EPS,), loss="mse"),
    **{
        f"PGD {loss} {alpha:g}": replace(PAPER_ATTACK, eps=(EPS,), loss=loss, alpha=alpha)
        for loss in ("mse", "ce", "margin")
        for alpha in (0.01, 0.1)
    },
    "Square": Square((EPS,), QUERIES),
}

CIRCUITS = {
    "FC m=1,000": TABLES["table7"].rows["FC m=1,000"],
    "FC m=5,970": TABLES["table2"].rows["Base"],
    "RC k=4": TABLES["table7"].rows["RC k=4"],
}
LTD = {"none": (False, "before"), "moving average": (True, "before"), "exact mean": (True, "exact")}
"""By name: whether there is centring, and `LearningConfig.ltd_update`."""
TRAININGS = {"batch 50": (50, False), "batch 1": (1, False), "batch 1, as many updates": (1, True)}
"""By name: the batch, and whether learning ends after as many updates as with batches of 50."""
TWIN = "batch 50"


@dataclass(frozen=True)
class Studied(Trial):
    """One network of the study."""

    ltd: str = "none"
    training: str = TWIN
    twin: "Studied | None" = None
    """The same circuit trained with batches of 50, whose pictures are shown to this one."""

    @property
    def attacks(self) -> dict:
        return ATTACKS

    @property
    def recipe(self) -> dict:
        twin = self.twin
        learned = None if twin is None else training_recipe(twin.data, twin.circuit, twin.learning)
        return super().recipe | {"ltd": self.ltd, "training": self.training, "twin": learned}

    def _run(self) -> dict:
        net, trained = train_once(self.data, self.circuit, self.learning, self.folder, self.device)
        pictures = self.data.test.first(self.limit)
        x, y = (tensor.to(net.W.device) for tensor in pictures)
        transferred = None
        if (twin := self.twin) is not None:
            source, _ = train_once(twin.data, twin.circuit, twin.learning, twin.folder, self.device)
            made = PGD(EPS, loss="margin").attack(source, x, y).adversarial
            transferred = accuracy(net, (made, y))
        return {
            "history": trained["history"],
            **attack_all(net, pictures, self.attacks),
            "transfer": transferred,
            "trajectory": trajectory(net, x, y),
        }


def trajectory(net: nn.Module, x: Tensor, y: Tensor, attack: PGD = PAPER_ATTACK) -> dict:
    """The attack step by step on those pictures x (N, ...) with labels y that survive it.

    For the clean pictures, the random start and after every step: the mean over the survivors of
    the right output ("own"), of the best other ("best"), of all others ("others"), of the loss, and
    of the distance to the boundary, own - best ("distance"). survivors: their number; against: the
    share of all N whose loss rose from the clean picture to the attacked one while the distance
    rose too.
    """
    case = Case(net, x, y, attack)
    trace, clean = case.trace, case.clean
    last = trace.logits[-1]
    alive = (decide(clean) == y) & (decide(last) == y)
    loss, seen = loss_function(attack.loss), [clean, *trace.logits]
    rose = loss(last, y) > loss(clean, y)
    further = margin(last, y) < margin(clean, y)
    found = {"survivors": int(alive.sum()), "against": share(rose & further)}
    if not found["survivors"]:
        return found
    outputs = [summary(logits[alive], y[alive]) for logits in seen]
    own, best, others = map(list, zip(*outputs, strict=True))
    return found | {
        "own": own,
        "best": best,
        "others": others,
        "loss": [float(loss(logits, y)[alive].double().mean()) for logits in seen],
        "distance": [a - b for a, b in zip(own, best, strict=True)],
    }


def study(
    data: Data,
    out: str | Path,
    circuits: Sequence[str] = tuple(CIRCUITS),
    ltd: Sequence[str] = tuple(LTD),
    trainings: Sequence[str] = tuple(TRAININGS),
    seed: int = 0,
    limit: int | None = None,
    epochs: int = 10,
    device: str = "cpu",
    jobs: int = 1,
) -> tuple[str, tuple[Path, ...]]:
    """Train and attack every combination, and write records, table and figures to a folder.

    circuits, ltd, trainings: names of `CIRCUITS`, `LTD` and `TRAININGS`; limit: attack only the
    first that many test pictures. As in `paper.reproduce` a network with a record in out/records
    is not run again, an interrupted training goes on from its checkpoint, and several processes
    may work on one folder. Writes study.csv, .md, .png and trajectory.png; returns the table and
    the files. Raises ArgumentError.
    """
    chosen = (
        ("circuits", circuits, CIRCUITS),
        ("ltd", ltd, LTD),
        ("trainings", trainings, TRAININGS),
    )
    for argument, names, known in chosen:
        expect(len(names) > 0, argument, list(names), "at least one", "Leave it out for all.")
        for name in names:
            expect_choice(name, argument, tuple(known))
    data.test.first(limit)  # a limit that is none is told before anything is trained
    updates = epochs * math.ceil(len(data.train) / TRAININGS[TWIN][0])
    got, most = f"{epochs}, {updates:,} updates", f"at most {len(data.train):,} updates"
    expect(updates <= len(data.train), "epochs", got, most, "The paper has 10.")

    def network(name: str, centring: str, training: str) -> Studied:
        batch_size, matched = TRAININGS[training]
        twin = network(name, centring, TWIN) if training != TWIN else None
        learned = replace(data, train=data.train.first(updates)) if matched else data
        with_ltd, update = LTD[centring]
        row = scaled(replace(CIRCUITS[name], ltd=with_ltd), data)
        of, learning = paper.network(row, data, seed, 1 if matched else epochs, batch_size)
        learning = replace(learning, ltd_update=update)
        # Named as in the tables, so that both may share trained networks.
        model = name.replace(" ", " + LTD ", 1) if with_ltd else name
        place = Path(out), (EPS,), limit, None, device
        return Studied(model, of, learning, learned, *place, centring, training, twin)

    trials = [network(*chosen) for chosen in product(circuits, ltd, trainings)]
    return study_report.write(run_all(trials, jobs, "study"), tuple(ATTACKS), EPS, Path(out))
