"""The steps of a diagnosis: each measures a few lines, with a forecast of the seconds it takes.

Derivations that the papers do not have. *Momentum*: θ_{t+1} = θ_t − η∇L + m(θ_t − θ_{t−1}) on a parabola of
curvature λ has the characteristic polynomial z² − (1 + m − ηλ)z + m, whose roots leave the unit circle at
ηλ = 2(1 + m). *Weight decay* w adds wθ to every gradient, so that the distance of two runs on the same
batches obeys δ ← (1 − ηw − ηH_B)δ = (1 − ηw)(1 − η'H_B)δ with η' = η/(1 − ηw): it grows by (1 − ηw)² ρ(η')
a step, ρ that of :func:`~flatmin.theory.stability.threshold.growth`. *Drawn samples*: a fresh batch out
of m samples that were drawn of n is a fresh batch of the n, so the operator on the m is right on average; its
largest eigenvalue is not, and η* of few samples lies low.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq
from torch import nn

from flatmin.diagnosis import theories
from flatmin.diagnosis.lines import line_of
from flatmin.diagnosis.plan import Clock, Task
from flatmin.diagnosis.report import Line, finite
from flatmin.estimate import Estimate
from flatmin.ledger.decimals import approx
from flatmin.networks import curvature, gradient_noise, losses, sampled, stability
from flatmin.networks.point import Point
from flatmin.sampling import Sampling
from flatmin.theory.stability import paths, threshold

__all__ = ["Steps"]

#: bytes that Lanczos vectors, or the directions of a bound, may take; sharpest samples that give directions
_MEMORY, _SHARP = 2**30, 8
#: samples of the alignment, steps and trajectories of the typical edge
_ALIGNED, _PATHS = 256, (200, 32)
_NO_MOMENTUM = "derived for plain SGD: not defined with momentum"
_NO_DECAY = "derived without weight decay, which has no part in any sample's curvature"


class Steps:
    """What is measured at the point ``here``, as :func:`flatmin.diagnose` was asked (``how``) to."""

    def __init__(self, here, how: dict, of: int, clock: Clock, k: int, seed: int, timed, executor):
        self.here, self.how, self.of = here, how, of
        self.clock, self.k, self.seed = clock, k, seed
        self.product, self.single = timed
        self.executor, self.found, self._kept = executor, {}, {}
        self.eta, self.size = how["eta"], how["batch_size"]
        self.sampling = "replacement" if how["sampling"] == "replacement" else "fresh"
        self.rows = here.samples * here.passed.outputs.shape[1]
        size = here.parameters * torch.finfo(here.dtype).bits // 8
        self.most = max(8, _MEMORY // size)  # vectors of P numbers
        share = clock.share
        self.probes = share(0.15, self.product, 12, 100)
        self.batches = share(0.08, self._batch, 10, 100)
        self.nodes = share(0.2, 12 * self.product, 8, 40)
        self.affordable = min(share(0.35, self.product, 12, 5000), self.most)
        self.pairs_wanted = min(k, max(1, (self.affordable - 30) // 6))
        self.sharp = (_SHARP, _SHARP // 2, _SHARP // 4)[self._shortage]

    @property
    def _batch(self):
        """Seconds that one batch takes: its graph, gradient and product."""
        return 6 * self.product * (self.size or 1) / self.here.samples + 0.01

    def once(self, name: str, make):
        """What ``make`` returns, or the error that it raises: computed once."""
        if name not in self._kept:
            try:
                self._kept[name] = make()
            except (ValueError, RuntimeError, NotImplementedError) as error:
                self._kept[name] = error
        if isinstance(self._kept[name], Exception):
            raise self._kept[name]
        return self._kept[name]

    def put(self, name: str, estimate=None, reason: str = "", at=None) -> None:
        """Keep a number, or why there is none."""
        if estimate is not None and not finite(estimate):
            estimate, reason = None, "not finite"
        self.found[name] = (estimate, reason, at)

    def tried(self, name: str, make, at=None) -> None:
        """Keep what ``make`` returns, or the sentence of its ValueError."""
        try:
            self.put(name, make(), at=at)
        except ValueError as error:
            self.put(name, None, str(error))

    def failed(self, task: Task, why: str) -> None:
        """Keep why the lines of a task have no numbers."""
        for name in task.gives:
            self.found.setdefault(name, (None, why, None))

    def lines(self, names) -> tuple[Line, ...]:
        """The lines of these names, filled with what was found."""
        made = []
        for name in names:
            estimate, reason, at = self.found.get(name, (None, "not measured", None))
            line = line_of(name)
            made.append(Line(**{**vars(line), "estimate": estimate, "reason": reason, "at": at}))
        return tuple(made)

    def tasks(self, names: list[str]) -> list[Task]:
        """The tasks that give some of these names, and what theories need for them, in order of value."""
        made, wanted = [], {*names, *(need for name in names for need in theories.NEEDS.get(name, ()))}
        for name, run, forecast, gives in (*self._first(), *self._blocks(names), *self._last()):
            gives = tuple(gives.split() if isinstance(gives, str) else gives)
            if wanted.intersection(gives):
                made.append(Task(name, run, float(forecast), gives))
        return made

    def _first(self):
        """(name, function, forecast in seconds, names of lines) of what every network is asked."""
        t, n, single = self.product, self.here.samples, self.single
        leading = [f"lambda_{i}" for i in range(1, self.k + 1)]
        leading += [f"flatness_{name}" for name in ("Y26", "Y23", "Y22", "M22")]
        other_end, aligned = self._lanczos((55, 25, 12)[self._shortage]), min(n, _ALIGNED) / n
        trace = "trace_H frobenius trace_by_layer flatness_W22_frobenius flatness_W22_trace"
        decoupling = "decoupling_samples decoupling_outputs"
        return [
            ("loss", self._loss, 0.5 * t, "loss gradient_norm"),
            ("eigenvalues", self._eigenvalues, self._leading, [*leading, "descent_step", "descent"]),
            ("noise", self._noise, 2 * single, "noise_strength noise_scale signal"),
            ("gain", self._gain, 2 * t, "gain"),
            ("smallest eigenvalue", self._smallest, other_end, "lambda_min"),
            ("exact edge", self._exact, self._operator[0], "largest_step exact growth smallest_batch"),
            (
                "bound on the edge",
                self._bounded,
                2 * t * (self.pairs_wanted + self.sharp) + single,
                "step_bound necessary",
            ),
            ("trace", self._moments, t * self.probes, trace),
            ("Gauss-Newton", self._gauss_newton, 4 * single, "trace_G noise_ratio trace"),
            ("alignment", self._alignment, 2 * t + 12 * single * aligned, "alpha beta mu bound"),
            ("exponent", self._exponent, 4 * t * self.pairs_wanted, "exponent noise_along"),
            ("batch sharpness", self._sharpness, self.batches * self._batch, "batch_sharpness sharpness"),
            ("decoupling", self._decoupling, single * (self.rows // n + 2), decoupling),
        ]

    def _blocks(self, names):
        for layer in dict.fromkeys(name[:-1].split("[", 1)[1] for name in names if name.endswith("]")):
            gives = [f"lambda_1[{layer}]", f"flatness_Y26[{layer}]"]
            yield f"block of {layer}", lambda layer=layer: self._block(layer), self._leading, gives

    def _last(self):
        theory = "binding theory_Y22 theory_W22 theory_M22 theory_Y26"
        return [
            ("theories", lambda: theories.fill(self), 0.0, theory),
            ("density", self._density, 12 * self.nodes * self.product, "density"),
            ("typical edge", self._typical, self._operator[1], "typical"),
        ]

    @property
    def _leading(self):
        """Forecast of the leading eigenvalues."""
        return self._lanczos((30, 20, 10)[self._shortage] + (6, 6, 2)[self._shortage] * self.pairs_wanted)

    @property
    def _shortage(self) -> int:
        """How short of products the budget is: 0 (not), 1 (no proof of multiplicity), 2 (rough)."""
        return 0 if self.affordable >= 150 else 1 if self.affordable >= 50 else 2

    @property
    def _operator(self):
        """Forecasts of the exact edge and the typical one; 0 where they say at once that they cannot."""
        rank = min(self.rows, self.here.parameters)
        if self.rows > stability.MOST_ROWS or rank > threshold.MOST_RANK:
            return 0.0, 0.0
        exact = 6e-8 * self.rows * rank**2 * (8 if self.how["weight_decay"] else 1)
        exact += 2 * self.single * self.rows / self.here.samples  # rows of all outputs, in double precision
        batch = (self.size or 1) * self.rows / self.here.samples
        return exact, 2.5e-7 * _PATHS[0] * _PATHS[1] * batch * rank

    def _lanczos(self, products):
        """Forecast of a Lanczos chain: its products and the orthogonalisation."""
        return self.product * products + 4e-10 * self.here.parameters * products**2

    # what is shared

    @property
    def pairs(self):
        """Leading eigenpairs of the Hessian."""

        def make():
            return self._eigenpairs(self.pairs_wanted, "largest")

        return self.once("pairs", make)

    def _eigenpairs(self, k, which, layer=None):
        left = min(max(self.clock.left, 0.3 * self.clock.budget), 1e9)
        steps = int(min(5000, self.most, max(20, 0.7 * left / max(self.product, 1e-9))))
        if self._shortage:  # rather none than all the time there is
            steps = min(steps, 40 + 10 * k)
        how = {"tolerance": (1e-3, 1e-2, 0.1)[self._shortage], "missed": 1.0 if self._shortage else 0.01}
        how |= {"seed": self.seed}
        return self.here.eigenpairs(k, layer, which=which, steps=steps, **how)

    @property
    def strength(self):
        """𝒩 and what goes with it."""
        return self.once("strength", lambda: gradient_noise.noise_strength(self.here, 1000, self.executor))

    @property
    def minimum(self):
        """The linearised network, exact; ValueError where it is too large."""

        def make():
            rank = min(self.rows, self.here.parameters)
            if self.rows > stability.MOST_ROWS or rank > threshold.MOST_RANK:
                raise ValueError(f"{self.rows} rows n·C are too many for the exact operator; see the bound")
            return stability.tangent(self.here).minimum

        return self.once("minimum", make)

    @property
    def alignment(self):
        """α, β, μ, from some samples or exactly."""

        def make():
            if self.here.samples < sampled.FEWEST:
                raise ValueError(
                    f"{self.here.samples} samples are too few to pair: at least {sampled.FEWEST}"
                )
            apart = self.here.loss_function.apart(self.here.data.targets)
            m = min(self.here.samples, _ALIGNED) if apart else self.here.samples
            outputs = self.here.passed.outputs.shape[1]
            probes = outputs if m == self.here.samples and outputs <= 10 else 2
            return sampled.sampled_alignment(self.here, m, max(2, probes), self.seed)

        return self.once("alignment", make)

    def plain(self, decay: bool = False) -> None:
        """Raise ValueError with momentum, with weight ``decay`` unless that is allowed, for B > n, and for a
        loss whose batches are no means over samples."""
        self.here.loss_function.require_apart(self.here.data.targets, stability.BATCHES)
        if self.how["momentum"]:
            raise ValueError(_NO_MOMENTUM)
        if self.how["weight_decay"] and not decay:
            raise ValueError(_NO_DECAY)
        if self.sampling == "fresh":
            self._batch_fits()

    def _batch_fits(self):
        if self.size > self.here.samples:
            raise ValueError(f"B = {self.size} is more than the {self.here.samples} samples measured on")

    @property
    def square(self) -> bool:
        """Whether the loss is ½|f − y|², or nn.MSELoss, 2/C times that.

        Both give α, β, μ, ratios and bounds as the same functions of L, Σ and G."""
        given = self.here.loss_function.given
        return given == "square" or type(given) is nn.MSELoss

    # the steps

    def _loss(self):
        here, n = self.here, self.here.samples
        losses = here.passed.losses.double()
        spread = float(losses.std() / n**0.5) if n > 1 else 0.0
        self.put("loss", Estimate(here.loss, spread, n, "mean over these samples, as a draw"))
        square = float(here.passed.gradient().double().square().sum())
        self.put("gradient_norm", Estimate(square**0.5, 0.0, 0, "exact for these samples"))

    def _gain(self):
        passed, loss = self.here.passed, self.here.loss
        gradient = passed.gradient()
        bent = float(gradient.double() @ passed.hessian_product(gradient[None])[0].double())
        if not loss > 0:
            raise ValueError("the loss is not positive")
        if bent <= 0:
            raise ValueError("no curvature along the gradient: no best step")
        square = float(gradient.double().square().sum())
        self.put("gain", Estimate(square**2 / (2 * bent * loss), 0.0, 0, "exact, to second order"))

    def _eigenvalues(self):
        pairs = self.pairs
        values, errors, how = self._bounds_of(pairs)
        for index in range(1, self.k + 1):
            if index <= len(values):
                self.put(f"lambda_{index}", Estimate(values[index - 1], errors[index - 1], 0, how))
            else:
                self.put(f"lambda_{index}", None, f"the budget is enough for {len(values)}")
        for name in ("Y26", "Y23", "Y22", "M22"):
            if name in ("Y26", "Y23") and len(values) < self.k:
                self.put(f"flatness_{name}", None, f"{len(values)} of {self.k} eigenvalues are known")
            else:
                self.tried(f"flatness_{name}", lambda name=name: curvature.flatness_of(pairs, name))
        if self.eta is not None:
            self._descent(values[0], errors[0])
        if len(values) < self.k:
            return f"{len(values)} of {self.k} eigenvalues"

    def _bounds_of(self, pairs):
        """Eigenvalues, bounds on their errors (the residuals, and rounding), and how they were found."""
        values = pairs.values.double()
        floor = 10 * torch.finfo(self.here.dtype).eps * float(values.abs().max())
        errors = pairs.residuals.double().clamp(min=floor)
        how = f"Lanczos, ≈ {pairs.products} products" if pairs.products else "dense"
        return values.tolist(), errors.tolist(), f"{how}, error bound"

    def _descent(self, value, error):
        bent, reach = value + self.how["weight_decay"], 2 * (1 + self.how["momentum"])
        if bent <= 0:
            for name in ("descent_step", "descent"):
                self.put(name, None, "no positive curvature, no edge")
            return
        self.put("descent_step", Estimate(reach / bent, reach * error / bent**2, 0, "from λ₁"))
        self.put("descent", Estimate(self.eta * bent / reach, self.eta * error / reach, 0, "from λ₁"))

    def _noise(self):
        found = self.strength
        self.put("noise_strength", found)
        n, square = self.here.samples, found.gradient_square
        # the mean of |∇L|² over draws of n samples lies above that of all of them by this
        own = found.value * (1 / n - 1 / self.of) * n / max(n - 1, 1)
        if square <= 10 * own:
            why = (
                "the gradient vanishes" if not square else f"most of |∇L|² is the noise of these {n} samples"
            )
            self.put("noise_scale", None, why)
            self.put("signal", None, why)
            return
        how = "exact for these samples" + (f", {approx(100 * own / square, digits=1)} % low" if own else "")
        self.put("noise_scale", Estimate(found.value / square, 0.0, 0, how))

        def signal():
            noise = self._factor() * found.value
            if not noise > 0:
                raise ValueError("there is no noise (B = n, or samples all alike), or no B")
            return Estimate(square / noise, 0.0, 0, how.replace("low", "high"))

        self.tried("signal", signal)

    def _factor(self) -> float:
        """c = C/Σ for the whole data; 0 without B."""
        if self.size is None:
            return 0.0
        self.here.loss_function.require_apart(self.here.data.targets, stability.BATCHES)
        return Sampling.of(self.sampling).factor(max(self.of, self.size), self.size)

    def _smallest(self):
        values, errors, how = self._bounds_of(self._eigenpairs(1, "smallest"))
        self.put("lambda_min", Estimate(values[0], errors[0], 0, how))

    def _exact(self):
        self.plain(decay=True)
        minimum, eta, decay = self.minimum, self.eta, self.how["weight_decay"]
        how = "exact operator of the linearised network"

        def growth(step):
            left = 1 - step * decay
            return left**2 * threshold.growth(minimum, step / left, self.size, self.sampling)

        if decay * eta >= 1:
            raise ValueError(f"η × weight decay = {decay * eta:.3g}: must be below 1 for the edge")
        self.put("growth", Estimate(growth(eta), 0.0, 0, how))
        if decay:
            top = 2 / (minimum.sharpness + decay) * (1 - 1e-9)
            step = top if growth(top) <= 1 else brentq(lambda s: growth(s) - 1, 1e-3 * top, top, rtol=1e-6)
            self.put("smallest_batch", None, "with weight decay not derived; see growth at other B")
        else:
            step = threshold.largest_step(minimum, self.size, self.sampling)
            batch = threshold.smallest_batch(minimum, eta, self.sampling)
            if np.isfinite(batch):
                self.put("smallest_batch", Estimate(batch, 0.0, 0, how))
            else:
                edge = approx(2 / minimum.sharpness, digits=4)
                self.put("smallest_batch", None, f"none is: η is above 2/λ₁(G) {edge}")
        self.put("largest_step", Estimate(float(step), 0.0, 0, how))
        self.put("exact", Estimate(eta / float(step), 0.0, 0, how))

    def _bounded(self):
        self.plain()
        vectors = [self.pairs.vectors, *self._sharp_directions()]
        directions = torch.cat(vectors, 1)
        minimum = stability.compressed(self.here, directions)
        step = threshold.largest_step(minimum, self.size, self.sampling)
        how = f"exact operator on {directions.shape[1]} directions, all {self.here.samples} samples"
        self.put("step_bound", Estimate(step, 0.0, 0, how))
        self.put("necessary", Estimate(self.eta / step, 0.0, 0, how))

    def _sharp_directions(self):
        """Of the samples with the most curvature, the direction in which each has most, (P, 1) each."""
        here, outputs = self.here, self.here.passed.outputs
        count = min(self.sharp, here.samples, _MEMORY // (8 * here.parameters * outputs.shape[1]))
        signs = curvature.signs_like(outputs, outputs.shape, torch.Generator("cpu").manual_seed(self.seed))
        tops = here.passed.loss_function.root_product(outputs, slice(None), signs[:, None])[:, 0]
        for row in here.passed.pulled_squares(tops).argsort(descending=True)[:count].tolist():
            roots = here.passed.sample_roots(slice(row, row + 1))[0]
            if roots.any():
                most = torch.linalg.eigh((roots @ roots.T).double())[1][:, -1]
                yield (most.to(roots) @ roots)[:, None].cpu()

    def _moments(self):
        trace, norm, layers = curvature.moments(self.here, self.probes, self.seed + 1)
        self.put("trace_H", trace)
        self.put("frobenius", norm)
        self.put("trace_by_layer", layers, at=self.here.names)
        for name, found in (("trace", trace), ("frobenius", norm)):
            if found.value > 0:
                self.put(f"flatness_W22_{name}", found.inverse())
            else:
                self.put(f"flatness_W22_{name}", None, f"the {name} is {found.value:.3g}: not positive")

    def _gauss_newton(self):
        outputs = self.here.passed.outputs.shape[1]
        found = curvature.gauss_newton_trace(self.here, 10 if outputs <= 10 else 2, self.seed + 2)
        self.put("trace_G", found)
        if not self.square:
            self.put("noise_ratio", None, "derived for the square loss, L = (1/n) Σ ½|f − y|²")
        elif found.value * self.here.loss > 0:
            noise = self.strength
            ratio = outputs * noise.value / (2 * self.here.loss * found.value)
            error = ratio * found.error / found.value
            self.put("noise_ratio", Estimate(ratio, error, found.n, "𝒩, L exact for these samples"))
        else:
            self.put("noise_ratio", None, "the loss or Tr G vanishes")
        if self.eta is None:
            return
        half = self.eta / (2 * outputs)
        self.tried("trace", lambda: self.plain() or found.scaled(half * self._factor()))

    def _alignment(self):
        found = self.alignment
        for name in ("alpha", "beta", "mu"):
            self.put(name, getattr(found, name))
        if self.eta is None:
            return
        if not self.square:
            self.put("bound", None, "W22 defines μ for the square loss")
        else:
            self.tried("bound", lambda: self.plain() or found.bound(self.eta, self.size))

    def _exponent(self):
        pairs, here = self.pairs, self.here
        found, values = gradient_noise.along(here, pairs.vectors), pairs.values.double().numpy()
        self.tried("noise_along", lambda: found.scaled(self._factor() or 1.0), at=tuple(values.tolist()))
        window = max(1e-2, float(values[-1] / values[0]) * (1 - 1e-9))
        if len(values) < 3 or not 0 < window < 1:
            raise ValueError(f"{len(values)} eigenvalues are too few for a slope, or all are equal")
        self.put("exponent", gradient_noise.exponent(here, window, seed=self.seed, pairs=pairs))

    def _sharpness(self):
        self._batch_fits()
        found = self.here.batch_sharpness(self.size, self.batches, self.seed + 3, self.how["sampling"])
        self.put("batch_sharpness", found)
        self.tried("sharpness", lambda: self.plain() or found.scaled(self.eta / 2))

    def _decoupling(self):
        if not self.square:
            raise ValueError("derived for the square loss, L = (1/n) Σ ½|f − y|²")
        here, square = self.here, losses.of("square")  # the ratios of nn.MSELoss are those of ½|f − y|²
        found = gradient_noise.decoupling_factors(Point(here.network, square, here.data, here.chunk))
        for name in ("samples", "outputs"):
            self.put(f"decoupling_{name}", Estimate(getattr(found, name), 0.0, 0, "exact for these samples"))

    def _block(self, layer):
        block = self.here.block(layer)
        pairs = self._eigenpairs(min(self.k, block.stop - block.start), "largest", layer)
        values, errors, how = self._bounds_of(pairs)
        self.put(f"lambda_1[{layer}]", Estimate(values[0], errors[0], 0, how))
        self.tried(f"flatness_Y26[{layer}]", lambda: curvature.flatness_of(pairs, "Y26"))

    def _density(self):
        found = curvature.spectral_density(self.here, min(self.nodes, self.most), 12, self.seed + 4)
        low, high = float(found.nodes.min()), float(found.nodes.max())
        width = (high - low) / 60 or 1.0
        grid = np.linspace(low - 2 * width, high + 2 * width, 65)
        self.put("density", found.on(grid, width), at=tuple(grid.tolist()))

    def _typical(self):
        self.plain()
        steps, runs = _PATHS
        found = paths.typical_edge(
            self.minimum, self.size, self.sampling, steps=steps, trajectories=runs, seed=self.seed + 5
        )
        self.put("typical", found.inverse().scaled(self.eta))
