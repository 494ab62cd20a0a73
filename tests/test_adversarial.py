import pytest
import torch

from cerebsim.adversarial import AdversarialSet, verify
from cerebsim.errors import CerebsimError


def a_set():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 3, 3, generator=generator)
    attacked = {eps: (x + eps * (x - 0.5).sign()).clamp(0, 1) for eps in (0.1, 0.3)}
    return AdversarialSet(x, torch.arange(6), attacked, about={"attacks": ["by hand"]})


def even(x, y):
    return y % 2 == 0


def test_what_is_saved_is_read_again(tmp_path):
    made = a_set()
    made.save(tmp_path / "set.safetensors")
    read = AdversarialSet.load(tmp_path / "set.safetensors")
    assert torch.equal(read.x, made.x) and torch.equal(read.y, made.y)
    assert list(read.attacked) == [0.1, 0.3] and read.bounds == (0, 1) and read.about == made.about
    assert all(torch.equal(read.attacked[eps], made.attacked[eps]) for eps in made.attacked)


def test_an_attack_within_eps_is_one():
    first, second = verify(a_set(), even)
    assert first.faults == second.faults == () and first.accuracy == second.accuracy == 0.5
    assert first.distance == pytest.approx(0.1) and second.distance == pytest.approx(0.3)
    assert (second.low, second.high) == (0, 1)


@pytest.mark.parametrize(
    ("pixel", "fault"),
    [
        (0.7, "moved by"),
        (1.01, "outside 0..1"),
        (-0.1, "outside 0..1"),
        (float("nan"), "NaN or infinity"),
        (float("inf"), "NaN or infinity"),
    ],
)
def test_a_pixel_that_cheats_is_found(pixel, fault):
    made = a_set()
    made.x[2] = 0.5
    made.attacked[0.3][2] = 0.5
    made.attacked[0.3][2, 0, 1, 1] = pixel
    if fault.startswith("moved"):
        made.attacked[0.1][2] = made.attacked[0.3][2]
    claims = verify(made, even)
    claim = claims[0] if fault.startswith("moved") else claims[1]
    assert any(fault in said for said in claim.faults)
    assert claim.accuracy != claim.accuracy  # none is given


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 300])
def test_a_file_that_is_no_set_is_named(content, tmp_path):
    path = tmp_path / "set.safetensors"
    path.write_bytes(content)
    with pytest.raises(CerebsimError, match="set.safetensors is no set of attacked pictures"):
        AdversarialSet.load(path)
    with pytest.raises(CerebsimError, match="nowhere.safetensors is no set"):
        AdversarialSet.load(tmp_path / "nowhere.safetensors")
