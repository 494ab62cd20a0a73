import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cerebsim import Cerebellum, Square, ascent
from cerebsim.attacks import FGSM, PGD, Noise
from cerebsim.config import PRESETS
from cerebsim.errors import ArgumentError
from cerebsim.labels import decide
from cerebsim.losses import ce, margin, mse


class Plain(nn.Module):
    """Two layers by multiply and sum, so that no product depends on the batch. Counts pictures."""

    def __init__(self, d=12, hidden=16, c=4, dtype=torch.float32, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(hidden, d, generator=generator, dtype=dtype))
        self.second = nn.Parameter(torch.randn(c, hidden, generator=generator, dtype=dtype))
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        h = (x.flatten(1).unsqueeze(1) * self.first).sum(-1).relu()
        return (h.unsqueeze(1) * self.second).sum(-1)


class Fused(Plain):
    """The same, with an input gradient by hand; its forward refuses to be differentiated."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fused_calls = 0

    def forward(self, x):
        assert not (torch.is_grad_enabled() and x.requires_grad), "autograd through a fused model"
        return super().forward(x)

    @torch.no_grad()
    def loss_gradient(self, x, output_gradient):
        self.fused_calls += 1
        a = (x.flatten(1).unsqueeze(1) * self.first).sum(-1)
        logits = (a.relu().unsqueeze(1) * self.second).sum(-1)
        to_h = (output_gradient(logits).unsqueeze(2) * self.second).sum(1) * (a > 0)
        return logits, (to_h.unsqueeze(2) * self.first).sum(1).reshape(x.shape)


class Linear(nn.Module):
    """y = W x of given rows W: with two rows the best attack is known."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return (x.flatten(1).unsqueeze(1) * self.weight).sum(-1)


X, Y = torch.full((3, 12), 0.5), torch.tensor([0, 1, 2])


def pictures(model, n=20, shape=(1, 3, 4), right=True, seed=1):
    """n pictures in [0, 1] with the model's own decisions as labels, or others if not `right`."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    x = torch.rand(n, *shape, generator=generator, dtype=dtype)
    with torch.no_grad():
        logits = model(x)
    if hasattr(model, "seen"):
        model.seen.clear()
    y = decide(logits)
    return x, y if right else (y + 1) % max(2, logits.shape[1])


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("adversarial", "success", "loss", "decisions")
    )


ATTACKS = [
    Noise(0.1),
    Noise(0.1, draws=3, kind="corner"),
    FGSM(0.1),
    FGSM(0.1, loss="mse"),
    PGD(0.05, steps=5),
    PGD(0.05, steps=5, restarts=3, loss="ce"),
    PGD(0.05, steps=5, keep="last", loss="mse", clip_start=False),
    PGD(0.1, steps=5, targeted=True, loss="dlr"),
    Square(0.1, queries=30),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_the_batch_size_changes_nothing(attack):
    model = Plain()
    x, y = pictures(model)
    y = (y + 1) % 4 if getattr(attack, "targeted", False) else y
    results = [attack.attack(model, x, y, batch_size=b) for b in (1, 7, 20)]
    assert same(results[0], results[1]) and same(results[0], results[2])
    assert not torch.equal(results[0].adversarial, x)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_the_fused_gradient_gives_the_same_pictures(attack):
    plain, fused = Plain(), Fused()
    x, y = pictures(plain)
    y = (y + 1) % 4 if getattr(attack, "targeted", False) else y
    a, b = attack.attack(plain, x, y), attack.attack(fused, x, y)
    assert torch.equal(a.adversarial, b.adversarial) and torch.equal(a.success, b.success)
    assert (fused.fused_calls > 0) == (not isinstance(attack, (Noise, Square)))


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_the_result_is_what_the_model_says(attack):
    model = Plain()
    x, y = pictures(model, right=False)
    result = attack.attack(model, x, y)
    logits = model(result.adversarial).detach()
    hit = decide(logits) == y
    assert torch.equal(result.decisions, decide(logits))
    assert torch.equal(result.success, hit if getattr(attack, "targeted", False) else ~hit)
    assert result.accuracy == pytest.approx(1 - result.success.double().mean().item())
    loss = {"mse": mse, "ce": ce, "margin": margin}.get(result.settings.get("loss", "margin"))
    if loss is not None:
        torch.testing.assert_close(result.loss, loss(logits, y))


@pytest.mark.parametrize("loss", ["mse", "ce", "margin", "dlr", margin])
def test_fgsm_is_one_step_of_pgd(loss):
    model = Plain()
    x, y = pictures(model)
    one_step = PGD(0.1, alpha=0.1, steps=1, random_start=False, keep="last", loss=loss)
    assert same(FGSM(0.1, loss=loss).attack(model, x, y), one_step.attack(model, x, y))


def test_fgsm_is_x_plus_eps_sign():
    model = Plain()
    x, y = pictures(model)
    z = x.clone().requires_grad_()
    F.cross_entropy(model(z), y).backward()
    expected = (x + 0.1 * z.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM(0.1, loss="ce").attack(model, x, y).adversarial, expected)


def test_the_paper_preset_is_the_papers_loop():
    # 8 pictures and 4 outputs: the mean's factor 2 / 32 is a power of two and exact.
    model, eps = Plain(c=4), 0.3
    x, y = pictures(model, n=8)
    attack = PGD(eps, **PRESETS["paper"].attack)
    adv = x + eps * attack._plan(eps).directions(x, 0)
    assert adv.min() < 0 and adv.max() > 1
    for _ in range(40):
        z = adv.clone().requires_grad_()
        loss = F.mse_loss(model(z), F.one_hot(y, 4).float())
        (gradient,) = torch.autograd.grad(loss, z)
        adv = adv + 0.01 * gradient.sign()
        delta = torch.clamp(adv - x, -eps, eps)
        adv = torch.clamp(x + delta, 0, 1)
    result = attack.attack(model, x, y)
    assert torch.equal(result.adversarial, adv)
    assert not torch.equal(PGD(eps, loss="mse", keep="last").attack(model, x, y).adversarial, adv)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_pgd_finds_the_optimum_of_a_linear_model(dtype, keep):
    generator = torch.Generator().manual_seed(3)
    model = Linear(torch.randn(2, 12, generator=generator, dtype=dtype))
    x, y = pictures(model, n=30)
    toward = (model.weight[1 - y] - model.weight[y]).detach().sign().reshape(x.shape)
    result = PGD(0.01, steps=10, keep=keep).attack(model, x, y)
    assert result.adversarial.dtype == dtype
    assert torch.equal(result.adversarial, (x + toward.mul(0.01)).clamp(0, 1))


def test_one_output():
    model = Plain(c=1)
    x, y = pictures(model, n=40)
    assert set(y.tolist()) == {0, 1}
    searches = [PGD([0.0, 0.5], loss=loss, steps=10) for loss in ("ce", "margin")]
    for search in (Square([0.0, 0.5], queries=50), *searches):
        clean, strong = search.attack(model, x, y)
        assert clean.accuracy == 1.0 and strong.accuracy < 0.5
    # Where the output is beyond its target, mse climbs away from the boundary.
    assert PGD(0.5, loss="mse", steps=10).attack(model, x, y).accuracy > strong.accuracy
    with pytest.raises(ArgumentError, match="'dlr' with 1 output,"):
        PGD(0.1, loss="dlr").attack(model, x, y)


@settings(max_examples=60, deadline=None)
@given(
    eps=st.floats(0, 2),
    alpha=st.none() | st.floats(1e-4, 3),
    steps=st.integers(1, 4),
    restarts=st.integers(1, 2),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    keep=st.sampled_from(["best", "last"]),
    bounds=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-3.0, 0.5)]),
    seed=st.integers(0, 2**40),
)
def test_the_pictures_stay_in_the_ball_and_the_bounds(
    eps, alpha, steps, restarts, flags, keep, bounds, seed
):
    model = Plain(hidden=3)
    x, y = pictures(model, n=6)
    x = bounds[0] + (bounds[1] - bounds[0]) * x
    random_start, clip_start, targeted = flags
    pgd = PGD(
        eps,
        alpha,
        steps,
        restarts,
        random_start,
        clip_start,
        keep,
        "margin",
        targeted,
        bounds,
        seed,
    )
    noise = Noise(eps, restarts, "corner" if targeted else "uniform", bounds, seed)
    square = Square(eps, steps, bounds=bounds, seed=seed)
    for attack in (pgd, noise, FGSM(eps, "margin", targeted, bounds), square):
        adv = attack.attack(model, x, y, batch_size=4).adversarial
        assert ((adv.double() - x.double()).abs() <= eps + 1e-6).all()
        assert bounds[0] <= adv.min() and adv.max() <= bounds[1]


def test_the_best_iterate_is_never_worse_than_the_last():
    model = Plain()
    x, y = pictures(model, n=100)
    shared = {"eps": 0.04, "alpha": 0.06, "steps": 8, "loss": "mse"}
    best = PGD(**shared).attack(model, x, y)
    last = PGD(**shared, keep="last").attack(model, x, y)
    assert (best.success | ~last.success).all()
    equal = best.success == last.success
    assert (best.loss >= last.loss)[equal].all()
    assert (best.success & ~last.success).any()


def test_more_restarts_are_never_worse():
    model = Plain()
    x, y = pictures(model, n=100)
    for keep in ("best", "last"):
        results = [
            PGD(0.08, steps=1, loss="ce", restarts=r, keep=keep).attack(model, x, y)
            for r in (1, 2, 10)
        ]
        for few, many in zip(results, results[1:], strict=False):
            assert (many.success | ~few.success).all()
        assert results[-1].accuracy < results[0].accuracy


def test_restarts_go_to_the_survivors_only():
    model = Plain()
    x, y = pictures(model, n=30)
    y[:5] = (y[:5] + 1) % 4  # wrong already
    once = PGD(0.05, steps=4).attack(model, x, y)
    survivors = 30 - int(once.success.sum())
    assert 0 < survivors < 25
    model.seen.clear()
    twice = PGD(0.05, steps=4, restarts=2).attack(model, x, y)
    # One picture to learn c; the clean pictures; then steps + 1 passes per restart.
    assert model.seen == [1, 30] + [25] * 5 + [survivors] * 5
    fallen = once.success
    assert torch.equal(twice.adversarial[fallen], once.adversarial[fallen])


def test_pictures_that_are_wrong_already():
    model = Plain()
    x, y = pictures(model, right=False)
    best = PGD(0.1, steps=3).attack(model, x, y)
    assert best.success.all() and torch.equal(best.adversarial, x)
    last = PGD(0.1, steps=3, keep="last").attack(model, x, y)
    assert not torch.equal(last.adversarial, x)


def test_an_unclipped_start_is_no_candidate():
    model = Linear(torch.tensor([[1.0] * 12, [0.0] * 12]))
    x, y = torch.full((50, 12), 1e-3), torch.zeros(50, dtype=torch.int64)
    attack = PGD(0.5, alpha=1e-6, steps=2, clip_start=False)
    start = x + 0.5 * attack._plan(0.5).directions(x, 0)
    assert (model(start)[:, 0] < 0).any()  # wrong, but outside the bounds
    assert not attack.attack(model, x, y).success.any()


def test_targeted_pgd_reaches_the_wanted_class():
    model = Plain()
    x, y = pictures(model, n=40)
    wanted = (y + 1) % 4
    result = PGD(0.5, targeted=True).attack(model, x, wanted)
    assert result.success.float().mean() > 0.9
    assert torch.equal(result.success, result.decisions == wanted)
    untouched = margin(model(x), wanted).detach()
    assert (result.loss <= untouched).all() and (result.loss < 0)[result.success].all()


def test_a_list_of_eps_gives_a_list_of_results():
    model = Plain()
    x, y = pictures(model)
    results = PGD([0.0, 0.02, 8 / 255], steps=5).attack(model, x, y)
    assert [r.settings["eps"] for r in results] == [0.0, 0.02, 8 / 255]
    assert [r.settings["alpha"] for r in results] == [None, 0.01, 2.5 * 8 / 255 / 5]
    assert torch.equal(results[0].adversarial, x) and results[0].accuracy == 1.0
    assert same(results[1], PGD(0.02, steps=5).attack(model, x, y))
    assert isinstance(FGSM((0.1,)).attack(model, x, y), list)


@pytest.mark.parametrize(
    "attack", [Noise(0.1), FGSM(0.1), PGD(0.1, steps=3, restarts=2), Square(0.1, 9)], ids=str
)
def test_the_settings_repeat_the_attack(attack):
    model = Plain()
    x, y = pictures(model)
    result = attack.attack(model, x, y)
    recorded = json.loads(json.dumps(result.settings))
    assert result.attack == type(attack).__name__
    assert same(type(attack)(**recorded).attack(model, x, y), result)


def test_a_callable_loss_and_its_name():
    model = Plain()
    x, y = pictures(model)

    def mine(logits, labels):
        return margin(logits, labels)

    result = PGD(0.05, loss=mine).attack(model, x, y)
    assert same(result, PGD(0.05, loss="margin").attack(model, x, y))
    assert result.settings["loss"] == "mine"


def test_noise():
    model = Plain()
    x, y = torch.full((40, 1, 3, 4), 0.5), torch.zeros(40, dtype=torch.int64)
    uniform = (Noise(0.2).attack(model, x, y).adversarial - x) / 0.2
    corner = (Noise(0.2, kind="corner").attack(model, x, y).adversarial - x) / 0.2
    for u in (uniform, corner):
        assert abs(u.mean()) < 0.15
        assert not torch.equal(u[0], u[1])
    assert uniform.abs().max() <= 1 + 1e-6 and 0.4 < uniform.abs().mean() < 0.6
    torch.testing.assert_close(corner.abs(), torch.ones_like(corner))
    assert not torch.equal(Noise(0.2, seed=1).attack(model, x, y).adversarial - x, uniform * 0.2)

    x, y = pictures(model, n=60)
    counts = [Noise(0.3, draws=n).attack(model, x, y).success for n in (1, 2, 20)]
    assert all((b | ~a).all() for a, b in zip(counts, counts[1:], strict=False))
    assert counts[2].sum() > counts[0].sum()


def test_seeds_that_agree_in_32_bits_differ():
    x = torch.zeros(4, 12)
    draws = [PGD(seed=s)._plan(0.1).directions(x, r) for s in (0, 1, 2**32) for r in (0, 1)]
    assert len({tuple(u.flatten().tolist()) for u in draws}) == 6


def test_the_model_is_left_as_it_was():
    inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    model = nn.Sequential(inner, nn.ReLU(), nn.Linear(8, 4)).train()
    inner[2].eval()
    modes = [m.training for m in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.rand(6, 1, 3, 4), torch.zeros(6, dtype=torch.int64)
    before = x.clone()

    def broken(logits, labels):
        raise RuntimeError("mine")

    first, again = (PGD(0.1, steps=3).attack(model, x, y) for _ in range(2))
    with pytest.raises(RuntimeError, match="mine"):
        PGD(0.1, loss=broken).attack(model, x, y)
    assert same(first, again)  # no dropout
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(x, before) and not first.adversarial.requires_grad


def test_a_model_that_does_more_in_train_is_told():
    class Folding(Plain):
        folded = False

        def train(self, mode=True):
            self.folded = not mode
            return super().train(mode)

        def forward(self, x):
            assert self.folded
            return super().forward(x)

    model = Folding()
    FGSM(0.1).attack(model, X, Y)
    assert model.training and not model.folded


def test_a_fused_model_gets_the_gradient_of_each_pictures_own_loss():
    class Spy(Fused):
        def loss_gradient(self, x, output_gradient):
            logits, gradient = super().loss_gradient(x, output_gradient)
            error = logits - F.one_hot(Y, 4)
            assert torch.equal(output_gradient(logits), error)
            return logits, gradient

    model = Spy()
    FGSM(0.1, loss="mse").attack(model, X, Y)
    assert model.fused_calls == 1


def test_it_works_under_no_grad_and_on_pictures_that_require_one():
    model = Plain()
    x, y = pictures(model)
    with torch.no_grad():
        inside = PGD(0.1, steps=3).attack(model, x, y)
    outside = PGD(0.1, steps=3).attack(model, x.clone().requires_grad_(), y)
    assert same(inside, outside) and not outside.adversarial.requires_grad


@pytest.mark.parametrize("attack", [*ATTACKS, PGD([0.01, 0.3], steps=2, restarts=2)], ids=str)
def test_progress_adds_up_to_the_pictures(attack):
    model, steps = Plain(), []
    x, y = pictures(model)
    y[:3] = (y[:3] + 1) % 4
    attack.attack(model, x, y, batch_size=6, progress=steps.append)
    assert sum(steps) == (40 if isinstance(attack.eps, tuple) else 20)
    assert len(steps) >= 4


def test_no_pictures():
    x, y = torch.empty(0, 1, 3, 4), torch.empty(0, dtype=torch.int64)
    for attack in ATTACKS:
        result = attack.attack(Plain(), x, y)
        assert result.adversarial.shape == x.shape and result.success.shape == (0,)
        assert result.accuracy != result.accuracy


class Through(nn.Module):
    """Logits of any function of x."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.flatten(1))


def test_a_zero_gradient_is_no_error_and_no_gain_keeps_the_clean_picture():
    x, y = torch.rand(3, 4), torch.zeros(3, dtype=torch.int64)
    flat = Through(lambda x: 0 * x)
    assert torch.equal(PGD(0.1).attack(flat, x, y).adversarial, x)
    assert torch.equal(PGD(0.1, random_start=False, keep="last").attack(flat, x, y).adversarial, x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x + (0 * x).sqrt(), "input gradient with NaN or infinity in step 1 of 40"),
        (lambda x: x / 0, "loss: got NaN or infinity"),
        (lambda x: x.detach(), "cannot follow back to x"),
        (lambda x: torch.ones(len(x), 4, requires_grad=True) + 0, "cannot follow back to x"),
        (lambda x: x.sum(1), "logits of shape"),
        (lambda x: (x, x), "an output of type tuple"),
        (lambda x: x.long(), "logits of shape"),
        (lambda x: x[:, :1], r"y: got values from 0 to 3, expected 0\.\.1"),
    ],
)
def test_models_that_cannot_be_attacked(function, message):
    x, y = torch.rand(3, 4), torch.tensor([0, 1, 3])
    with pytest.raises(ArgumentError, match=message):
        PGD(0.1, random_start=False, keep="last").attack(Through(function), x, y)


def test_a_loss_must_be_differentiable():
    model = Plain()
    x, y = pictures(model)
    with pytest.raises(ArgumentError, match="loss: got values cut off from the logits"):
        PGD(0.1, loss=lambda z, y: z.detach().sum(1)).attack(model, x, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(-0.1), "eps: got -0.1"),
        (lambda: FGSM(float("nan")), "eps: got nan"),
        (lambda: Noise(float("inf")), "eps: got inf"),
        (lambda: PGD([0.1, -1]), "eps: got -1"),
        (lambda: PGD([]), "eps: got "),
        (lambda: PGD("0.1"), "eps: got '0.1'"),
        (lambda: PGD(alpha=0), "alpha: got 0"),
        (lambda: PGD(alpha=-0.1), "alpha: got -0.1"),
        (lambda: PGD(alpha=float("nan")), "alpha: got nan"),
        (lambda: PGD(steps=0), "steps: got 0"),
        (lambda: PGD(steps=2.5), "steps: got 2.5"),
        (lambda: PGD(restarts=0), "restarts: got 0"),
        (lambda: PGD(seed=-1), "seed: got -1"),
        (lambda: PGD(keep="first"), "keep: got 'first', expected one of 'best', 'last'"),
        (lambda: PGD(loss="hinge"), "loss: got 'hinge'"),
        (lambda: FGSM(loss=3), "loss: got 3"),
        (lambda: PGD(bounds=(1, 0)), r"bounds: got \(1, 0\)"),
        (lambda: PGD(bounds=(0, float("nan"))), r"bounds: got \(0, nan\)"),
        (lambda: PGD(bounds=0.5), "bounds: got 0.5"),
        (lambda: Noise(draws=0), "draws: got 0"),
        (lambda: Noise(kind="gaussian"), "kind: got 'gaussian'"),
        (lambda: Square(-0.1), "eps: got -0.1"),
        (lambda: Square(queries=0), "queries: got 0"),
        (lambda: Square(p=0), r"p: got 0, expected a number in \(0, 1\]"),
        (lambda: Square(p=1.5), "p: got 1.5"),
        (lambda: Square(seed=-1), "seed: got -1"),
        (lambda: Square(bounds=(1, 0)), r"bounds: got \(1, 0\)"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.tensor([[0.0, 255.0] * 6] * 3)}, "x: got pixels from 0 to 255"),
        ({"x": torch.where(X > 0, float("nan"), X)}, "x: got NaN or infinity in 3 of 3"),
        ({"x": (X * 2).to(torch.uint8)}, "x: got .*uint8"),
        ({"x": X.numpy()}, "x: got ndarray"),
        ({"x": X[:, 0]}, r"x: got shape \(3,\)"),
        ({"y": Y[:2]}, r"y: got shape \(2,\), expected one label per picture, shape \(3,\)"),
        ({"y": Y + 2}, r"y: got values from 2 to 4, expected 0\.\.3"),
        ({"y": Y - 1}, "y: got values from -1"),
        ({"y": Y.float()}, "y: got .*float32"),
        ({"y": [0, 1, 2]}, "y: got list"),
        ({"y": Y.to("meta")}, "y: got labels on meta, expected the device of x, cpu"),
        ({"model": Plain().to("meta")}, "x: got pictures on cpu, expected .*meta"),
        ({"model": lambda x: x}, "model: got function, expected a torch.nn.Module"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"loss": lambda z, y: z.sum()}, r"loss: got shape \(\)"),
    ],
)
@pytest.mark.parametrize("keep", ["best", "last"])
def test_bad_pictures_are_named(change, message, keep):
    call = {"model": Plain(), "x": X, "y": Y, "batch_size": 2, "loss": "margin"} | change
    attack = PGD(0.1, loss=call.pop("loss"), keep=keep)
    with pytest.raises(ArgumentError, match=message):
        attack.attack(**call)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("loss", ["mse", "ce", "margin", "dlr"])
def test_a_recorded_step_is_the_step(loss, keep, monkeypatch):
    """What a GPU records is replayed here by calling it: the same for batches and restarts."""
    model = Fused()
    x, y = pictures(model)
    attack = PGD([0.05, 0.3], loss=loss, keep=keep, restarts=3, steps=6)
    plain = attack.attack(model, x, y, batch_size=5)
    recorded = []

    def record(step, device):
        recorded.append(step)
        return step

    monkeypatch.setattr(ascent, "can_record", lambda plan, model, x: True)
    monkeypatch.setattr(ascent, "captured", record)
    for a, b in zip(plain, attack.attack(model, x, y, batch_size=5), strict=True):
        assert torch.equal(a.adversarial, b.adversarial) and torch.equal(a.loss, b.loss)
        assert torch.equal(a.success, b.success) and torch.equal(a.decisions, b.decisions)
    assert recorded


def test_a_nan_on_a_recorded_way_is_found_at_its_end(monkeypatch):
    class Breaks(Fused):
        def loss_gradient(self, x, output_gradient):
            logits, gradient = super().loss_gradient(x, output_gradient)
            return logits, gradient * (float("nan") if self.fused_calls > 4 else 1)

    model = Breaks()
    x, y = pictures(model)
    monkeypatch.setattr(ascent, "can_record", lambda plan, model, x: True)
    monkeypatch.setattr(ascent, "captured", lambda step, device: step)
    with pytest.raises(ArgumentError, match="NaN or infinity in one of 40 steps"):
        PGD(0.1, keep="last").attack(model, x, y)


@pytest.mark.gpu
@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_step_recorded_on_a_gpu_is_the_step(keep, monkeypatch):
    net = Cerebellum(64, 20_000, device="cuda").eval()
    x, y = torch.rand(70, 64, device="cuda"), torch.arange(70, device="cuda") % 10
    attack = PGD([0.05, 0.3], loss="margin", keep=keep, restarts=2, steps=10)
    recorded = attack.attack(net, x, y, batch_size=32)
    monkeypatch.setattr(ascent, "can_record", lambda plan, model, x: False)
    for a, b in zip(recorded, attack.attack(net, x, y, batch_size=32), strict=True):
        assert torch.equal(a.adversarial, b.adversarial) and torch.equal(a.loss, b.loss)
