"""Floor 7: a network that learns once and is attacked once, and what the records keep of it.

A network is a circuit or a baseline: a `Cerebellum` of a `CircuitConfig`, which learns by a
`LearningConfig`, or a `CNN` of a `CNNConfig`, which learns by a `CNNLearning`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from . import checkpoint, ops, results
from .attacks import FGSM, PGD, Attack, Noise
from .baselines import CNN, CNNConfig, CNNLearning
from .config import CircuitConfig, LearningConfig, preset
from .data import Data, Pictures
from .evaluation import Evaluation, evaluate
from .labels import decide
from .model import Cerebellum

LOSSES = ("mse", "ce", "margin")
SOUND = "sound_"
"""How the names of the attacks begin that are ours and not the paper's."""
Network = Cerebellum | CNN


def circuit_settings(name: str, wiring: str) -> dict:
    """The settings of a circuit that a preset names and that this wiring has."""
    settings = preset(name).circuit
    # Only wiring "random" draws inputs, so only it can draw them with replacement.
    return {key: settings[key] for key in settings if key != "replacement" or wiring == "random"}


def training_recipe(
    data: Data, circuit: CircuitConfig | CNNConfig, learning: LearningConfig | CNNLearning
) -> dict:
    """What makes two trainings the same."""
    return {
        "name": f"train {data.name} seed {circuit.seed}",
        "circuit": asdict(circuit),
        "learning": asdict(learning),
        "data": data.describe(),
    }


def train_once(
    data: Data,
    circuit: CircuitConfig | CNNConfig,
    learning: LearningConfig | CNNLearning,
    out: str | Path,
    device: str = "cpu",
) -> tuple[Network, dict]:
    """A network that learned these pictures, and its record out/train.json.

    Where the record exists the network is loaded from beside it; an interrupted training of a
    circuit goes on from its checkpoint. Raises CerebsimError if out holds another network.
    """
    out, trained = Path(out), None
    kind = CNN if isinstance(circuit, CNNConfig) else Cerebellum

    def run() -> dict:
        nonlocal trained
        trained = kind(**asdict(circuit), device=device)
        history = trained.fit(data.train, data.test, **asdict(learning), out=out)
        return {
            "history": asdict(history),
            "data_dir": data.data_dir,
            **served_by(trained, data.train),
        }

    recipe = training_recipe(data, circuit, learning)
    record = results.run_once_at(train_record(out), recipe, run)
    return kind.load(out, device) if trained is None else trained, record


def load(folder: str | Path, device: str = "cpu") -> Network:
    """The network in a folder that `train_once` wrote, in eval mode.

    Raises CheckpointError naming the file and the reason.
    """
    _, facts = checkpoint.load(Path(folder))
    return (CNN if "cnn" in facts["settings"] else Cerebellum).load(folder, device)


def train_record(out: str | Path) -> Path:
    """Where `train_once` keeps the record of a network."""
    return Path(out) / "train.json"


def suite(
    eps: Sequence[float], losses: Sequence[str] = LOSSES, sound_eps: Sequence[float] | None = None
) -> dict[str, Noise | FGSM | PGD]:
    """The attacks of a report: noise, the paper's FGSM and PGD, and a sound PGD for each loss.

    sound_eps: where the sound attacks run, None: at every eps.
    """
    eps = tuple(eps)
    sound = eps if sound_eps is None else tuple(sound_eps)
    return {
        "noise": Noise(eps),
        "fgsm": FGSM(eps, loss="mse"),
        "pgd": PGD(eps, **preset("paper").attack),
        **{f"{SOUND}{loss}": PGD(sound, loss=loss) for loss in losses},
    }


def attack_all(
    net: Network,
    pictures: Pictures,
    attacks: dict[str, Attack],
    save: Path | None = None,
) -> dict:
    """What a record holds of an evaluation.

    accuracy: {"clean", "<attack>_<eps>" ..., "worst_<eps>" ...}, 0..1; evaluation: all its rows.
    save: a file for the pictures of the worst case.
    """
    evaluation = evaluate(net, pictures, list(attacks.values()))
    if save is not None:
        evaluation.attacked.save(save)
    accuracy = {"clean": evaluation.clean, **_accuracies(evaluation, attacks)}
    accuracy |= {f"worst_{eps:g}": share for eps, share in evaluation.worst_case.items()}
    return {
        "accuracy": accuracy,
        "evaluation": evaluation.as_dict(),
        **served_by(net, pictures),
    }


def attack_most(net: Network, pictures: Pictures, attacks: dict[str, Attack], few: int) -> dict:
    """`attack_all`, but the sound attacks see only the first `few` pictures, and so does the worst
    case over all attacks; sound_evaluation: their rows.
    """
    paper = {name: attack for name, attack in attacks.items() if not name.startswith(SOUND)}
    sound = {name: attack for name, attack in attacks.items() if name.startswith(SOUND)}
    every = evaluate(net, pictures, list(paper.values()))
    some = evaluate(net, pictures.first(few), list(sound.values()))
    accuracy = {"clean": every.clean, **_accuracies(every, paper), **_accuracies(some, sound)}
    for eps in every.survived:
        alive = every.survived[eps][: some.n].clone()
        for smaller in (e for e in some.survived if e <= eps):
            alive &= some.survived[smaller]
        accuracy[f"worst_{eps:g}"] = alive.double().mean().item()
    return {
        "accuracy": accuracy,
        "evaluation": every.as_dict(),
        "sound_evaluation": some.as_dict(),
        **served_by(net, pictures),
    }


def _accuracies(evaluation: Evaluation, attacks: dict[str, Attack]) -> dict[str, float]:
    names = [f"{name}_{eps:g}" for name, attack in attacks.items() for eps in attack.eps]
    return {name: row.accuracy for name, row in zip(names, evaluation.rows, strict=True)}


def served_by(net: Network, pictures: Pictures) -> dict[str, str]:
    """The backend and the device that compute this network's outputs; a CNN's backend is torch."""
    x = pictures.x[:1].flatten(1).to(_device(net))
    if isinstance(net, CNN):
        return {"backend": "torch", "device": str(x.device)}
    return {"backend": ops.backend_of(x, net.granule), "device": str(x.device)}


def _device(net: Network) -> torch.device:
    return next(net.parameters()).device


@dataclass(frozen=True)
class Trial:
    """One model and seed of a table: trained, attacked and recorded at most once.

    out/records has the record and, beside it, a few attacked pictures for a figure; out/circuits
    has the trained network, which trials that differ in their attacks alone share.
    """

    model: str
    circuit: CircuitConfig | CNNConfig
    learning: LearningConfig | CNNLearning
    data: Data
    out: Path
    eps: tuple[float, ...]
    limit: int | None = None
    """Attack only the first that many test pictures."""
    sound_limit: int | None = None
    """Of these, make the sound attacks only on the first that many."""
    device: str = "cpu"
    """Where; not what makes two trials the same."""

    @property
    def attacks(self) -> dict[str, Noise | FGSM | PGD]:
        """The sound attacks run at the smallest eps: what fools there fools at every larger one."""
        return suite(self.eps, sound_eps=[min(self.eps)])

    @property
    def name(self) -> str:
        return f"{self.model} {self.data.name} seed {self.circuit.seed}"

    @property
    def recipe(self) -> dict:
        return training_recipe(self.data, self.circuit, self.learning) | {
            "name": self.name,
            "model": self.model,
            "attacks": {name: asdict(attack) for name, attack in self.attacks.items()},
            "limit": self.limit,
            **({} if self.sound_limit is None else {"sound_limit": self.sound_limit}),
        }

    @property
    def record(self) -> Path:
        return results.trial_path(self.out / "records", self.recipe)

    @property
    def examples(self) -> Path:
        """Attacked pictures of the smallest eps, as `example_pictures` returns them."""
        return self.record.with_suffix(".safetensors")

    @property
    def folder(self) -> Path:
        """Of the trained network."""
        recipe = training_recipe(self.data, self.circuit, self.learning) | {"name": self.name}
        return results.trial_path(self.out / "circuits", recipe).with_suffix("")

    def run(self, wait: bool = True) -> dict | None:
        """The record; what it says is found now if it is not on disk.

        wait=False: None where another process is at it.
        """
        return results.run_once(self.record.parent, self.recipe, self._run, wait)

    def _run(self) -> dict:
        net, trained = train_once(self.data, self.circuit, self.learning, self.folder, self.device)
        pictures, few = self.data.test.first(self.limit), self.sound_limit
        if few is None:
            found = attack_all(net, pictures, self.attacks)
        else:
            found = attack_most(net, pictures, self.attacks, few)
        tensors = example_pictures(net, self.data.test, min(self.eps))
        results.write_bytes(self.examples, safetensors.torch.save(tensors))
        return {"history": trained["history"], **found}


def example_pictures(net: Network, pictures: Pictures, eps: float) -> dict[str, Tensor]:
    """The first eight pictures: "x", "y", "decisions", and "<attack>.x", "<attack>.decisions".

    The attacks are the paper's PGD ("pgd") and PGD on the margin ("sound_margin").
    """
    x, y = (tensor.to(_device(net)) for tensor in pictures.first(8))
    with torch.no_grad():
        tensors = {"x": x, "y": y, "decisions": decide(net(x))}
    attacks = suite([eps])
    for name in ("pgd", "sound_margin"):
        (result,) = attacks[name].attack(net, x, y)
        tensors |= {f"{name}.x": result.adversarial, f"{name}.decisions": result.decisions}
    return {name: tensor.cpu() for name, tensor in tensors.items()}
