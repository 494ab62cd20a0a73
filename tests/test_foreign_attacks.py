"""Other people's attacks run unchanged on a Cerebellum, and find what ours find.

Each library is optional; `pytest -rs` says which are missing. Equal settings: eps, step, number of
steps, start, loss (theirs is the cross-entropy) and which iterate is kept.
"""

import warnings

import pytest
import torch

from cerebsim import Cerebellum
from cerebsim.attacks import PGD
from cerebsim.data import load_data
from cerebsim.evaluation import accuracy

EPS, ALPHA, STEPS = 0.1, 0.01, 20
POINTS = 0.005  # half a percent: one of 360 pictures

INSTALL = {
    "torchattacks": "pip install --no-deps torchattacks (it pins an old requests)",
    "foolbox": "pip install foolbox",
    "art": "pip install adversarial-robustness-toolbox",
    "pyautoattack": "pip install pyautoattack",
}


def library(module):
    """The module, or a skip that says how to get it."""
    name = module.partition(".")[0]
    with warnings.catch_warnings():
        # foolbox 3.3.4 takes gaussian_filter from where scipy had it before.
        warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
        return pytest.importorskip(module, reason=f"{name} is missing: {INSTALL[name]}")


@pytest.fixture(scope="module")
def net():
    torch.set_num_threads(1)
    digits = load_data("digits")
    net = Cerebellum(64, 2000, seed=0)
    net.fit(digits.train, epochs=3, progress=False)
    return net


@pytest.fixture(scope="module")
def pictures():
    return load_data("digits").test


@pytest.fixture(scope="module")
def ours(net, pictures):
    """Under our PGD with the settings that the libraries have too: accuracy and pictures."""
    pgd = PGD(EPS, alpha=ALPHA, steps=STEPS, random_start=False, keep="last", loss="ce")
    result = pgd.attack(net, *pictures)
    # Between all wrong and all right, so that another attack would give another figure.
    assert 0.1 < result.accuracy < accuracy(net, pictures) - 0.1
    return result


def agrees(net, pictures, adversarial, ours):
    """In the ball, and as many decisions are right as under ours."""
    assert (adversarial - pictures.x).abs().max() <= ours.settings["eps"] + 1e-6
    assert 0 <= adversarial.min() and adversarial.max() <= 1
    theirs = accuracy(net, (adversarial, pictures.y))
    print(f"theirs {100 * theirs:.2f} %, ours {100 * ours.accuracy:.2f} %")  # shown by pytest -rP
    assert theirs == pytest.approx(ours.accuracy, abs=POINTS)


def repeats(net, pictures, adversarial, ours):
    """Agrees, and step by step: all but a few pixels, whose gradient is rounded to another sign."""
    agrees(net, pictures, adversarial, ours)
    apart = ((adversarial - ours.adversarial).abs() > 1e-4).double().mean()
    print(f"{float(apart):.2%} of the pixels apart")
    assert apart < 0.01


def test_torchattacks(net, pictures, ours):
    torchattacks = library("torchattacks")
    attack = torchattacks.PGD(net, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)
    repeats(net, pictures, attack(*pictures), ours)


def test_foolbox(net, pictures, ours):
    foolbox = library("foolbox")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=ALPHA, steps=STEPS, random_start=False)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    _, adversarial, _ = attack(model, *pictures, epsilons=EPS)
    repeats(net, pictures, adversarial, ours)


def test_adversarial_robustness_toolbox(net, pictures, ours):
    estimators, evasion = library("art.estimators.classification"), library("art.attacks.evasion")
    model = estimators.PyTorchClassifier(
        net,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = evasion.ProjectedGradientDescentPyTorch(
        model, eps=EPS, eps_step=ALPHA, max_iter=STEPS, batch_size=256, verbose=False
    )
    adversarial = attack.generate(pictures.x.numpy(), pictures.y.numpy())
    repeats(net, pictures, torch.from_numpy(adversarial), ours)


def test_one_step_of_autoattacks_apgd(net, pictures):
    """Its first step is one of 2 eps; later ones have momentum and a size of their own."""
    library("pyautoattack")
    apgd = library("pyautoattack.autopgd_base").APGDAttack(net, n_iter=1, eps=EPS, loss="ce")
    apgd.init_hyperparam(pictures.x)
    _, _, _, adversarial = apgd.attack_single_run(*pictures, x_init=pictures.x)
    once = PGD(EPS, alpha=2 * EPS, steps=1, random_start=False, loss="ce")
    agrees(net, pictures, adversarial.detach(), once.attack(net, *pictures))


def test_autoattack(net, pictures):
    """Its APGD as its users call it, where the ball is so small that either finds what there is."""
    library("pyautoattack")
    from pyautoattack import AutoAttack

    eps = 0.03
    attack = AutoAttack(net, eps=eps, attacks=["apgd-ce"], version="custom", seed=0)
    attack.apgd.n_restarts = 1
    adversarial, _ = attack.run_standard_evaluation(*pictures)
    ours = PGD(eps, loss="ce").attack(net, *pictures)
    assert ours.accuracy < accuracy(net, pictures) - 0.05
    agrees(net, pictures, adversarial, ours)
