"""Floor 4: checkpoints: tensors and facts in one safetensors file, whole or not at all.

A file holds the tensors, a JSON of facts, a SHA-256 of every tensor, and one of the whole file
(taken with its own place blanked), so that no damage goes unnoticed and the message can name the
tensor. It is written beside its place, synced and renamed: a crash, a kill or a full disk leaves
the old file.
"""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .errors import CheckpointError
from .files import write_whole

FORMAT = 1
NAME = "circuit.safetensors"
_BLANK = "0" * 64


def checksum(*tensors: Tensor | None) -> str:
    """SHA-256 of the tensors' dtypes, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"None")
            continue
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{values.dtype}{tuple(values.shape)}".encode())
        digest.update(memoryview(values.flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def save(folder: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Writes folder/circuit.safetensors whole or, with `CheckpointError`, leaves the old one."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    sums = {name: checksum(t) for name, t in tensors.items()}
    record = {"format": FORMAT, "file": _BLANK, "tensors": sums, "facts": facts}
    raw = safetensors.torch.save(tensors, metadata={"cerebsim": json.dumps(record)})
    digest = hashlib.sha256(raw).hexdigest()
    raw = raw.replace(_BLANK.encode(), digest.encode(), 1)
    path = folder / NAME
    try:
        write_whole(path, raw)
    except OSError as error:
        reason = f"{path}: cannot be saved ({error.strerror}); what was there before is untouched"
        raise CheckpointError(f"{reason}. Free space or choose another folder.") from error


def load(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, facts) of folder/circuit.safetensors, every byte checked.

    Raises `CheckpointError` naming the file and the reason: missing, truncated, damaged, not
    cerebsim's, or of another format.
    """
    path = folder / NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        hint = "Name a folder that `fit(out=...)`, `save` or `cerebsim train` wrote."
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). {hint}") from error
    record = _record(path, raw)
    blanked = raw.replace(record["file"].encode(), _BLANK.encode(), 1)
    whole = hashlib.sha256(blanked).hexdigest() == record["file"]
    try:
        tensors = safetensors.torch.load(raw)
    except Exception as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error}). {_RESTORE}") from error
    damaged = [
        name for name, value in record["tensors"].items() if checksum(tensors.get(name)) != value
    ]
    if damaged or not whole:
        what = f"tensor {', '.join(damaged)} is" if damaged else "the header is"
        raise CheckpointError(f"{path}: {what} damaged (SHA-256 differs). {_RESTORE}")
    return tensors, record["facts"]


_RESTORE = "Restore it from a copy, or train again."


def _record(path: Path, raw: bytes) -> dict:
    """The JSON that cerebsim keeps in a safetensors header."""
    try:
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        if len(raw) < 8 + size:
            raise ValueError("the header is cut off")
    except (ValueError, RecursionError) as error:
        reason = f"not a safetensors file, truncated or damaged ({error})"
        raise CheckpointError(f"{path}: {reason}. {_RESTORE}") from error
    try:
        record = json.loads(header["__metadata__"]["cerebsim"])
        version = record["format"]
        digest, sums, facts = record["file"], record["tensors"], record["facts"]
        if (
            len(bytes.fromhex(digest)) != 32
            or not isinstance(sums, dict)
            or not isinstance(facts, dict)
        ):
            raise ValueError("fields of another kind")
    except (KeyError, TypeError, ValueError) as error:
        reason = "not a cerebsim checkpoint, or its header is damaged"
        raise CheckpointError(f"{path}: {reason}. {_RESTORE}") from error
    if version != FORMAT:
        reason = f"format {version}, this cerebsim reads format {FORMAT}"
        raise CheckpointError(f"{path}: {reason}. Use the cerebsim that wrote it, or train again.")
    return record
