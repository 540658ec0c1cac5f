"""K outputs: the curvature of a sample has rank K, and a batch draws it as a whole."""

import itertools

import numpy as np
import pytest

from flatmin.theory.stability import bounds, minimum, threshold
from flatmin.theory.stability.bounds import one_step_growth, theorem_3_5_growth
from flatmin.theory.stability.bracket import step_bracket
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.paths import epoch_growth, log_losses, mean_losses
from flatmin.theory.stability.sharpness import batch_sharpness
from flatmin.theory.stability.threshold import (
    growth,
    largest_step,
    leading_mode,
    second_moment_step,
    smallest_batch,
)

EPS = np.finfo(float).eps


def roots_of(loss, samples, outputs, parameters, seed=0):
    """R_i = Q_iᵀJ_i, (n, K, P), with random Jacobians and, for cross-entropy, random logits."""
    rng = np.random.default_rng(seed)
    jacobian = rng.normal(size=(samples, outputs, parameters)) * rng.uniform(0.4, 2, (samples, 1, 1))
    if loss == "square":
        return jacobian
    p = np.exp(2 * rng.normal(size=(samples, outputs)))
    p /= p.sum(axis=1, keepdims=True)
    root = np.sqrt(p)[:, :, None] * np.eye(outputs) - p[:, :, None] * np.sqrt(p)[:, None]
    np.testing.assert_allclose(
        root @ root.transpose(0, 2, 1),
        p[:, :, None] * np.eye(outputs) - p[:, :, None] * p[:, None],
        atol=1e-15,
    )
    return root.transpose(0, 2, 1) @ jacobian


def all_batches(samples, batch_size, sampling):
    if sampling == "fresh":
        return list(itertools.combinations(range(samples), batch_size))
    return list(itertools.product(range(samples), repeat=batch_size))


def batch_steps(roots, eta, batch_size, sampling):
    """I − ηH_B of every batch, (batches, P, P)."""
    curvature = np.einsum("ika,ikb->iab", roots, roots)
    batches = all_batches(len(roots), batch_size, sampling)
    return np.array([np.eye(roots.shape[2]) - eta * curvature[list(b)].mean(axis=0) for b in batches])


def dense(roots, eta, batch_size, sampling):
    """E (I − ηH_B) ⊗ (I − ηH_B), (P², P²), the average over all batches there are."""
    return np.mean([np.kron(m, m) for m in batch_steps(roots, eta, batch_size, sampling)], axis=0)


def basis_of(roots, here):
    """Orthonormal eigenvectors of H in parameter space, (P, r), in the order of ``here.eigenvalues``."""
    rows = roots.reshape(-1, roots.shape[2])
    return rows.T @ here.modes / np.sqrt(len(roots) * here.eigenvalues)


SHAPES = [("square", 4, 2, 5), ("square", 3, 3, 12), ("cross-entropy", 4, 3, 6), ("cross-entropy", 3, 4, 5)]


@pytest.mark.parametrize(("loss", "samples", "outputs", "parameters"), SHAPES)
@pytest.mark.parametrize("sampling", ["fresh", "replacement"])
def test_the_operator_is_the_average_over_all_batches(loss, samples, outputs, parameters, sampling):
    roots = roots_of(loss, samples, outputs, parameters)
    here = Minimum.from_gradients(roots)
    assert (here.samples, here.outputs) == (samples, outputs)
    basis = basis_of(roots, here)
    # the basis is good to eps times the condition of the Gram matrix's root
    slack = 8 * samples * outputs * EPS * np.sqrt(here.eigenvalues[0] / here.eigenvalues[-1])
    rng = np.random.default_rng(1)
    for batch_size in range(1, samples + 1):
        eta = 0.7 / here.sharpness
        steps = batch_steps(roots, eta, batch_size, sampling)
        factor = rng.normal(size=(here.rank, here.rank))
        moment = factor @ factor.T
        outside = basis @ moment @ basis.T
        expected = basis.T @ np.mean([m @ outside @ m for m in steps], axis=0) @ basis
        found = second_moment_step(here, moment, eta, batch_size, sampling)
        assert np.abs(found - expected).max() <= max(slack, 1e-12) * np.abs(expected).max()


@pytest.mark.parametrize(("loss", "samples", "outputs", "parameters"), SHAPES)
@pytest.mark.parametrize("sampling", ["fresh", "replacement"])
def test_growth_and_threshold_against_the_dense_operator(loss, samples, outputs, parameters, sampling):
    roots = roots_of(loss, samples, outputs, parameters)
    here = Minimum.from_gradients(roots)
    basis = basis_of(roots, here)
    inside = np.kron(basis, basis)  # nothing moves outside the span
    for batch_size in range(1, samples + 1):
        edge = largest_step(here, batch_size, sampling)
        for eta in (0.5 * edge, edge, 1.6 * edge):
            operator = inside.T @ dense(roots, eta, batch_size, sampling) @ inside
            top, size = np.linalg.eigvalsh(operator)[-1], np.linalg.norm(operator, 2)
            # Lanczos' own promise, and LAPACK's
            slack = (threshold.FIRST + len(operator) * EPS) * size
            assert growth(here, eta, batch_size, sampling) == pytest.approx(top, rel=0, abs=slack)
        assert growth(here, edge, batch_size, sampling) == pytest.approx(1, rel=0, abs=1e-11)
    assert largest_step(here, samples, "fresh") == pytest.approx(2 / here.sharpness, rel=1e-11, abs=0)


def test_rows_of_one_sample_are_not_samples():
    roots = roots_of("square", 5, 3, 30)
    together = Minimum.from_gradients(roots)
    apart = Minimum.from_gradients(np.sqrt(3) * roots.reshape(15, 30))  # the same H
    assert together.trace == pytest.approx(apart.trace, rel=1e-12, abs=0)
    assert largest_step(together, 1) > 1.3 * largest_step(apart, 1)


def test_one_output_in_three_axes_is_one_output():
    g = roots_of("square", 6, 1, 9)
    one, other = Minimum.from_gradients(g[:, 0]), Minimum.from_gradients(g)
    assert largest_step(one, 2) == largest_step(other, 2)
    assert one.mu_0 == other.mu_0
    assert np.array_equal(one.chi, other.chi)


def test_rows_and_their_gram_matrix_are_one_minimum():
    for parameters in (5, 40):  # fewer than rows, and more
        roots = roots_of("cross-entropy", 6, 3, parameters)
        rows = roots.reshape(-1, parameters)
        one, other = Minimum.from_gradients(roots), Minimum.from_gram(rows @ rows.T, outputs=3)
        assert one.rank == other.rank == min(parameters, 12)  # K − 1 directions of a softmax
        assert largest_step(one, 2) == pytest.approx(largest_step(other, 2), rel=1e-11, abs=0)
        hessian = rows.T @ rows / 6
        assert one.trace == pytest.approx(np.trace(hessian), rel=1e-12, abs=0)
        assert one.frobenius == pytest.approx(np.linalg.norm(hessian), rel=1e-12, abs=0)
        assert one.squared_norms.mean() == pytest.approx(one.trace, rel=1e-12, abs=0)
        assert one.chi.mean() == pytest.approx(one.frobenius**2, rel=1e-12, abs=0)
        np.testing.assert_allclose(
            one.pulls, roots @ hessian @ roots.transpose(0, 2, 1), rtol=1e-9, atol=1e-12
        )


def test_equal_orthogonal_outputs_attain_the_trace_rule_of_k_outputs():
    """R_iR_iᵀ = s·1 and B = 1: stable exactly up to η = 2K/Tr H, K times what one output allows."""
    for outputs in (1, 2, 5):
        here = Minimum.from_gradients(1.3 * np.eye(3 * outputs).reshape(3, outputs, -1))
        for bound in (largest_step, bounds.trace_necessary_step, bounds.trace_sufficient_step):
            assert bound(here, 1) == pytest.approx(2 * outputs / here.trace, rel=1e-11, abs=0)


@pytest.mark.parametrize("sampling", ["replacement", "fresh"])
def test_every_bound_is_on_its_side(sampling):
    for loss, samples, outputs, parameters in [*SHAPES, ("square", 12, 4, 6), ("cross-entropy", 9, 5, 80)]:
        here = Minimum.from_gradients(roots_of(loss, samples, outputs, parameters))
        for batch_size in (1, 2, samples - 0.5):
            exact, slack = largest_step(here, batch_size, sampling), 1 + 1e-9
            for name in (
                "theorem_3_3_step",
                "proposition_3_4_step",
                "trace_necessary_step",
                "direction_necessary_step",
                "necessary_step",
            ):
                assert exact <= slack * getattr(bounds, name)(here, batch_size, sampling), name
            assert exact >= bounds.trace_sufficient_step(here, batch_size, sampling) / slack
            c = here.factor(batch_size, sampling)
            if c > 0:
                assert exact <= slack * 2 * outputs / (c * here.trace)
            for eta in (0.5 * exact, 1.3 * exact):
                rho = growth(here, eta, batch_size, sampling)
                least, most = one_step_growth(here, eta, batch_size, sampling)
                assert least - 1e-9 <= rho <= most + 1e-9
                assert theorem_3_5_growth(here, eta, batch_size, sampling) <= least + 1e-9


def test_alignment_splits_one_step_of_the_loss():
    """E L₁ = contraction + η²cμ‖H‖²L at any residuals, and μ is never below μ₀."""
    roots, rng = roots_of("square", 5, 2, 30), np.random.default_rng(3)
    here = Minimum.from_gradients(roots)
    for _ in range(5):
        e = rng.normal(size=(5, 2))
        eta, c = 0.3 / here.sharpness, here.factor(2)
        before, after = mean_losses(here, eta, 2, 1, residuals=e)
        descent = e.ravel() - eta * here.kernel @ e.ravel()
        noise = eta**2 * c * here.alignment(e) * here.frobenius**2 * before
        assert after == pytest.approx(descent @ descent / 10 + noise, rel=1e-12, abs=0)
        assert here.alignment(e) >= here.mu_0


def test_mean_losses_average_over_all_sequences_of_batches():
    """Two steps, all pairs of batches, with residuals that no parameters can fit."""
    roots, eta = roots_of("cross-entropy", 4, 3, 3), 0.4
    here, e = Minimum.from_gradients(roots), np.random.default_rng(1).normal(size=(4, 3))
    rows = roots.reshape(12, 3)
    for sampling in ("fresh", "replacement"):
        losses = []
        batches = all_batches(4, 2, sampling)
        for pair in itertools.product(batches, repeat=2):
            now = e
            for batch in pair:
                gradient = np.einsum("ik,ika->a", now[list(batch)], roots[list(batch)]) / 2
                now = now - eta * (rows @ gradient).reshape(4, 3)
            losses.append(np.sum(now**2) / 8)
        exact = mean_losses(here, eta, 2, 2, sampling, e)
        assert exact[0] == pytest.approx(np.sum(e**2) / 8, rel=1e-12, abs=0)
        assert exact[2] == pytest.approx(np.mean(losses), rel=1e-11, abs=0)


@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
@pytest.mark.parametrize("sampling", ["fresh", "replacement"])
def test_simulated_updates_grow_as_the_operator_says(loss, sampling):
    here = Minimum.from_gradients(roots_of(loss, 6, 3, 10))
    eta = 1.1 * largest_step(here, 2, sampling)
    exact = mean_losses(here, eta, 2, 5, sampling)
    losses = np.exp(log_losses(here, eta, 2, 5, 20_000, 1, sampling))
    error = losses.std(axis=0, ddof=1) / np.sqrt(len(losses))
    assert np.all(np.abs(losses.mean(axis=0) - exact) < 4 * error)
    assert np.all(error[1:] < 0.05 * exact[1:])


def test_mean_losses_and_the_operator_are_one_recursion():
    here = Minimum.from_gradients(roots_of("cross-entropy", 5, 3, 8))
    eta, moment = 0.5 / here.sharpness, np.diag(1 / here.eigenvalues) / 5
    losses = []
    for _ in range(4):
        losses.append(here.eigenvalues @ np.diag(moment) / 2)
        moment = second_moment_step(here, moment, eta, 2)
    assert mean_losses(here, eta, 2, 3) == pytest.approx(losses, rel=1e-11, abs=0)


def test_step_and_batch_are_inverse():
    here = Minimum.from_gradients(roots_of("square", 10, 3, 50))
    for sampling in ("fresh", "replacement"):
        for batch_size in (1.5, 4, 8):
            eta = largest_step(here, batch_size, sampling)
            assert smallest_batch(here, eta, sampling) == pytest.approx(batch_size, rel=1e-8, abs=0)


def test_mode_at_the_edge_is_stationary():
    here = Minimum.from_gradients(roots_of("square", 5, 2, 12))
    mode = leading_mode(here, None, 2)
    after = second_moment_step(here, mode.moment, mode.eta, 2)
    assert np.abs(after - mode.moment).max() < 1e-4 * np.abs(mode.moment).max()


def test_epochs_average_over_all_orders():
    roots = roots_of("square", 4, 2, 3)
    here, eta = Minimum.from_gradients(roots), 0.2
    curvature = np.einsum("ika,ikb->iab", roots, roots)
    total = []
    for order in itertools.permutations(range(4)):
        product = np.eye(3)
        for first in (0, 2):
            product = (np.eye(3) - eta * curvature[list(order[first : first + 2])].mean(axis=0)) @ product
        total.append(np.kron(product, product))
    top = np.linalg.eigvals(np.mean(total, axis=0)).real.max()
    assert epoch_growth(here, eta, 2) == pytest.approx(top, rel=1e-11, abs=0)


def test_bracket_encloses_the_threshold_and_closes():
    for loss, samples, outputs, parameters in (("square", 20, 3, 90), ("cross-entropy", 30, 4, 50)):
        here = Minimum.from_gradients(roots_of(loss, samples, outputs, parameters))
        for batch_size in (1, 4, samples):
            exact, wide = largest_step(here, batch_size), np.inf
            for directions in (1, 10, here.rank // 2, here.rank):
                found = step_bracket(here, batch_size, directions=directions)
                assert found.lower * (1 - 1e-8) <= exact <= found.upper * (1 + 1e-8)
                assert found.upper <= bounds.trace_necessary_step(here, batch_size) * (1 + 1e-8)
                assert found.upper <= wide * (1 + 1e-8)
                wide = found.upper
            assert found.lower == pytest.approx(found.upper, rel=1e-8, abs=0)
            assert found.directions == here.rank


def test_a_minimum_without_its_eigenvectors_says_the_same(monkeypatch):
    roots = roots_of("square", 30, 2, 200)
    rows = roots.reshape(60, -1)
    known = Minimum.from_gram(rows @ rows.T, outputs=2)
    monkeypatch.setattr(minimum, "_LAZY", 10)
    late = Minimum.from_gram(rows @ rows.T, outputs=2)
    e = np.random.default_rng(0).normal(size=60)
    for name in ("trace", "frobenius", "sharpness", "blocks", "pulls", "chi", "kernel"):
        np.testing.assert_allclose(getattr(late, name), getattr(known, name), rtol=1e-9, atol=1e-9)
    assert late.alignment(e) == pytest.approx(known.alignment(e), rel=1e-10, abs=0)
    sharpness = [batch_sharpness(m, e, 3, draws=50).value for m in (late, known)]
    assert sharpness[0] == pytest.approx(sharpness[1], rel=1e-10, abs=0)
    pair = [step_bracket(m, 3, directions=8) for m in (late, known)]
    assert pair[0].upper == pytest.approx(pair[1].upper, rel=1e-7, abs=0)
    assert pair[0].lower == pytest.approx(pair[1].lower, rel=1e-2, abs=0)  # the simplex stops at 1e-3
    assert late.lazy
    assert largest_step(late, 3) == pytest.approx(largest_step(known, 3), rel=1e-11, abs=0)


def test_batch_sharpness_is_a_mean_of_ratios():
    roots = roots_of("square", 5, 2, 7)
    here, e = Minimum.from_gradients(roots), np.random.default_rng(2).normal(size=(5, 2))
    for sampling in ("fresh", "replacement"):
        ratios = []
        for batch in all_batches(5, 2, sampling):
            chosen = roots[list(batch)]
            gradient = np.einsum("ik,ika->a", e[list(batch)], chosen)
            ratios.append(np.sum(np.square(chosen @ gradient)) / 2 / (gradient @ gradient))
        found = batch_sharpness(here, e, 2, sampling)
        assert found.value == pytest.approx(np.mean(ratios), rel=1e-11, abs=0)
        assert (found.error, found.n) == (0, 0)
        drawn = batch_sharpness(here, e, 2, sampling, draws=9)
        assert drawn.n == 9
    drawn = batch_sharpness(here, e, 3, "replacement", draws=34)  # of 35 multisets, 125 batches
    assert drawn.value == pytest.approx(batch_sharpness(here, e, 3, "replacement").value, abs=4 * drawn.error)


def test_batch_sharpness_of_single_samples_is_the_trace_and_of_all_the_whole_gradient():
    g = roots_of("square", 6, 1, 9)
    here, e = Minimum.from_gradients(g), np.random.default_rng(2).normal(size=6)
    assert batch_sharpness(here, e, 1).value == pytest.approx(here.trace, rel=1e-11, abs=0)
    whole = e @ g[:, 0] / 6
    expected = np.sum(np.square(g[:, 0] @ whole)) / 6 / (whole @ whole)
    assert batch_sharpness(here, e, 6).value == pytest.approx(expected, rel=1e-11, abs=0)
    fitted = e * (np.arange(6) < 3)  # three samples without a gradient are left out
    lengths = np.square(g[:3, 0]).sum(axis=1)
    assert batch_sharpness(here, fitted, 1).value == pytest.approx(lengths.mean(), rel=1e-11, abs=0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m: growth(m, 0.1, 1, "epoch"), "sampling='epoch'.*epoch_growth"),
        (lambda m: largest_step(m, 1, "epoch"), "sampling='epoch'.*epoch_growth"),
        (lambda m: smallest_batch(m, 0.1, "epoch"), "sampling='epoch'"),
        (lambda m: growth(m, 0.1, 1, True), "sampling=True"),
        (lambda m: growth(m, 0.1, 0), "batch_size=0"),
        (lambda m: growth(m, 0.1, 5), "batch_size=5"),
        (lambda m: growth(m, np.nan, 1), "eta=nan"),
        (lambda m: growth(m, -0.1, 1), "eta=-0.1"),
        (lambda m: m.gamma, "outputs=2: must be 1"),
        (lambda m: Minimum.from_gram(np.eye(5), outputs=2), "outputs=2: must be a divisor"),
        (lambda m: Minimum.from_gradients(np.zeros((2, 2, 2, 2))), "gradients"),
        (lambda m: Minimum.from_gradients(np.full((2, 3), 1e200)), "gradients"),
        (lambda m: batch_sharpness(m, np.zeros(8), 1), "residuals"),
        (lambda m: batch_sharpness(m, np.ones(7), 1), "residuals"),
        (lambda m: step_bracket(m, 1, directions=0), "directions=0"),
        (lambda m: mean_losses(m, 0.1, 1, -1), "steps=-1"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(Minimum.from_gradients(roots_of("square", 4, 2, 10)))


def test_a_rank_that_does_not_fit_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(threshold, "MOST_RANK", 3)
    with pytest.raises(ValueError, match=r"rank=8: .*step_bracket"):
        largest_step(Minimum.from_gradients(roots_of("square", 4, 2, 10)), 1)


def test_the_bracket_is_narrow_where_a_long_gradient_lies_in_a_flatter_direction():
    # ten samples share the sharpest direction, λ₁ = 1, one alone has λ₂ = 0.6: η* is that of the first,
    # 2/(1 − c + cn/10), while the length of the other's gradient makes the trace rule 15 % stricter
    gradients = np.zeros((11, 2))
    gradients[:10, 0], gradients[10, 1] = np.sqrt(1.1), np.sqrt(0.6 * 11)
    minimum, size = Minimum.from_gradients(gradients), 8.64
    c = minimum.factor(size)
    exact = 2 / (1 - c + c * 1.1)
    assert largest_step(minimum, size) == pytest.approx(exact, rel=1e-9)
    assert bounds.trace_sufficient_step(minimum, size) < 0.87 * exact
    found = step_bracket(minimum, size, directions=1)
    assert 0.99 * exact < found.lower <= exact * (1 + 1e-9)
    assert found.upper == pytest.approx(exact, rel=1e-6)
