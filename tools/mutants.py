"""Slips put into the formulas one at a time, each of which a test must notice: `make mutants`.

    python tools/mutants.py [--only NAME ...] [--workers 2]

A slip is a factor, a sign, an index or an exponent in one formula. It is made in a copy of ``lib`` in a
temporary folder, never in the checkout, and the tests named beside it are run on that copy. First they all
run on the copy as it is, and must pass. A slip is killed if one of its tests fails; it survives if they
pass; anything else (the text is not there exactly once, the module cannot be imported) is a fault of the
list. Tests that are not done in time count as failed, and that is told: ``killed (too slow)``. The exit
status is 0 if all are killed, else 1.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rules import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
#: seconds for the tests of one slip (one that makes a loop endless is killed by it), and for all without one
_PATIENCE, _LONGEST = 240, 1200
#: what stands for the exit status of tests that are not done in time
_SLOW = 124


@dataclass(frozen=True)
class Mutant:
    """One slip: ``text``, which stands once in ``file`` (below lib/flatmin), becomes ``slip``.

    ``tests`` are files below tests, or tests in them (``file::name``); those of which one must fail.
    """

    name: str
    file: str
    text: str
    slip: str
    tests: tuple[str, ...]


#: name, file, text, slip, tests
_LISTED = (
    # ------------------------------------------------------------------ the seven that nobody noticed
    (
        "effective-loss-at-the-origin",
        "theory/continuum/reduction.py",
        "loss = -strength * np.log(",
        "loss = -float(vectorised(self.x, self.at_noise(self.delta, delta_s))(0.0)) * np.log(",
        "theory/continuum/test_reduction.py::test_effective_loss_of_known_densities_weighs_by_the_local_noise",
    ),
    (
        "stratonovich-drift-indices",
        "theory/continuum/fokker_planck.py",
        "sum(root[i, k] * sp.diff(root[j, k], coordinates[j])",
        "sum(root[j, k] * sp.diff(root[i, k], coordinates[j])",
        "theory/continuum/test_fokker_planck.py::test_stratonovich_drift_in_the_plane",
    ),
    (
        "onset-of-the-noise-itself",
        "fits.py",
        "return 1 / np.polynomial.Polynomial.fit(means, inverse, degree)(0.0)",
        "return np.polynomial.Polynomial.fit(means, 1 / inverse, degree)(0.0)",
        "test_fits.py::test_onset_is_exact_where_order_balances_a_polynomial",
    ),
    (
        "gamma-over-the-largest",
        "theory/stability/minimum.py",
        "return float(self.chi.min() / self.chi.mean())",
        "return float(self.chi.min() / self.chi.max())",
        "theory/stability/test_minimum.py::test_norm_uniformity_of_two_orthogonal_gradients",
    ),
    (
        "mean-logarithm-five-percent",
        "theory/logarithmic/multiplicative.py",
        "exponent_of(float(self.mass @ np.log1p(self.r**2)), self.dimension)",
        "exponent_of(1.05 * float(self.mass @ np.log1p(self.r**2)), self.dimension)",
        "theory/logarithmic/test_multiplicative.py::test_the_exponent_of_a_power_law_is_fitted_to_the_power",
    ),
    (
        "escape-window",
        "networks/edges.py",
        "cutoff: float = 0.03",
        "cutoff: float = 0.3",
        "networks/test_edges.py::test_the_escape_is_fitted_until_the_mean_exceeds_the_cutoff",
    ),
    (
        "pair-probability",
        "theory/stability/paths.py",
        "drawn = (1 - c) * second",
        "drawn = second",
        "networks/test_stability.py::test_mean_losses_of_all_batches_by_hand",
    ),
    # ------------------------------------------------------------------ theory
    (
        "landscape-highest-for-lowest",
        "theory/landscape.py",
        "np.polyval(coefficients, real).min()",
        "np.polyval(coefficients, real).max()",
        "theory/test_landscape.py",
    ),
    (
        "gaussian-moment-factorial",
        "theory/noise.py",
        "sp.factorial2(p - 1)",
        "sp.factorial(p - 1)",
        "theory/continuum/test_reduction.py::test_gaussian_moments",
    ),
    (
        "random-shift-variance",
        "theory/noise.py",
        "shift = sp.sqrt(2 * SIGMA)",
        "shift = sp.sqrt(SIGMA)",
        "theory/test_noise.py",
    ),
    (
        "projected-hessian-gap",
        "theory/noise.py",
        "(upper - lower) / (2 * gap)",
        "(upper - lower) / gap",
        "theory/test_noise.py",
    ),
    (
        "stratonovich-power",
        "theory/conventions.py",
        '"stratonovich": sp.Rational(1, 2)',
        '"stratonovich": sp.Rational(1, 3)',
        "theory/two_valleys/test_hopping.py::test_high_barriers_give_one_power_of_gamma_per_convention",
    ),
    (
        "step-adds-half-of-the-noise",
        "theory/sgd/kernels.py",
        ".subs(SIGMA, _AMPLITUDE**2 / 2)",
        ".subs(SIGMA, _AMPLITUDE**2)",
        "theory/sgd/test_simulate.py::test_agrees_with_numpy_step_by_step",
    ),
    (
        "radius-of-box-and-muller",
        "theory/sgd/rng.py",
        "_F(-2) * _log(u)",
        "_F(-1.9) * _log(u)",
        "theory/sgd/test_rng.py::test_distribution_is_normal",
    ),
    (
        "exponential-short-of-two-terms",
        "theory/sgd/elementary.py",
        "for k in range(1, 14)]",
        "for k in range(1, 12)]",
        "theory/sgd/test_elementary.py::test_compiled_exponential_is_exact_to_rounding",
    ),
    (
        "cut-of-the-exponential",
        "theory/sgd/elementary.py",
        "x = min(max(x, -708.0), 708.0)",
        "x = min(max(x, -707.0), 708.0)",
        "theory/sgd/test_elementary.py::test_compiled_exponential_is_exact_to_rounding",
    ),
    (
        "fourth-order-bend",
        "theory/sgd/structured.py",
        "(one + 6.0 * two * square)",
        "(one + 4.0 * two * square)",
        "theory/valleys/test_high_dimensional.py::test_compiled_step_is_that_of_the_expression",
    ),
    (
        "standard-error-is-a-deviation",
        "theory/sgd/runs.py",
        "values.std(axis=axis, ddof=1) / np.sqrt(number)",
        "values.std(axis=axis, ddof=1) / number",
        "theory/sgd/test_simulate.py::test_error_bars_cover",
    ),
    (
        "grid-order-of-the-trajectories",
        "theory/sgd/simulate.py",
        "return np.repeat(np.ravel(values), self.trajectories)",
        "return np.tile(np.ravel(values), self.trajectories)",
        "theory/sgd/test_simulate.py::test_each_trajectory_has_the_step_and_length_of_its_grid_point",
    ),
    (
        "lifetime-amplitude",
        "theory/continuum/divergence.py",
        "root = np.sqrt(2 * self.eta * self.delta_s) * root",
        "root = np.sqrt(self.eta * self.delta_s) * root",
        "theory/continuum/test_divergence.py::test_the_lifetime_in_the_valley_is_that_of_simulated_runs_and_of_the_finer_grid",
    ),
    (
        "typical-growth-constant",
        "theory/continuum/divergence.py",
        "inner = -(np.euler_gamma + np.log(2)) / 2 + integral",
        "inner = -(np.euler_gamma - np.log(2)) / 2 + integral",
        "theory/continuum/test_divergence.py::test_typical_growth_of_a_pure_kick",
    ),
    (
        "tail-exponent-cross-term",
        "theory/continuum/divergence.py",
        "a, c = 36 * u**4 + 16 * u**2, 24 * u**3 + 4 * u",
        "a, c = 36 * u**4 + 16 * u**2, 24 * u**3 + 8 * u",
        "theory/continuum/test_divergence.py::test_the_tail_exponent_solves_the_difference_equation",
    ),
    (
        "p-bifurcation",
        "theory/continuum/critical.py",
        "sp.solve(self.linear - 2 * self.multiplicative, W)",
        "sp.solve(self.linear - 3 * self.multiplicative, W)",
        "theory/continuum/test_reduction.py::test_critical_law_of_the_continuous_equation",
    ),
    (
        "memory-of-the-window",
        "theory/continuum/critical.py",
        "decay = (1 - eta * lam0) ** 2",
        "decay = (1 - eta * lam0)",
        "theory/continuum/test_reduction.py::test_critical_law_of_the_continuous_equation",
    ),
    (
        "kramers-prefactor",
        "theory/continuum/escape.py",
        "prefactor = -unstable[0] / (2 * np.pi)",
        "prefactor = -unstable[0] / (4 * np.pi)",
        "theory/continuum/test_escape.py::test_escape_rate_is_the_inverse_mean_time_over_a_high_barrier",
    ),
    (
        "second-order-relaxation",
        "theory/continuum/reduction.py",
        "k = slope / (4 * lam * lag)",
        "k = slope / (2 * lam * lag)",
        "theory/continuum/test_reduction.py::test_second_order_takes_back_three_quarters_of_the_noise",
    ),
    (
        "variance-growth-of-the-slope",
        "theory/printed.py",
        "+ 2 * eta**2 * sigma * slope",
        "+ eta**2 * sigma * slope",
        "theory/test_printed.py::test_s9_is_the_mean_square_of_the_multiplier",
    ),
    (
        "flatness-gained-power",
        "theory/printed.py",
        "(2 * lambda_0**1.5) * y22_s42(",
        "(2 * lambda_0**0.5) * y22_s42(",
        "theory/test_printed.py::test_by_hand",
    ),
    (
        "separation-of-time-scales",
        "theory/printed.py",
        "tilt + delta_s * second * curvature / 2)",
        "tilt + delta_s * second * curvature)",
        "theory/test_printed.py::test_by_hand",
    ),
    (
        "noise-induced-drift-sign",
        "theory/continuum/slow.py",
        "change = convention_power(convention) - convention_power(self.convention)",
        "change = convention_power(self.convention) - convention_power(convention)",
        "theory/continuum/test_reduction.py::test_conventions_of_the_slow_equation",
    ),
    (
        "noise-per-step",
        "theory/continuum/fokker_planck.py",
        "sp.sqrt(ETA / 2)",
        "sp.sqrt(ETA)",
        "theory/continuum/test_fokker_planck.py::test_reference_second_moments",
    ),
    (
        "rounding-taken-for-noise",
        "theory/stability/minimum.py",
        "return found if found > rounding else 0.0",
        "return max(found, 0.0)",
        "theory/stability/test_bounds.py::test_one_gradient_repeated_has_no_noise_whatever_the_rounding",
    ),
    (
        "kick-in-closed-form",
        "theory/logarithmic/multiplicative.py",
        "share = ((mean - grid[j]) * inside + spread * bells)",
        "share = ((mean - grid[j]) * inside - spread * bells)",
        "theory/logarithmic/test_multiplicative.py::test_in_one_dimension_the_mean_of_a_hat_is_that_of_a_fine_sum",
    ),
    (
        "condensation-sign",
        "theory/continuum/fokker_planck.py",
        "elements[:, :outer, :outer] + elements",
        "elements[:, :outer, :outer] - elements",
        "theory/continuum/test_fokker_planck.py::test_eliminating_inner_unknowns_first_changes_nothing",
    ),
    (
        "boundary-at-finite-step",
        "theory/valleys/near_degenerate.py",
        "(1 - stable * flat / 2)",
        "(1 - stable * flat)",
        "theory/valleys/test_transition.py::test_the_boundary_is_the_leading_order_of_the_critical_law",
    ),
    (
        "jackknife",
        "theory/valleys/transition.py",
        "np.sqrt((groups - 1) / groups * spread)",
        "np.sqrt(spread / groups)",
        "theory/valleys/test_transition.py::test_distance_sees_a_shift_and_has_the_error_of_its_groups",
    ),
    (
        "threshold-of-many-directions",
        "theory/valleys/high_dimensional.py",
        "(1 - eta * self.lambda_0 / 2)",
        "(1 - eta * self.lambda_0)",
        "theory/valleys/test_high_dimensional.py::test_thresholds_are_where_the_averaged_force_changes_sign",
    ),
    (
        "mean-square-at-frozen-x",
        "theory/valleys/high_dimensional.py",
        "room = 1 - eta * curve / 2 - eta * sigma *",
        "room = 1 - eta * curve / 2 + eta * sigma *",
        "theory/valleys/test_high_dimensional.py::test_mean_square_is_the_fixed_point_of_one_step",
    ),
    (
        "flatness-of-many-directions",
        "theory/valleys/high_dimensional.py",
        "return -np.log(self.curvatures(x)).mean(axis=-1) / 2",
        "return -np.log(self.curvatures(x)).mean(axis=-1)",
        "theory/valleys/test_high_dimensional.py::test_flatness_is_the_mean_log_of_the_widths",
    ),
    (
        "order-of-a-halving",
        "fits.py",
        "(2.0**order - 1)",
        "2.0**order",
        "test_fits.py::test_a_polynomial_in_the_step_is_extrapolated_exactly",
    ),
    (
        "weight-of-a-side",
        "theory/two_valleys/hopping.py",
        "(c - 0.5) * np.log(d)",
        "(0.5 - c) * np.log(d)",
        "theory/two_valleys/test_hopping.py::test_stationary_probability_by_quadrature",
    ),
    (
        "flatness-of-a-side",
        "theory/two_valleys/landscape.py",
        "((_Y + _YF) / (_Y + _YB)) ** 2",
        "((_Y + _YF) / (_Y + _YB))",
        "theory/two_valleys/test_landscape.py::test_each_side_is_equation_5",
    ),
    (
        "share-of-the-flat-side",
        "theory/printed.py",
        "gamma**-0.5 * ratio",
        "gamma**0.5 * ratio",
        "theory/two_valleys/test_freezing_point.py::test_equation_11_solves_a39_and_equation_12_is_9_there",
    ),
    (
        "last-hop-at-the-end-of-its-interval",
        "theory/two_valleys/freezing_point.py",
        "(values[1:] + values[:-1]) / 2",
        "values[1:]",
        "theory/two_valleys/test_freezing_point.py::test_moments_of_the_last_hop_weigh_each_interval_at_its_middle",
    ),
    (
        "starts-exchanged",
        "theory/two_valleys/ensemble.py",
        "proportion(flat[..., ::2])",
        "proportion(flat[..., 1::2])",
        "theory/two_valleys/test_ensemble.py::test_without_noise_each_start_stays_on_its_side",
    ),
    (
        "last-tenth-of-the-run",
        "theory/two_valleys/ensemble.py",
        "last > 0.9 * steps",
        "last > 0.1 * steps",
        "theory/two_valleys/test_ensemble.py::test_mobile_are_those_whose_path_changes_side_in_the_last_tenth",
    ),
    (
        "passage-exponent",
        "theory/logarithmic/laws.py",
        "(3 - dimension) / 4",
        "(2 - dimension) / 4",
        "theory/logarithmic/test_laws.py::test_passage_exponent_is_that_of_the_radial_diffusion",
    ),
    (
        "decoupled-noise",
        "theory/logarithmic/passages.py",
        "np.sqrt(ratio / batch_size)[:, None]",
        "np.sqrt(1 / batch_size)",
        "theory/logarithmic/test_passages.py::test_decoupled_mean_loss_follows_its_recursion",
    ),
    (
        "clock-of-the-loss",
        "theory/logarithmic/loops.py",
        "tau += eta * loss",
        "tau += eta * (loss + 0.125)",
        "theory/logarithmic/test_loops.py::test_both_clocks_have_the_mean_times_of_their_equations",
    ),
    (
        "diffusion-on-the-loss",
        "theory/logarithmic/loops.py",
        "scale = np.sqrt(2 * eta * temperature)",
        "scale = np.sqrt(3 * eta * temperature)",
        "theory/logarithmic/test_loops.py::test_both_clocks_have_the_mean_times_of_their_equations",
    ),
    (
        "multiplier-mean-square",
        "theory/logarithmic/multiplicative.py",
        "(1 + (self.dimension + 1) / self.batch_size)",
        "(1 + self.dimension / self.batch_size)",
        "theory/logarithmic/test_multiplicative.py::test_second_moment_of_the_factor",
    ),
    (
        "excess-of-the-loss",
        "theory/logarithmic/regression.py",
        "excess += delta[a] * slope[a] / 2",
        "excess += delta[a] * slope[a]",
        "theory/logarithmic/test_regression.py::test_levels_are_first_exceeded_when_the_loss_says_so",
    ),
    (
        "stability-noise-term",
        "theory/stability/threshold.py",
        "return seen(minimum, moment) - np.multiply.outer(lam, lam) * moment",
        "return seen(minimum, moment) + np.multiply.outer(lam, lam) * moment",
        "theory/stability/test_minimum.py",
    ),
    (
        "alignment-scale",
        "theory/stability/minimum.py",
        "np.linalg.eigvalsh(form)[0] / self.frobenius**2",
        "np.linalg.eigvalsh(form)[0] / self.frobenius",
        "theory/stability/test_minimum.py",
    ),
    (
        "theorem-3.3-root",
        "theory/stability/bounds.py",
        "1 / (minimum.frobenius * np.sqrt(strength))",
        "1 / (minimum.frobenius * strength)",
        "theory/stability/test_bounds.py",
    ),
    (
        "rule-of-spaces",
        "theory/stability/bounds.py",
        "square = np.diag(np.cumsum(np.cumsum(inner, axis=0), axis=1))",
        "square = np.cumsum(np.diag(inner))",
        "theory/stability/test_bounds.py",
    ),
    (
        "linear-variance",
        "theory/stability/stationary.py",
        "room = lam * (2 - eta * lam)",
        "room = lam * (2 - eta * lam / 2)",
        "theory/stability/test_stationary.py",
    ),
    (
        "stationary-moment",
        "theory/stability/stationary.py",
        "weight * (source + noise_seen(minimum, moment)) / room",
        "weight * (source + seen(minimum, moment)) / room",
        "theory/stability/test_stationary.py",
    ),
    (
        "label-noise-drift",
        "networks/one_network.py",
        "-eta / 2 * along",
        "-eta * along",
        "networks/test_one_network.py",
    ),
    (
        "decoupled-threshold",
        "theory/stability/bounds.py",
        "/ (2 - x * lam / lam.max())",
        "/ (2 + x * lam / lam.max())",
        "theory/stability/test_bounds.py",
    ),
    (
        "loss-of-a-path",
        "theory/stability/paths.py",
        "logs[:, step] = 2 * length +",
        "logs[:, step] = length +",
        "theory/stability/test_paths.py",
    ),
    (
        "bracket-of-the-rest",
        "theory/stability/bracket.py",
        "down = down + (1 - c) / 2 *",
        "down = down + (1 - c) *",
        "theory/stability/test_outputs.py::test_the_bracket_is_narrow_where_a_long_gradient_lies_in_a_flatter_direction",
    ),
    (
        "spread-of-a-family",
        "theory/stability/families.py",
        "np.exp(rng.normal(size=(samples, 1)) / 2)",
        "np.exp(rng.normal(size=(samples, 1)) / 4)",
        "theory/stability/test_families.py::test_unequal_gradients_differ_in_length_by_half_a_unit_of_the_logarithm",
    ),
    (
        "printed-flatness",
        "theory/printed.py",
        "(delta / delta.sum())",
        "(delta / delta.mean())",
        "theory/test_printed.py",
    ),
    # ------------------------------------------------------------------ what serves all
    (
        "rule-of-succession",
        "estimate.py",
        "(happened.sum(axis=-1) + 1) / (n + 2)",
        "(happened.sum(axis=-1) + 1) / (n + 1)",
        "theory/two_valleys/test_ensemble.py::test_a_share_of_none_has_an_error_too",
    ),
    (
        "factor-without-replacement",
        "sampling.py",
        "(samples - size) / (size * (samples - 1))",
        "(samples - size) / (size * samples)",
        "test_check.py::test_the_factor_by_all_batches_of_two_of_four",
    ),
    (
        "vertex-of-the-parabola",
        "fits.py",
        "slope / (2 * curve)",
        "slope / curve",
        "test_fits.py::test_peak_of_an_exact_parabola_between_its_points",
    ),
    (
        "freedom-of-the-scatter",
        "fits.py",
        "rest / (count - len(groups) - 1) / squares",
        "rest / count / squares",
        "test_fits.py::test_the_error_of_the_common_slope_is_that_of_ordinary_least_squares",
    ),
    # ------------------------------------------------------------------ networks
    (
        "mean-gradient-not-taken-off",
        "networks/gradient_noise.py",
        "lengths / n - float(slopes.double().mean())",
        "lengths / n + float(slopes.double().mean())",
        "networks/test_gradient_noise.py::test_alignment_is_that_of_the_dense_matrices",
    ),
    (
        "tau-without-the-outputs",
        "networks/gradient_noise.py",
        "lanczos(lambda v: kernel @ v, start, 1, 1e-4).values[0]) / passed.samples",
        "lanczos(lambda v: kernel @ v, start, 1, 1e-4).values[0]) / len(kernel)",
        "networks/test_gradient_noise.py::test_alignment_is_that_of_the_dense_matrices",
    ),
    (
        "tied-weights-taken-for-linear",
        "networks/passes/pieces.py",
        "if one & other or (",
        "if one == other or (",
        "networks/passes/test_pieces.py::test_the_answer_is_that_of_the_diagonals_of_both_matrices",
    ),
    (
        "uses-of-a-weight-without-their-cross-terms",
        "networks/passes/layers.py",
        "sources=one.sources + other.sources",
        "sources=one.sources + one.sources",
        "networks/passes/test_layers.py::test_gradients_norms_and_inner_products_are_those_of_plain_autograd",
    ),
    (
        "norm-of-a-channel",
        "networks/passes/layers.py",
        "(groups - mean[..., None]) * scale[..., None]",
        "(groups - mean[..., None]) * scale[..., None] ** 2",
        "networks/passes/test_layers.py::test_gradients_norms_and_inner_products_are_those_of_plain_autograd",
    ),
    (
        "beta-of-the-noise",
        "networks/gradient_noise.py",
        "beta=sigma_norm / (2 * passed.loss * g_norm)",
        "beta=sigma_norm / (passed.loss * g_norm)",
        "networks/test_gradient_noise.py::test_alignment_is_that_of_the_dense_matrices",
    ),
    (
        "cross-terms-of-the-norm",
        "networks/curvature.py",
        "total += 2 * _pair_square(",
        "total += _pair_square(",
        "networks/test_curvature.py::test_trace_norm_and_diagonal_are_those_of_the_dense_hessian",
    ),
    (
        "bias-of-the-root",
        "networks/curvature.py",
        "1 + variance / (8 * mean**2)",
        "1 - variance / (8 * mean**2)",
        "networks/test_curvature.py::test_the_norm_of_few_probes_has_no_bias",
    ),
    (
        "axes-of-few-samples",
        "networks/passes/dense.py",
        "torch.linalg.solve_triangular(triangle.T, rows, upper=True)",
        "(triangle @ rows)",
        "networks/test_curvature.py::test_few_samples_of_many_inputs_have_the_spectrum_of_all_parameters",
    ),
    (
        "zeros-of-the-other-directions",
        "networks/curvature.py",
        "if eigen.outwards(found.values, which).min() > 0:",
        "if len(found.values):",
        "networks/test_curvature.py::test_where_no_sample_lies_the_smallest_eigenvalues_are_zero",
    ),
    (
        "weights-of-the-quotients",
        "theory/stability/sharpness.py",
        "_quotient(first * ratios, first)",
        "_quotient(second * ratios, second)",
        "theory/stability/test_sharpness.py",
    ),
    (
        "curvature-of-the-batch",
        "theory/stability/sharpness.py",
        "(parts * seen).sum(axis=1)",
        "(parts**2 * seen).sum(axis=1)",
        "theory/stability/test_sharpness.py",
    ),
    (
        "error-of-an-inverse",
        "estimate.py",
        "self.error / np.square(self.value)",
        "self.error / np.abs(self.value)",
        "test_check.py::test_an_estimate_is_a_value_with_its_error",
    ),
    (
        "sharpness-at-the-edge",
        "networks/stability.py",
        "found.scaled(eta / 2)",
        "found.scaled(eta)",
        "networks/test_stability.py::test_batch_sharpness_of_a_network_is_its_mean_of_ratios",
    ),
    (
        "loss-of-the-linearisation",
        "networks/stability.py",
        "residuals[run] -= eta / batch_size * moved",
        "residuals[run] -= eta * moved",
        "networks/test_stability.py::test_mean_losses_are_the_mean_of_losses",
    ),
    (
        "slope-of-the-logistic-loss",
        "networks/losses.py",
        "self._positive(y, rows) * torch.sigmoid(f) * torch.sigmoid(-f)",
        "self._positive(y, rows) * torch.sigmoid(f) * torch.sigmoid(f)",
        "networks/test_losses.py::test_values_slopes_and_curvature_are_those_of_automatic_differentiation",
    ),
    (
        "pairs-of-different-samples",
        "networks/sampled.py",
        "(1 - 1 / n) * off / (m * (m - 1)) + within / (n * m)",
        "(1 - 1 / n) * off / (m * m) + within / (n * m)",
        "networks/test_sampled.py::test_the_means_over_all_draws_and_all_signs_are_those_of_the_data_set",
    ),
    (
        "bias-of-the-copy",
        "networks/scaling.py",
        "found[one.bias_slice] *= factor**below",
        "found[one.bias_slice] *= factor**share",
        "networks/test_scaling.py::test_the_copy_computes_a_multiple_of_the_function",
    ),
    (
        "two-definitions-of-flatness",
        "networks/scaling.py",
        '"Y26": 1.0}',
        '"Y26": 0.5}',
        "networks/test_scaling.py::test_flatness_of_both_papers",
    ),
    (
        "threshold-of-similarity",
        "networks/freezing/similarity.py",
        "self.common * whole >= part * self.total",
        "self.common * whole > part * self.total",
        "networks/freezing/test_similarity.py::test_eighteen_of_twenty_is_nine_tenths",
    ),
    (
        "height-of-a-barrier",
        "networks/freezing/similarity.py",
        "np.maximum(lines[:, 0], lines[:, -1])",
        "np.minimum(lines[:, 0], lines[:, -1])",
        "networks/freezing/test_similarity.py::test_barriers_are_those_of_the_networks_on_the_line",
    ),
    (
        "one-checkpoint-late",
        "networks/freezing/times.py",
        "times[np.maximum(index - 1, 0)]",
        "times[np.maximum(index, 0)]",
        "networks/freezing/test_times.py",
    ),
    (
        "spread-of-end-points",
        "networks/freezing/geometry.py",
        "np.sqrt(np.square(ends - ends.mean(0)).sum(1).mean())",
        "np.sqrt(np.square(ends - ends.mean(0)).mean())",
        "networks/freezing/test_spectra.py::test_radius_is_the_root_of_the_mean_squared_distance",
    ),
    (
        "pairs-with-the-diagonal",
        "networks/commitment.py",
        "total / (runs * (runs - 1))",
        "total / (runs * runs)",
        "networks/test_commitment.py::test_the_mean_over_pairs_leaves_out_the_diagonal",
    ),
    (
        "tail-of-an-interval",
        "networks/commitment.py",
        "np.where(flip, -b, a), np.where(flip, -a, b)",
        "np.where(flip, b, a), np.where(flip, a, b)",
        "networks/test_commitment.py::test_the_likelihood_of_far_intervals_keeps_its_digits",
    ),
    (
        "student-quantile",
        "estimate.py",
        "-float(special.stdtrit(freedom, special.ndtr(-sigmas))) / sigmas * error",
        "error",
        "test_estimate.py::test_as_many_errors_reach_the_quantile_of_the_table",
    ),
    (
        "two-thirds-of-three-errors",
        "estimate.py",
        "special.ndtr(-sigmas))) / sigmas",
        "special.ndtr(-3.0))) / 3.0",
        "test_estimate.py::test_as_many_errors_reach_the_quantile_of_the_table",
    ),
    (
        "error-of-a-mean-passage",
        "networks/passage_times.py",
        "kept.std(axis=0, ddof=1) / np.sqrt(len(kept))",
        "kept.std(axis=0, ddof=1) / len(kept)",
        "networks/test_passage_times.py::test_levels_that_a_run_did_not_reach_have_no_mean",
    ),
    (
        "offset-of-a-power",
        "networks/passage_times.py",
        "slope.value - place for slope",
        "slope.value + place for slope",
        "networks/test_passage_times.py::test_offsets_are_means_over_the_step_sizes_that_every_model_has",
    ),
    (
        "one-step-after-a-passage",
        "networks/passage_times.py",
        "whole[above.argmax() : above.argmax() + 2 * window + 1]",
        "whole[above.argmax() + 1 : above.argmax() + 2 * window + 2]",
        "networks/test_passage_times.py::test_the_loss_around_a_passage_ends_with_the_run",
    ),
    (
        "chance-of-a-missed-eigenvalue",
        "networks/eigen.py",
        "np.sqrt(2 * self.limit / (np.pi * total))",
        "np.sqrt(self.limit / (np.pi * total))",
        "networks/test_eigen.py::test_the_chance_of_a_miss_is_bounded_by_the_orthonormal_polynomials",
    ),
    (
        "weights-of-the-quadrature",
        "networks/eigen.py",
        "return values, vectors[0] ** 2",
        "return values, abs(vectors[0])",
        "networks/test_eigen.py::test_the_quadrature_of_a_chain_is_exact_for_its_degree",
    ),
    (
        "flatness-of-many-networks",
        "networks/freezing/spectra.py",
        "np.where(good, np.exp(-logs), np.nan)",
        "np.where(good, np.exp(-logs / 2), np.nan)",
        "networks/freezing/test_spectra.py::test_flatness_and_sharpness_are_those_of_the_point",
    ),
    (
        "residual-of-a-ritz-vector",
        "networks/freezing/spectra.py",
        "image @ vectors - space @ vectors * values",
        "image @ vectors + space @ vectors * values",
        "networks/freezing/test_spectra.py::test_eigenvalues_are_those_of_the_dense_block",
    ),
    (
        "cross-entropy-of-many-networks",
        "networks/freezing/forms.py",
        "torch.logsumexp(outputs, 1) - (outputs",
        "torch.logsumexp(outputs, 1) + (outputs",
        "networks/freezing/test_similarity.py::test_readings_are_those_of_the_runs",
    ),
    (
        "class-of-a-single-output",
        "networks/freezing/forms.py",
        "(outputs.squeeze(axis) > 0).long()",
        "(outputs.squeeze(axis) < 0).long()",
        "networks/freezing/test_similarity.py::test_one_output_predicts_by_its_sign",
    ),
    (
        "finite-difference-of-one-side",
        "networks/trust.py",
        "(ends[0] - ends[1]) / (2 * step) * length",
        "(ends[0] - ends[1]) / step * length",
        "networks/test_point.py::test_the_point_says_in_a_line_what_it_is",
    ),
    (
        "wrong-by-a-twentieth-passes",
        "networks/trust.py",
        "_SLOPE = 1e-2",
        "_SLOPE = 1e-1",
        "networks/test_point.py::test_a_pass_that_is_wrong_by_a_millionth_or_a_product_by_a_twentieth_is_found",
    ),
    (
        "start-of-the-steady-growth",
        "networks/edges.py",
        "SETTLED, TOP = 3, 0.1",
        "SETTLED, TOP = 2, 0.1",
        "networks/test_edges.py::test_steady_growth_is_that_of_the_window_by_hand",
    ),
    (
        "end-of-the-steady-growth",
        "networks/edges.py",
        "SETTLED, TOP = 3, 0.1",
        "SETTLED, TOP = 3, 0.2",
        "networks/test_edges.py::test_steady_growth_is_that_of_the_window_by_hand",
    ),
    (
        "change-over-the-mean",
        "networks/edges.py",
        "2 * (late - early) / (late + early)",
        "(late - early) / (late + early)",
        "networks/test_edges.py::test_steady_growth_is_that_of_the_window_by_hand",
    ),
    (
        "band-about-the-edge",
        "networks/edges.py",
        "(0.01, 0.1), 0.1",
        "(0.01, 0.1), 0.2",
        "networks/test_edges.py::test_the_band_is_the_one_that_was_declared",
    ),
    # ------------------------------------------------------------------ a network of the reader's own
    (
        "heavy-ball-edge",
        "diagnosis/steps.py",
        '2 * (1 + self.how["momentum"])',
        '2 / (1 - self.how["momentum"])',
        "diagnose/test_diagnose.py::test_momentum_moves_the_edge_of_descent",
    ),
    (
        "weight-decay-in-the-growth",
        "diagnosis/steps.py",
        "threshold.growth(minimum, step / left,",
        "threshold.growth(minimum, step,",
        "diagnose/test_diagnose.py::test_weight_decay_in_the_exact_growth",
    ),
    (
        "finite-set-of-a-draw",
        "diagnosis/draws.py",
        "return self.rest * bias, (self.rest * variance) ** 0.5",
        "return self.rest * bias, variance**0.5",
        "diagnose/test_draws.py::test_the_jackknife_of_a_mean_and_of_its_square",
    ),
    (
        "bias-without-the-groups",
        "diagnosis/draws.py",
        "((1 - 1 / h) * without).sum(0)",
        "without.sum(0)",
        "diagnose/test_draws.py::test_the_jackknife_of_a_mean_and_of_its_square",
    ),
    (
        "influence-through-the-mean",
        "diagnosis/draws.py",
        "2 * (1 - c) * through + c * own",
        "(1 - c) * through + c * own",
        "diagnose/test_draws.py::test_a_sample_moves_the_edge_as_its_influence_says",
    ),
    (
        "lift-by-the-rest",
        "diagnosis/draws.py",
        "(np.sign(apart) * pushed).sum(1) + lifted",
        "(np.sign(apart) * pushed).sum(1) + 3 * lifted",
        "diagnose/test_draws.py::test_eigenvalues_of_a_draw",
    ),
    (
        "variance-of-a-random-direction",
        "networks/curvature.py",
        "np.sqrt(2 * np.maximum(square - found**2, 0)",
        "np.sqrt(np.maximum(square - found**2, 0)",
        "diagnose/test_calibration.py::test_density",
    ),
    (
        "page-hops-kick",
        "explorers/web/chain.js",
        "Math.sqrt(4 * eta * Delta / width[side])",
        "Math.sqrt(2 * eta * Delta / width[side])",
        "explorers/test_in_the_browser.py::test_the_rate_equation_in_the_page_is_that_of_the_library",
    ),
    (
        "page-steps-half-of-the-noise",
        "explorers/web/random.js",
        "const amplitude = Math.sqrt(2 * sigma);",
        "const amplitude = Math.sqrt(sigma);",
        "explorers/test_in_the_browser.py::test_walkers_of_the_valley_are_those_of_simulate",
    ),
    (
        "page-averages-without-the-step",
        "explorers/web/many_directions.js",
        "(2 * curve - eta * curve * curve - 2 * level * steep) * m",
        "(2 * curve - 2 * level * steep) * m",
        "explorers/test_in_the_browser.py::test_what_is_predicted_in_many_directions_is_the_librarys",
    ),
    (
        "page-regression-forgets-the-label",
        "explorers/web/regression.js",
        "let error = -z[first + dimension][i];",
        "let error = 0;",
        "explorers/test_in_the_browser.py::test_walkers_and_passages_of_the_regression_are_those_of_the_library",
    ),
    (
        "page-level-counts-the-cell-beyond",
        "explorers/web/regression.js",
        "(j < last ? right[i * n + j] : 0)",
        "right[i * n + j]",
        "explorers/test_in_the_browser.py::test_the_chain_in_the_page_is_that_of_the_library",
    ),
    (
        "page-edge-without-the-noise",
        "explorers/web/stability.js",
        "c * v + (j === k ? (1 - c) * this.products[j] : 0)",
        "c * v + (j === k ? this.products[j] : 0)",
        "explorers/test_in_the_browser.py::test_edges_and_bounds_of_linear_stability_are_the_librarys",
    ),
    (
        "regression-walkers-one-sample-too-heavy",
        "theory/logarithmic/loops.py",
        "_regress(eta / batch_size,",
        "_regress(eta,",
        "theory/logarithmic/test_loops.py::test_walkers_pass_levels_when_the_chain_says",
    ),
    (
        "linear-walkers-half-of-the-power-of-two",
        "theory/stability/walkers.py",
        "delta[walker] *= 2.0**-turn",
        "delta[walker] *= 2.0 ** (-turn / 2)",
        "theory/stability/test_walkers.py::test_one_direction_is_multiplied_however_far_it_goes",
    ),
)
MUTANTS = tuple(Mutant(*entry[:4], entry[4:]) for entry in _LISTED)


class Copy:
    """A copy of ``lib`` in a folder of its own, on which tests are run."""

    def __init__(self, folder: Path):
        self.folder, self.lib = folder, folder / "lib"
        shutil.copytree(ROOT / "lib", self.lib, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))

    def run(self, tests, cache: str = "compiled", patience: int = _LONGEST) -> tuple[int, str]:
        """Exit status and output of pytest on this copy; ``cache`` names the folder of compiled code."""
        folder = self.folder.parent / cache  # the copies' own files are told apart by their paths
        caches = {name: str(folder / name) for name in ("NUMBA_CACHE_DIR", "FLATMIN_CACHE")}
        path = os.pathsep.join([str(self.lib), os.environ.get("PYTHONPATH", "")])
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-q",
            "-x",
            "--tb=line",
            "-W",
            "ignore",
        ]
        try:
            found = subprocess.run(
                [*command, *(f"tests/{test}" for test in tests)],
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT, **caches, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _SLOW, f"not done after {patience} s"
        return found.returncode, found.stdout + found.stderr

    def verdict(self, mutant: Mutant) -> tuple[str, str]:
        """``killed``, ``killed (too slow)``, ``survived`` or ``fault``, and what to know about it."""
        path = self.lib / "flatmin" / mutant.file
        before = path.read_text(encoding="utf-8")
        if before.count(mutant.text) != 1:
            return "fault", f"{mutant.file} holds the text {before.count(mutant.text)} times, must be once"
        # compiled code knows the file it stands in, not those it calls: a slip in compiled code starts anew
        cache = f"compiled-{mutant.name}" if re.search(r"\bnjit\b", before) else "compiled"
        stamp = path.stat()
        path.write_text(before.replace(mutant.text, mutant.slip), encoding="utf-8")
        try:
            status, said = self.run(mutant.tests, cache, _PATIENCE)
        finally:
            path.write_text(before, encoding="utf-8")
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        failed = re.findall(r"^FAILED \S+?::(\w+)", said, re.M)
        if status == _SLOW:
            return "killed (too slow)", said
        if status == 1:
            return "killed", failed[0] if failed else said.strip().splitlines()[-1]
        return ("survived", "") if status == 0 else ("fault", said.strip()[-600:])


def units(mutants) -> list[str]:
    """The tests that the mutants name, each once."""
    named = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    return [test for test in named if "::" not in test or test.split("::")[0] not in named]


def judge(mutants, workers: int, show=print) -> dict[str, tuple[str, str, float]]:
    """{name: (verdict, what to know, seconds)}; ValueError if a test fails without a slip."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(workers) as pool:
        copies = queue.Queue()
        for number in range(workers):
            copies.put(Copy(Path(folder) / f"copy{number}"))

        def on_a_copy(task):
            copy, start = copies.get(), time.monotonic()
            try:
                return *task(copy), time.monotonic() - start
            finally:
                copies.put(copy)

        tests = units(mutants)
        parts = [tests[k::workers] for k in range(workers) if tests[k::workers]]
        for status, said, seconds in pool.map(lambda part: on_a_copy(lambda copy: copy.run(part)), parts):
            if status:
                raise ValueError(f"a test fails without a slip:\n{said[-3000:]}")
            show(f"without a slip: {said.strip().splitlines()[-1]} ({seconds:.0f} s)", flush=True)

        def one(mutant):
            found = on_a_copy(lambda copy: copy.verdict(mutant))
            show(f"{found[0]:<9} {found[2]:5.1f} s  {mutant.name}  {found[1]}", flush=True)
            return found

        return dict(zip((m.name for m in mutants), pool.map(one, mutants), strict=True))


def main(arguments=None) -> int:
    """Judge the mutants asked for; return 0 if every one is killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[m.name for m in MUTANTS])
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not asked.only or m.name in asked.only]
    start = time.monotonic()
    found = judge(chosen, max(1, min(asked.workers, len(chosen))))
    words = ("killed", "killed (too slow)", "survived", "fault")
    count = {word: sum(verdict == word for verdict, *_ in found.values()) for word in words}
    told = ", ".join(f"{number} {word}" for word, number in count.items() if number or word != words[1])
    print(f"{len(found)} slips: {told} in {time.monotonic() - start:.0f} s")
    return 0 if count[words[0]] + count[words[1]] == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
