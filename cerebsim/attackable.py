"""Floor 5: what makes a model and pictures attackable: eval mode, and inputs that fit together."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import expect
from .labels import check_labels


@contextmanager
def evaluating(model: nn.Module):
    """Put `model` in eval mode; restore the mode of it and of every submodule, also on error."""
    expect(
        isinstance(model, nn.Module),
        "model",
        type(model).__name__,
        "a torch.nn.Module",
        "Wrap a function in a small nn.Module.",
    )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])  # for models that do more than set the flag
        for module, mode in modes:
            module.training = mode


def check_planes(x: Tensor) -> None:
    """Raise `ArgumentError` unless pictures have rows and columns."""
    expect(
        x.ndim == 4,
        "x",
        f"shape {tuple(x.shape)}",
        "pictures of shape (N, C, H, W)",
        "Reshape them, with C = 1 for grey ones, or attack by PGD, which takes any shape.",
    )


def check_pictures(model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float]) -> None:
    """Raise `ArgumentError` unless pictures, labels, bounds and the model's logits fit together."""
    tensor = isinstance(x, Tensor)
    expect(
        tensor and x.is_floating_point() and x.ndim >= 2,
        "x",
        f"shape {tuple(x.shape)} of {x.dtype}" if tensor else type(x).__name__,
        "a floating tensor of shape (N, ...)",
        "Scale pictures to the bounds, e.g. x.float() / 255, and keep the batch dimension.",
    )
    expect(
        isinstance(y, Tensor) and y.shape == x.shape[:1],
        "y",
        f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__,
        f"one label per picture, shape ({len(x)},)",
        "Pass the labels of these pictures.",
    )
    expect(
        y.device == x.device,
        "y",
        f"labels on {y.device}",
        f"the device of x, {x.device}",
        "Move them: y.to(x.device).",
    )
    if len(x) == 0:
        check_labels(y, 1, "y")
        return
    finite = torch.isfinite(x)
    expect(
        bool(finite.all()),
        "x",
        f"NaN or infinity in {int((~finite).flatten(1).any(1).sum())} of {len(x)} pictures",
        "finite pixels",
        "Clean the pictures.",
    )
    low, high = x.min().item(), x.max().item()
    expect(
        bounds[0] <= low and high <= bounds[1],
        "x",
        f"pixels from {low:.6g} to {high:.6g}",
        f"pixels inside bounds={bounds}",
        "Rescale the pictures (normalise inside the model), or pass their bounds to the attack.",
    )
    parameter = next(model.parameters(), None)
    expect(
        parameter is None or parameter.device == x.device,
        "x",
        f"pictures on {x.device}",
        "the device of the model" + ("" if parameter is None else f", {parameter.device}"),
        "Move them, or the model, with .to(device).",
    )
    with torch.no_grad():
        logits = model(x[:1])
    tensor = isinstance(logits, Tensor)
    expect(
        tensor and logits.is_floating_point() and logits.ndim == 2 and len(logits) == 1,
        "model",
        f"outputs of shape {tuple(logits.shape)} for one picture"
        if tensor
        else f"an output of type {type(logits).__name__}",
        "floating logits of shape (B, c)",
        "Wrap the model in an nn.Module that returns logits alone.",
    )
    check_labels(y, logits.shape[1], "y")
