"""Floor 5: a folder of picture files, read as one tensor."""

from pathlib import Path

import torch
from torch import Tensor

from .errors import ArgumentError, DataNotFound, expect


def read_folder(
    path: Path,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[str, ...]]:
    """Pixels (N, C, H, W) and labels (N,) of path/train and path/test, uint8 and int64; classes.

    Reads <part>/<class>/* as torchvision's ImageFolder does. C = 1 if every picture of both parts
    is grey, else 3; transparency is dropped. Raises DataNotFound (no folder, no pictures) and
    ArgumentError (unequal classes or sizes, a picture that is broken or not of 8 bits a channel).
    """
    from torchvision.datasets import ImageFolder

    parts = []
    for part in (path / "train", path / "test"):
        if not part.is_dir():
            raise DataNotFound(
                f"{part} is not a folder. Put pictures into {path}/train/<class>/ and "
                f"{path}/test/<class>/."
            )
        try:
            parts.append(ImageFolder(part))
        except FileNotFoundError as error:
            raise DataNotFound(
                f"{part} has no pictures for some class: {error}. Put picture files into "
                f"{part}/<class>/."
            ) from error
    train, test = parts
    expect(
        train.classes == test.classes,
        "folder",
        f"classes {train.classes} in train and {test.classes} in test",
        "the same classes in both",
        "Give every class a folder in train and in test.",
    )
    x = _read_pictures([Path(file) for file, _ in train.samples + test.samples])
    y, n = torch.tensor(train.targets + test.targets), len(train.targets)
    return (x[:n], y[:n]), (x[n:], y[n:]), tuple(train.classes)


def _read_pictures(files: list[Path]) -> Tensor:
    """Pixels (N, C, H, W) uint8; C = 1 if every picture is grey."""
    import numpy as np
    from tqdm import tqdm

    pictures = []
    for file in tqdm(files, desc="reading pictures", unit="picture", disable=None):
        picture = _read_picture(file)
        first = pictures[0] if pictures else picture
        expect(
            picture.size == first.size,
            "folder",
            f"{file} of {_size(picture)}",
            f"{_size(first)} like {files[0]}",
            "Scale all pictures to one size.",
        )
        pictures.append(picture)
    if not all(picture.mode == "L" for picture in pictures):
        pictures = [picture.convert("RGB") for picture in pictures]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def _read_picture(file: Path):
    """The picture of a file, of mode L (grey) or RGB, 8 bits a channel."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
            deep = picture.mode.startswith(("I", "F"))
            picture = picture.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ArgumentError(
            "folder", f"{file} ({error})", "a readable picture", "Replace it or delete it."
        ) from error
    expect(not deep, "folder", f"{file} of 16 or 32 bits", "8 bits a channel", "Convert it.")
    return picture


def _size(picture) -> str:
    return f"{picture.width} x {picture.height} pixels"
