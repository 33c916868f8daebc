"""Stand-ins keep what they promise; a planted share of noise comes out, and the ends of the scale; weights restored."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfmlib.losses import replace, splits
from lfmlib.structure.shrinkage import WAYS, denoised, shrunk

ALL = (*replace.STAND_INS, replace.CONTROL)


def made(seed: int = 0, shape: tuple[int, int] = (24, 40)) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def square(w: torch.Tensor) -> float:
    return w.double().square().sum().item()


@given(st.integers(0, 20), st.floats(0, 1), st.sampled_from(replace.RULES), st.sampled_from(["tall", "wide", "square"]))
def test_a_part_and_the_rest_are_the_matrix_and_orthogonal(seed, share, rule, form):
    w = made(seed, {"tall": (40, 24), "wide": (24, 40), "square": (32, 32)}[form])
    part = replace.Split(w, rule).at(share)
    assert torch.allclose(part.kept + part.part, w, atol=1e-5)
    assert abs((part.kept.double() * part.part).sum()) < 1e-4 * square(w)
    assert part.whole == pytest.approx(square(w), rel=1e-5) and abs(part.share - share) <= 0.5 / 15
    zero = part.replaced("zero", np.random.default_rng(0))
    assert torch.equal(zero, part.kept)


@pytest.mark.parametrize("rule", replace.RULES)
@pytest.mark.parametrize("stand_in", [name for name in ALL if name != "zero"])
def test_a_stand_in_has_the_norm_and_the_place_of_the_part(rule, stand_in):
    w = made()
    part = replace.Split(w, rule).at(0.6)
    draw = lambda seed: part.replaced(stand_in, np.random.default_rng(seed))  # noqa: E731
    if stand_in == "rotated" and rule in ("entries", "blocks"):
        with pytest.raises(ValueError, match='expected the rule "directions", "rows" or "columns"'):
            draw(0)
        return
    new = draw(0)
    assert torch.equal(new, draw(0)) and (stand_in == "signs" or not torch.equal(new, draw(1)))
    if stand_in == replace.CONTROL:
        assert square(new - w) == pytest.approx(2 * part.square, rel=1e-5)
        return
    inside = new - part.kept
    assert square(inside) == pytest.approx(part.square, rel=1e-5)
    if rule == "directions":
        assert (part.left.T @ inside).abs().max() < 1e-4 and (inside @ part.right).abs().max() < 1e-4
    else:
        assert not inside[~part.mask].any()


@pytest.mark.parametrize("rule", ["entries", "rows", "columns", "blocks"])
def test_the_least_go_first(rule):
    w = made()
    mask = replace.Split(w, rule).at(0.5).mask
    if rule == "entries":
        assert w.abs()[mask].max() <= w.abs()[~mask].min()
    elif rule == "blocks":
        sizes = {on: [square(w[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]) for i in range(3) for j in range(5)
                      if bool(mask[8 * i, 8 * j]) == on] for on in (True, False)}  # fmt: skip
        assert max(sizes[True]) <= min(sizes[False]) and len(sizes[True]) == 8
    else:
        norms, out = (w.norm(dim=1), mask.all(1)) if rule == "rows" else (w.norm(dim=0), mask.all(0))
        assert out.sum() == len(norms) / 2 and norms[out].max() <= norms[~out].min()
        assert mask.sum() == w.numel() / 2


def test_parts_between_two_shares_make_up_the_whole():
    for rule in replace.RULES:
        split = replace.Split(made(), rule)
        parts = [split.at((place / 4, (place + 1) / 4)) for place in range(4)]
        assert torch.allclose(sum(part.part for part in parts), split.w, atol=1e-5)
        assert sum(part.share for part in parts) == pytest.approx(1)
        sizes = [part.square / part.share for part in parts]
        assert sizes == sorted(sizes)
        assert torch.allclose(parts[0].part, split.at(0.25).part, atol=1e-6)


def test_values_signs_and_sizes_are_those_that_are_named():
    w = made()
    part = replace.Split(w, "entries").at(0.7)
    values = part.part[part.mask]
    of = lambda name: part.replaced(name, np.random.default_rng(3))[part.mask]  # noqa: E731
    assert torch.allclose(of("permuted").sort().values, values.sort().values, atol=1e-6)
    assert torch.equal(of("signs").sign(), values.sign()) and of("signs").abs().std() < 1e-6
    assert torch.allclose(of("sizes").abs(), values.abs(), atol=1e-6)
    assert 0.3 < (of("sizes").sign() == values.sign()).float().mean() < 0.7
    again, factor = of("resampled"), part.square**0.5 / values[_places(values)].norm().item()
    assert torch.allclose(again, factor * values[_places(values)], atol=1e-6)


def _places(values: torch.Tensor) -> torch.Tensor:
    """Where the resampled entries come from: with replacement, by the same source."""
    return torch.from_numpy(np.random.default_rng(3).integers(len(values), size=len(values)))


def test_rotated_keeps_the_singular_values_and_no_direction():
    w = made(1, (60, 90))
    part = replace.Split(w).at(0.5)
    new = part.replaced("rotated", np.random.default_rng(0))
    assert torch.allclose(torch.linalg.svdvals(new), torch.linalg.svdvals(w), rtol=1e-4)
    cosine = (new - part.kept).flatten() @ part.part.flatten() / part.square
    assert abs(cosine) < 4 / math.sqrt(30 * 60)
    rows = replace.Split(w, "rows").at(0.5)
    values = [
        torch.linalg.svdvals(one - rows.kept)[:30] for one in (w, rows.replaced("rotated", np.random.default_rng(0)))
    ]
    assert torch.allclose(*values, rtol=1e-3)


def test_random_directions_are_haar():
    """The mean of ``u uᵀ`` over draws is the projection on what is left over its dimension."""
    kept = torch.linalg.qr(made(2, (6, 2)).double())[0]
    total = torch.zeros(6, 6, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for _ in range(4000):
        drawn = splits._haar(rng, 6, 2, kept)
        total += drawn[:, :1] @ drawn[:, :1].T / 4000
    wanted = (torch.eye(6, dtype=torch.float64) - kept @ kept.T) / 4
    assert (total - wanted).abs().max() < 0.02


class Planted:
    """y = S x with white x: the loss of W is ‖W − S‖², the trivial one ‖S‖²; W is S and noise of that std."""

    def __init__(self, seed: int, rank: int, noise: float, shape: tuple[int, int] = (96, 160)):
        rng = np.random.default_rng(seed)
        left, right = (np.linalg.qr(rng.standard_normal((side, max(rank, 1))))[0] for side in shape)
        self.signal = torch.from_numpy(left @ right.T if rank else np.zeros(shape)).float()
        self.weights = {"w": self.signal + noise * torch.from_numpy(rng.standard_normal(shape)).float()}
        self.gap = square(self.signal) - self.loss()
        self.split = replace.Split(self.weights["w"])
        values = self.split.singular_values**2
        self.noise_energy = values[rank:].sum() / values.sum()
        self.noise_share = 1 - rank / min(shape)

    def loss(self) -> float:
        return square(self.weights["w"] - self.signal)

    def found(self, bound: float, of: str, stand_in: str = "noise") -> pd.DataFrame:
        shares = np.arange(1, 97, 4) / 96
        how = {"stand_in": stand_in, "draws": 3, "splits": {"w": self.split}}
        return replace.replaceable(replace.curve(self.loss, self.weights, shares, **how), bound * self.gap, of)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "noise", "stand_in"), [(24, 0.02, "noise"), (48, 0.015, "noise"), (12, 0.015, "rotated")]
)
def test_a_planted_share_of_noise_comes_out_in_19_of_20_draws(rank, noise, stand_in):
    """The known share lies between the parts that were measured on either side of the answer. Where signal leaves the
    median of the spectrum alone, the edge of Marchenko and Pastur's law foretells it."""
    hits = edges = 0
    for seed in range(20):
        model = Planted(seed, rank, noise)
        energy, share = (model.found(0.01, of, stand_in) for of in ("energy", "share"))
        hits += bool(
            energy["low"].min() - 1e-9 <= model.noise_energy <= energy["high"].max()
            and share["low"].min() - 1e-9 <= model.noise_share <= share["high"].max()
        )
        edges += abs(model.split.share_below_edge - model.noise_share) < 1.5 / 96
    assert hits >= 19 and (edges >= 19 or rank == 48)


def test_the_ends_of_the_scale():
    """All signal: a matrix without noise. All noise: one that nothing is asked of."""
    signal = Planted(0, 96, 0.0)
    assert signal.found(0.01, "energy")["energy"].max() < 0.01
    weights = {"noise": 0.1 * made(5, (96, 160)), "signal": signal.signal.clone()}
    loss = lambda: square(weights["signal"] - signal.signal) + 1e-3 * square(weights["noise"])  # noqa: E731
    gap = square(signal.signal) - loss()
    of = {name: replace.curve(loss, {name: weights[name]}, [0.1, 0.5, 1.0], draws=3) for name in weights}
    assert (replace.replaceable(of["noise"], 0.01 * gap)["energy"] == 1).all()
    assert (replace.replaceable(of["signal"], 0.01 * gap)["energy"] < 0.02).all()


def test_noise_on_top_costs_more_than_noise_for_noise():
    """The control is as far away as fresh noise is, and falls on the signal too."""
    model = Planted(0, 24, 0.02)
    shares = {name: model.found(0.01, "energy", name)["energy"].mean() for name in ("noise", replace.CONTROL)}
    assert shares[replace.CONTROL] < 0.1 * shares["noise"]


def test_weights_come_back_to_the_bit_and_curves_say_what_they_did():
    weights = {"a": made(), "b": 3 * made(1, (30, 16)).to(torch.bfloat16)}
    before = {name: w.clone() for name, w in weights.items()}
    loss = lambda: float(sum(w.float().square().sum() for w in weights.values()))  # noqa: E731
    found = replace.curve(loss, weights, [0.25, 0.5], rule="entries", stand_in="zero", draws=3)
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert list(found["draw"]) == [0, 0]  # nothing is drawn of zero
    assert found["rise"].to_numpy() == pytest.approx(-found["energy"].to_numpy() * found.attrs["loss"], rel=1e-2)
    calls = []

    def stopped() -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss()

    some = replace.curve(stopped, weights, [0.1, 0.2, 0.3, 0.4])
    assert len(some) == 2 and some.attrs["interrupted"] and not found.attrs["interrupted"]
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_shares_may_differ_between_matrices():
    weights = {"a": made(), "b": made(1)}
    loss = lambda: float(sum(w.square().sum() for w in weights.values()))  # noqa: E731
    (row,) = replace.curve(loss, weights, [{"a": 0.0, "b": 1.0}], stand_in="zero").to_dict("records")
    assert row["share"] == 0.5 and row["energy"] == pytest.approx(square(weights["b"]) / loss(), rel=1e-5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"rule": "ranks"}, "unknown rule 'ranks': expected one of directions"),
        ({"draws": 0}, "draws is 0: expected a whole number, 1 or more"),
        ({"shares": ["all"]}, "'all' is no share of a matrix"),
        ({"shares": [{"v": 0.5}]}, "a mapping of shares has none of w"),
        ({"splits": {}}, "splits has no split of w: leave it out, or add it"),
        ({"rule": "rows", "splits": {"w": replace.Split(made())}}, "splits has no split of w by rows"),
        ({"weights": {"w": torch.ones(3)}}, r"found shape \(3,\) of torch.float32: expected a matrix"),
        ({"weights": {"w": torch.ones(3, 3, dtype=torch.int8)}}, r"found shape \(3, 3\) of torch.int8"),
        ({"weights": dict.fromkeys("ab", made())}, "a and b are one tensor: expected each once"),
        ({"stand_in": "gauss"}, "unknown stand-in 'gauss': expected one of zero"),
        ({"shares": [1.5]}, "1.5 is no share of a matrix"),
        ({"shares": [(0.5, 0.4)]}, r"\(0.5, 0.4\) is no share of a matrix: expected a number between 0 and 1, or two"),
        ({"weights": {}}, "no weights to replace"),
        ({"loss": lambda: math.nan}, "the loss is nan before anything is replaced"),
    ],
)
def test_what_cannot_be_is_told(how, said):
    asked = {"loss": lambda: 1.0, "weights": {"w": made()}, "shares": [0.5]} | how
    with pytest.raises(ValueError, match=said):
        replace.curve(asked.pop("loss"), asked.pop("weights"), asked.pop("shares"), **asked)


@pytest.mark.parametrize(
    ("energy", "rise", "wanted"),
    [
        ([0.2, 0.4, 0.6], [0.0, 0.1, 0.3], (0.3, 0.2, 0.4)),
        ([0.2, 0.4], [0.01, 0.02], (0.4, 0.4, 0.4)),  # never beyond
        ([0.2, 0.4], [0.1, 0.2], (0.1, 0.0, 0.2)),  # at once
        ([0.0, 0.4], [0.0, 0.1], (0.2, 0.0, 0.4)),
        ([0.2, 0.4], [math.nan, 0.0], (0.0, 0.0, 0.2)),  # a loss that overflowed
        ([0.2, 0.4, 0.6], [0.0, 0.1, 0.0], (0.3, 0.2, 0.4)),  # the first crossing
    ],
)
def test_a_share_lies_between_the_points_that_were_measured(energy, rise, wanted):
    found = replace.replaceable(pd.DataFrame({"draw": 0, "energy": energy, "rise": rise}), 0.05)
    assert found.iloc[0].tolist() == pytest.approx(wanted)


def test_signals_near_the_edge_of_noise_leave_themselves_below_it():
    """What noise can stand for falls short there: a signal x times the noise leaves 1/x⁴ of itself in the part."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((120, 1)))[0] for _ in range(2))
    left_over = []
    for x in (1.5, 3.0):
        for _ in range(10):
            w = x * math.sqrt(120) * left @ right.T + rng.standard_normal((120, 120))
            part = replace.Split(torch.from_numpy(w)).at(119 / 120)
            left_over.append((left.T @ part.part.double().numpy() @ right).item() / (x * math.sqrt(120)))
    assert np.mean(left_over[:10]) == pytest.approx(1.5**-4, abs=0.05)
    assert np.mean(left_over[10:]) == pytest.approx(3.0**-4, abs=0.01)


def test_tiny_matrices_have_an_edge():
    for shape in ((1, 1), (1, 5), (2, 2), (3, 3)):
        assert 0 <= replace.Split(made(0, shape)).share_below_edge <= 1


def test_a_model_that_knows_nothing_has_no_share():
    with pytest.raises(ValueError, match="expected by how much the loss may rise, above 0"):
        replace.replaceable(pd.DataFrame({"draw": 0, "energy": [0.5], "rise": [0.0]}), -0.1)


@pytest.mark.parametrize(("p", "n"), [(80, 200), (120, 120)])
def test_shrinkage_is_gavish_and_donohos(p, n):
    """Their constants for square matrices, 4/√3 and 2.858 medians; and the optimal one is the best of all three."""
    if p == n:
        noise = made(3, (400, 400)).double().numpy()
        values = np.linalg.svd(noise, compute_uv=False)
        cut = 4 / math.sqrt(3) * math.sqrt(400)
        around = np.r_[cut * 0.97, cut * 1.03, values]
        kept = shrunk(around, (402, 402), "hard")[:2]
        assert kept[0] == 0 and kept[1] > 0
        assert cut == pytest.approx(2.858 * np.median(values), rel=0.01)
    errors = dict.fromkeys((*WAYS, "none"), 0.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        left, right = (np.linalg.qr(rng.standard_normal((side, 4)))[0] for side in (p, n))
        signal = torch.from_numpy(left * np.array([3.0, 2.5, 2.0, 1.5]) * math.sqrt(n) @ right.T)
        noisy = signal + torch.from_numpy(rng.standard_normal((p, n)))
        for way in errors:
            cleaned = noisy if way == "none" else denoised(noisy, way).double()
            errors[way] += square(cleaned - signal)
    assert min(errors, key=errors.get) == "optimal" and errors["optimal"] < 0.2 * errors["none"]
    with pytest.raises(ValueError, match="unknown way to shrink 'median'"):
        shrunk(np.ones(3), (3, 3), "median")


def test_a_matrix_of_low_rank_has_no_noise_to_take_out():
    w = made(0, (40, 3)) @ made(1, (3, 50))
    assert torch.allclose(denoised(w), w, atol=1e-4)
