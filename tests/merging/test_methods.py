"""Merging tensors: peft's functions to the bit, the edges of density, outliers amplified and nothing else."""

import hashlib
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils

from lfmlib.distribution.distances import asymmetry
from lfmlib.merging import methods


def made(count: int = 3, shape: tuple[int, ...] = (40, 30), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * (1 + k) for k in range(count)]


@settings(max_examples=20)
@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.floats(0.01, 0.99),
    st.lists(st.floats(-2, 2, width=32), min_size=12, max_size=12),
    st.integers(0, 1000),
)
def test_methods_are_pefts_to_the_bit(count, shape, density, weights, seed):
    deltas, weights = made(count, tuple(shape), seed), weights[:count]
    known = torch.tensor(weights)
    assert torch.equal(methods.combine(deltas, "task_arithmetic", weights), merge_utils.task_arithmetic(deltas, known))
    assert torch.equal(
        methods.combine(deltas, "ties", weights, density=density), merge_utils.ties(deltas, known, density)
    )
    average = methods.combine(deltas, "average", [1.0] * count)
    assert torch.allclose(average, torch.stack(deltas).mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("method", "theirs"), [("dare", "dare_linear"), ("dare_ties", "dare_ties")])
def test_random_methods_are_pefts_and_their_masks_depend_on_the_seed_alone(method, theirs):
    deltas, before = made(2, (200, 200)), torch.random.get_rng_state()
    one, same, other = (methods.combine(deltas, method, [1, 1], density=0.3, seed=seed) for seed in ("a", "a", "b"))
    torch.manual_seed(int.from_bytes(hashlib.sha256(b"a").digest()[:7], "big"))
    assert torch.equal(one, getattr(merge_utils, theirs)(deltas, torch.ones(2), 0.3))
    torch.random.set_rng_state(before)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4711)  # not the seed of what is merged
    reference = getattr(merge_utils, theirs)(deltas, torch.ones(2), 0.3)
    assert (one == 0).float().mean().item() == pytest.approx((reference == 0).float().mean().item(), abs=0.01)
    assert one.std().item() == pytest.approx(reference.std().item(), rel=0.02)


@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties"])
def test_density_nought_keeps_nothing_and_one_keeps_all(method):
    deltas = made(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not methods.combine(deltas, method, [1, 1, 1], density=0).any()
        whole = methods.combine(deltas, method, [1, 0.5, 1], density=1)
    known = torch.tensor([1, 0.5, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = {"ties": merge_utils.ties, "dare": merge_utils.dare_linear, "dare_ties": merge_utils.dare_ties}
        assert torch.equal(whole, reference[method](deltas, known, 1.0))


def della(deltas, weights, density, epsilon, seed, elected):
    """DELLA by its definition in mergekit, in float64, entry by entry; the draws are those of float32 chances."""
    drawn, kept = methods.drawing(seed), []
    for delta in deltas:
        rows = np.asarray(delta, np.float64).reshape(delta.shape if delta.dim() == 2 else (1, -1))
        ranks = np.argsort(np.argsort(abs(rows), 1, kind="stable"), 1, kind="stable")
        chances = density - epsilon + 2 * epsilon * ranks / (rows.shape[1] - 1)
        mask = torch.bernoulli(torch.tensor(chances, dtype=torch.float32), generator=drawn).double().numpy()
        kept.append((rows * mask * abs(rows).sum() / abs(rows * mask).sum()).reshape(delta.shape))
    weighted = np.stack([w * one for w, one in zip(weights, kept, strict=True)])
    if not elected:
        return weighted.sum(0)
    agree = np.sign(weighted) == np.where(weighted.sum(0) >= 0, 1, -1)
    shares = (agree * np.reshape(weights, (-1, *[1] * deltas[0].dim()))).sum(0)
    return (weighted * agree).sum(0) / np.where(shares == 0, 1, shares)


@pytest.mark.parametrize("shape", [(40, 30), (200,)])
@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_is_what_its_definition_gives(method, shape, monkeypatch):
    monkeypatch.setattr(methods, "RANKED", 70)  # a few rows at a time draw as all do
    deltas, weights = made(3, shape), [1.0, 0.5, -0.7]
    found = methods.combine(deltas, method, weights, density=0.6, epsilon=0.3, seed="a")
    expected = della(deltas, weights, 0.6, 0.3, "a", method == "della")
    np.testing.assert_allclose(found.double(), expected, rtol=2e-6, atol=1e-6)
    assert torch.equal(found, methods.combine(deltas, method, weights, density=0.6, epsilon=0.3, seed="a"))
    assert not torch.equal(found, methods.combine(deltas, method, weights, density=0.6, epsilon=0.3, seed="b"))


def test_della_keeps_the_large_and_the_sum_of_magnitudes():
    delta = made(1, (400, 300))[0]
    kept = methods.thinned(delta, 0.5, 0.4, methods.drawing(""))
    share = (kept != 0).double().mean().item()
    large = delta.abs() > delta.abs().median()
    assert share == pytest.approx(0.5, abs=0.01) and (kept[large] != 0).double().mean() == pytest.approx(0.7, abs=0.01)
    assert kept.abs().sum().item() == pytest.approx(delta.abs().sum().item(), rel=1e-5)
    for odd in (torch.ones(()), torch.ones(3, 1, 2), torch.zeros(4, 4), torch.empty(0, 3)):
        assert methods.thinned(odd, 0.5, None, methods.drawing("")).shape == odd.shape
    assert not methods.combine([delta], "della", [1], density=0).any()
    assert torch.allclose(methods.combine([delta], "della", [3], density=1), delta)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("angle", [0.0, 0.02, 1.0, math.pi / 2, 3.0, math.pi])
def test_slerp_goes_along_the_circle(angle, weight):
    """The rotation in the plane of both, in float64; parallel ones on the line."""
    start, side = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 2)))[0].T
    model = math.cos(angle) * start + math.sin(angle) * side
    a, b = methods.mix("slerp", weight, (4.0, 2 * 3 * float(start @ model), 9.0))  # of 2 start, and 3 model
    expected = (1 - weight) * 2 * start + weight * 3 * model  # on the line
    if abs(math.cos(angle)) <= methods.PARALLEL:
        turned = math.cos(weight * angle) * start + math.sin(weight * angle) * side
        assert np.allclose(a * start + b * model, turned)  # of unit length all the way
        expected = (math.sin((1 - weight) * angle) * 2 * start + math.sin(weight * angle) * 3 * model) / math.sin(angle)
    np.testing.assert_allclose(a * 2 * start + b * 3 * model, expected, rtol=1e-12, atol=1e-12)


def test_mixtures_of_tensors_without_direction():
    assert methods.mix("slerp", 0.5, (0.0, 0.0, 4.0)) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))
    assert methods.mix("passthrough", 2.0, (1.0, 1.0, 1.0)) == (0.0, 2.0)


def test_nans_shares_are_inverse_norms():
    assert methods.shares([1.0, 2.0, 4.0]) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert methods.shares([1.0, 0.0]) == [1.0, 0.0] and methods.shares([0.0]) == [0.0]
    deltas = made(2)
    norms = [one.norm().item() for one in deltas]
    merged = methods.combine(deltas, "nan", methods.shares(norms))
    terms = [one.double() / norm / sum(1 / n for n in norms) for one, norm in zip(deltas, norms, strict=True)]
    # what float32 rounds of either term: of a sum near 0 that is more than a share of the sum
    rounded = 2 * torch.finfo(torch.float32).eps * sum(one.abs() for one in terms)
    assert ((merged.double() - sum(terms)).abs() <= rounded).all()


def test_norms_must_be_numbers():
    with pytest.raises(ValueError, match=r"the norms of ΔW are \[1.0, nan\]: some weights are infinite or NaN"):
        methods.shares([1.0, math.nan])


def test_outliers_are_amplified_and_nothing_else():
    delta = made(1, (200, 300))[0]
    far = torch.zeros_like(delta, dtype=torch.bool)
    far.view(-1)[::997] = True
    delta[far] = delta[far].sign() * 15
    beyond = methods.cut(delta)
    assert 3 < beyond < 15
    changed = methods.amplified(delta, 1.5, beyond)
    assert torch.equal(changed[far], 1.5 * delta[far])
    inside = delta.abs() <= beyond
    assert torch.equal(changed[inside], delta[inside])
    assert torch.equal(methods.amplified(delta, 1.0, beyond), delta)
    assert methods.cut(delta.split(7)) == beyond  # pieces are as good
    assert methods.cut(made(1, (200, 300))[0]) == math.inf  # noise has none
    assert methods.cut(torch.ones(4, 4)) == math.inf


def test_what_an_average_takes_from_outliers_is_given_back():
    deltas = made(1, (300, 300)) * 4
    rng = np.random.default_rng(0)
    for place in range(4):  # four unlike ones, each with outliers of its own
        deltas[place] = torch.randn(300, 300, generator=torch.Generator().manual_seed(place))
        deltas[place].view(-1)[rng.choice(90_000, 100, replace=False)] = 30.0
    merged = methods.combine(deltas, "average", [1] * 4)
    beyond = methods.cut(merged)
    factor = methods.restoring([methods.reach(one, methods.cut(one)) for one in deltas], methods.reach(merged, beyond))
    assert factor == pytest.approx(2, rel=0.05)
    assert methods.reach(methods.amplified(merged, factor, beyond), beyond) == pytest.approx(30, rel=0.05)
    noise = made(1)[0]
    assert math.isnan(methods.reach(noise, methods.cut(noise)))
    assert methods.restoring([math.nan, 4.0], math.nan) == methods.restoring([math.nan], 2.0) == 1.0
    assert methods.restoring([2.0, math.nan], 4.0) == 1.0  # never less


def test_projections():
    w = torch.tensor(np.random.default_rng(1).gamma(3, size=(60, 50))).float()
    assert methods.projected(w, "zero-mean").mean().abs() < 1e-6
    even = methods.projected(w, "symmetric")
    assert asymmetry(even) < 0.002 < 0.1 < asymmetry(w)
    assert even.mean().abs() < 1e-6 and torch.equal(
        even.flatten().argsort(stable=True), w.flatten().argsort(stable=True)
    )
    assert torch.allclose(methods.projected(even, "symmetric"), even, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "weights", "density", "message"),
    [
        ("breadcrumbs", [1, 1, 1], 0.5, "unknown method 'breadcrumbs': expected one of average"),
        ("slerp", [1, 1, 1], 0.5, "slerp takes a base and a model, not ΔW"),
        (
            "della",
            [1, 1, 1],
            0.9,
            r"density is 0.9 and epsilon 0.15: expected chances from .* Choose a smaller epsilon",
        ),
        ("ties", [1, 1], 0.5, r"weights are \[1, 1\]: expected a number for each of the 3"),
        ("ties", [1, 1, math.nan], 0.5, "expected a number for each"),
        ("ties", [1, 1, 1], 1.5, "density is 1.5: expected a share"),
        ("ties", [1, 1, 1], "0.5", "density is '0.5': expected a share"),
        ("ties", "111", 0.5, "weights are .*: expected a number for each of the 3"),
    ],
)
def test_wrong_options_say_what_is_expected(method, weights, density, message):
    with pytest.raises(ValueError, match=message):
        methods.combine(made(3), method, weights, density=density)
    with pytest.raises(ValueError, match="unknown projection 'round'"):
        methods.projected(torch.ones(2), "round")
