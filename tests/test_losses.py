import math

import pytest
import torch

from cerebsim.errors import ArgumentError
from cerebsim.labels import decide, targets
from cerebsim.losses import LOSSES, ce, dlr, loss_function, loss_name, margin, mse, picture_losses

LOGITS = torch.tensor([[1.0, 3.0, -1.0], [2.0, 0.5, 0.0]])
LABELS = torch.tensor([0, 0])


def draw(c, n=200, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, c, generator=generator, dtype=dtype)
    return logits, torch.randint(max(2, c), (n,), generator=generator)


def test_values_by_hand():
    assert mse(LOGITS, LABELS).tolist() == [0.5 * (0 + 9 + 1), 0.5 * (1 + 0.25 + 0)]
    assert margin(LOGITS, LABELS).tolist() == [2.0, -1.5]
    assert dlr(LOGITS, LABELS).tolist() == [2.0 / 4.0, -1.5 / 2.0]
    by_hand = [math.log(sum(map(math.exp, row))) - row[0] for row in LOGITS.tolist()]
    assert ce(LOGITS, LABELS).tolist() == pytest.approx(by_hand)


def test_values_by_hand_of_one_output():
    logits, labels = torch.tensor([[2.0], [2.0], [-0.5]]), torch.tensor([1, 0, 0])
    assert mse(logits, labels).tolist() == [0.5, 4.5, 0.125]
    assert margin(logits, labels).tolist() == [-2.0, 2.0, -0.5]
    by_hand = [math.log1p(math.exp(m)) for m in (-2.0, 2.0, -0.5)]
    assert ce(logits, labels).tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("c", [1, 2, 3, 10])
def test_margin_is_positive_exactly_where_the_decision_is_wrong(c):
    logits, labels = draw(c)
    assert torch.equal(margin(logits, labels) > 0, decide(logits) != labels)


def test_dlr_is_blind_to_scale_and_shift():
    logits, labels = draw(5)
    torch.testing.assert_close(dlr(1e4 * logits + 7, labels), dlr(logits, labels))


@pytest.mark.parametrize("row", [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, -5.0], [0.0, 0.0, 0.0, 0.0]])
def test_dlr_of_equal_outputs_has_a_finite_loss_and_gradient(row):
    logits = torch.tensor([row], requires_grad=True)
    loss = dlr(logits, torch.tensor([3]))
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()


@pytest.mark.parametrize(("name", "c"), [(n, c) for n in LOSSES for c in (1, 2, 4)])
def test_gradients(name, c):
    logits, labels = draw(c, n=6)
    if name == "dlr" and c < 3:
        with pytest.raises(ArgumentError, match="at least 3 outputs"):
            dlr(logits, labels)
    else:
        logits.requires_grad_()
        assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, labels), logits)


def test_the_gradient_of_mse_is_the_climbing_fibre_error():
    logits, labels = draw(4)
    (gradient,) = torch.autograd.grad(mse(logits.requires_grad_(), labels).sum(), logits)
    torch.testing.assert_close(gradient, logits.detach() - targets(labels, 4, torch.float64))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_picture_has_its_own_loss(name, dtype):
    logits, labels = draw(4, n=9, dtype=dtype)
    whole = LOSSES[name](logits, labels)
    alone = torch.cat([LOSSES[name](logits[i : i + 1], labels[i : i + 1]) for i in range(9)])
    assert whole.shape == (9,) and whole.dtype == dtype and torch.equal(whole, alone)


def test_a_callable_is_a_loss():
    assert loss_function("ce") is ce and loss_function(margin) is margin
    assert (loss_name("ce"), loss_name(margin)) == ("ce", "margin")
    with pytest.raises(ArgumentError, match="loss: got 'hinge', expected one of 'mse', 'ce'"):
        loss_function("hinge")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda z, y: z, r"loss: got shape \(2, 3\)"),
        (lambda z, y: z.sum(), r"loss: got shape \(\)"),
        (lambda z, y: z.argmax(1), "loss: got .*int64"),
        (lambda z, y: 1.0, "loss: got float"),
        (lambda z, y: z.sum(1) / torch.tensor([0.0, 1.0]), "loss: got NaN or infinity"),
        (lambda z, y: z.sum(1) * torch.tensor([1.0, float("nan")]), "loss: got NaN or infinity"),
    ],
)
def test_a_bad_loss_is_named(loss, message):
    with pytest.raises(ArgumentError, match=message):
        picture_losses(loss, LOGITS, LABELS)
