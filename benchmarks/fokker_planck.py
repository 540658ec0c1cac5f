"""The stationary Fokker–Planck solver against triangles of scikit-fem and finite volumes, to equal accuracy.

The problem is the near-degenerate valley at ε = 0.02 with the whole diffusion matrix Δ_SH², Itô, at
Δ_S = 0.009 and 0.012; the accuracy is that of ⟨x²⟩, against 8 × 8 elements of degree 14, which agree with
an independent spectral-element code to its eight digits. The peer is also given the quarter that symmetry
leaves, and our way of solving. All run
interleaved in one process on one core; times are the median of the rounds and include everything from
the landscape to ⟨x²⟩ (for ours also a second Δ_S on the assembled matrices); ratios are good to about 1.3.

    python benchmarks/fokker_planck.py
"""

from __future__ import annotations

import os
import time
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy.sparse as sparse
import skfem
from scipy.sparse.linalg import splu

from flatmin.theory.continuum.fokker_planck import Equation, Region
from flatmin.theory.noise import RandomShift
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

VALLEY = near_degenerate_valley().at(epsilon=0.02, lambda_0=8, lambda_1=-2, lambda_2=1)
REFERENCE = {0.009: 0.0142637198923, 0.012: 0.0949101446569}
ROUNDS = 3


def ours(number, degree):
    """Quadrilaterals of flatmin on the quarter of the box."""

    def solve():
        region = Region(elements=(number, number), degree=degree)
        equation = Equation(VALLEY, RandomShift(), convention="ito", region=region)
        first = {0.009: equation.stationary(0.009).mean("x**2")}
        begin = time.perf_counter()
        second = {0.012: equation.stationary(0.012).mean("x**2")}
        return first | second, equation.unknowns, time.perf_counter() - begin

    return solve


def coefficients(x, y, delta):
    """∇L + ∇·D (2, …) and D (2, 2, …), written by hand as a user of scikit-fem would."""
    lam, d1, d2, d3 = 8 - 2 * x**2 + x**4, -4 * x + 4 * x**3, -4 + 12 * x**2, 24 * x
    h11, h12 = 0.16 + d2 * y**2 / 2, d1 * y
    d11, d12, d22 = h11**2 + h12**2, h12 * (h11 + lam), h12**2 + lam**2
    c1 = h11 * d3 * y**2 + 2 * h12 * d2 * y + d1 * (h11 + lam) + h12 * d2 * y
    c2 = d2 * y * (h11 + lam) + h12 * (d3 * y**2 / 2 + d1) + 2 * h12 * d1
    drift = np.array([0.16 * x + d1 * y**2 / 2 + delta * c1, lam * y + delta * c2])
    return drift, delta * np.array([[d11, d12], [d12, d22]])


def bordered(matrix, mass):
    """The density of unit mass: the normalisation as one more row and column."""
    column = sparse.csc_matrix(mass[:, None])
    whole = sparse.bmat([[matrix, column], [column.T, None]], format="csc")
    return splu(whole).solve(np.append(np.zeros(len(mass)), 1.0))[:-1]


def pinned(matrix, mass):
    """The same by one coefficient pinned, and pivots on the diagonal in an order for symmetric patterns."""
    free, right = np.arange(1, len(mass)), -matrix[1:][:, [0]].toarray()[:, 0]
    how = {"permc_spec": "MMD_AT_PLUS_A", "options": {"SymmetricMode": True}, "diag_pivot_thresh": 0.01}
    density = np.append(1.0, splu(matrix[free][:, free].tocsc(), **how).solve(right))
    return density / (mass @ density)


def triangles(refinements, element, quarter=False, direct=bordered):
    """Triangles of scikit-fem on the disk of radius 2 or on its quarter, sparse direct solver."""

    def solve():
        mesh = skfem.MeshTri.init_circle(refinements).scaled(2.0)
        if quarter:  # no flux through the axes: nothing to impose there
            mesh = mesh.restrict(np.flatnonzero((mesh.p[:, mesh.t].mean(axis=1) > 0).all(axis=0)))
        basis = skfem.Basis(mesh, element(), intorder=8)
        found, last = {}, 0.0
        for delta in REFERENCE:
            begin = time.perf_counter()

            @skfem.BilinearForm
            def form(u, v, w, delta=delta):
                drift, matrix = coefficients(w.x[0], w.x[1], delta)
                flux = drift * u + np.einsum("ij...,j...->i...", matrix, u.grad)
                return flux[0] * v.grad[0] + flux[1] * v.grad[1]

            load = skfem.LinearForm(lambda v, w: v)
            square = skfem.LinearForm(lambda v, w: w.x[0] ** 2 * v)
            matrix, mass = form.assemble(basis), load.assemble(basis)
            p = direct(matrix, mass)
            found[delta] = square.assemble(basis) @ p
            last = time.perf_counter() - begin
        return found, basis.N, last

    return solve


def volumes(number):
    """Central finite volumes on number × number cells of the box, cross terms by averages, direct solver."""

    def solve():
        found, last, h = {}, 0.0, 4 / number
        centre = -2 + h * (np.arange(number) + 0.5)
        index = np.arange(number * number).reshape(number, number)
        for delta in REFERENCE:
            begin = time.perf_counter()
            matrix = sparse.lil_matrix((number * number,) * 2).tocoo()
            for axis in (0, 1):
                matrix = matrix + face_fluxes(index, centre, h, axis, delta)
            matrix = matrix.tolil()
            matrix[index[number // 2, number // 2]] = 1.0  # mass in place of one redundant row
            right = np.zeros(number * number)
            right[index[number // 2, number // 2]] = 1.0
            p = splu(matrix.tocsc()).solve(right)
            found[delta] = (np.repeat(centre**2, number) * p).sum() / p.sum()
            last = time.perf_counter() - begin
        return found, number * number, last

    return solve


def face_fluxes(index, centre, h, axis, delta):
    """Divergence of J through the faces normal to ``axis``, (n², n²)."""
    n = len(centre)
    face = centre[:-1] + h / 2
    x, y = np.meshgrid(face, centre, indexing="ij") if axis == 0 else np.meshgrid(centre, face, indexing="ij")
    _, matrix = coefficients(x, y, 1.0)
    drift = coefficients(x, y, delta)[0][axis]
    normal, cross = delta * matrix[axis, axis], delta * matrix[0, 1]
    low = index[:-1] if axis == 0 else index[:, :-1]
    high = index[1:] if axis == 0 else index[:, 1:]
    terms = [(low, -drift / 2 + normal / h), (high, -drift / 2 - normal / h)]
    for side in (low, high):
        up = np.roll(side, -1, axis=1 - axis)
        down = np.roll(side, 1, axis=1 - axis)
        inner = np.ones_like(cross)
        inner[(slice(None), [0, -1]) if axis == 0 else ([0, -1], slice(None))] = 0.0
        terms += [(up, -cross * inner / (4 * h)), (down, cross * inner / (4 * h))]
    rows, columns, values = [], [], []
    for source, weight in terms:
        rows += [low.ravel(), high.ravel()]
        columns += [source.ravel()] * 2
        values += [weight.ravel() / h, -weight.ravel() / h]
    shape = (n * n, n * n)
    return sparse.coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape)


CONTESTANTS = {
    "flatmin, 4 × 4, degree 8": ours(4, 8),
    "flatmin, 4 × 4, degree 10": ours(4, 10),
    "flatmin, 5 × 5, degree 10 (default)": ours(5, 10),
    "scikit-fem, P2, 5 refinements": triangles(5, skfem.ElementTriP2),
    "scikit-fem, P2, 6 refinements": triangles(6, skfem.ElementTriP2),
    "scikit-fem, P4, 4 refinements": triangles(4, skfem.ElementTriP4),
    "scikit-fem, P4, 5 refinements": triangles(5, skfem.ElementTriP4),
    "the same on the quarter": triangles(5, skfem.ElementTriP4, quarter=True),
    "the same, solved as flatmin does": triangles(5, skfem.ElementTriP4, quarter=True, direct=pinned),
    "finite volumes, 160 × 160": volumes(160),
}


def main():
    """Run the rounds and print one line a contestant."""
    times, outcomes = {name: [] for name in CONTESTANTS}, {}
    for _ in range(ROUNDS):
        for name, solve in CONTESTANTS.items():
            begin = time.perf_counter()
            outcomes[name] = solve()
            times[name].append((time.perf_counter() - begin, outcomes[name][2]))
    print(f"{'':38s}{'unknowns':>9s}{'both Δ_S':>10s}{'one more':>10s}   error of ⟨x²⟩ at .009, .012")
    for name, (found, unknowns, _) in outcomes.items():
        whole, more = (median(column) for column in zip(*times[name], strict=True))
        errors = "  ".join(f"{abs(found[d] - REFERENCE[d]):.0e}" for d in REFERENCE)
        print(f"{name:38s}{unknowns:9d}{whole:9.2f}s{more:9.2f}s   {errors}")


if __name__ == "__main__":
    main()
