"""Stationary density and probability flux of the two-dimensional Fokker–Planck equation.

In the time τ = ηt, the equation of the small-step limit is ∂P/∂τ = −∇·J with the flux

    J = −P∇L − c P − D∇P,

where D = ηC/2 is the whole diffusion matrix (Y22 S13) and the vector c says how the noise is read:

    "ito"           cᵢ = Σⱼ ∂ⱼDᵢⱼ          (what the discrete update has; Y23 Eq. 10)
    "stratonovich"  cᵢ = Σⱼₖ Bᵢₖ ∂ⱼBⱼₖ      D = BBᵀ, B the noise's own root (√Δ_S H for the random shift)
    "isothermal"    c = 0                  (Hänggi–Klimontovich; the flux of Y26 A10)

The equation is solved by high-order quadrilateral elements (scikit-fem); a landscape that is even in a
coordinate is solved on the half where that coordinate is positive. No probability leaves the region.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sparse
import sympy as sp
from scipy.sparse.linalg import splu

from flatmin import _check
from flatmin.theory.conventions import convention_power
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import ETA, SIGMA, Noise, RandomShift

__all__ = ["Density", "Equation", "Region", "noise_root", "stationary"]

#: the noise level Δ_S = ησ
DELTA_S = sp.Symbol("Delta_S", positive=True)
#: a density that falls below this fraction of its peak under zero was not resolved by the elements
_WORST_NEGATIVE = 1e-3


def noise_root(landscape: Landscape, noise: Noise) -> sp.Matrix:
    """Return B(θ) with D = ηC/2 = BBᵀ, shape (d, d), in the landscape's symbols and Δ_S = ησ.

    B is what multiplies the independent normal variables of one step, not another root of D. Raises
    ValueError for what is no landscape or no noise.
    """
    _check.instance("landscape", landscape, Landscape)
    normals = _check.instance("noise", noise, Noise).normals(landscape)
    kick = noise.gradient_noise(landscape, normals)
    if not normals:
        return sp.zeros(landscape.dimension, 1)
    per_step = kick.jacobian(sp.Matrix(normals)) * sp.sqrt(ETA / 2)
    return per_step.applyfunc(lambda e: sp.simplify(e.subs(SIGMA, DELTA_S / ETA)))


def _drift(root, diffusion, q, convention):
    """c (d, 1) of J = −P∇L − cP − D∇P from B, or for Itô from D, whose cross terms may have been left out."""
    indices = range(root.rows)
    if convention == "ito":
        return sp.Matrix([sum(sp.diff(diffusion[i, j], q[j]) for j in indices) for i in indices])
    if convention == "stratonovich":
        pairs = [(j, k) for j in indices for k in range(root.cols)]
        return sp.Matrix([sum(root[i, k] * sp.diff(root[j, k], q[j]) for j, k in pairs) for i in indices])
    return sp.zeros(root.rows, 1)


@dataclass(frozen=True)
class Region:
    """The box where the equation is solved, without flux through its rim, and with what elements.

    Parameters
    ----------
    extent : (float, float)
        Half-widths of the box, which is centred at 0.
    elements : (int, int)
        Along each coordinate between 0 and the rim.
    degree : int
        Of the polynomials in each coordinate, at least 2.

    Raises
    ------
    ValueError
        For values outside these, or more elements than a direct solver can take.
    """

    extent: tuple[float, float] = (2.0, 2.0)
    elements: tuple[int, int] = (5, 5)
    degree: int = 10

    def __post_init__(self):
        _check.array("extent", self.extent, shape=(2,), above=0)
        _check.array("elements", self.elements, shape=(2,), dtype=int, least=1, most=200)
        _check.integer("degree", self.degree, least=2, most=40)

    def _lines(self, halved) -> list[np.ndarray]:
        """Where elements meet along each coordinate, from 0 on where it is halved."""
        return [
            width * np.linspace(0 if half else -1, 1, number + 1 if half else 2 * number + 1)
            for half, number, width in zip(halved, self.elements, self.extent, strict=True)
        ]


class Equation:
    """The stationary Fokker–Planck equation of a landscape under a noise, assembled once for every Δ_S.

    Raises ValueError for a landscape without numbers or not of two coordinates, or an unknown convention.

    Parameters
    ----------
    landscape : Landscape
        With numbers and two coordinates.
    noise : Noise
        Its kind; the strength is given as Δ_S = ησ to :meth:`stationary`.
    convention : {"ito", "stratonovich", "isothermal"}
    cross : bool
        Keep the cross terms D₁₂ = D₂₁. Without them the equation is that of Y22 §III.B–C.
    region : Region, optional
    """

    def __init__(self, landscape: Landscape, noise: Noise, *, convention: str, cross=True, region=None):
        _check.instance("landscape", landscape, Landscape).require_numbers()
        if landscape.dimension != 2:
            raise ValueError(f"landscape has {landscape.dimension} coordinates: two are needed")
        convention_power(convention)
        if not _check.flag("cross", cross) and convention == "stratonovich":
            raise _check.refused("cross", cross, "True for the Stratonovich drift, that of the whole noise")
        region = Region() if region is None else _check.instance("region", region, Region)
        self.landscape, self.noise, self.convention, self.cross = landscape, noise, convention, bool(cross)
        self.region = region
        root = noise_root(landscape, noise)
        diffusion = (root * root.T).applyfunc(sp.expand)
        if not cross:
            diffusion = sp.diag(diffusion[0, 0], diffusion[1, 1])
        c = _drift(root, diffusion, landscape.coordinates, convention)
        # D and c are proportional to Δ_S: what is kept is their value per unit of Δ_S
        self.diffusion = diffusion.subs(DELTA_S, 1)
        self.noise_drift = c.applyfunc(sp.expand).subs(DELTA_S, 1)
        self.even = self._even()
        self.lines = region._lines(self.even)
        # two Gauss points more than a polynomial of this degree needs, for the coefficients
        import skfem  # networks and their experiments come without it

        self.basis = skfem.CellBasis(
            skfem.MeshQuad.init_tensor(*self.lines),
            skfem.ElementQuadP(int(region.degree)),
            intorder=2 * region.degree + 4,
        )

    def _even(self) -> tuple[bool, bool]:
        """In which coordinates loss and diffusion are symmetric, so that half the region is enough."""
        even = []
        for k, q in enumerate(self.landscape.coordinates):
            mirror = sp.diag(*[-1 if i == k else 1 for i in range(2)])
            same = sp.expand(self.landscape.loss - self.landscape.loss.subs(q, -q)) == 0
            turned = mirror * self.diffusion.subs(q, -q) * mirror
            even.append(same and (turned - self.diffusion).applyfunc(sp.expand) == sp.zeros(2, 2))
        return tuple(even)

    @property
    def copies(self) -> int:
        """How many mirror images of the meshed part make up the region: 1, 2 or 4."""
        return 2 ** sum(self.even)

    @property
    def unknowns(self) -> int:
        """Number of coefficients."""
        return int(self.basis.N)

    @cached_property
    def _at_nodes(self):
        """Basis functions (n, 2, elements, points), their gradients, and quadrature weights."""
        values = np.stack([np.asarray(f[0]) for f in self.basis.basis])
        gradients = np.stack([np.asarray(f[0].grad) for f in self.basis.basis])
        return values, gradients, self.basis.dx

    @cached_property
    def matrices(self) -> tuple[sparse.csc_matrix, sparse.csc_matrix]:
        """(A₀, A₁) with the weak form ∫∇φ·(P∇L + cP + D∇P) = φᵀ(A₀ + Δ_S A₁)P."""
        phi, grad, weight = self._at_nodes
        x, y = np.asarray(self.basis.global_coordinates())
        slope = np.moveaxis(self.landscape.function(self.landscape.gradient)(x, y), -1, 0)
        drift = np.moveaxis(self.landscape.function(self.noise_drift)(x, y), -1, 0)
        matrix = np.moveaxis(self.landscape.function(self.diffusion)(x, y), (-2, -1), (0, 1))
        steady = phi[:, None] * slope[None]
        noisy = phi[:, None] * drift[None] + np.einsum("ijeq,bjeq->bieq", matrix, grad)
        return tuple(self._scatter(grad * weight, part) for part in (steady, noisy))

    def _scatter(self, test: np.ndarray, trial: np.ndarray) -> sparse.csc_matrix:
        """Sum over components and quadrature points, element by element, into a sparse matrix."""
        n, _, number, _ = test.shape
        left = np.ascontiguousarray(np.moveaxis(test, 2, 0)).reshape(number, n, -1)
        right = np.ascontiguousarray(np.moveaxis(trial, 2, 0)).reshape(number, n, -1)
        local = left @ right.transpose(0, 2, 1)
        dofs = self.basis.element_dofs.T
        rows = np.repeat(dofs, n, axis=1).ravel()
        columns = np.tile(dofs, (1, n)).ravel()
        return sparse.coo_matrix((local.ravel(), (rows, columns)), shape=(self.unknowns,) * 2).tocsc()

    @cached_property
    def load(self) -> np.ndarray:
        """∫φₐ over the whole region: load · coefficients is the probability."""
        phi, _, weight = self._at_nodes
        return self.copies * np.bincount(
            self.basis.element_dofs.ravel(),
            weights=(phi * weight).sum(axis=-1).ravel(),
            minlength=self.unknowns,
        )

    def operator(self, delta_s: float) -> sparse.csc_matrix:
        """A₀ + Δ_S A₁. Raises ValueError unless delta_s is positive and finite."""
        delta_s = _check.number("delta_s", delta_s, above=0)
        first, second = self.matrices
        with np.errstate(over="ignore", invalid="ignore"):
            total = (first + delta_s * second).tocsc()
            _check.finite(total.data.sum(), delta_s=delta_s)
        return total

    def stationary(self, delta_s: float) -> Density:
        """The stationary density at Δ_S = ησ > 0; ValueError else, or where the elements are too coarse."""
        operator, column = self.operator(delta_s), sparse.csc_matrix(self.load[:, None])
        bordered = sparse.bmat([[operator, column], [column.T, None]], format="csc")
        with np.errstate(all="ignore"):
            try:
                coefficients = splu(bordered).solve(np.append(np.zeros(self.unknowns), 1.0))[:-1]
            except RuntimeError:  # singular: numbers that underflow
                coefficients = np.full(self.unknowns, np.nan)
            density = Density(self, float(delta_s), coefficients)
            lowest = density.lowest
        if not lowest >= -_WORST_NEGATIVE:
            raise ValueError(
                f"elements={self.region.elements} of degree {self.region.degree} are too coarse at "
                f"delta_s={delta_s:g}: the density falls to {lowest:.2g} of its peak; "
                f"use more elements or a smaller extent"
            )
        return density


@dataclass(frozen=True)
class Density:
    """A stationary density P(x, y) of an equation at Δ_S, as finite-element coefficients (unknowns,)."""

    equation: Equation
    delta_s: float
    coefficients: np.ndarray

    @cached_property
    def _values(self) -> np.ndarray:
        """P at the quadrature points, (elements, points)."""
        phi = self.equation._at_nodes[0]
        return np.einsum("beq,be->eq", phi, self.coefficients[self.equation.basis.element_dofs])

    @property
    def mass(self) -> float:
        """Probability in the region."""
        return float(self.equation.load @ self.coefficients)

    @property
    def lowest(self) -> float:
        """Lowest value of P over its highest, at the quadrature points: slightly negative where P is tiny."""
        return float(self._values.min() / self._values.max())

    def mean(self, expression) -> float:
        """⟨expression⟩ over the region; ValueError unless finite and of the symmetry of the density."""
        landscape = self.equation.landscape
        parsed = landscape.expression(expression)
        for half, q in zip(self.equation.even, landscape.coordinates, strict=True):
            if half and sp.expand(parsed - parsed.subs(q, -q)) != 0:
                raise _check.refused("expression", expression, f"even in {q}: odd parts average to 0")
        x, y = np.asarray(self.equation.basis.global_coordinates())
        weight = self.equation.copies * self.equation.basis.dx
        with np.errstate(all="ignore"):
            mean = float((landscape.function(parsed)(x, y) * self._values * weight).sum() / self.mass)
        return _check.finite(mean, expression=expression)

    def _evaluate(self, x, y):
        """P (n,) and ∇P (2, n) at points; zero outside the region. Returns the points' shape too."""
        x, y = _check.array("x", x, empty=True), _check.array("y", y, empty=True)
        _check.together(x=x, y=y)
        x, y = np.broadcast_arrays(x, y)
        basis, lines = self.equation.basis, self.equation.lines
        points, even = np.stack([x.ravel(), y.ravel()]), np.array(self.equation.even)[:, None]
        mirrored = np.where(even, np.sign(points) + (points == 0), 1.0)
        width = np.array([line[1] - line[0] for line in lines])[:, None]
        number = np.array([len(line) - 1 for line in lines])[:, None]
        with np.errstate(over="ignore"):  # far outside
            places = (points * mirrored - np.array([line[:1] for line in lines])) / width
        inside = ((places >= 0) & (places <= number)).all(axis=0)
        cell = np.minimum(places[:, inside].astype(int), number - 1)
        # the mesh counts elements, and the axes inside of one, with y before x
        local, element = (places[:, inside] - cell)[::-1], cell[0] * number[1] + cell[1]
        found = np.zeros((3, len(element)))
        for k, weight in enumerate(self.coefficients[basis.element_dofs[:, element]]):
            phi, dphi = basis.elem.lbasis(local, k)
            found[0] += weight * phi
            found[1:] += weight * dphi[::-1]
        every = np.zeros((3, inside.size))
        every[:, inside] = found
        return x.shape, every[0], every[1:] * mirrored / width

    def __call__(self, x, y) -> np.ndarray:
        """P at points (broadcasting arrays); zero outside the region. Raises ValueError for bad numbers."""
        shape, values, _ = self._evaluate(x, y)
        return values.reshape(shape)

    def flux(self, x, y) -> np.ndarray:
        """J = −P∇L − cP − D∇P at points, shape (2, …), in probability per unit of τ and length.

        Zero outside the region. Raises ValueError for points that are not finite or do not broadcast.
        """
        shape, values, slopes = self._evaluate(x, y)
        equation = self.equation
        point = [np.broadcast_to(np.asarray(v, dtype=float), shape).ravel() for v in (x, y)]
        inside = (values != 0) | (slopes != 0).any(axis=0)
        point = np.where(inside, point, 0.0)  # the drift may overflow out there
        gradient = equation.landscape.function(equation.landscape.gradient)(*point)
        drift = gradient + self.delta_s * equation.landscape.function(equation.noise_drift)(*point)
        matrix = self.delta_s * equation.landscape.function(equation.diffusion)(*point)
        flux = -drift.T * values - np.einsum("nij,jn->in", matrix, slopes)
        return flux.reshape(2, *shape)

    def marginal(self, coordinate: str, at) -> np.ndarray:
        """Density of one coordinate at the points ``at`` (n,), the other integrated out by quadrature.

        Raises ValueError for an unknown coordinate or points that are not finite numbers in one axis.
        """
        names = [q.name for q in self.equation.landscape.coordinates]
        axis = names.index(_check.choice("coordinate", coordinate, names))
        at = np.atleast_1d(_check.array("at", at))
        if at.ndim != 1:
            raise _check.refused("at", at, "points in one axis")
        nodes, weights = np.polynomial.legendre.leggauss(int(self.equation.region.degree) + 2)
        breaks, half = self.equation.lines[1 - axis], self.equation.even[1 - axis]
        width = np.diff(breaks)[:, None]
        other = (breaks[:-1, None] + width * (nodes + 1) / 2).ravel()
        weights = (width * weights / 2).ravel() * (2 if half else 1)
        grid = (at[:, None], other[None]) if axis == 0 else (other[None], at[:, None])
        return self(*grid) @ weights


def stationary(
    landscape: Landscape,
    delta_s: float,
    *,
    convention: str,
    noise: Noise | None = None,
    cross: bool = True,
    region: Region | None = None,
) -> Density:
    """Return the stationary density of a landscape at noise level Δ_S = ησ (Y22 §III.C, with all of D).

    For a scan over Δ_S make one :class:`Equation` and call its ``stationary``.

    Parameters
    ----------
    landscape, convention, cross, region
        As for :class:`Equation`.
    delta_s : float
        Δ_S, positive.
    noise : Noise, optional
        The random shift unless given.

    Returns
    -------
    Density

    Raises
    ------
    ValueError
        As :class:`Equation` and :meth:`Equation.stationary`.

    Examples
    --------
    >>> import flatmin as fm
    >>> valley = fm.near_degenerate_valley().at(epsilon=0.02, lambda_0=4, lambda_1=-2, lambda_2=1)
    >>> density = fm.stationary(valley, delta_s=0.012, convention="ito")
    >>> round(density.mean("x**2"), 4)
    0.0717
    """
    noise = RandomShift() if noise is None else noise
    equation = Equation(landscape, noise, convention=convention, cross=cross, region=region)
    return equation.stationary(delta_s)
