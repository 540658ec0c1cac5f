"""One network under five theories: what each says before the run, and what SGD does there.

A :class:`Frame` holds the leading eigenvectors of the Gauss–Newton matrix G at a point (square loss) and all
that the linearised network is within them. :func:`stay` measures the stationary fluctuations along them,
:func:`leave` whether and when runs leave, :func:`drift` how fast fresh label noise moves Tr G along a valley
of minima. No prediction has a fitted constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from flatmin import _check
from flatmin.networks import curvature
from flatmin.networks.data.sets import Data
from flatmin.networks.parameters import vector, with_parameters
from flatmin.networks.point import at
from flatmin.networks.train import train
from flatmin.sampling import Sampling
from flatmin.theory.stability import bounds, paths, sharpness, stationary, threshold
from flatmin.theory.stability.minimum import Minimum

__all__ = [
    "Frame",
    "derivatives",
    "doubled",
    "drift",
    "edges_of",
    "frame",
    "framed",
    "leave",
    "lifted",
    "stay",
]

#: batches of every measurement: drawn with replacement, so that c = 1/B
HOW = "replacement"
#: steps of one call of train in stay, whose parameters are kept; and most steps of all
_BLOCK, _MOST = 1000, 10**6


@dataclass(frozen=True)
class Frame:
    """A network along q leading eigenvectors of G, sharpest first.

    Attributes
    ----------
    minimum : Minimum
        Its linearisation along them: eigenvalues λ (q,), rows R_i (n, C, q).
    residuals : (n, C) array
        e = f − y.
    vectors : (P, q) tensor
    loss, trace : float
        L and Tr G, of all directions.
    dimension : float
        n = 1/Σp², p the eigenvalues over their sum (M22 Eq. 44), of these directions.
    """

    minimum: Minimum
    residuals: np.ndarray
    vectors: torch.Tensor
    loss: float
    trace: float

    @property
    def curvature(self) -> np.ndarray:
        """λ (q,)."""
        return self.minimum.eigenvalues

    @cached_property
    def noise(self) -> np.ndarray:
        """C_ii for B = 1, (q,), measured: the variance of v_i·∇ℓ over the samples."""
        return np.diag(stationary.noise_at(self.minimum, self.residuals))

    @property
    def dimension(self) -> float:
        """n = 1/Σp² (M22 Eq. 44) of these directions."""
        return float(curvature.effective_dimension(self.curvature))

    def laws(self) -> dict[str, np.ndarray]:
        """C_ii for B = 1 by the theories: ``h`` 2Lλ, ``h2`` in proportion to λ² with the measured trace."""
        lam = self.curvature
        return {"h": 2 * self.loss * lam, "h2": lam**2 * self.noise.sum() / np.square(lam).sum()}


def frame(here, directions: int) -> Frame:
    """The :class:`Frame` of a point on the square loss along so many ``directions``.

    Raises ValueError for another loss, and as :func:`~flatmin.networks.curvature.eigenpairs`.
    """
    directions = _check.integer("directions", directions, least=1, most=here.parameters)
    vectors = curvature.eigenpairs(here, directions, matrix="gauss-newton", missed=1.0).vectors
    return framed(here, vectors)


def framed(here, vectors) -> Frame:
    """The :class:`Frame` of a point along given orthonormal columns (P, q), its eigenvectors elsewhere.

    Then λ_i = v_iᵀGv_i, and its ``minimum`` is none but for the eigenvectors. Raises ValueError as
    :func:`frame`.
    """
    if here.loss_function.name != "square":
        raise _check.refused("loss", here.loss_function.name, "the square loss")
    moved, passed = derivatives(here, vectors), here.passed
    lam = np.square(moved).sum((0, 1)) / len(moved)
    modes = moved.reshape(-1, moved.shape[2]) / np.sqrt(len(moved) * lam)
    residuals = (passed.outputs - passed.targets.reshape(passed.outputs.shape)).double().cpu().numpy()
    trace = curvature.gauss_newton_trace(here).value
    return Frame(Minimum(moved.shape[1], pairs=(lam, modes)), residuals, vectors, here.loss, trace)


def derivatives(here, vectors) -> np.ndarray:
    """J_i v of every sample along the columns of ``vectors`` (P, q), in float64: (n, C, q)."""
    vectors = curvature.columns_of(here, "vectors", vectors).to(here.device, here.dtype)
    return here.passed.output_derivatives(vectors.T.contiguous()).double().cpu().numpy().transpose(0, 2, 1)


def edges_of(frame: Frame, batch_size: int, seed: int = 0) -> dict[str, float]:
    """The largest η by each theory, within the directions of the ``frame``.

    ``exact`` mean-square edge, ``typical`` edge of single paths, ``trace`` rule, ``w22`` Theorem 3.3 with the
    least μ of these directions, ``aligned`` the same with W22's decoupled μ = 1, ``decoupled`` Σ = 2LH in
    full, ``descent`` 2/λ₁, ``sharpness`` 2 over the batch sharpness here, ``m22`` n = n_c (Eq. 18 and 44).
    Raises ValueError for a batch size below 1.
    """
    here, lam = _check.instance("frame", frame, Frame).minimum, frame.curvature
    few = {"steps": 200, "trajectories": 32, "seed": seed}
    seen = sharpness.batch_sharpness(here, frame.residuals, batch_size, HOW, draws=500, seed=seed)
    half = frame.dimension / 2 - 1
    return {
        "exact": threshold.largest_step(here, batch_size, HOW),
        "typical": paths.typical_edge(here, batch_size, HOW, **few).value,
        "trace": bounds.trace_necessary_step(here, batch_size, HOW),
        "w22": bounds.theorem_3_3_step(here, batch_size, HOW),
        "aligned": bounds.theorem_3_3_step(here, batch_size, HOW, mu_0=1.0),
        "decoupled": bounds.decoupled_step(lam, lam, batch_size),
        "descent": bounds.gradient_descent_step(here),
        "sharpness": 2 / seen.value,
        "m22": batch_size / (lam[0] * half) if half > 0 else np.inf,
    }


def stay(model, data, vectors, eta, batch_size, seeds, steps: int, every: int = 10, burn: int = 0):
    """Runs of SGD from ``model``, seen along the columns of ``vectors`` (P, q).

    Returns v_i·(θ_t − θ_0) (R, T, q) at every ``every``-th of ``steps`` steps after the first ``burn``, and
    the models of the runs at the end of each block of at most 1000 of these steps, [block][run]. Raises
    ValueError as :func:`~flatmin.networks.train.train`; a run that diverges stays where it last was finite.
    """
    seeds, steps, every = _planned(seeds, steps, every)
    burn = _check.integer("burn", burn, least=0, most=_MOST)
    batch_size = _check.integer("batch_size", batch_size, least=1)
    here = at(model, "square", data, checks=False)
    vectors = curvature.columns_of(here, "vectors", vectors)
    start = here.theta @ vectors
    models, found, blocks = [model] * len(seeds), [], []
    parts = [min(_BLOCK, total - done) for total in (burn, steps) for done in range(0, total, _BLOCK)]
    warm = -(-burn // _BLOCK)
    for block, count in enumerate(parts):
        keep = list(range(0, count + 1, every)) if block >= warm else [count]
        how = {"eta": eta, "batch_size": batch_size, "sampling": HOW, "steps": keep[-1], "keep": keep}
        runs = train(models, "square", data, seed=[1000 * int(s) + block for s in seeds], **how)
        models = [runs.model_at(run) for run in range(len(seeds))]
        if block >= warm:
            found.append((runs.parameters[:, 1:] @ vectors - start).double().numpy())
            blocks.append(models)
    return np.concatenate(found, 1), blocks


def _planned(seeds, steps, every):
    """The seeds of the runs, their steps and the steps between looks, checked."""
    seeds = _check.array("seeds", seeds, ndim=1, dtype=int, least=0, most=10**12).tolist()
    steps = _check.integer("steps", steps, least=1, most=_MOST)
    return seeds, steps, _check.integer("every", every, least=1, most=steps)


def lifted(models, data, vectors) -> np.ndarray:
    """By how much each of R ``models`` lies above where its fluctuation is taken away, (R,).

    The fluctuation is its distance from the mean of the R along the columns of ``vectors`` (P, q); L(θ) less
    L without it, times R/(R − 1) for the mean that is theirs. Raises ValueError for fewer than two models.
    """
    if len(models) < 2:
        raise _check.refused("models", models, "two or more")
    vectors = curvature.columns_of(at(models[0], "square", data, checks=False), "vectors", vectors)
    thetas = torch.stack([vector(one) for one in models])
    along = (thetas - thetas.mean(0)) @ vectors @ vectors.T
    both = [with_parameters(models[0], theta) for theta in (*thetas, *(thetas - along))]
    losses = [at(one, "square", data, checks=False).loss for one in both]
    return np.subtract(*np.reshape(losses, (2, -1))) * len(models) / (len(models) - 1)


def leave(model, data, frame: Frame, eta, batch_size, seeds, steps: int, every: int = 1, looked: int = 2000):
    """Losses of SGD from ``model`` and of its linearisation on the same batches, over the first loss.

    At every ``every``-th step, each (R, T + 1), ∞ after divergence; the network's loss is that of the first
    ``looked`` samples, the linearised one's that of all. Raises ValueError as
    :func:`~flatmin.networks.train.train`.
    """
    seeds, steps, every = _planned(seeds, steps, every)
    looked = min(_check.integer("looked", looked, least=1), len(data))
    batch_size = _check.integer("batch_size", batch_size, least=1)
    _check.instance("frame", frame, Frame)
    keep = list(range(0, steps + 1, every))
    how = {"eta": eta, "batch_size": batch_size, "sampling": HOW, "steps": keep[-1], "keep": keep}
    runs = train(model, "square", data, seed=seeds, **how)
    losses = runs.losses(data.first(looked))
    per, draw = len(data) // batch_size, Sampling.of(HOW).draw
    epochs = range(-(-steps // per))
    batches = [np.concatenate([draw(len(data), batch_size, int(s), e) for e in epochs]) for s in seeds]
    linear = stationary.linearised_losses(
        frame.minimum, frame.residuals, eta, np.stack(batches)[:, : keep[-1]]
    )
    return losses / losses[:, :1], linear[:, keep] / linear[:, :1]


def doubled(data: Data, size: float) -> Data:
    """Each sample twice, with the targets y + s and y − s: a draw from it has fresh label noise of size s.

    ``data`` has real targets (n,) or (n, 1); ``size`` s > 0. Raises ValueError for others.
    """
    size = _check.number("size", size, above=0)
    targets = _check.instance("data", data, Data).targets
    if not targets.is_floating_point() or targets.numel() != len(data):
        raise _check.refused("targets", targets, "one real number a sample")
    both = torch.cat([targets + size, targets - size])
    return Data(torch.cat([data.inputs, data.inputs]), both, data.name)


def drift(here, eta: float, batch_size: int, size: float) -> dict[str, float]:
    """Mean change of Tr G a step along a valley of minima that fit, with fresh label noise of ``size`` s.

    Fluctuations of second moment S about the valley pull along it with the force −½ ∇Tr(SG) (S held fixed).
    Its part along the valley, times η, changes Tr G by −(η/2) ∇Tr G · P ∇Tr(SG), P the projection on the
    directions that move no output. Of S the theories say

    * ``exact`` the stationary second moment of the linearised network, noise s²G/B and what the errors add;
    * ``small`` v = ηs²/2B, noise s²G/B and small steps: the regulariser (ηs²/4B) Tr G of label noise;
    * ``h2`` noise in proportion to G² with the trace of s²G/B, Y22's and Y23's;
    * ``h2_all`` the same with the trace of all the noise of ``exact``, the errors that it makes included.

    Raises ValueError as :func:`frame`, for several outputs, numbers out of range, and η beyond the edge.
    """
    eta, size = _check.numbers(eta=eta, size=size, above=0, most=1e100)
    batch_size = _check.integer("batch_size", batch_size, least=1)
    if here.passed.outputs.shape[1] != 1:
        raise _check.refused("here", here, "a network of one output")
    rows = here.passed.sample_roots()[:, 0].double().cpu()
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    kept = values > 1e-5 * values[0]
    if eta * float(values[0]) ** 2 >= 2 * len(rows):
        raise _check.refused("eta", eta, "below the edge of descent, 2/λ₁")
    basis, lam = vectors[kept].T, (values[kept].square() / len(rows)).numpy()
    modes = ((rows @ basis) / values[kept]).numpy()
    twice = Minimum(1, pairs=(lam, np.concatenate([modes, modes]) / np.sqrt(2)))
    errors = np.repeat([size, -size], len(rows))
    noise = size**2 / batch_size * lam
    moments = {
        "exact": stationary.second_moment(twice, errors, eta, batch_size, HOW),
        "small": np.diag(np.full(len(lam), eta * size**2 / (2 * batch_size))),
        "h2": np.diag(stationary.linear_variance(eta, lam, lam**2 * noise.sum() / np.square(lam).sum())),
    }
    slope = _trace_slope(here, basis)
    along = slope - basis @ (basis.T @ slope)
    found = {}
    for name, moment in moments.items():
        if not np.isfinite(moment).all():
            raise _check.refused("eta", eta, "below the edge of stability at this batch size")
        axes, scales = np.linalg.eigh(moment)[::-1]
        pushed = basis @ torch.from_numpy(axes * np.sqrt(np.maximum(scales, 0)))
        found[name] = float(-eta / 2 * along @ _trace_slope(here, pushed))
    acting = np.diag(moments["exact"]) * lam * (2 - eta * lam) / eta  # the noise that keeps this moment
    return found | {"h2_all": found["h2"] * float(acting.sum() / noise.sum())}


def _trace_slope(here, columns):
    """∇ Tr(AᵀGA) for the ``columns`` A (P, k), (P,) in float64: (1/n) Σ |J_i a|² differentiated."""
    network = here.double().network
    inputs = here.data.inputs.double()
    shapes = [(name, p.shape, p.numel()) for name, p in zip(network.names, network.tensors, strict=True)]

    def outputs(theta):
        parts = theta.split([count for _, _, count in shapes])
        values = {name: part.view(shape) for (name, shape, _), part in zip(shapes, parts, strict=True)}
        return network.matrix(inputs, values)

    def square(theta, column):
        return torch.func.jvp(outputs, (theta,), (column,))[1].square().sum() / len(inputs)

    total, theta = torch.zeros_like(columns[:, 0]), here.theta.double()
    each = torch.func.vmap(torch.func.grad(square), (None, 0))
    for some in columns.T.split(max(1, 2**23 // (len(inputs) * 64))):
        total += each(theta, some).sum(0)
    return total
