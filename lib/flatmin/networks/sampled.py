"""Alignment, noise and batch sharpness of networks whose n×n Gram matrices are out of reach.

Everything that W22 §2 defines is a mean over pairs of samples. With R_i = Q_iᵀ ∂f_i/∂θ, Q_iQ_iᵀ = ∂²ℓ_i/∂f²
(for the square loss R_i is the Jacobian), g̃_i = ∇ℓ_i − ∇L and random signs s, t (E ssᵀ = 1), independent of
each other,

    ‖G‖²  = (1/n²) Σ_ij |R_iR_jᵀ|²,    |R_iR_jᵀ|² = E (R_iᵀs · R_jᵀt)²,
    Tr ΣG = (1/n²) Σ_ij |R_jg̃_i|²,    |R_jg̃_i|² = E (R_jᵀt · g̃_i)²,
    ‖Σ‖²  = (1/n²) Σ_ij (g̃_i·g̃_j)²,   Tr G = (1/n) Σ E |R_iᵀs|²,   Tr Σ = (1/n) Σ |g̃_i|²,

so a few cotangents on the outputs of each sample are enough. Two different samples have independent signs;
with itself a sample is paired through two different ones of its own. Of n samples m are drawn without
replacement; the mean over i ≠ j gets the weight 1 − 1/n and that over i = j the weight 1/n, as in all n²
pairs: the five means are unbiased for the data set, whatever m. ∇L and L are exact, from one pass over all
samples. From ratios and roots of the means the jackknife takes their bias to first order.

Errors are by jackknife, in two stages (Cochran 1977, §10.4): with a share φ = m/n of the samples, variance =
(1 − φ) V + φ W, V by leaving out one sample with its signs, W by leaving out one sign vector of one sample.
Where m = n only the signs are random, and with as many of them as outputs nothing is. The errors suppose that
no few samples dominate; α near its largest value 1 is skewed, and its error only rough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from flatmin import _check
from flatmin.estimate import Estimate
from flatmin.networks import eigen
from flatmin.networks.curvature import signs_like
from flatmin.networks.passes.generic import linearise
from flatmin.sampling import Sampling

__all__ = ["SampledAlignment", "batch_sharpness", "sampled_alignment"]

#: samples from which on leaving out one says something
FEWEST = 8
#: numbers in the inner products: 1 GiB of float32
_ENTRIES = 2**28
_MEANS = ("g_square", "trace_sigma_g", "sigma_square", "trace_g", "trace_sigma")


@dataclass(frozen=True, repr=False)
class SampledAlignment:
    """What :class:`~flatmin.networks.gradient_noise.Alignment` holds, from a few samples: each an Estimate.

    ``alpha``, ``beta``, ``mu`` = Tr(ΣG)/(2L‖G‖²), ``g_norm`` = ‖G‖_F, ``sigma_norm`` = ‖Σ‖_F, ``trace_g`` =
    Tr G, ``trace_sigma`` = Tr Σ, ``trace_sigma_g`` = Tr(ΣG); ``loss`` = L, exact. ``samples`` = m drawn of
    ``of_samples`` = n.
    """

    alpha: Estimate = field(init=False)
    beta: Estimate = field(init=False)
    mu: Estimate = field(init=False)
    g_norm: Estimate = field(init=False)
    sigma_norm: Estimate = field(init=False)
    trace_g: Estimate = field(init=False)
    trace_sigma: Estimate = field(init=False)
    trace_sigma_g: Estimate = field(init=False)
    loss: float
    samples: int
    of_samples: int
    _means: np.ndarray
    _without_sample: np.ndarray
    _without_sign: np.ndarray
    _losses: np.ndarray
    _drawn: int | None = None

    def __post_init__(self):
        for name in ("alpha", "beta", "mu", "g_norm", "sigma_norm", *_MEANS[1::2], "trace_sigma"):
            object.__setattr__(self, name, self.of(lambda one, name=name: getattr(one, name)))

    def __repr__(self):
        shown = ", ".join(f"{name} {getattr(self, name)!r}" for name in ("mu", "g_norm", "trace_sigma_g"))
        return f"<SampledAlignment: {shown}>"

    def of(self, function: Callable) -> Estimate:
        """Any function of the numbers, with the jackknife's error: ``of(lambda one: one.mu * one.g_norm)``.

        ``one`` has the attributes above but for the counts, as arrays. Raises ValueError for what is no
        function.
        """
        _check.instance("function", function, Callable)
        value, samples, signs = (
            np.asarray(function(self._numbers(means)), float)
            for means in (self._means, self._without_sample, self._without_sign)
        )
        m, share = self.samples, self.samples / self.of_samples
        both = samples  # L is drawn too, in a first draw
        if self._drawn:
            both = np.asarray(function(self._numbers(self._without_sample, self._losses)), float)
        first = 1 / (self._drawn or self.of_samples)
        stages = ((1 / m - first, samples), (first - 1 / self.of_samples, both))
        variance, bias = sum(
            part * m * (m - 1) * np.array([np.var(one), np.mean(one - value)]) for part, one in stages
        )
        if signs.size:
            scale = share * (signs.shape[-1] - 1)
            variance += scale * float(np.var(signs, axis=-1).sum())
            bias += scale * float((signs - value).mean(-1).sum())
        method = f"{m} of {self.of_samples} samples, random signs, jackknife"
        return Estimate(float(value - bias), float(variance**0.5), m, method)

    def bound(self, eta: float, batch_size: float) -> Estimate:
        """η‖G‖_F √(μ/B), W22's ratio to the bound of its Theorem 3.3 as in
        :class:`~flatmin.networks.stability.Edge`; ValueError for numbers that are not positive."""
        eta, size = _check.numbers(eta=eta, batch_size=batch_size, above=0)
        found = self.of(lambda one: one.g_norm * np.sqrt(one.mu / size))
        value, error = _check.finite((eta * found.value, eta * found.error), eta=eta)
        return Estimate(value, error, found.n, found.method)

    def _numbers(self, means, loss=None):
        loss = self.loss if loss is None else loss
        one = SimpleNamespace(**dict(zip(_MEANS, means, strict=True)), loss=loss)
        one.g_norm, one.sigma_norm = np.sqrt(one.g_square), np.sqrt(one.sigma_square)
        one.alpha = one.trace_sigma_g / (one.sigma_norm * one.g_norm)
        one.beta = one.sigma_norm / (2 * loss * one.g_norm)
        one.mu = one.alpha * one.beta
        return one


def sampled_alignment(
    here, samples: int = 256, probes: int = 2, seed: int = 0, of_samples: int | None = None
) -> SampledAlignment:
    """Estimate α, β, μ, ‖G‖_F, Tr G, ‖Σ‖_F, Tr Σ, Tr(ΣG) from a few samples (W22 §2; see the module's text).

    One pass over all samples for L and ∇L, then ``probes`` + 1 backward passes over ``samples`` of them. The
    relative error falls as 1/√samples. Memory: :meth:`~.passes.generic.AutogradPass.pulled_gram`; no array of
    samples × parameters but for single layers.

    Parameters
    ----------
    here : Point
    samples : int
        m, at least 8; all where there are fewer.
    probes : int
        Sign vectors of each sample, at least 2. From as many as outputs on, the unit vectors take their
        place, which leave nothing to chance.
    seed : int
        Of the samples and the signs.
    of_samples : int, optional
        How many samples those of ``here`` were drawn of, n of the data set: by default they are all.

    Raises
    ------
    ValueError
        For arguments out of range, a point of fewer than 8 samples, a loss without a positive semi-definite
        second derivative in the outputs, for some of the samples one that weighs or ignores labels, and where
        L, Σ or G vanishes.
    """
    samples = min(_check.integer("samples", samples, least=FEWEST), here.samples)
    probes = min(_check.integer("probes", probes, least=2), here.passed.outputs.shape[1])
    seed = _check.integer("seed", seed, least=0, most=eigen.SEEDS)
    if here.samples < FEWEST:
        raise ValueError(f"data: {here.samples} samples are too few: must be at least {FEWEST}")
    if (samples * (probes + 1)) ** 2 > _ENTRIES:
        raise _check.refused("samples", samples, f"at most {int(_ENTRIES**0.5) // (probes + 1)}")
    of = here.samples if of_samples is None else of_samples
    of = _check.integer("of_samples", of, least=here.samples, most=10**15)
    chosen = drawn_rows(here.samples, samples, seed)
    few = here.passed if samples == here.samples else only(here, chosen)
    products = _centred_products(here.passed, few, _signs(few.outputs, probes, seed))
    found = _summed(products, of, probes == few.outputs.shape[1])
    if not (here.loss > 0 and all(found[0] > 0)):
        symbols = "‖G‖²", "Tr(ΣG)", "‖Σ‖²", "Tr G", "Tr Σ"
        shown = ", ".join(f"{name} = {value:.3g}" for name, value in zip(symbols, found[0], strict=True))
        raise ValueError(f"here: L = {here.loss:.3g}, {shown}: must be positive, for ratios of them")
    losses = few.losses.double().cpu().numpy()
    without = here.loss - (losses - losses.mean()) / (samples - 1)
    drawn = here.samples if here.samples < of else None
    return SampledAlignment(here.loss, samples, of, *found, without, drawn)


def drawn_rows(of: int, samples: int, seed: int) -> torch.Tensor:
    """So many of the positions 0 … ``of`` − 1, at random, in order."""
    return torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(of)[:samples]))


def only(here, chosen):
    """A pass over some of the samples; ValueError where the loss weighs a sample by all the others."""
    why = f"for a part of the samples; take all, samples={here.samples}"
    here.loss_function.require_apart(here.data.targets, why)
    return linearise(here.network, here.data.take(chosen), here.loss_function, here.chunk)


def _signs(outputs: Tensor, probes: int, seed: int) -> Tensor:
    """s of each sample, (m, probes, C); √C times the unit vectors where there are as many."""
    m, columns = outputs.shape
    if probes < columns:
        return signs_like(outputs, (m, probes, columns), torch.Generator("cpu").manual_seed(seed))
    units = torch.eye(columns, dtype=outputs.dtype, device=outputs.device)
    return columns**0.5 * units.expand(m, -1, -1)


def _centred_products(passed, few, signs: Tensor) -> np.ndarray:
    """Inner products of g̃_i and R_iᵀs_ik, (m, 1 + probes, m, 1 + probes), the gradient first."""
    roots = few.loss_function.root_product(few.outputs, slice(None), signs)
    tops = torch.cat([few.output_gradients[:, None], roots], 1)
    (m, c, _), mean = tops.shape, passed.gradient()
    products = few.pulled_gram(tops).view(m, c, m, c).double().cpu().numpy()
    along = (tops @ few.output_derivatives(mean[None]).mT)[..., 0].double().cpu().numpy()
    products[:, 0] -= along
    products[:, :, :, 0] -= along[:, :, None]
    products[:, 0, :, 0] += float(mean.double().square().sum())
    return products


def _summed(products: np.ndarray, n: int, exact: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The five means (5,), without one sample (5, m), and without one of its signs (5, m, p; 0 if ``exact``).

    From the centred ``products`` (m, 1 + p, m, 1 + p) of m of ``n`` samples.
    """
    m, probes = products.shape[0], products.shape[1] - 1
    squares, place = np.square(products), np.arange(m)
    own = squares[place, :, place]  # (m, 1 + p, 1 + p), a sample with itself
    squares[place, :, place] = 0
    lengths = np.sqrt(np.diagonal(own, axis1=1, axis2=2))
    twins = own[:, 1:, 1:].sum((1, 2))
    pairs = probes**2
    if not exact:  # two different signs
        twins, pairs = twins - np.diagonal(own, axis1=1, axis2=2)[:, 1:].sum(1), probes * (probes - 1)
    rows = squares[:, 1:, :, 1:].mean(3).sum(2)  # (m, p), of one sign vector of a sample
    columns = squares[:, 0, :, 1:].sum(0)
    gradients = squares[:, 0, :, 0]
    off = np.array([rows.mean(1).sum(), columns.mean(1).sum(), gradients.sum()])
    within = np.array([twins / pairs, own[:, 0, 1:].mean(1), own[:, 0, 0]])
    single = np.array([lengths[:, 1:].mean(1), lengths[:, 0]])
    crossed = squares[:, 0, :, 1:].mean(2).sum(1)
    lost = np.array([2 * rows.mean(1), columns.mean(1) + crossed, gradients.sum(0) + gradients.sum(1)])

    def means(off, within, single, m):
        return np.concatenate([(1 - 1 / n) * off / (m * (m - 1)) + within / (n * m), single / m])

    sums = off, within.sum(1), single.sum(1)
    whole = means(*sums, m)
    part = (total[:, None] for total in sums)
    left_out = (total - one for total, one in zip(part, (lost, within, single), strict=True))
    without_sample = means(*left_out, m - 1)
    moved = np.zeros((5, m, probes if not exact else 0))
    if not exact:

        def change(values):  # of a mean over the signs, when one is left out
            return (values.mean(1, keepdims=True) - values) / (probes - 1)

        moved[0] = (1 - 1 / n) * 2 * change(rows) / (m * (m - 1))
        moved[1] = (1 - 1 / n) * change(columns) / (m * (m - 1)) + change(own[:, 0, 1:]) / (n * m)
        moved[3] = change(lengths[:, 1:]) / m
    return whole, without_sample, whole[:, None, None] + moved


def batch_sharpness(
    here, batch_size: int, batches: int = 100, seed: int = 0, sampling: str = "fresh", matrix: str = "hessian"
) -> Estimate:
    """Mean over batches of g_BᵀH_Bg_B/|g_B|² (Andreyev & Beneventano, arXiv 2412.20553): by products alone.

    The batch's own gradient in its own Hessian, or Gauss–Newton matrix as in
    :func:`flatmin.theory.stability.sharpness.batch_sharpness`, which is the same for a linearised network.
    Batches without a gradient are left out. Those of an epoch are drawn as fresh ones: one alone has the same
    law, and the error of their mean is known.

    Parameters
    ----------
    here : Point
    batch_size : int, 1…n
    batches : int
        How many are drawn, at least 2.
    seed : int
    sampling : "fresh", "replacement" or "epoch"
    matrix : "hessian" or "gauss-newton"

    Raises
    ------
    ValueError
        For arguments out of range, a loss that weighs or ignores labels, and where no batch has a gradient.
    """
    size = _check.integer("batch_size", batch_size, least=1, most=here.samples)
    batches = _check.integer("batches", batches, least=2, most=10**6)
    seed, how = _check.integer("seed", seed, least=0), Sampling.of(sampling)
    how = Sampling.FRESH if how == Sampling.EPOCH else how
    product = {"hessian": "hessian_product", "gauss-newton": "gauss_newton_product"}
    product, found = product[_check.choice("matrix", matrix, product)], []
    for positions in _drawn(how, here.samples, size, seed, batches):
        passed = only(here, torch.from_numpy(positions))
        gradient = passed.gradient()
        square = float(gradient.square().sum())
        if square > 0:
            found.append(float(gradient @ getattr(passed, product)(gradient[None])[0]) / square)
    if len(found) < 2:
        raise ValueError(f"data: {len(found)} of {batches} batches have a gradient: must be at least two")
    error = float(np.std(found, ddof=1) / len(found) ** 0.5)
    return Estimate(float(np.mean(found)), error, len(found), "mean over drawn batches")


def _drawn(how, samples, size, seed, batches):
    """Yield so many batches, epoch after epoch."""
    left, epoch = batches, 0
    while left > 0:
        drawn = how.draw(samples, size, seed, epoch)[:left]
        yield from drawn
        left, epoch = left - len(drawn), epoch + 1
