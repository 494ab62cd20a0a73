"""Floor 1: the definition of every operation in plain torch, for any float dtype and any device.

Every other backend is tested against this one in float64. Names and shapes: x (B, d), J as in
`wiring.Wiring`, h (B, m), W (c, m), mu (m), y and t (B, c).
"""

import torch
from torch import Tensor

from .errors import LearningInterrupted


def granule(
    x: Tensor, indices: Tensor | None, weights: Tensor, thresholds: Tensor | None
) -> Tensor:
    """h = relu(J^T x - threshold), paper eq. 1; synapse by synapse, never B m k numbers at once."""
    weights = weights.to(x.dtype)
    if indices is None:
        u = x @ weights
    else:
        u = x.new_zeros(x.shape[0], weights.shape[1])
        for index, weight in zip(indices.long(), weights, strict=True):
            u = u + x[:, index] * weight
    return torch.relu(u if thresholds is None else u - thresholds)


def granule_backward(
    grad_h: Tensor, x: Tensor, indices: Tensor | None, weights: Tensor, thresholds: Tensor | None
) -> Tensor:
    """Gradient to x: J (grad_h * [h > 0])."""
    return _back(grad_h, granule(x, indices, weights, thresholds), x, indices, weights)


def _back(grad_h: Tensor, h: Tensor, x: Tensor, indices: Tensor | None, weights: Tensor) -> Tensor:
    """J (grad_h * [h > 0])."""
    grad_u = torch.ops.aten.threshold_backward(grad_h, h, 0)  # in one pass
    weights = weights.to(x.dtype)
    if indices is None:
        return grad_u @ weights.T
    grad_x = torch.zeros_like(x)
    for index, weight in zip(indices.long(), weights, strict=True):
        grad_x.index_add_(1, index, grad_u * weight)
    return grad_x


def circuit(
    x: Tensor,
    indices: Tensor | None,
    weights: Tensor,
    thresholds: Tensor | None,
    W: Tensor,
    mu: Tensor | None,
) -> Tensor:
    """y = W (h - mu), paper eq. 2."""
    h = granule(x, indices, weights, thresholds)
    return _centred(h, mu) @ W.T


def _centred(h: Tensor, mu: Tensor | None) -> Tensor:
    return h if mu is None else h - mu


def circuit_fired(
    x: Tensor,
    indices: Tensor | None,
    weights: Tensor,
    thresholds: Tensor | None,
    W: Tensor,
    mu: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y of `circuit`, and of h what its gradient to x needs: fired (ceil(m / 32), B), int32, whose
    bit g % 32 of fired[g // 32, b] says whether h[b, g] > 0. The GPU's backends have no such thing.
    """
    h = granule(x, indices, weights, thresholds)
    fires = torch.nn.functional.pad((h > 0).T, (0, 0, 0, -h.shape[1] % 32))
    fired = (fires.int().unflatten(0, (-1, 32)) << _places(x)).sum(1, dtype=torch.int32)
    return _centred(h, mu) @ W.T, fired


def _places(x: Tensor) -> Tensor:
    return torch.arange(32, dtype=torch.int32, device=x.device)[:, None]


def circuit_backward_x(
    grad_y: Tensor,
    x: Tensor,
    indices: Tensor | None,
    weights: Tensor,
    thresholds: Tensor | None,
    W: Tensor,
    fired: Tensor | None = None,
) -> Tensor:
    """Gradient to x: J ((W^T grad_y) * [h > 0]); without `fired` (`circuit_fired`) h is worked out
    again.
    """
    grad_h = grad_y @ W
    if fired is None:
        return granule_backward(grad_h, x, indices, weights, thresholds)
    fires = ((fired[:, None] >> _places(x)) & 1).flatten(0, 1)[: grad_h.shape[1]]
    return _back(grad_h, fires.T.contiguous().to(x.dtype), x, indices, weights)


def circuit_backward_W(
    grad_y: Tensor,
    x: Tensor,
    indices: Tensor | None,
    weights: Tensor,
    thresholds: Tensor | None,
    mu: Tensor | None,
) -> Tensor:
    """Gradient to W: grad_y^T (h - mu)."""
    h = granule(x, indices, weights, thresholds)
    return grad_y.T @ _centred(h, mu)


def learn_(
    x: Tensor,
    t: Tensor,
    order: Tensor,
    indices: Tensor | None,
    weights: Tensor,
    thresholds: Tensor | None,
    W: Tensor,
    mu: Tensor | None,
    square_avg: Tensor | None,
    batch_size: int,
    error_factor: float,
    learning_rate: float,
    decay: float,
    rms_eps: float,
    ltd_decay: float,
    ltd_before: bool,
    tick=None,
) -> Tensor:
    """The delta rule (paper eq. 3 and 4) for the rows `order` of x and t, batch by batch, in place.

    Returns y (len(order), c), each output before its update, in the order of learning.

    mu <- mu + (1 - ltd_decay) (mean_batch(h) - mu), before or after it is subtracted;
    z = h - mu; y = W z; e = error_factor / B (y - t); dW = e^T z;
    s <- s + (1 - decay) (dW^2 - s); W <- W - learning_rate dW / (sqrt(s) + rms_eps),
    or W <- W - learning_rate dW where square_avg is None.
    """
    y = t.new_empty(len(order), len(W))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        h = granule(x[rows], indices, weights, thresholds)
        z = h
        if mu is not None:
            before = mu.clone()
            mu += (1 - ltd_decay) * (h.mean(0) - mu)
            z = h - (mu if ltd_before else before)
        output = z @ W.T
        error = error_factor / len(rows) * (output - t[rows])
        dW = error.T @ z
        if square_avg is None:
            W -= learning_rate * dW
        else:
            square_avg += (1 - decay) * (dW * dW - square_avg)
            W -= learning_rate * dW / (square_avg.sqrt() + rms_eps)
        y[first : first + len(rows)] = output
        if tick is not None:
            try:
                tick(first + len(rows))
            except KeyboardInterrupt:
                done = first + len(rows)
                raise LearningInterrupted(done, y[:done]) from None
    return y
