"""Bad values for the Fokker–Planck solver, the reductions and the escape rates."""

import numpy as np
import pytest
import sympy as sp

from flatmin.theory.continuum import critical, divergence, escape, fokker_planck, reduction, slow
from flatmin.theory.continuum.critical import W, critical_law
from flatmin.theory.continuum.fokker_planck import Equation, Region, convention_drift, noise_root, stationary
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.continuum.slow import SlowEquation
from flatmin.theory.noise import RandomShift
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley
from fuzz import Case, check, uncovered

X = sp.Symbol("x", real=True)
VALLEY = near_degenerate_valley().at(epsilon=0.02, lambda_0=8, lambda_1=-2, lambda_2=1)
SMALL = Region(elements=(4, 4), degree=8)
OPEN = Region(extent=(1, 1), elements=(2, 2), degree=6, rim="absorbing")
EQUATION = Equation(VALLEY, RandomShift(), convention="ito", region=SMALL)
LEAKING = Equation(VALLEY, RandomShift(), convention="ito", region=OPEN)
DENSITY = EQUATION.stationary(0.012)
WELL = SlowEquation(X, X - X**3, sp.Float(0.1), "ito")
REDUCTION = Reduction(VALLEY)
LAW = critical_law(VALLEY)
LIFE = divergence.Lifetime(VALLEY, 0.04, 0.05, cells=(12, 12))
LINE = np.linspace(-1, 1, 41)
POINTS = np.array([0.0, 0.3, 0.5])


def plane(x, y):
    return (x**2 - 1) ** 2 / 4 + y**2


CASES = [
    Case(SlowEquation, {"coordinate": X, "drift": -X, "diffusion": 1 + X**2, "convention": "ito"}),
    Case(WELL.read_as, {"convention": "isothermal"}),
    Case(WELL.converted, {"convention": "isothermal"}),
    Case(WELL.density, {"x": LINE}),
    Case(
        escape.mean_passage_time, {"equation": WELL, "start": -1.0, "target": 1.0, "far": -3.0, "panels": 40}
    ),
    Case(escape.escape_rate, {"equation": WELL, "target": 1.0, "far": -3.0, "panels": 40}),
    Case(
        escape.kramers_rate,
        {
            "temperature": 0.1,
            "barrier": 1.0,
            "hessian": np.diag([2.0, 1.0]),
            "saddle_hessian": np.diag([-1.0, 1.0]),
        },
    ),
    Case(
        escape.plane_passage_time,
        {
            "potential": plane,
            "temperatures": (0.2, 0.2),
            "start": (-1, 0),
            "target": 1.0,
            "box": ((-2, 1.5), (-1, 1)),
            "cells": (20, 8),
        },
    ),
    Case(convention_drift, {"root": sp.Matrix([[1 + X**2]]), "coordinates": (X,), "convention": "ito"}),
    Case(noise_root, {"landscape": VALLEY, "noise": RandomShift()}),
    Case(Region),
    Case(Equation, {"landscape": VALLEY, "noise": RandomShift(), "convention": "ito", "region": SMALL}),
    Case(EQUATION.operator, {"delta_s": 0.1}),
    Case(EQUATION.stationary, {"delta_s": 0.012}),
    Case(
        LEAKING.solve_source,
        {"delta_s": 0.012, "source": np.ones(LEAKING.basis.dx.shape)},
        name="Equation.solve_source",
    ),
    Case(DENSITY.mean, {"expression": "x**2"}),
    Case(DENSITY.flux, {"x": POINTS, "y": POINTS}),
    Case(DENSITY.__call__, {"x": POINTS, "y": POINTS}),
    Case(DENSITY.marginal, {"coordinate": "x", "at": POINTS}),
    Case(stationary, {"landscape": VALLEY, "delta_s": 0.012, "convention": "ito", "region": SMALL}),
    Case(Reduction, {"landscape": VALLEY}),
    Case(REDUCTION.average, {"expression": REDUCTION.y**2}),
    Case(REDUCTION.slow_equation),
    Case(REDUCTION.at_noise, {"expression": REDUCTION.variance, "delta_s": 0.1}),
    Case(REDUCTION.marginal, {"x": LINE, "delta_s": 0.012}),
    Case(REDUCTION.effective_loss, {"x": POINTS, "density": np.ones(3), "delta_s": 0.1}),
    Case(critical_law, {"landscape": VALLEY}),
    Case(divergence.typical_growth, {"shrink": 0.3, "kick": 0.5}),
    Case(divergence.edges, {"landscape": VALLEY, "eta": 0.04, "delta_s": 0.05}),
    Case(divergence.tail_exponent),
    Case(
        divergence.Lifetime,
        {"landscape": VALLEY, "eta": 0.04, "delta_s": 0.05, "cells": (12, 12)},
        then=lambda life: life.time((1.0, 0.0)),
    ),
    Case(LIFE.time, {"start": (1.0, 0.0)}),
    Case(LIFE.rate, {"start": (1.0, 0.0)}),
    Case(LAW.delta_s, {"w": 1.0}),
    Case(LAW.w, {"delta_s": 0.01}),
    Case(LAW.equation.at, {"values": {W: 1.0}}),
    Case(LAW.density, {"xi": POINTS, "w": 1.0}),
]
SKIP = {
    "Density": "made by Equation.stationary",
    "CriticalLaw": "made by critical_law",
    "CONFINING": "numbers",
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, critical, divergence, escape, fokker_planck, reduction, slow, skip=SKIP)
