"""The argument checks, and the two small vocabularies that rest on them: estimates and sampling."""

from itertools import combinations, product

import numpy as np
import pytest

from flatmin import _check
from flatmin.estimate import Estimate, bootstrap_error
from flatmin.sampling import Sampling


@pytest.mark.parametrize(
    ("function", "value", "bounds", "words"),
    [
        (_check.number, -1, {"above": 0}, "eta=-1: must be a finite real number above 0"),
        (_check.number, 2, {"least": 0, "below": 2}, "eta=2: must be .* at least 0 and below 2"),
        (_check.number, np.nan, {"infinite": True}, "eta=nan: must be a real number"),
        (_check.number, np.inf, {}, "eta=inf: must be a finite real number"),
        (_check.number, True, {}, "eta=True"),
        (_check.number, 1j, {}, "eta=1j"),
        (_check.number, "0.1", {}, "eta='0.1'"),
        (_check.number, [0.1], {}, r"eta=\[0.1\]"),
        (_check.number, 10**400, {}, "eta=1000"),
        (_check.integer, 2.0, {}, "eta=2.0: must be an integer"),
        (_check.integer, 0, {"least": 1}, "eta=0: must be an integer at least 1"),
        (_check.integer, True, {}, "eta=True"),
        (_check.array, [1.5], {"dtype": int}, "integers"),
        (_check.array, [0, 1], {"dtype": bool}, "truth values"),
        (_check.array, [1, 1], {"increasing": True}, "increasing"),
        (_check.array, [], {}, "at least one"),
        (_check.array, [[1.0]], {"ndim": 1}, "in one axis"),
        (_check.array, [1.0, 2.0], {"shape": (3,)}, r"of shape \(3\)"),
        (_check.array, [[1.0], [1.0, 2.0]], {}, "eta="),
        (_check.array, ["a"], {}, "finite real numbers"),
        (_check.array, np.array(-1.0), {"least": 0}, "eta=-1.0: must be"),
        (_check.flag, 1, {}, "eta=1: must be True or False"),
    ],
)
def test_what_is_refused_and_in_which_words(function, value, bounds, words):
    with pytest.raises(ValueError, match=words):
        function("eta", value, **bounds)


def test_several_numbers_have_the_same_bounds_and_their_own_names():
    assert _check.numbers(eta=1, tau=2.5, above=0) == (1.0, 2.5)
    assert _check.integers(runs=1, steps=7, least=1) == (1, 7)
    with pytest.raises(ValueError, match="tau=0: must be a finite real number above 0"):
        _check.numbers(eta=1, tau=0, above=0)
    with pytest.raises(ValueError, match="steps=9: must be an integer at least 1 and at most 8"):
        _check.integers(runs=1, steps=9, least=1, most=8)


def test_what_passes_comes_back_in_the_type_that_is_computed_with():
    assert type(_check.number("eta", np.float32(0.5), above=0)) is float
    assert _check.number("eta", np.inf, infinite=True, above=0) == np.inf
    assert type(_check.integer("n", np.int8(3))) is int
    assert _check.array("x", [1, 2]).dtype == float
    assert _check.array("x", [1, 2], dtype=int).dtype == int
    assert _check.array("x", [], empty=True).size == 0
    assert _check.array("x", [0, np.inf], infinite=True, increasing=True).shape == (2,)
    assert _check.flag("f", np.bool_(True)) is True


def test_a_misspelt_name_gets_a_hint_and_a_large_value_a_short_message():
    with pytest.raises(ValueError, match=r"'fresch'.*did you mean 'fresh'"):
        Sampling.of("fresch")
    with pytest.raises(ValueError, match="sampling=3"):
        Sampling.of(3)
    with pytest.raises(ValueError, match=r"only=.*one of 'fresh'"):
        Sampling.of("epoch", ("fresh",), "only")
    for value in (np.full(10_000, -1.0), "x" * 10_000, list(range(10_000))):
        with pytest.raises(ValueError, match="x=") as error:
            _check.number("x", value)
        assert len(str(error.value)) < 300


def test_shapes_that_do_not_go_together_and_other_types_are_named():
    assert _check.together(a=np.ones((3, 1)), b=np.ones(4)) == (3, 4)
    with pytest.raises(ValueError, match=r"a \(3,\), b \(4,\): must have shapes that broadcast"):
        _check.together(a=np.ones(3), b=np.ones(4))
    assert _check.instance("x", 3, (int, str)) == 3
    with pytest.raises(ValueError, match=r"x=None: must be of the type int or str"):
        _check.instance("x", None, (int, str))


@pytest.mark.parametrize("sampling", list(Sampling))
def test_the_factor_is_the_variance_of_the_mean_of_a_batch(sampling):
    # the mean of B of the numbers 0…n−1; whose variance is (n² − 1)/12
    n, size, epochs = 12, 3, 6000
    means = np.concatenate([sampling.draw(n, size, 1, epoch).mean(1) for epoch in range(epochs)])
    expected = sampling.factor(n, size) * (n**2 - 1) / 12
    # batches of one epoch are correlated, which only makes fewer of them independent; Var(s²) ≈ 2σ⁴/N
    assert means.var() == pytest.approx(expected, rel=5 * np.sqrt(2 / epochs))
    assert means.mean() == pytest.approx((n - 1) / 2, abs=5 * np.sqrt(expected / epochs))


def test_each_sampling_draws_what_its_name_says():
    epoch = Sampling.EPOCH.draw(10, 3, 4, 0)
    assert len(set(epoch.ravel())) == 9
    assert all(len(set(batch)) == 3 for batch in Sampling.FRESH.draw(10, 3, 4, 0))
    repeated = Sampling.REPLACEMENT.draw(4, 4, 4, 0)
    assert len(set(repeated[0])) < 4  # 1 − 4!/4⁴ = 0.91 at a seed
    for sampling in Sampling:
        assert np.array_equal(sampling.draw(10, 3, 4, 1), sampling.draw(10, 3, 4, 1))
        assert not np.array_equal(sampling.draw(10, 3, 4, 1), sampling.draw(10, 3, 4, 2))
        assert not np.array_equal(sampling.draw(10, 3, 4, 1), sampling.draw(10, 3, 5, 1))


def test_full_batches_have_no_noise_unless_drawn_with_replacement():
    assert Sampling("fresh").factor(8, 8) == Sampling("epoch").factor(8, 8) == 0
    assert Sampling("replacement").factor(8, 8) == 1 / 8
    assert Sampling("fresh").factor(1, 1) == 0
    assert Sampling("replacement").factor(8, 20) == 1 / 20
    with pytest.raises(ValueError, match="batch_size=9"):
        Sampling("fresh").factor(8, 9)
    with pytest.raises(ValueError, match=r"batch_size=1\.5"):
        Sampling("fresh").draw(8, 1.5, 0, 0)


def test_an_estimate_is_a_value_with_its_error():
    found = Estimate(2.5, 0.125, 40, "mean")
    value, error = found
    assert (value, error, float(found)) == (2.5, 0.125, 2.5)
    assert repr(found) == "2.5 ± 0.12 (n = 40; mean)"
    assert repr(Estimate(2.5)) == "2.5 (exact)"
    assert "shape (3,)" in repr(Estimate(np.ones(3), np.ones(3)))
    assert repr(found.scaled(-2)) == "-5 ± 0.25 (n = 40; mean)"
    assert repr(found.inverse()) == "0.4 ± 0.02 (n = 40; mean)"  # 0.125/2.5²
    for refused in (lambda: found.scaled(np.nan), Estimate(0.0).inverse):
        with pytest.raises(ValueError, match="must be"):
            refused()


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).standard_normal(400)
    exact = values.std() / 20
    # the spread of 2000 resamples is good to 1/√(2·2000)
    found = bootstrap_error(lambda draw: values[draw].mean(), 400, 2000)
    assert found == pytest.approx(exact, rel=5 / np.sqrt(4000))
    both = bootstrap_error(lambda draw: np.array([1.0, 2.0]) * values[draw].mean(), 400, 2000)
    np.testing.assert_allclose(both, [found, 2 * found])
    assert found == bootstrap_error(lambda draw: values[draw].mean(), 400, 2000, seed=0)


def test_the_factor_by_all_batches_of_two_of_four():
    values = np.array([0.0, 1.0, 3.0, 8.0])
    for sampling, batches in (("fresh", combinations(values, 2)), ("replacement", product(values, repeat=2))):
        expected = np.var(np.mean(list(batches), axis=1)) / np.var(values)
        assert Sampling(sampling).factor(4, 2) == pytest.approx(expected, rel=1e-12)
