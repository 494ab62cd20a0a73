"""Floor 7: what a cerebellum is compared with: a small convolutional network.

The paper's tables begin with a "Baseline CNN" and describe it nowhere. Ours is the network that
Wong & Kolter (2018, "Provable defenses against adversarial examples via the convex outer
adversarial polytope"; `mnist_model` in their code) use on MNIST, without their defence: two
convolutions with stride 2 instead of pooling, two dense layers. It learns the squared error, as
the circuits do. The paper's attacks climb that error, and where a network learned the
cross-entropy they climb without crossing its boundaries. It has what `trials` needs of a network:
`fit`, `save`, `load`.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import backends, checkpoint
from .errors import CheckpointError, expect, expect_choice, expect_integer, expect_number
from .evaluation import accuracy
from .labels import check_labels, decide, targets
from .learning import History, order_of


@dataclass(frozen=True)
class CNNConfig:
    """The architecture: conv -> conv -> dense -> dense, with relu between them."""

    channels: int
    height: int
    width: int
    classes: int = 10
    filters: int = 16
    """Of the first convolution; the second has twice as many. Both are 4x4 with stride 2 and
    padding 1, and halve height and width."""
    hidden: int = 100
    """Units of the first dense layer; the second has one per class."""
    seed: int = 0
    """Draws the initial weights."""

    def __post_init__(self):
        for name, low in (("channels", 1), ("classes", 2), ("filters", 1), ("hidden", 1)):
            expect_integer(getattr(self, name), name, low, "Ask for more.")
        for name in ("height", "width"):
            expect_integer(getattr(self, name), name, 4, "Two convolutions halve it twice.")
        expect_integer(self.seed, "seed", 0, "Any whole number draws weights.")


@dataclass(frozen=True)
class CNNLearning:
    """How it learns: Adam (Kingma & Ba 2015) on the mean over batch and classes of (y - t)^2.

    t is the one-hot target. The last epoch is kept.
    """

    epochs: int = 10
    batch_size: int = 50
    rule: Literal["adam"] = "adam"
    loss: Literal["mse"] = "mse"
    learning_rate: float = 1e-3
    seed: int = 0
    """Orders the pictures: epoch e has the order of (seed, e)."""

    def __post_init__(self):
        expect_integer(self.epochs, "epochs", 1, "Ask for at least one epoch.")
        expect_integer(self.batch_size, "batch_size", 1, "50 is theirs, and the paper's.")
        expect_choice(self.rule, "rule", ("adam",))
        expect_choice(self.loss, "loss", ("mse",))
        rate, remedy = self.learning_rate, "Leave it out for 0.001."
        expect_number(rate, "learning_rate", "a number > 0", lambda v: v > 0, remedy)
        expect_integer(self.seed, "seed", 0, "Any whole number orders the pictures.")


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class CNN(nn.Module):
    """Pictures (B, C, H, W), float32, to logits (B, classes); the arguments are `CNNConfig`'s.

    Weights start as N(0, 2 / fan_in) (He et al. 2015) drawn from the seed, on every device the
    same; biases start as 0. Raises `ArgumentError` for settings that make no network and for
    pictures of another shape.
    """

    def __init__(self, *settings, device: torch.device | str | None = None, **named):
        super().__init__()
        self.config = config = CNNConfig(*settings, **named)
        first, second = config.filters, 2 * config.filters
        flat = second * (config.height // 4) * (config.width // 4)
        self.layers = nn.Sequential(
            nn.Conv2d(config.channels, first, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.classes),
        )
        generator = torch.Generator().manual_seed(config.seed)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
            else:
                nn.init.zeros_(parameter)
        self.to(backends.device_of(device))

    def forward(self, x: Tensor) -> Tensor:
        shape = self.config.channels, self.config.height, self.config.width
        expect(
            x.ndim == 4 and x.shape[1:] == shape,
            "x",
            f"shape {tuple(x.shape)}",
            f"pictures (B, {', '.join(map(str, shape))})",
            "Reshape them, or build the network for them.",
        )
        return self.layers(x)

    def fit(
        self,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor] | None = None,
        *,
        out: str | os.PathLike | None = None,
        progress: bool = True,
        **settings,
    ) -> History:
        """Learns from pictures (N, C, H, W) and labels (N,) int64; settings: `CNNLearning`'s.

        They are moved to the network's device. out: a folder in which the learned network is
        saved; an interrupted training begins anew. Repeats itself bit for bit on one machine, for
        any number of threads: it uses one, which batches of so small a network keep busy. Leaves
        eval mode behind. Raises `ArgumentError` for bad settings, pictures or labels.
        """
        config, history = CNNLearning(**settings), History()
        device = next(self.parameters()).device
        x, y = (tensor.to(device) for tensor in train)
        check_labels(y, self.config.classes, "train labels")
        t = targets(y, self.config.classes)
        optimizer = torch.optim.Adam(self.parameters(), lr=config.learning_rate)
        self.train()
        bar = tqdm(
            total=config.epochs * len(x),
            desc="learning",
            unit=" pictures",
            leave=None,
            disable=None if progress else True,  # None: no bar where stderr is not a terminal
        )
        with bar, _one_thread(), torch.backends.cudnn.flags(enabled=True, deterministic=True):
            for epoch in range(config.epochs):
                began, right = time.perf_counter(), 0
                order = order_of(config.seed, epoch, len(x)).to(device)
                for rows in order.split(config.batch_size):
                    logits = self(x[rows])
                    optimizer.zero_grad()
                    nn.functional.mse_loss(logits, t[rows]).backward()
                    optimizer.step()
                    right += int((decide(logits) == y[rows]).sum())
                    bar.update(len(rows))
                history.train_accuracy.append(right / len(x))
                history.test_accuracy.append(None if test is None else accuracy(self, test))
                history.seconds.append(time.perf_counter() - began)
                history.epoch_kept = epoch
        if out is not None:
            self.save(out)
        self.eval()
        return history

    def save(self, path: str | os.PathLike) -> None:
        """Saves weights and configuration in the folder `path`."""
        facts = {"settings": {"cnn": asdict(self.config)}}
        checkpoint.save(Path(path), self.state_dict(), facts)

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str | None = None) -> "CNN":
        """The network in a folder that `save` or `fit(out=...)` wrote, in eval mode.

        Raises `CheckpointError` naming the file and the reason.
        """
        tensors, facts = checkpoint.load(Path(path))
        if "cnn" not in facts["settings"]:
            where = Path(path) / checkpoint.NAME
            raise CheckpointError(f"{where}: holds a circuit. Use Cerebellum.load.")
        net = cls(**facts["settings"]["cnn"])
        net.load_state_dict(tensors)
        return net.to(backends.device_of(device)).eval()
