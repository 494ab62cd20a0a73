"""Floor 5: pictures in [0, 1] with their labels, and where they come from.

`load_data("digits")` is embedded (scikit-learn), `"mnist"` is looked for on this machine before it
is downloaded, `"folder:PATH"` is a folder of picture files. Nothing is changed but the scale:
value / 255 (digits: / 16). No order or split is random, so a name and a checksum are a data set.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .errors import ArgumentError, CerebsimError, expect, expect_integer
from .folder import read_folder
from .mnist import read_mnist

NAMES = ("digits", "mnist", "folder:PATH")


@dataclass(frozen=True)
class Pictures:
    """Pictures x, float32 (N, C, H, W) in [0, 1], and their labels y, int64 (N,).

    Unpacks as `x, y = pictures`.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self):
        x, y = self.x, self.y
        expect(
            x.ndim == 4 and x.dtype == torch.float32 and len(x) > 0,
            "x",
            f"shape {tuple(x.shape)} of {x.dtype}",
            "shape (N, C, H, W) of torch.float32, N >= 1",
            "Pass x.float() with one axis each for pictures, channels, height and width.",
        )
        expect(
            y.shape == (len(x),) and y.dtype == torch.int64,
            "y",
            f"shape {tuple(y.shape)} of {y.dtype}",
            f"shape ({len(x)},) of torch.int64",
            "Pass one class number per picture.",
        )
        low, high = float(x.min()), float(x.max())
        expect(
            0 <= low and high <= 1,
            "x",
            f"pixels from {low:g} to {high:g}",
            "pixels in [0, 1]",
            "Divide by the largest value, e.g. x / 255.",
        )

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.x, self.y))

    def first(self, limit: int | None) -> "Pictures":
        """The first `limit` pictures (all, if there are fewer or it is None)."""
        if limit is None:
            return self
        expect_integer(limit, "limit", 1, "Ask for at least one picture, or None for all.")
        return Pictures(self.x[:limit], self.y[:limit])


@dataclass(frozen=True)
class Data:
    """A data set: its name, pictures to learn and to test, class names and a checksum.

    checksum: SHA-256 (hex) over name, shape and bytes of the four tensors.
    data_dir: where `load_data` was told to look, so that a record can look there again.
    """

    name: str
    train: Pictures
    test: Pictures
    classes: tuple[str, ...]
    checksum: str
    data_dir: str | None = None

    def describe(self) -> dict:
        """What a record says of the data: name, checksum, n_train, n_test."""
        return {
            "name": self.name,
            "checksum": self.checksum,
            "n_train": len(self.train),
            "n_test": len(self.test),
        }


def load_data(name: str, data_dir: str | Path | None = None, download: bool = True) -> Data:
    """Load a data set.

    name:
        "digits": scikit-learn's 8x8 digits, (N, 1, 8, 8), 1,437 to learn and 360 to test. Of the
        pictures sorted by class every fifth is for testing; both parts keep the original order.
        "mnist": (N, 1, 28, 28), 60,000 and 10,000. Looked for in data_dir (or the environment's
        CEREBSIM_DATA, or ./data), then in `mnist.cache_folder()`, then downloaded into the cache.
        "folder:PATH": PATH/train/<class>/* and PATH/test/<class>/*, pictures of one size; grey
        ones keep one channel (`folder.read_folder`).
    data_dir: the folder that holds MNIST/raw; other names do not use it.
    download: False never opens a connection.

    Raises DataNotFound (what is missing, where to put it), ArgumentError (unknown name, unequal
    sizes, a broken picture).
    """
    if name == "digits":
        return _digits()
    if name == "mnist":
        _check_torchvision()
        return _mnist(data_dir, download)
    if isinstance(name, str) and name.startswith("folder:"):
        _check_torchvision()
        return _folder(name)
    raise ArgumentError(
        "data", repr(name), "one of " + ", ".join(map(repr, NAMES)), "Choose one of them."
    )


def _data(name: str, train: Pictures, test: Pictures, classes: tuple[str, ...]) -> Data:
    sha = hashlib.sha256()
    for part, pictures in (("train", train), ("test", test)):
        for field, tensor in zip("xy", pictures, strict=True):
            sha.update(f"{part}.{field} {tuple(tensor.shape)} {tensor.dtype};".encode())
            sha.update(tensor.contiguous().numpy())
    return Data(name, train, test, classes, sha.hexdigest())


def _digits() -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
    y = torch.from_numpy(bunch.target).long()
    is_test = torch.zeros(len(y), dtype=torch.bool)
    is_test[torch.argsort(y, stable=True)[::5]] = True
    train, test = Pictures(x[~is_test], y[~is_test]), Pictures(x[is_test], y[is_test])
    return _data("digits", train, test, tuple(str(i) for i in range(10)))


def _mnist(data_dir: str | Path | None, download: bool) -> Data:
    (x, y), (x_test, y_test) = read_mnist(data_dir, download)
    train, test = _from_bytes(x.unsqueeze(1), y), _from_bytes(x_test.unsqueeze(1), y_test)
    data = _data("mnist", train, test, tuple(str(i) for i in range(10)))
    return replace(data, data_dir=str(data_dir) if data_dir else None)


def _folder(name: str) -> Data:
    train, test, classes = read_folder(Path(name.removeprefix("folder:")).expanduser())
    return _data(name, _from_bytes(*train), _from_bytes(*test), classes)


def _from_bytes(pixels: Tensor, labels: Tensor) -> Pictures:
    return Pictures(pixels.float().div_(255).contiguous(), labels.long())


def _check_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise CerebsimError(
            f"torchvision does not import beside torch {torch.__version__}: {error}. Install both "
            "from the same index in one command."
        ) from error
