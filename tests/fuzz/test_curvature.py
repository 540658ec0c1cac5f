"""Bad values for curvature and eigenvalues."""

import numpy as np
import pytest
import torch
from torch import nn

from flatmin.networks import curvature, eigen
from flatmin.networks.point import at
from fuzz import Case, check, uncovered

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
HERE = at(MODEL, "cross-entropy", (torch.randn(12, 3), torch.arange(12) % 2))
MATRIX = torch.diag(torch.arange(1.0, 9.0))
POINT = {"here": "a checked point, of which none is made by hand", "layer": "names are the point's own"}
ALL = {"layer": {"None": "all parameters", "True": "an index"}}
MADE = {"passed": "the point's own pass", "product": "a function", "start": "a vector of the caller's"}
DENSITY = HERE.spectral_density(steps=5, probes=3)


def case(function, arguments=None, **special):
    leave = {name: why for name, why in POINT.items() if name == "here"} | special.pop("leave", {})
    return Case(function, {"here": HERE} | (arguments or {}), leave=leave, right=special)


LAYER = {"None": "all parameters"}

CASES = [
    case(curvature.hessian, {"layer": 1}, layer=LAYER),
    case(curvature.gauss_newton, {"layer": 1}, layer=LAYER),
    case(curvature.gauss_newton_spectrum),
    case(curvature.gauss_newton_trace, {"probes": 1, "seed": 0}, probes={"10**30": "exact"}),
    case(curvature.gauss_newton_shares, {"probes": 1, "seed": 0}, probes={"10**30": "exact"}),
    case(curvature.diagonal, {"layer": 1, "probes": 5}, layer=LAYER, probes={"10**30": "exact"}),
    case(curvature.trace, {"layer": 1, "probes": 5}, layer=LAYER, probes={"10**30": "exact"}),
    case(curvature.frobenius_norm, {"layer": 1, "probes": 5}, layer=LAYER, probes={"10**30": "exact"}),
    case(curvature.eigenpairs, {"k": 3, "layer": 1, "tolerance": 1e-3, "steps": 100}, layer=LAYER),
    case(curvature.moments, {"probes": 5}, probes={"10**30": "exact"}),
    Case(
        curvature.flatness_of,
        {"pairs": HERE.eigenpairs(2), "definition": "Y26"},
        leave={"pairs": "made by eigenpairs"},
    ),
    case(curvature.spectral_density, {"steps": 4, "probes": 2}, leave={"probes": "each costs time"}),
    case(curvature.flatness, {"definition": "Y26", "layer": 2, "top": 2}),
    Case(curvature.effective_dimension, {"values": np.array([2.0, 1.0, 0.5])}),
    Case(DENSITY.moment, {"power": 2}),
    Case(DENSITY.on, {"grid": np.linspace(-1, 1, 5), "width": 0.1}),
    Case(eigen.dense, {"matrix": MATRIX, "k": 3}, leave={"matrix": "the library's own"}),
    Case(
        eigen.lanczos,
        {"product": lambda v: MATRIX @ v, "start": torch.ones(8), "k": 3, "tolerance": 1e-3, "steps": 100},
        leave={name: MADE[name] for name in ("product", "start")},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    inner = {"gram": "of a pass", "Density": "made by spectral_density"}
    assert not uncovered(CASES, curvature, skip=inner)
    inner = {"Eigenpairs": "a result", "tridiagonal": "of a pass", "outwards": "of eigenpairs"}
    assert not uncovered(CASES, eigen, skip=inner)
