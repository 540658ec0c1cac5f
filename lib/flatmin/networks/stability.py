"""Linear stability of a trained network, and its escape from a sharp minimum.

Near its parameters a network is its linearisation and its loss a parabola of the outputs; all that SGD does
there is in two arrays (:class:`Tangent`): the Gram matrix of the rows R_i = Q_iᵀ ∂f_i/∂θ with
Q_iQ_iᵀ = ∂²ℓ_i/∂f², n·C of them for C outputs, and the residuals e_i with R_iᵀe_i = ∇ℓ_i. For the square loss
Q = 1 and e = f − y. The Gauss–Newton matrix G = (1/n) Σ R_iᵀR_i is the Hessian where the residuals vanish.
The thresholds are those of :mod:`flatmin.theory.stability`, all in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from flatmin import _check
from flatmin.estimate import Estimate
from flatmin.networks import curvature
from flatmin.networks.passes.dense import DensePass
from flatmin.networks.train import train
from flatmin.sampling import Sampling
from flatmin.theory.stability import bounds, paths, threshold
from flatmin.theory.stability.bracket import Bracket, step_bracket
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.sharpness import batch_sharpness

__all__ = ["Edge", "Escape", "Tangent", "compressed", "edge", "escape_runs", "largest_step", "tangent"]

#: most rows n·C of the Gram matrix: 1.2 GB of float64
MOST_ROWS = 12_000
#: why no label may be weighed or ignored
BATCHES = "for batches: torch divides by the weights of each, so its gradient is no mean over its samples"

#: most steps of linearised SGD, and most trajectories, of one call
MOST_STEPS = 1_000_000

#: numbers in the kept parameters of one block of trajectories, and in the roots of one chunk of samples
_ENTRIES = 2**25


@dataclass(frozen=True)
class Tangent:
    """A network linearised at its parameters, with its loss to second order in the outputs.

    A batch I of B samples moves the residuals by e ← e − (η/B) Σ_{i∈I} 𝒦_{·i} e_i (W22 Eq. 4, in the space of
    outputs), and the loss is (1/n) Σ ½|e_i|² up to a constant.

    Attributes
    ----------
    gram : (n·C, n·C) array
        𝒦, the inner products of the rows R_i, without a factor 1/n.
    residuals : (n, C) array or None
        e; None where ``reason`` says that a sample's loss has a slope in a direction without curvature.
    outputs : int
        C.
    loss : float
        L of the network.
    reason : str
    """

    gram: np.ndarray = field(repr=False)
    residuals: np.ndarray | None = field(repr=False)
    outputs: int = 1
    loss: float = np.nan
    reason: str = ""

    @cached_property
    def minimum(self) -> Minimum:
        """The minimum of the linearised network, for :mod:`flatmin.theory.stability`; its H is G."""
        return Minimum.from_gram(self.gram, self.outputs)

    @property
    def samples(self) -> int:
        """n."""
        return len(self.gram) // self.outputs

    @property
    def half_square(self) -> float:
        """(1/n) Σ ½|e_i|²: by how much L lies above the minima of its samples' parabolas."""
        return float(0.5 * np.square(self._residuals()).sum() / self.samples)

    @property
    def quadratic(self) -> bool:
        """Whether L = (1/n) Σ ½|e_i|², as for the square loss."""
        return self.residuals is not None and bool(np.isclose(self.half_square, self.loss, rtol=1e-6, atol=0))

    @property
    def mu(self) -> float:
        """Alignment μ = Tr(ΣG)/(2L‖G‖²) of the noise at these residuals (W22 §2); ValueError without them."""
        return self.minimum.alignment(self._residuals())

    def _residuals(self):
        if self.residuals is None:
            raise ValueError(self.reason)
        return self.residuals

    def mean_losses(self, eta: float, batch_size: float, steps: int, sampling: str = "fresh") -> np.ndarray:
        """Exact E (1/n) Σ ½|e_i|² of linearised SGD from these residuals: :func:`~.paths.mean_losses`."""
        return paths.mean_losses(self.minimum, eta, batch_size, steps, sampling, self._residuals())

    def losses(self, eta: float, batch_size: int, steps: int, seeds, sampling: str = "fresh") -> np.ndarray:
        """(1/n) Σ ½|e_i|² of linearised SGD for each seed, (seeds, steps + 1), from the batches that
        :func:`~flatmin.networks.train.train` draws; ValueError for arguments out of range."""
        n, eta = self.samples, threshold.step_of(self.minimum, eta)
        steps, how = _check.integer("steps", steps, least=0, most=MOST_STEPS), Sampling.of(sampling)
        seeds = _check.array("seeds", seeds, ndim=1, dtype=int, least=0)
        batch_size = _check.integer("batch_size", batch_size, least=1, most=n)
        per_epoch, rows = n // batch_size, self.gram.reshape(n, self.outputs, -1)
        residuals = np.repeat(self._residuals()[None], len(seeds), 0)
        found = [0.5 * np.square(residuals).sum((1, 2)) / n]
        for step in range(steps):
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                drawn = [how.draw(n, batch_size, int(seed), epoch) for seed in seeds]
            for run, batches in enumerate(drawn):
                chosen = batches[place]
                moved = residuals[run, chosen].ravel() @ rows[chosen].reshape(-1, len(self.gram))
                residuals[run] -= eta / batch_size * moved.reshape(n, -1)
            found.append(0.5 * np.square(residuals).sum((1, 2)) / n)
        return np.stack(found, 1)


def tangent(here) -> Tangent:
    """Linearise the network at the point ``here``, in float64.

    Raises ValueError for a loss without a positive semi-definite second derivative in the outputs, or more
    than 12 000 rows n·C. Memory: the (n·C, n·C) array, and for networks that are not fully connected the
    (n·C, P) rows.
    """
    passed = here.double().passed
    n, outputs = passed.outputs.shape
    if n * outputs > MOST_ROWS:
        found = f"{n} samples × {outputs} outputs"
        raise ValueError(f"data: {found} are too many for the Gram matrix: must be at most {MOST_ROWS} rows")
    gram = curvature.gram(passed).cpu().numpy()
    residuals, reason = _residuals(passed)
    return Tangent((gram + gram.T) / 2, residuals, outputs, float(passed.loss), reason)


def _residuals(passed):
    """e with Q_i e_i = ∂ℓ_i/∂f, of least length, (n, C), or None and the reason why there is none."""
    n, outputs = passed.outputs.shape
    slopes = passed.deltas[-1] if isinstance(passed, DensePass) else passed.output_gradients
    units = torch.eye(outputs, dtype=passed.outputs.dtype, device=passed.outputs.device)
    found = []
    step = max(1, _ENTRIES // outputs**2)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        f, slope = passed.outputs[rows], slopes[rows, :, None]
        root = passed.loss_function.root_product(f, rows, units.expand(len(f), -1, -1)).mT  # Q
        solved = torch.linalg.pinv(root) @ slope
        if float((root @ solved - slope).norm()) > 1e-6 * float(slope.norm()):
            return None, "loss: some sample's loss slopes where it has no curvature: no parabola fits it"
        found.append(solved[..., 0])
    return torch.cat(found).cpu().numpy(), ""


@dataclass(frozen=True, repr=False)
class Edge:
    """Where a network stands against the edges of stability, each a ratio that is 1 at the edge.

    A ratio above 1 of a necessary condition, or of ``exact``, says that SGD with this η and B leaves: near a
    minimum; elsewhere, that two runs with the same batches part. What is not defined is None, and ``reasons``
    says why.

    Attributes
    ----------
    exact : float or None
        η/η*(B), mean-square stability; None beyond the size of the exact operator.
    within : (float, float)
        What encloses η/η*: twice ``exact``, or the proven bounds of :func:`~.bracket.step_bracket`.
    descent : float
        ηλ₁(G)/2, full-batch gradient descent.
    trace, necessary : float
        The K-output trace rule, and the strongest of it, of spaces and of directions (:mod:`~.bounds`).
    bound : float or None
        η‖G‖_F √(μ/B) of W22 Theorem 3.3, with the μ of the present residuals and draws with replacement, as
        W22 Fig. 3b takes it; for the square loss.
    sharpness : Estimate or None
        η/2 times the batch sharpness, ⟨g_BᵀG_Bg_B/|g_B|²⟩ over batches (:func:`~.sharpness.batch_sharpness`).
    typical : Estimate or None
        η over the learning rate at which a typical run leaves (:func:`~.paths.typical_edge`); on request.
    reasons : dict
    """

    exact: float | None
    within: tuple[float, float]
    descent: float
    trace: float
    necessary: float
    bound: float | None = None
    sharpness: Estimate | None = None
    typical: Estimate | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def __repr__(self):
        low, high = (f"{value:.4g}" for value in self.within)
        shown = [f"exact {low if self.exact is not None else f'{low}…{high}'}"]
        for name in ("descent", "trace", "necessary", "bound", "sharpness", "typical"):
            value = getattr(self, name)
            shown += [] if value is None else [f"{name} {float(value):.4g}"]
        return f"<Edge, each 1 at the edge: {', '.join(shown)}>"


def compressed(here, directions: torch.Tensor) -> Minimum:
    """The linearised network, moved along the columns of ``directions`` (P, q) alone, at any n and C.

    The operators A and M of :mod:`flatmin.theory.stability.minimum` are quadratic forms, so what they give on
    the second moments within a subspace bounds what they give on all: its η* is never below η* of the whole,
    its ρ and its smallest batch never above. Everything is exact for all samples; memory n·C·q numbers.
    Raises ValueError for directions that are no (P, q) tensor or move no output, and for a loss without a
    positive semi-definite second derivative in the outputs.
    """
    directions = curvature.columns_of(here, "directions", directions)
    basis = torch.linalg.qr(directions.double())[0].T.to(here.device, here.dtype)
    passed, rows = here.passed, []
    step = max(1, _ENTRIES // passed.outputs.numel())
    for start in range(0, len(basis), step):
        moved = passed.output_derivatives(basis[start : start + step])  # (n, q, C)
        rows.append(passed.loss_function.root_transpose(passed.outputs, slice(None), moved).mT)
    return Minimum.from_gradients(torch.cat(rows, 2).double().cpu().numpy())


def edge(
    here, eta: float, batch_size: int, sampling: str = "fresh", *, typical: bool = False, seed: int = 0
) -> Edge:
    """Measure how near SGD with ``eta`` and ``batch_size`` is to the edge of stability at the point ``here``.

    Any number of outputs, and any loss with a positive semi-definite second derivative in them; the
    Gauss–Newton matrix takes the place of the Hessian.

    Parameters
    ----------
    here : Point
    eta, batch_size : float, int
        η and B of the run asked about.
    sampling : "fresh" or "replacement"
    typical : bool
        Whether to simulate for the typical edge too, which takes longer; not beyond the exact operator.
    seed : int
        Of what is drawn: the batches of the batch sharpness and of the typical edge.

    Returns
    -------
    Edge

    Raises
    ------
    ValueError
        As :func:`tangent`, for η ≤ 0, a batch size outside 1…n, and a loss that weighs or ignores labels.
    """
    eta = _check.number("eta", eta, above=0)
    _check.integer("batch_size", batch_size, least=1)
    _check.flag("typical", typical)
    here.loss_function.require_apart(here.data.targets, BATCHES)
    at, reasons = tangent(here), {}
    minimum, step = at.minimum, _largest_step(at.minimum, batch_size, sampling)
    if isinstance(step, Bracket):
        reasons["exact"] = f"data: {len(at.gram)} rows are too many for the exact operator; see within"
        within, necessary = (eta / step.upper, eta / step.lower), eta / step.upper
    else:
        within = eta / step, eta / step
        necessary = eta / bounds.necessary_step(minimum, batch_size, sampling)
    sharpness = bound = late = None
    if at.residuals is None or not np.any(at.residuals):
        reasons["sharpness"] = reasons["bound"] = at.reason or "data: fitted exactly, no gradient is left"
    else:
        found = batch_sharpness(minimum, at.residuals, batch_size, sampling, seed=seed)
        sharpness = found.scaled(eta / 2)
        if at.quadratic:
            bound = float(eta / bounds.theorem_3_3_step(minimum, batch_size, "replacement", at.mu))
        else:
            reasons["bound"] = "loss: W22 defines μ for the square loss, L = (1/n) Σ ½|f − y|²"
    if typical and isinstance(step, Bracket):
        reasons["typical"] = f"data: {len(at.gram)} rows are too many for the simulation"
    elif typical:
        found = paths.typical_edge(minimum, batch_size, sampling, seed=seed)
        late = found.inverse().scaled(eta)
    else:
        reasons["typical"] = "typical=False: not simulated"
    return Edge(
        exact=None if isinstance(step, Bracket) else within[0],
        within=within,
        descent=eta / bounds.gradient_descent_step(minimum),
        trace=eta / bounds.trace_necessary_step(minimum, batch_size, sampling),
        necessary=necessary,
        bound=bound,
        sharpness=sharpness,
        typical=late,
        reasons=reasons,
    )


def largest_step(here, batch_size: float, sampling: str = "fresh") -> float | Bracket:
    """η*, the largest mean-square stable learning rate at the point ``here``; see :func:`edge`.

    Returns a :class:`~.bracket.Bracket`, proven bounds on both sides, beyond the size of the exact operator
    (2500 rows n·C). Raises ValueError as :func:`tangent`, for a batch size out of range, and a loss that
    weighs or ignores labels.
    """
    here.loss_function.require_apart(here.data.targets, BATCHES)
    return _largest_step(tangent(here).minimum, batch_size, sampling)


def _largest_step(minimum, batch_size, sampling):
    minimum.factor(batch_size, sampling)
    if minimum.lazy or minimum.rank > threshold.MOST_RANK:
        return step_bracket(minimum, batch_size, sampling)
    return threshold.largest_step(minimum, batch_size, sampling)


@dataclass(frozen=True)
class Escape:
    """SGD from one network and from its linearisation, with the same batches, t = 0 … T.

    ``losses`` (R, T + 1): L of the network, ∞ once a run has diverged; ``linearised`` (R, T + 1): L of the
    linearised network, its loss to second order.
    """

    losses: np.ndarray
    linearised: np.ndarray


def escape_runs(
    here, eta: float, batch_size: int, steps: int = 20, trajectories: int = 200, seed: int = 0
) -> Escape:
    """Let ``trajectories`` runs of SGD go from the point ``here``, each with batches of its own (W22 Fig. 4).

    Every batch is drawn anew without replacement; run k takes the batches of ``seed`` + k. Raises ValueError
    as :func:`~flatmin.networks.train.train` and :func:`tangent`, and for a loss without a parabola.
    """
    seed = _check.integer("seed", seed, least=0, most=2**62)
    trajectories = _check.integer("trajectories", trajectories, least=1, most=MOST_STEPS)
    steps = _check.integer("steps", steps, least=1, most=MOST_STEPS)
    seeds = [seed + k for k in range(trajectories)]
    at = tangent(here)
    linearised = at.losses(eta, batch_size, steps, seeds)
    linearised += here.loss - at.half_square
    block = max(1, _ENTRIES // ((steps + 1) * here.parameters))
    how = {
        "eta": eta,
        "batch_size": batch_size,
        "steps": steps,
        "sampling": "fresh",
        "keep": range(steps + 1),
    }
    found = []
    for start in range(0, trajectories, block):
        model = here.network.module
        runs = train(model, here.loss_function, here.data, seed=seeds[start : start + block], **how)
        found.append(runs.losses(here.data))
    losses = np.concatenate(found)
    losses[np.isnan(losses)] = np.inf  # parameters still finite, outputs beyond the floating-point range
    return Escape(losses, linearised)
