"""The explorers: what each moves, its parameters with their ranges, and its formulas from the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from flatmin import _check
from flatmin.explorers.formulas import exponential_source, function_source, step_source
from flatmin.ledger.plots import COLOURS
from flatmin.ledger.widgets import Choice, Slider, choice, log_slider
from flatmin.theory.continuum.critical import critical_law
from flatmin.theory.continuum.fokker_planck import DELTA_S
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.noise import ETA, HessianAligned, RandomShift
from flatmin.theory.sgd.rng import stream_key
from flatmin.theory.two_valleys.ensemble import START_X
from flatmin.theory.two_valleys.landscape import PAPER, barrier, flatness, path_drift, position, two_valleys
from flatmin.theory.valleys.high_dimensional import high_dimensional_valley
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

__all__ = ["EXPLORERS", "SEED", "Explorer", "Points", "is_whole"]

#: of every run in the page
SEED = 1
#: where the gradients of the stability explorer start
_GRADIENTS = (1.6, 0.3, 0.3, 0.9, -0.5, 0.6, -0.8, -0.2, 0.3, -0.7, 0.6, 0.4)


@dataclass(frozen=True)
class Points:
    """Points of the plane that the reader drags, in steps of ``step``; ``value`` holds each one's x and y."""

    low: float
    high: float
    step: float
    value: tuple[float, ...]


@dataclass(frozen=True)
class Explorer:
    """One explorer: ``about`` says what it shows, ``controls`` what the reader moves.

    ``controls`` maps a parameter to its words and a :class:`~flatmin.ledger.widgets.Slider`, a
    :class:`~flatmin.ledger.widgets.Choice` or :class:`Points`; ``fixed`` are the numbers that stay; ``files``
    the hand-written scripts it needs besides the stage; ``formulas`` makes the generated ones.
    """

    name: str
    about: str
    controls: dict[str, tuple[str, Slider | Choice]]
    fixed: dict[str, float]
    files: tuple[str, ...]
    formulas: Callable[[], list[str]] = list

    def state(self, **changed) -> dict:
        """The start values, some of them changed; ValueError for an unknown name or a value out of range."""
        starts = {name: control.value for name, (_, control) in self.controls.items()}
        state = {name: list(value) if isinstance(value, tuple) else value for name, value in starts.items()}
        for name, value in changed.items():
            control = self.controls[_check.choice("parameter", name, self.controls)][1]
            if isinstance(control, Choice):
                state[name] = _check.choice(name, value, dict(control.options))
            elif isinstance(control, Points):
                inside = {"least": control.low, "most": control.high}
                state[name] = _check.array(name, value, shape=(len(control.value),), **inside).tolist()
            elif is_whole(control):
                state[name] = _check.integer(name, value, least=control.low, most=control.high)
            else:
                state[name] = _check.number(name, value, least=control.low, most=control.high)
        return state

    def source(self) -> str:
        """The generated part of its script: names, ranges and numbers, then the functions."""
        controls = [_described(name, *control) for name, control in self.controls.items()]
        values = {"NAME": self.name, "CONTROLS": controls, "FIXED": self.fixed}
        lines = [f"const {key} = {json.dumps(v, ensure_ascii=False)};" for key, v in values.items()]
        return "\n".join([*lines, *self.formulas()])


def shared_source() -> str:
    """What all explorers have in common: key of the streams, colours, the exponential."""
    lines = [f'const KEY = "{stream_key(SEED)}", SEED = {SEED};', f"const COLOURS = {json.dumps(COLOURS)};"]
    return "\n".join([*lines, exponential_source()])


def _described(name, words, control) -> dict:
    """A control as the script reads it."""
    if isinstance(control, Choice):
        return {"name": name, "words": words, "options": [v for _, v in control.options]}
    numbers = {key: getattr(control, key) for key in ("low", "high", "step")}
    if isinstance(control, Points):
        return {"name": name, "words": words, **numbers, "points": len(control.value)}
    return {"name": name, "words": words, **numbers, "log": control.log, "whole": is_whole(control)}


def is_whole(control) -> bool:
    """Whether a slider has integers only."""
    return isinstance(control, Slider) and all(isinstance(v, int) for v in (control.low, control.step))


def _valley_formulas() -> list[str]:
    """Step, loss, slow equation of order 2, boundary to next order in ε, curvature, its slope."""
    valley = near_degenerate_valley()
    (x, y), parameters = valley.coordinates, valley.parameters
    slow = Reduction(valley).slow_equation(order=2, eta=ETA)
    curvature = valley.hessian[1, 1]
    functions = {
        "loss": ((x, y), valley.loss),
        "drift": ((x, ETA, DELTA_S), slow.drift),
        "diffusion": ((x, ETA, DELTA_S), slow.diffusion),
        "boundary": ((ETA,), sp.factor(sp.cancel(critical_law(valley, ETA).boundary))),
        "curvature": ((x,), curvature),
        "bend": ((x,), sp.diff(curvature, x)),
    }
    made = [function_source(name, *parts, parameters) for name, parts in functions.items()]
    return [step_source(valley, RandomShift()), *made]


def _two_valleys_formulas() -> list[str]:
    """Step, loss, and what the rate equation is made of: floors, flatness, barrier, mean and local drift."""
    valleys = two_valleys()
    (x, y), parameters = valleys.coordinates, valleys.parameters
    functions = {
        "loss": ((x, y), valleys.loss),
        "downhill": ((x, y), -valleys.gradient[1]),
        "barrier": ((y,), barrier()),
        "pathDrift": ((y,), path_drift()),
    }
    for side, suffix in (("flat", "Flat"), ("sharp", "Sharp")):
        functions |= {f"floor{suffix}": ((y,), position(side)), f"width{suffix}": ((y,), flatness(side))}
    made = [function_source(name, *parts, parameters) for name, parts in functions.items()]
    return [step_source(valleys, HessianAligned()), *made]


def _many_directions_formulas() -> list[str]:
    """The coefficients of the valley and the start, as numbers: its step is written from its structure."""
    valley = high_dimensional_valley(seed=SEED)
    names = ("lambda_0", "lambda_1", "lambda_2")
    numbers = {name: getattr(valley, name).tolist() for name in names} | {"tilt": valley.tilt}
    return [f"const VALLEY = {json.dumps(numbers | {'start': valley.start(SEED).tolist()})};\n"]


EXPLORERS = {
    each.name: each
    for each in (
        Explorer(
            "valley",
            "Walkers of SGD in the near-degenerate valley",
            {
                "sigma": ("noise σ", log_slider(1e-3, 3.0, 0.1, 0.01)),
                "eta": ("step η", log_slider(3e-3, 0.24, 0.02, 0.01)),
                "epsilon": ("tilt ε", log_slider(1e-4, 0.05, 0.001, 0.01)),
                "lambda_1": ("bend λ₁", Slider(-4.0, -0.5, 0.25, -2.0)),
            },
            {"lambda_0": 8, "lambda_2": 1, "walkers": 1000, "start": 1.5},
            ("valley.js",),
            _valley_formulas,
        ),
        Explorer(
            "two_valleys",
            "Walkers of SGD on the ridge between a flat and a sharp valley",
            {
                "delta_s": ("noise Δₛ = ησ", log_slider(1e-4, 1e-2, 1e-3, 0.01)),
                "eta": ("step η", log_slider(0.005, 0.05, 0.02, 0.01)),
                "ratio": ("flatness ratio ρ", Slider(1.05, 3.0, 0.05, 1.5)),
                "start": ("start", choice(["ridge", "sharp", "flat"])),
            },
            {name: value for name, value in PAPER.items() if name != "x1"}
            | {"walkers": 500, "start_y": 1.0, "start_x": START_X, "length": 400, "alike": 0.9},
            ("chain.js", "two_valleys.js"),
            _two_valleys_formulas,
        ),
        Explorer(
            "many_directions",
            "Walkers of SGD in a valley of five sharp and a hundred flat directions",
            {
                "sigma": ("noise σ", log_slider(1e-4, 1.0, 0.02, 0.01)),
                "eta": ("step η", log_slider(0.01, 0.1, 0.05, 0.01)),
            },
            {"walkers": 16, "others": 4, "length": 1000},
            ("many_directions.js",),
            _many_directions_formulas,
        ),
        Explorer(
            "regression",
            "Walkers of SGD for linear regression, and when they pass levels of the loss",
            {
                "eta": ("step η", log_slider(0.02, 1.0, 0.1, 0.01)),
                "batch_size": ("batch B", Slider(1, 8, 1, 1)),
                "dimension": ("dimension d", Slider(1, 25, 1, 5)),
            },
            {
                "walkers": 200,
                "length": 20_000,
                "levels": 10,
                "between": 4,
                "below": 40,
                "highest": 6,
                "fewest": 20,
            },
            ("regression.js",),
        ),
        Explorer(
            "stability",
            "Paths of SGD around a minimum whose samples have gradients in a plane",
            {
                "eta": ("step η", log_slider(0.05, 10.0, 1.5, 0.01)),
                "batch_size": ("batch B", Slider(1, 32, 1, 1)),
                "gradients": ("gradient", Points(-2.0, 2.0, 0.05, _GRADIENTS)),
            },
            {"walkers": 200, "drawn": 30, "length": 300, "start": [1.0, 1.0]},
            ("stability.js",),
        ),
    )
}
