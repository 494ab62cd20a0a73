import math

import numpy as np
import pytest
import torch

from cerebsim import ArgumentError, Cerebellum
from cerebsim.analysis import PAIRED, analyze


def pictures(P=40, d=24, seed=0):
    return torch.rand(P, d, generator=torch.Generator().manual_seed(seed))


def plainly(r: np.ndarray) -> dict:
    """The same figures from the whole layer, as their definitions read."""
    n = r.shape[1]
    values = np.linalg.eigvalsh(np.cov(r, rowvar=False)) if n > 1 else np.array([r.var(ddof=1)])
    sparse = (n - r.sum(1) ** 2 / np.square(r).sum(1)) / (n - 1)
    some = r[:, :PAIRED]
    corr = np.abs(np.corrcoef(some[:, some.std(0) > 0], rowvar=False))
    off = ~np.eye(len(corr), dtype=bool)
    return {
        "dimension": values.sum() ** 2 / np.square(values).sum(),
        "sparseness": sparse.mean(),
        "active": (r > 0).mean(),
        "correlation": corr[off].mean(),
    }


@pytest.mark.parametrize("tile", [7, 128, 5000])
@pytest.mark.parametrize(
    "kind", [{}, {"threshold": 0.4}, {"wiring": "full"}, {"wiring": "local"}], ids=str
)
def test_the_figures_are_their_definitions(kind, tile):
    net, x = Cerebellum(24, 300, 3, fan_in=4, **kind).double(), pictures().double()
    found = analyze(net, x, tile)
    for layer, r in (("MF", x), ("GC", net.granule(x))):
        for name, value in plainly(r.detach().numpy()).items():
            assert getattr(found[layer], name) == pytest.approx(value, rel=1e-9), (layer, name)
        assert found[layer].n == r.shape[1]
        assert sum(found[layer].eigenvalues) == pytest.approx(1)
        assert found[layer].eigenvalues == sorted(found[layer].eigenvalues, reverse=True)


def test_float32_is_enough():
    x = pictures()
    net = Cerebellum(24, 3000, 3)
    single, double = analyze(net, x), analyze(net.double(), x.double())
    for layer in ("MF", "GC"):
        for name in ("dimension", "sparseness", "active", "correlation"):
            a, b = getattr(single[layer], name), getattr(double[layer], name)
            assert a == pytest.approx(b, rel=1e-4), (layer, name)


def test_a_dense_expansion_has_the_dimension_of_the_arc_cosine_kernel():
    """With k = d and J ~ N(0, 1/d), h.h'/m tends to |x||x'| (sin a + (pi - a) cos a) / (2 pi d), a
    the angle between x and x' (Cho & Saul 2009, order 1)."""
    d, m = 24, 100_000
    x = pictures(d=d).double()
    length = x.norm(dim=1)
    cosine = (x @ x.T / length / length[:, None]).clamp(-1, 1)
    angle = cosine.acos()
    kernel = (
        length * length[:, None] * (angle.sin() + (math.pi - angle) * cosine) / (2 * math.pi * d)
    )
    centred = kernel - kernel.mean(0) - kernel.mean(0)[:, None] + kernel.mean()
    dimension = float(centred.trace() ** 2 / centred.square().sum())
    found = analyze(Cerebellum(d, m, 1, fan_in=d), x.float())
    # The mean of m = 100,000 products of variance of order 1: 1/sqrt(m) = 0.3 %.
    assert found["GC"].dimension == pytest.approx(dimension, rel=0.01)


def test_what_is_known_without_counting():
    x = torch.eye(6)
    one = analyze(Cerebellum(6, 10, 1, fan_in=1), x)["MF"]
    assert one.sparseness == pytest.approx(1) and one.active == pytest.approx(1 / 6)
    assert one.dimension == pytest.approx(5)  # six corners span five directions
    alike = analyze(Cerebellum(6, 10, 1), torch.arange(1.0, 5)[:, None].expand(4, 6))["MF"]
    assert alike.sparseness == pytest.approx(0) and alike.dimension == pytest.approx(1)
    assert alike.correlation == pytest.approx(1)


def test_silent_cells_and_pictures_do_no_harm():
    net = Cerebellum(24, 50, 1, threshold=100.0)
    silent = analyze(net, pictures())["GC"]
    assert silent.active == 0 and silent.sparseness == 0 and silent.correlation == 0
    assert silent.dimension == 0 and all(value == 0 for value in silent.eigenvalues)


@pytest.mark.parametrize(("P", "tile", "argument"), [(2, 9, "x"), (5, 0, "tile")])
def test_bad_arguments_are_named(P, tile, argument):
    with pytest.raises(ArgumentError, match=f"^{argument}: got"):
        analyze(Cerebellum(24, 50), pictures(P), tile)
