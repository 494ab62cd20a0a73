"""Floor 1: from labels to targets and from outputs to decisions.

With c >= 2 Purkinje cells a label is a class 0..c-1 and its target is one-hot. With c = 1 a label
is 0 or 1, its target is -1 or +1, and the decision is the sign of the output.
"""

import torch
from torch import Tensor

from .errors import expect


def classes(purkinje_cells: int) -> int:
    """Number of classes that c Purkinje cells tell apart: 2 for c = 1, else c."""
    return max(2, purkinje_cells)


def check_labels(labels: Tensor, purkinje_cells: int, argument: str = "labels") -> None:
    """Raise `ArgumentError` unless `labels` are whole numbers in 0..classes-1, shape (B,)."""
    n = classes(purkinje_cells)
    kind = type(labels).__name__
    remedy = "Pass class numbers, e.g. torch.tensor([3, 1])."
    expect(isinstance(labels, Tensor), argument, kind, "a tensor of torch.int64", remedy)
    expect(
        labels.ndim == 1 and labels.dtype == torch.int64,
        argument,
        f"shape {tuple(labels.shape)} of {labels.dtype}",
        "shape (B,) of torch.int64",
        "Pass class numbers, e.g. labels.long().flatten().",
    )
    if labels.numel():
        low, high = int(labels.min()), int(labels.max())
        expect(
            0 <= low and high < n,
            argument,
            f"values from {low} to {high}",
            f"0..{n - 1}",
            f"Renumber the classes, or build the network with purkinje_cells={high + 1}.",
        )


def targets(labels: Tensor, purkinje_cells: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Targets t (B, c) of labels (B,): one-hot, or -1 and +1 where c = 1."""
    if purkinje_cells == 1:
        return (2 * labels - 1).to(dtype).unsqueeze(1)
    return torch.nn.functional.one_hot(labels, purkinje_cells).to(dtype)


def decide(logits: Tensor) -> Tensor:
    """Decisions (B,) of outputs (B, c): the largest output, or its sign where c = 1."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).long()
    return logits.argmax(dim=1)
