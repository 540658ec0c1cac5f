"""The steps of a diagnosis: each measures a few lines, with a forecast of the seconds it takes.

Derivations that the papers do not have. *Momentum*: θ_{t+1} = θ_t − η∇L + m(θ_t − θ_{t−1}) on a parabola of
curvature λ has the characteristic polynomial z² − (1 + m − ηλ)z + m, whose roots leave the unit circle at
ηλ = 2(1 + m). *Weight decay* w adds wθ to every gradient, so that the distance of two runs on the same
batches obeys δ ← (1 − ηw − ηH_B)δ = (1 − ηw)(1 − η'H_B)δ with η' = η/(1 − ηw): it grows by (1 − ηw)² ρ(η')
a step, ρ that of :func:`~flatmin.theory.stability.threshold.growth`. *Drawn samples*: a fresh batch out
of m samples that were drawn of n is a fresh batch of the n, so the operator on the m is right on average; its
largest eigenvalue is not, and η* of few samples lies low. What the draw leaves open: :mod:`.draws`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.optimize import brentq
from torch import nn

from flatmin.diagnosis import draws, theories
from flatmin.diagnosis.lines import line_of
from flatmin.diagnosis.plan import Clock, Task
from flatmin.diagnosis.report import Line, finite
from flatmin.estimate import Estimate
from flatmin.ledger.decimals import approx
from flatmin.networks import curvature, gradient_noise, losses, sampled, stability
from flatmin.networks.eigen import Eigenpairs
from flatmin.networks.point import Point
from flatmin.sampling import Sampling
from flatmin.theory.stability import paths, threshold

__all__ = ["Steps"]

#: bytes that Lanczos vectors, or the directions of a bound, may take; sharpest samples that give directions
_MEMORY, _SHARP = 2**30, 8
#: samples of the alignment, steps and trajectories of the typical edge
_ALIGNED, _PATHS = 256, (200, 32)
_EXACT, _CORRECTED = "exact for these samples", "less the noise of these samples"
_NO_MOMENTUM = "derived for plain SGD: not defined with momentum"
_WIDER = "take dtype='float64', or smaller weights and inputs"
_NO_DECAY = "derived without weight decay, which has no part in any sample's curvature"


def _flat(pairs, name):
    """Flatness by eigenvalues; ValueError with a sentence for a report."""
    values = pairs.values[: 1 if name in ("Y22", "M22") else None].tolist()
    above = (pairs.values > pairs.residuals)[: len(values)].tolist()
    if not all(above):
        few = above.index(False)
        remedy = (
            f"; k={few} takes the positive ones alone" if few else ": whether this is a minimum is not known"
        )
        raise ValueError(f"λ_{few + 1} = {values[few]:.3g} is not above 0 by more than its error{remedy}")
    return curvature.flatness_of(pairs, name)


class Steps:
    """What is measured at the point ``here``, as :func:`flatmin.diagnose` was asked (``how``) to."""

    def __init__(self, here, how: dict, of: int, clock: Clock, k: int, seed: int, timed, executor):
        self.here, self.how, self.of = here, how, of
        self.clock, self.k, self.seed = clock, k, seed
        self.product, self.single = timed
        self.executor, self.found, self._kept = executor, {}, {}
        self.eta, self.size = how["eta"], how["batch_size"]
        self.sampling = "replacement" if how["sampling"] == "replacement" else "fresh"
        if executor is not None and here.loss_function.apart(here.data.targets):
            here.passed.mapped = gradient_noise.map_of(executor)
        self.rows = here.samples * here.passed.outputs.shape[1]
        size = here.parameters * torch.finfo(here.dtype).bits // 8
        self.most = max(8, _MEMORY // size)  # vectors of P numbers
        share = clock.share
        self.probes = share(0.15, self.product, 12, 100)
        outputs = here.passed.outputs.shape[1]
        self.columns = outputs if outputs <= share(0.1, self.single, 2, 10) else 2  # for Tr G
        self.batches = share(0.08, self._batch, 10, 100)
        self.nodes = share(0.2, 12 * self.product, 8, 40)
        self.affordable = min(share(0.35, self.product, 12, 5000), self.most)
        self.pairs_wanted = min(k, max(1, (self.affordable - 30) // 6))
        self.sharp = (_SHARP, _SHARP // 2, _SHARP // 4)[self._shortage]
        apart = here.loss_function.apart(here.data.targets) and here.samples > 1
        self.draw = draws.Draw(here, of, seed + 6) if here.samples < of and apart else None

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
            estimate, reason = None, f"not finite in {str(self.here.dtype).removeprefix('torch.')}: {_WIDER}"
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
        for name, run, forecast, gives in (*self._first(wanted), *self._blocks(names), *self._last()):
            gives = tuple(gives.split() if isinstance(gives, str) else gives)
            if wanted.intersection(gives):
                made.append(Task(name, run, float(forecast), gives))
        return made

    def _first(self, wanted):
        """(name, function, forecast in seconds, names of lines) of what every network is asked."""
        t, n, single = self.product, self.here.samples, self.single
        leading = [f"lambda_{i}" for i in range(1, self.k + 1)]
        leading += [f"flatness_{name}" for name in ("Y26", "Y23", "Y22", "M22")]
        other_end, aligned = self._lanczos((55, 25, 12)[self._shortage]), min(n, _ALIGNED) / n
        trace = "trace_H frobenius trace_by_layer flatness_W22_frobenius flatness_W22_trace"
        normed = bool(self.draw or wanted & {"frobenius", "flatness_W22_frobenius"})
        decoupling = "decoupling_samples decoupling_outputs"
        norm, more = ["gradient_norm"], 1 if self.draw else 0  # of drawn samples it takes the noise
        return [
            ("loss", self._loss, 0.5 * t, ["loss", *norm[: 1 - more]]),
            ("eigenvalues", self._eigenvalues, self._leading, [*leading, "descent_step", "descent"]),
            (
                "noise",
                self._noise,
                2 * single,
                ["noise_strength", "noise_scale", "signal", *norm[1 - more :]],
            ),
            ("gain", self._gain, 2 * t * (1 + more), "gain"),
            ("smallest eigenvalue", self._smallest, other_end, "lambda_min"),
            ("exact edge", self._exact, self._operator[0], "largest_step exact growth smallest_batch"),
            (
                "bound on the edge",
                self._bounded,
                2 * t * (self.pairs_wanted + self.sharp) + single,
                "step_bound necessary",
            ),
            ("trace", partial(self._moments, normed), t * (self.probes + 2 * draws.PROBES * more), trace),
            ("Gauss-Newton", self._gauss_newton, (2 + self.columns) * single, "trace_G noise_ratio trace"),
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
        each = (6, 6, 2)[self._shortage] + (1 if self.draw else 0)
        return self._lanczos((30, 20, 10)[self._shortage] + each * self.pairs_wanted)

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
        exact = 6e-8 * self.rows * rank**2 * (8 if self.how["weight_decay"] else 1) * (3 if self.draw else 1)
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
            self._curved()
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
            of = self.of if self.draw else None
            return sampled.sampled_alignment(self.here, m, max(2, probes), self.seed, of)

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

    def _curved(self):
        """Raise ValueError where the loss has no curvature in the outputs."""
        passed = self.here.passed
        generator = torch.Generator("cpu").manual_seed(self.seed)
        tops = torch.randn(passed.outputs.shape, generator=generator).to(passed.outputs)[:, None]
        if not passed.loss_function.root_product(passed.outputs, slice(None), tops).any():
            raise ValueError("the loss has no curvature in the outputs: G = 0, and no linear edge")

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
        if not self.draw:
            square = float(here.passed.gradient().double().square().sum())
            self.put("gradient_norm", Estimate(square**0.5, 0.0, 0, _EXACT))

    def _square(self):
        """|∇L|² and its error; of drawn samples without what their own noise adds, (0, 0) where that is a
        tenth or more."""
        found, n = self.strength, self.here.samples
        square = found.gradient_square
        # the mean of |∇L|² over draws of n samples lies above that of all of them by this
        own = found.value * (1 / n - 1 / self.of) * n / max(n - 1, 1)
        if not square > 10 * own:
            return 0.0, 0.0
        return square - own, self._spread(2 * found.slopes)

    def _spread(self, shares) -> float:
        """Standard error of the mean of each sample's ``shares``, as a draw; 0 where all were taken."""
        return self.draw.spread(shares) if self.draw else 0.0

    def _gain(self):
        passed, loss = self.here.passed, self.here.loss
        gradient = passed.gradient()
        product = passed.hessian_product(gradient[None])[0]
        bent = float(gradient.double() @ product.double())
        if not loss > 0:
            raise ValueError("the loss is not positive")
        if bent <= 0:
            raise ValueError("no curvature along the gradient: no best step")
        square = float(gradient.double().square().sum())
        value, error = square**2 / (2 * bent * loss), 0.0
        if self.draw:
            if not self._square()[0]:
                raise ValueError(f"most of |∇L|² is the noise of these {self.here.samples} samples")
            along = 4 * gradient / square - 2 * product / bent  # of the logarithm, in the gradient
            shares = []
            for part in (point.passed for point in self.draw.points()):
                curved = gradient @ part.hessian_product(gradient[None])[0]
                shares.append(float(along @ part.gradient() - curved / bent) - part.loss / loss)
            without = self.draw.without(np.mean(shares), np.array(shares))
            error = value * float(self.draw.jackknife(np.mean(shares), without)[1])
        self.put("gain", Estimate(value, error, 0, "exact for these samples, to second order"))

    def _eigenvalues(self):
        pairs = self.pairs
        values, errors, how, flat = self._bounds_of(pairs)
        for index in range(1, self.k + 1):
            if index <= len(values):
                self.put(f"lambda_{index}", Estimate(values[index - 1], errors[index - 1], 0, how))
            else:
                self.put(f"lambda_{index}", None, f"the budget is enough for {len(values)}")
        for name in ("Y26", "Y23", "Y22", "M22"):
            if name in ("Y26", "Y23") and len(values) < self.k:
                self.put(f"flatness_{name}", None, f"{len(values)} of {self.k} eigenvalues are known")
            else:
                self.tried(f"flatness_{name}", lambda name=name: flat(name))
        if self.eta is not None:
            self._descent(values[0], errors[0])
        if len(values) < self.k:
            return f"{len(values)} of {self.k} eigenvalues"

    def _bounds_of(self, pairs, block=slice(None)):
        """Eigenvalues, their errors (bounds from the residuals, rounding and the draw), how they were found,
        and the function of a name that gives flatness."""
        values = pairs.values.double()
        floor = 10 * torch.finfo(self.here.dtype).eps * float(values.abs().max())
        errors = pairs.residuals.double().clamp(min=floor).numpy()
        values, how = values.numpy(), f"Lanczos, ≈ {pairs.products} products" if pairs.products else "dense"
        if not self.draw or not values.all():
            how = f"{how}, error bound"
            return values.tolist(), errors.tolist(), how, lambda name: _flat(pairs, name)
        parts, bias = self.draw.eigenvalues(values, pairs.vectors, block)
        without, bounds = self.draw.without(values, parts), torch.from_numpy(errors)
        errors = torch.from_numpy(np.hypot(errors, self.draw.jackknife(values, without)[1]))
        freed = torch.from_numpy(values - bias)
        known, moved = (Eigenpairs(freed, pairs.vectors, each, pairs.products) for each in (bounds, errors))

        def flat(name):
            _flat(moved, name)  # refuses what is not known to be positive
            found = curvature.flatness_of(known, name)
            count = 1 if name in ("Y22", "M22") else len(values)
            logs = without[:, :count] / values[:count]
            power = 1.0 if name in ("Y26", "M22") else 0.5
            drawn = power * found.value * float(self.draw.jackknife(logs.mean(), logs.mean(1))[1])
            return Estimate(found.value, float(np.hypot(found.error, drawn)), 0, found.method)

        share = approx(100 * float(bias[0] / values[0]), digits=1)
        how = f"{how}; less {share} %, the bias of the draw, at least"
        return freed.tolist(), errors.tolist(), how, flat

    def _descent(self, value, error):
        bent, reach = value + self.how["weight_decay"], 2 * (1 + self.how["momentum"])
        if bent <= 0:
            for name in ("descent_step", "descent"):
                self.put(name, None, "no positive curvature, no edge")
            return
        self.put("descent_step", Estimate(reach / bent, reach * error / bent**2, 0, "from λ₁"))
        self.put("descent", Estimate(self.eta * bent / reach, self.eta * error / reach, 0, "from λ₁"))

    def _noise(self):
        if self.here.samples < 2:
            raise ValueError("one sample has no scatter: noise needs two")
        found = self.strength
        self.put("noise_strength", found)
        square, error = self._square()
        if self.draw:
            n, shown = self.here.samples, approx(found.gradient_square**0.5, digits=2)
            why = f"at most {shown}, its size here: most of that is the noise of these {n} samples"
            norm = Estimate(square**0.5, error / (2 * square**0.5), n, _CORRECTED) if square else None
            self.put("gradient_norm", norm, why)
        if not square:
            many = f"most of |∇L|² is the noise of these {self.here.samples} samples"
            why = many if found.gradient_square else "the gradient vanishes"
            self.put("noise_scale", None, why)
            self.put("signal", None, why)
            return
        ratio, how = found.value / square, _CORRECTED if self.draw else _EXACT
        if self.draw:
            shares = (found.squares - 2 * found.slopes) / found.value - 2 * found.slopes / square
            error = ratio * self._spread(shares)
        scale = Estimate(ratio, error, self.here.samples if self.draw else 0, how)
        self.put("noise_scale", scale)

        def signal():
            noise = self._factor() * scale.value
            if not noise > 0:
                raise ValueError("there is no noise (B = n, or samples all alike), or no B")
            return Estimate(1 / noise, scale.error / (scale.value * noise), scale.n, how)

        self.tried("signal", signal)

    def _factor(self) -> float:
        """c = C/Σ for the whole data; 0 without B."""
        if self.size is None:
            return 0.0
        self.here.loss_function.require_apart(self.here.data.targets, stability.BATCHES)
        return Sampling.of(self.sampling).factor(max(self.of, self.size), self.size)

    def _smallest(self):
        pairs = self._eigenpairs(1, "smallest")
        values, errors, how, _ = self._bounds_of(pairs)
        bias = float(pairs.values[0]) - values[0]  # larger than known: a fit to few samples is flat
        self.put("lambda_min", Estimate(values[0], float(np.hypot(errors[0], bias)), 0, how))

    def _exact(self):
        self.plain(decay=True)
        minimum, eta, decay = self.minimum, self.eta, self.how["weight_decay"]
        how = exact = "exact operator of the linearised network"

        def growth(step):
            left = 1 - step * decay
            return left**2 * threshold.growth(minimum, step / left, self.size, self.sampling)

        if decay * eta >= 1:
            raise ValueError(f"η × weight decay = {decay * eta:.3g}: must be below 1 for the edge")
        if decay:
            top = 2 / (minimum.sharpness + decay) * (1 - 1e-9)
            step = top if growth(top) <= 1 else brentq(lambda s: growth(s) - 1, 1e-3 * top, top, rtol=1e-6)
        else:
            step = threshold.largest_step(minimum, self.size, self.sampling)
        found = self._drawn_step(minimum, float(step), how)
        self.put("largest_step", found)
        self.put("exact", found.inverse().scaled(eta))
        rho = growth(eta)
        if self.draw and rho <= 1:  # its error would be as small as 1 − ρ, whatever the other samples do
            slow = f"ρ ≤ 1 on the {found.n} drawn samples, in a slow direction that few samples know badly"
            self.put("growth", None, f"{slow}: see η/η*, or take all samples")
        else:
            self.put("growth", Estimate(rho, self._growth_error(minimum), found.n, how))
        if decay:
            self.put(
                "smallest_batch", None, "not derived with weight decay; the line 'growth' of other B tells it"
            )
            return
        batch = threshold.smallest_batch(minimum, eta, self.sampling)
        if np.isfinite(batch):
            error = self._batch_error(minimum, batch)
            self.put("smallest_batch", Estimate(batch, error, found.n if error else 0, exact))
        else:
            edge = approx(2 / minimum.sharpness, digits=4)
            self.put("smallest_batch", None, f"none is: η is above 2/λ₁(G) {edge}")

    def _drawn_step(self, minimum, step: float, how: str) -> Estimate:
        """η* with the error of the draw, freed of its bias; with weight decay as for the edge without."""
        if not self.draw:
            return Estimate(step, 0.0, 0, how)

        def edge(of):
            return threshold.largest_step(of, self.size, self.sampling)

        mode = threshold.leading_mode(minimum, None, self.size, self.sampling)
        a, b, _ = draws.influences(minimum, mode.moment, self._factor())
        error = step * mode.eta * self._spread((b - a / mode.eta) / a.mean())
        low = self.draw.rest * draws.lowered(minimum, edge, self.size, self.seed + 7) / mode.eta
        if not low > 0:  # B is more than a half of the samples, or there is none to be seen
            return Estimate(step, error, self.here.samples, f"{how}; η* with the bias of a draw")
        how = f"{how}; η* plus {approx(100 * low, digits=1)} %, as halves are lower"
        return Estimate(step * (1 + low), error * (1 + low), self.here.samples, how)

    def _growth_error(self, minimum) -> float:
        if not self.draw:
            return 0.0
        left = 1 - self.eta * self.how["weight_decay"]
        step = self.eta / left
        moment = threshold.leading_mode(minimum, step, self.size, self.sampling).moment
        a, b, _ = draws.influences(minimum, moment / np.linalg.norm(moment), self._factor())
        return left**2 * self._spread(step**2 * b - step * a)

    def _batch_error(self, minimum, batch) -> float:
        """B* follows c* with dρ = 0, ∂ρ/∂c = η²⟨Tr(SG_iSG_i) − Tr(SGSG)⟩."""
        if not self.draw or batch <= 1:
            return 0.0
        mode = threshold.leading_mode(minimum, None, batch, self.sampling)  # η* there is η
        a, b, more = draws.influences(minimum, mode.moment, minimum.factor(batch, self.sampling))
        moved = self._spread(self.eta * b - a) / (self.eta * more.mean())
        return abs(moved) * batch**2  # |dB/dc| of c = 1/B, and a little more than that of fresh batches

    def _bounded(self):
        self.plain()
        self._curved()
        vectors = [self.pairs.vectors, *self._sharp_directions()]
        directions = torch.cat(vectors, 1)
        minimum = stability.compressed(self.here, directions)
        step = threshold.largest_step(minimum, self.size, self.sampling)
        how = f"exact operator on {directions.shape[1]} directions, all {self.here.samples} samples"
        found = self._drawn_step(minimum, step, how)
        self.put("step_bound", found)
        self.put("necessary", found.inverse().scaled(self.eta))

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

    def _moments(self, normed):
        """Tr H by blocks; ‖H‖_F too unless it is not ``normed`` and would take products of its own."""
        trace, norm, layers = curvature.moments(self.here, self.probes, self.seed + 1, normed)
        if self.draw:
            trace, norm, layers = self._with_draw(trace, norm, layers)
        self.put("trace_H", trace)
        self.put("trace_by_layer", layers, at=self.here.names)
        flat = [("trace", "Tr H", trace)]
        if norm is not None:
            self.put("frobenius", norm)
            flat.append(("frobenius", "‖H‖_F", norm))
        for name, symbol, found in flat:
            why = f"{symbol} {approx(found.value, digits=2)} is not positive: its inverse is no flatness"
            if not np.isfinite(found.value):
                why = f"{symbol} is not finite: {_WIDER}"
            self.put(f"flatness_W22_{name}", found.inverse() if found.value > 0 else None, why)

    def _with_draw(self, trace, norm, layers):
        """The moments with the error of the draw; from the norm what it adds on average is taken off."""
        parts, squares, shrink = self.draw.moments(self.probes, self.seed + 1)
        if not np.any(layers.error):  # exact, so without signs
            parts = np.array([self._diagonal(point) for point in self.draw.points()])
        without = self.draw.without(parts.mean(0), parts)
        ones = self.draw.jackknife(parts.mean(0), without)[1]
        whole = self.draw.jackknife(parts.mean(0).sum(), without.sum(1))[1]
        bias, spread = self.draw.jackknife(1.0, squares)
        spread = spread * shrink
        share = max(1 - float(bias), 1e-2)
        error = np.hypot(norm.error, norm.value * float(spread) / 2) / share**0.5
        how = f"{norm.method}; less {approx(100 * (1 - share**0.5), digits=1)} %, what the draw adds"
        return (
            replace(trace, error=float(np.hypot(trace.error, whole))),
            Estimate(norm.value * share**0.5, float(error), norm.n, how),
            replace(layers, error=np.hypot(layers.error, ones)),
        )

    def _diagonal(self, point):
        found = curvature.diagonal(point).value
        return [found[point.block(name)].sum() for name in point.names]

    def _gauss_newton(self):
        here, outputs, seed = self.here, self.here.passed.outputs.shape[1], self.seed + 2
        shares = curvature.gauss_newton_shares(here, self.columns, seed)
        found, shares = curvature.mean_of_shares(shares, outputs), shares.mean(0).numpy()
        kept = here.samples / self.of if self.draw else 1.0  # of the error by signs
        signs = kept**0.5 * found.error
        found = replace(found, error=float(np.hypot(signs, self._spread(shares))))
        self.put("trace_G", found)
        if not self.square:
            self.put("noise_ratio", None, "derived for the square loss, L = (1/n) Σ ½|f − y|²")
        elif found.value * self.here.loss > 0:
            noise = self.strength
            ratio = outputs * noise.value / (2 * self.here.loss * found.value)
            error = signs / found.value
            if self.draw:
                losses = here.passed.losses.double().cpu().numpy() / here.loss
                each = (noise.squares - 2 * noise.slopes) / noise.value - losses - shares / found.value
                error = np.hypot(error, self._spread(each))
            how = "𝒩, L exact for these samples"
            self.put("noise_ratio", Estimate(ratio, float(ratio * error), found.n, how))
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
        if self.draw:
            found = replace(found, method="along the eigenvectors of these samples")
        self.tried("noise_along", lambda: found.scaled(self._factor() or 1.0), at=tuple(values.tolist()))
        window = max(1e-2, float(values[-1] / values[0]) * (1 - 1e-9)) if values[0] > 0 else 1.0
        kept = values[values >= window * values[0]]
        if len(kept) < 3 or not window < 1 or kept[-1] > 0.99 * kept[0]:
            many = f"k = {len(values)} leading eigenvalues hold {len(kept)} between λ₁/100 and λ₁"
            raise ValueError(
                f"{many}: a slope needs three, positive and not all equal; ask for a larger k or budget"
            )
        self.put("exponent", gradient_noise.exponent(here, window, seed=self.seed, pairs=pairs))

    def _sharpness(self):
        self._batch_fits()
        found = self.here.batch_sharpness(self.size, self.batches, self.seed + 3, self.how["sampling"])
        if self.draw:  # batches share samples: of their scatter, at most this part is not averaged out
            shared = self.draw.rest * found.n * self.size / self.here.samples
            how = f"{found.method}; error with the draw at most"
            found = replace(found, error=found.error * (1 + shared) ** 0.5, method=how)
        self.put("batch_sharpness", found)
        self.tried("sharpness", lambda: self.plain() or found.scaled(self.eta / 2))

    def _decoupling(self):
        if not self.square:
            raise ValueError("derived for the square loss, L = (1/n) Σ ½|f − y|²")
        here, square = self.here, losses.of("square")  # the ratios of nn.MSELoss are those of ½|f − y|²
        found = gradient_noise.decoupling_factors(Point(here.network, square, here.data, here.chunk))
        for name, error in zip(("samples", "outputs"), found.errors, strict=True):
            error = error * self.draw.rest**0.5 if self.draw else 0.0
            self.put(f"decoupling_{name}", Estimate(getattr(found, name), error, 0, _EXACT))

    def _block(self, layer):
        block = self.here.block(layer)
        pairs = self._eigenpairs(min(self.k, block.stop - block.start), "largest", layer)
        values, errors, how, flat = self._bounds_of(pairs, block)
        self.put(f"lambda_1[{layer}]", Estimate(values[0], errors[0], 0, how))
        self.tried(f"flatness_Y26[{layer}]", lambda: flat("Y26"))

    def _density(self):
        found = curvature.spectral_density(self.here, min(self.nodes, self.most), 12, self.seed + 4)
        low, high = float(found.nodes.min()), float(found.nodes.max())
        width = (high - low) / 60 or 1.0
        grid = np.linspace(low - 2 * width, high + 2 * width, 65)
        found = found.on(grid, width)
        how = f"{found.method}; without the draw" if self.draw else found.method
        self.put("density", replace(found, method=how), at=tuple(grid.tolist()))

    def _typical(self):
        self.plain()
        steps, runs = _PATHS
        given = {"steps": steps, "trajectories": runs, "seed": self.seed + 5}
        try:
            found = paths.typical_edge(self.minimum, self.size, self.sampling, **given)
        except ValueError as error:
            why = f"paths of {steps} steps have not found their rate"
            raise ValueError(why if str(error).startswith("steps=") else str(error)) from error
        how = f"{found.method}; without the draw" if self.draw else found.method
        self.put("typical", replace(found.inverse().scaled(self.eta), method=how))
