"""Floor 5: MNIST's four files: where they lie, how they come here, and their pixels."""

import contextlib
import hashlib
import io
import os
import socket
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from .errors import DataNotFound

MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The four original files, uncompressed (LeCun, Cortes, Burges)."""

_SECONDS_TO_CONNECT = 10


def read_mnist(
    data_dir: str | Path | None, download: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Pixels (N, 28, 28) and labels (N,) of both parts, uint8 and int64: (train, test).

    Looks in data_dir (None: the environment's CEREBSIM_DATA, else ./data), then in the cache, then
    downloads into the cache. Raises DataNotFound: what is missing or damaged and what to do.
    """
    from torchvision.datasets import MNIST

    root = find_mnist(data_dir)
    if root is None:
        root = cache_folder()
        reason = _download(root) if download else "download=False."
        if reason:
            raise DataNotFound(_how_to_get_it(data_dir, reason))
    for file, md5 in MNIST_MD5.items():
        path = root / "MNIST" / "raw" / file
        got = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if got != md5:
            raise DataNotFound(
                f"{path} is damaged: MD5 expected {md5}, got {got}. Replace it, or delete it and "
                "run again to download it."
            )
    train, test = MNIST(root, train=True), MNIST(root, train=False)
    return (train.data, train.targets), (test.data, test.targets)


def cache_folder() -> Path:
    """Where downloads go: the platform's cache folder, on Linux $XDG_CACHE_HOME or ~/.cache."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cerebsim"


def find_mnist(data_dir: str | Path | None = None) -> Path | None:
    """The first folder that holds all four files as MNIST/raw/*, or None. Checks no checksum."""
    for root in _roots(data_dir):
        if not _missing(root):
            return root
    return None


def _roots(data_dir: str | Path | None) -> tuple[Path, Path]:
    local = data_dir or os.environ.get("CEREBSIM_DATA") or "data"
    return Path(local).expanduser(), cache_folder()


def _missing(root: Path) -> list[str]:
    return [file for file in MNIST_MD5 if not (root / "MNIST" / "raw" / file).is_file()]


def _download(root: Path) -> str | None:
    """Download into root, whole or not at all; returns the reason where it fails."""
    from torchvision.datasets import MNIST

    print(f"Downloading MNIST into {root} ...", file=sys.stderr)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_TO_CONNECT)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as partial:
            with contextlib.redirect_stdout(io.StringIO()):
                MNIST(partial, download=True)
            (root / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
            for file in MNIST_MD5:
                raw = Path("MNIST", "raw", file)
                os.replace(partial / raw, root / raw)
    except Exception as error:  # of whatever a download can fail, the remedy is the same
        return f"The download failed: {str(error).strip().splitlines()[-1]}"
    finally:
        socket.setdefaulttimeout(timeout)
    return None


def _how_to_get_it(data_dir: str | Path | None, reason: str) -> str:
    local, cache = _roots(data_dir)
    missing = _missing(local)
    lines = [f"MNIST is neither in {local} nor in {cache}. {reason}", "Missing:"]
    lines += [f"  {local / 'MNIST' / 'raw' / file}  (MD5 {MNIST_MD5[file]})" for file in missing]
    lines += [
        "Put the uncompressed files there, or name the folder that holds MNIST/raw with data_dir "
        "(--data-dir) or the environment's CEREBSIM_DATA.",
        'Or go on without: the data set "digits" is embedded.',
    ]
    return "\n".join(lines)
