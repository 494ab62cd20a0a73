"""Floor 6: the cerebellum as a learning machine, an ordinary torch module."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from . import backends, checkpoint, learning, ops
from .config import CircuitConfig, LearningConfig
from .errors import ArgumentError, CheckpointError, expect, expect_integer
from .layers import Centring, GranuleLayer, Readout
from .wiring import draw_readout


class Cerebellum(nn.Module):
    """A picture on d mossy fibres -> m granule cells -> c Purkinje cells.

    h = relu(J^T x - threshold) (paper eq. 1), y = W (h - mu) (eq. 2). J is fixed and a function of
    the seed; W learns by the delta rule (`fit`); mu is the moving average of h ("LTD"), or absent.
    `device` is any of torch's ("auto": a GPU where there is one); the same J on each.

    Takes pictures (B, d) or (B, C, H, W) with C H W = d, float32, and returns fresh logits (B, c);
    the decision is the largest, or with c = 1 the sign. Differentiable to the input and to W, and
    so open to every attack written for torch modules. In eval mode it repeats itself, and a
    picture's logits do not depend, bit for bit, on the rest of the batch or on the number of
    threads (where fan_in < mossy_fibers; where a cell reads them all, to rounding). In train mode
    the forward pass moves mu, as batch norm moves its average; `fit` needs no mode and leaves eval
    mode behind. The arguments are those of `config.CircuitConfig`, where each is explained.

    Raises `ArgumentError` for arguments that make no network and for inputs of the wrong shape,
    dtype or device, and for NaN and infinity.
    """

    def __init__(
        self,
        mossy_fibers: int,
        granule_cells: int,
        purkinje_cells: int = 10,
        fan_in: int = 4,
        wiring: str = "random",
        replacement: bool = False,
        ltd: bool = True,
        threshold: float = 0.0,
        initial_readout: str = "normal",
        seed: int = 0,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.config = config = CircuitConfig(
            mossy_fibers=mossy_fibers,
            granule_cells=granule_cells,
            purkinje_cells=purkinje_cells,
            fan_in=fan_in,
            wiring=wiring,
            replacement=replacement,
            ltd=ltd,
            threshold=threshold,
            initial_readout=initial_readout,
            seed=seed,
        )
        self.granule = GranuleLayer(
            mossy_fibers, granule_cells, config.fan_in, wiring, replacement, threshold, seed
        )
        self.centring = Centring(granule_cells) if ltd else None
        self.readout = Readout(draw_readout(config))
        self.to(backends.device_of(device))

    @property
    def W(self) -> Tensor:
        """The readout (c, m)."""
        return self.readout.W

    @property
    def mu(self) -> Tensor | None:
        """The average response (m), or None without LTD."""
        return None if self.centring is None else self.centring.mu

    def forward(self, x: Tensor) -> Tensor:
        x = self._mossy(x)
        if self.training and self.centring is not None:
            return self.readout(self.centring(ops.granule(x, self.granule)))
        return ops.circuit(x, self.granule, self.W, self.mu)

    def loss_gradient(
        self, x: Tensor, output_gradient: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, c) and a loss's gradient to x, shaped as x, with mu as it is and no graph.

        `output_gradient` is given the logits and returns the loss's gradient to them (B, c). h is
        never stored: on a GPU the way back works it out again, on the CPU a bit of each cell is
        kept for it.
        """
        with torch.no_grad():
            flat = self._mossy(x)
            logits, fired = ops.circuit_fired(flat, self.granule, self.W, self.mu)
            grad_y = output_gradient(logits)
            grad_x = ops.circuit_backward_x(grad_y, flat, self.granule, self.W, fired)
            return logits, grad_x.view(x.shape)

    def coding_level(self, x: Tensor, batch_size: int = 50) -> float:
        """Share of granule cells that a picture of x activates (h > 0), on average."""
        expect(len(x) > 0, "x", "no pictures", "at least one", "Check the data set.")
        expect_integer(batch_size, "batch_size", 1, "It bounds the memory, not the result.")
        active = 0
        with torch.no_grad():
            for part in self._mossy(x).split(batch_size):
                active += int((ops.granule(part, self.granule) > 0).sum())
        return active / (len(x) * self.config.granule_cells)

    def fit(
        self,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor] | None = None,
        *,
        out: str | os.PathLike | None = None,
        progress: bool = True,
        **settings,
    ) -> learning.History:
        """Learns W (and mu) from pictures and labels; see `config.LearningConfig` for the settings.

        train, test: (pictures (N, ...) float32, labels (N) int64), e.g. `data.Pictures`; they are
        moved to the network's device. out: a folder for the checkpoint, written after every epoch
        and on Ctrl-C; a run that is there with equal settings and pictures goes on, bit for bit,
        and a finished one is returned.
        Deterministic for any number of threads (not bit for bit where a cell reads every
        mossy fibre).
        """
        unknown = sorted(settings.keys() - LearningConfig.__dataclass_fields__.keys())
        known = ", ".join(LearningConfig.__dataclass_fields__)
        expect(
            not unknown,
            unknown[0] if unknown else "",
            "an unknown setting",
            known,
            "Check the name.",
        )
        config = LearningConfig(**settings)
        if self.centring is not None:
            self.centring.decay, self.centring.update = config.beta, config.ltd_update
        history = learning.learn(
            self._circuit(),
            self._pictures("train", train),
            None if test is None else self._pictures("test", test),
            config,
            self._settings(),
            None if out is None else Path(out),
            progress,
        )
        self.eval()
        return history

    def save(self, path: str | os.PathLike) -> None:
        """Saves the network in the folder `path`: J as seed and rule, W, mu, configuration."""
        tensors = {"W": self.W} | ({} if self.mu is None else {"mu": self.mu})
        checkpoint.save(Path(path), tensors, {"settings": self._settings()})

    @classmethod
    def load(
        cls, path: str | os.PathLike, device: torch.device | str | None = None
    ) -> "Cerebellum":
        """The network in a folder that `save`, `fit(out=...)` or `cerebsim train` wrote.

        It is in eval mode. Raises `CheckpointError` naming the file and the reason if it is
        missing, truncated, damaged, foreign, of another format, or if this machine draws another J
        from its seed.
        """
        tensors, facts = checkpoint.load(Path(path))
        if "circuit" not in facts["settings"]:
            where = Path(path) / checkpoint.NAME
            raise CheckpointError(f"{where}: holds another kind of network, and no Cerebellum.")
        net = cls(**facts["settings"]["circuit"])
        if net._settings()["J"] != facts["settings"].get("J"):
            where = Path(path) / checkpoint.NAME
            raise CheckpointError(f"{where}: this cerebsim draws other synapses J from its seed.")
        with torch.no_grad():
            net.W.copy_(tensors.get("best_W", tensors["W"]))
            if net.mu is not None:
                net.mu.copy_(tensors.get("best_mu", tensors["mu"]))
        return net.to(backends.device_of(device)).eval()

    def _circuit(self) -> learning.Circuit:
        return learning.Circuit(self.granule, self.W, self.mu)

    def _settings(self) -> dict:
        """What makes two networks the same before they learn; J by its SHA-256."""
        J = checkpoint.checksum(*self.granule.operands[1:])
        return {"circuit": asdict(self.config), "J": J}

    def _pictures(self, name: str, pictures: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        try:
            x, y = pictures
        except (TypeError, ValueError):
            got, expected = type(pictures).__name__, "(pictures, labels)"
            raise ArgumentError(
                name, got, expected, "Pass data.train or a pair of tensors."
            ) from None
        flat = self._mossy(x, name).to(self.W.device)
        return flat, y.to(flat.device) if isinstance(y, Tensor) else y

    def _mossy(self, x: Tensor, name: str = "x") -> Tensor:
        """Pictures as (B, d)."""
        d = self.config.mossy_fibers
        flat = x.flatten(1) if isinstance(x, Tensor) and x.ndim > 1 else x
        if not isinstance(flat, Tensor) or flat.ndim != 2 or flat.shape[1] != d:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            expected = f"pictures of {d} values, (B, {d}) or (B, C, H, W)"
            remedy = "Reshape them, or build the network with another mossy_fibers."
            raise ArgumentError(name, got, expected, remedy)
        if flat.dtype != self.W.dtype:
            remedy = "Convert them with .to(), after scaling whole numbers to [0, 1]."
            raise ArgumentError(name, flat.dtype, f"{self.W.dtype}, as the network", remedy)
        return flat
