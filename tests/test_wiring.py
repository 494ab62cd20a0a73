import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tolerances import INVERSE_NORMAL

from cerebsim import wiring as module
from cerebsim.config import CircuitConfig
from cerebsim.wiring import Wiring, draw_readout, inverse_of

KINDS = [
    {"wiring": "random"},
    {"wiring": "random", "replacement": True},
    {"wiring": "local"},
    {"wiring": "full"},
]


def config(d=64, m=1000, k=4, **more):
    return CircuitConfig(d, m, fan_in=k, **more)


def philox(counter, key):
    """Philox 4x32-10 in whole numbers of Python, as Salmon et al. print it."""
    a, b, c, e = counter
    low, high = key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, e = (q >> 32) ^ b ^ low, q & 0xFFFFFFFF, (p >> 32) ^ e ^ high, p & 0xFFFFFFFF
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, e


def same(a: Wiring, b: Wiring) -> bool:
    pairs = zip(a.operands[1:], b.operands[1:], strict=True)
    return a.d == b.d and all(
        (p is None) == (q is None) and (p is None or torch.equal(p, q)) for p, q in pairs
    )


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_philox_of_this_file_gives_the_answers_of_random123(counter, key, words):
    numbers = [[int(n, 16) for n in text.split()] for text in (counter, key, words)]
    assert list(philox(*numbers[:2])) == numbers[2]


def test_words_are_philox_and_start_with_its_known_answer():
    known = module._words(0, np.array([0]), 0, 4)[:, 0]
    assert [hex(w) for w in known] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@given(
    seed=st.integers(0, 2**64 - 1),
    cell=st.integers(0, 2**62),
    stream=st.integers(0, 2**32 - 1),
    n=st.integers(1, 11),
)
@settings(max_examples=30)
def test_words_count_cell_draw_and_purpose(seed, cell, stream, n):
    got = module._words(seed, np.array([cell, 5]), stream, n)
    key = seed & 0xFFFFFFFF, seed >> 32
    for column, number in enumerate((cell, 5)):
        expected = [
            word
            for block in range(3)
            for word in philox((number & 0xFFFFFFFF, number >> 32, block, stream), key)
        ]
        assert got[:, column].tolist() == expected[:n]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("few", [1, 63, 700])
def test_the_first_cells_do_not_depend_on_how_many_there_are(kind, few):
    many = Wiring.draw(config(m=1000, k=5, threshold=0.25, seed=7, **kind))
    first = Wiring.draw(config(m=few, k=5, threshold=0.25, seed=7, **kind))
    cut = [None if t is None else t[..., :few] for t in many.operands[1:]]
    assert same(first, Wiring(many.d, *cut))


@pytest.mark.parametrize("kind", KINDS)
def test_how_many_cells_are_drawn_at_once_is_nobodys_business(kind, monkeypatch):
    at_once = Wiring.draw(config(m=150, seed=3, **kind)), draw_readout(config(m=150, seed=3))
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", 64)
    pieces = Wiring.draw(config(m=150, seed=3, **kind)), draw_readout(config(m=150, seed=3))
    assert same(at_once[0], pieces[0])
    assert torch.equal(at_once[1], pieces[1])


def test_the_readout_of_few_cells_is_that_of_many_but_for_its_scale():
    many, few = draw_readout(config(m=900, seed=5)), draw_readout(config(m=100, seed=5))
    torch.testing.assert_close(many[:, :100] * 3, few, rtol=3e-7, atol=0)
    assert few.std() * 100**0.5 == pytest.approx(1, abs=0.1)
    assert not draw_readout(config(initial_readout="zero")).any()
    assert stats.kstest(draw_readout(config(m=5000)).flatten() * 5000**0.5, "norm").pvalue > 1e-3


@pytest.mark.parametrize(("d", "k"), [(1, 1), (5, 3), (5, 5), (64, 4), (64, 64), (784, 50)])
def test_the_inputs_of_a_cell_are_distinct_and_in_range(d, k):
    indices = Wiring.draw(config(d=d, m=500, k=k)).indices.long()
    assert indices.min() >= 0 and indices.max() < d
    ordered = indices.sort(dim=0).values
    assert (ordered[1:] > ordered[:-1]).all()


def test_with_replacement_inputs_repeat_as_often_as_chance_has_it():
    indices = Wiring.draw(config(d=10, m=20_000, k=2, replacement=True)).indices
    repeated = int((indices[0] == indices[1]).sum())
    assert stats.binomtest(repeated, 20_000, 0.1).pvalue > 1e-3
    assert Wiring.draw(config(d=2, m=50, k=7, replacement=True)).indices.shape == (7, 50)


@pytest.mark.parametrize("k", [1, 4, 20])
def test_local_inputs_are_neighbours_from_any_start(k):
    indices = Wiring.draw(config(d=20, m=4000, k=k, wiring="local")).indices.long()
    assert torch.equal(indices, indices[:1] + torch.arange(k)[:, None])
    starts = indices[0].bincount(minlength=20 - k + 1)
    assert len(starts) == 20 - k + 1 and (starts > 0).all()
    assert k == 20 or stats.chisquare(starts).pvalue > 1e-3


def test_full_wiring_is_a_dense_matrix():
    J = Wiring.draw(config(d=30, m=200, k=4, wiring="full"))
    assert J.indices is None and J.k == 30
    assert J.dense().shape == (30, 200)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("d", "k"), [(7, 1), (7, 3), (50, 4)])
def test_every_mossy_fibre_has_the_same_chance_in_every_place(d, k, replacement):
    indices = Wiring.draw(config(d=d, m=20_000, k=k, replacement=replacement)).indices.long()
    assert stats.chisquare(indices.flatten().bincount(minlength=d)).pvalue > 1e-4
    if replacement:  # Floyd's algorithm gives every set the same chance, not every order
        assert all(stats.chisquare(row.bincount(minlength=d)).pvalue > 1e-4 for row in indices)


def test_every_set_of_inputs_has_the_same_chance():
    sets = Wiring.draw(config(d=5, m=20_000, k=3)).indices.long()
    counts = (2**sets).sum(dim=0).bincount()
    assert len(counts[counts > 0]) == 10
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_normal_with_variance_one_over_fan_in(kind):
    J = Wiring.draw(config(m=5000, k=4, **kind))
    assert J.weights.dtype == torch.float32
    assert stats.kstest(J.weights.flatten() * J.k**0.5, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(J.weights[0], J.weights[1])[0, 1]) < 0.06


def test_the_inverse_normal_is_scipys():
    words = np.array([0, 1, 2, 3, 1000, 2**28, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint64)
    words = np.concatenate([words, module._words(1, np.arange(100_000), 0, 1)[0]])
    p = (words + 0.5) / 2.0**32
    got, expected = module._normal(words), stats.norm.ppf(p)
    # Above 1/2 the tail is 1 - p, which is exact here, where scipy's ppf(p) also takes it.
    np.testing.assert_allclose(got, expected, rtol=INVERSE_NORMAL, atol=INVERSE_NORMAL)


def test_the_inverse_normal_is_odd():
    words = module._words(2, np.arange(1000), 0, 1)[0]
    np.testing.assert_array_equal(
        module._normal(words), -module._normal(np.uint64(2**32 - 1) - words)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [1, 2**32, 2**63])
def test_another_seed_is_another_connectome(kind, other):
    a, b = Wiring.draw(config(**kind)), Wiring.draw(config(seed=other, **kind))
    assert (a.weights != b.weights).float().mean() > 0.99
    if a.indices is not None:
        assert (a.indices != b.indices).float().mean() > 0.9
    assert (draw_readout(config()) != draw_readout(config(seed=other))).float().mean() > 0.99


def test_inputs_weights_and_readout_are_draws_of_their_own():
    J, W = Wiring.draw(config(d=1000, m=5000, k=4)), draw_readout(config(m=5000, k=4))
    for a, b in ((J.indices, J.weights), (J.indices, W[:4]), (J.weights, W[:4])):
        assert abs(np.corrcoef(a.flatten().double(), b.flatten().double())[0, 1]) < 0.03


@pytest.mark.parametrize("kind", [{}, {"replacement": True}, {"wiring": "local"}])
def test_indices_are_as_narrow_as_they_can_be(kind):
    for d, dtype in ((32_768, torch.int16), (32_769, torch.int32)):
        indices = Wiring.draw(config(d=d, m=60_000, k=2, **kind)).indices
        assert indices.dtype == dtype
        assert indices.min() >= 0 and 32_000 < int(indices.max()) < d


@pytest.mark.parametrize("cells", [None, 1, 32, 90, 1000])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_inverse_index_rebuilds_the_matrix(kind, cells):
    J = Wiring.draw(config(d=40, m=90, k=5, **kind))
    starts, synapses = inverse_of(J.indices, J.d, cells)
    chunks = -(-90 // (cells or 90))
    assert starts.dtype == synapses.dtype == torch.int64
    assert starts[0] == 0 and starts[-1] == J.k * J.m and len(starts) == 40 * chunks + 1
    rebuilt = torch.zeros(40, 90)
    for q in range(chunks):
        for p in range(40):
            mine = synapses[starts[q * 40 + p] : starts[q * 40 + p + 1]]
            assert (mine[1:] > mine[:-1]).all()
            assert (mine % J.m // (cells or 90) == q).all()
            rebuilt[p].index_add_(0, mine % J.m, J.weights.flatten()[mine])
    assert torch.equal(rebuilt, J.dense())


def test_the_inverse_index_is_built_once_and_goes_with_its_wiring():
    J = Wiring.draw(config(d=40, m=90, k=5))
    first = inverse_of(J.indices, J.d)
    assert inverse_of(J.indices, J.d)[1] is first[1]
    assert inverse_of(J.indices, J.d, 32)[1] is not first[1]
    kept = len(module._inverses)
    del J
    assert len(module._inverses) == kept - 1


def test_the_dense_matrix_adds_up_repeated_inputs():
    J = Wiring(
        3,
        torch.tensor([[0, 2], [0, 1]], dtype=torch.int16),
        torch.tensor([[1.0, 2.0], [4.0, 8.0]]),
    )
    assert J.dense().tolist() == [[5, 0], [0, 8], [0, 2]]


def test_thresholds_are_given_or_absent():
    assert Wiring.draw(config()).thresholds is None
    assert Wiring.draw(config(threshold=-0.5)).thresholds.tolist() == [-0.5] * 1000
