"""Stationary density and probability flux of the two-dimensional Fokker–Planck equation.

In the time τ = ηt, the equation of the small-step limit is ∂P/∂τ = −∇·J with the flux

    J = −P∇L − c P − D∇P,

where D = ηC/2 is the whole diffusion matrix (Y22 S13) and the vector c says how the noise is read:

    "ito"           cᵢ = Σⱼ ∂ⱼDᵢⱼ          (what the discrete update has; Y23 Eq. 10)
    "stratonovich"  cᵢ = Σⱼₖ Bᵢₖ ∂ⱼBⱼₖ      D = BBᵀ, B the noise's own root (√Δ_S H for the random shift)
    "isothermal"    c = 0                  (Hänggi–Klimontovich; the flux of Y26 A10)

The equation is solved by high-order quadrilateral elements (scikit-fem); a landscape that is even in a
coordinate is solved on the half where that coordinate is positive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sparse
import sympy as sp
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from flatmin import _check
from flatmin.theory.conventions import convention_power
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import ETA, SIGMA, Noise, RandomShift

__all__ = ["Density", "Equation", "Region", "convention_drift", "noise_root", "stationary"]

#: the noise level Δ_S = ησ
DELTA_S = sp.Symbol("Delta_S", positive=True)
#: a density that falls below this fraction of its peak under zero was not resolved by the elements
_WORST_NEGATIVE = 1e-3
#: a pinned coefficient this far below the largest is taken at a better place
_STEEP = 1e6
#: what rounding may leave of the equations, in units of their terms: 1e-16 to 1e-15 is seen
_RESIDUAL = 1e-12
#: elements whose integrals are taken at a time
_ELEMENTS = 8
#: how small, beside the largest of its column, an entry of the diagonal may be as a pivot
_PIVOT = 0.01
#: a sparse factorisation that keeps its pivots on the diagonal as far as possible
_DIAGONAL = {
    "permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": _PIVOT, "options": {"SymmetricMode": True},
}  # fmt: skip


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
    return per_step.applyfunc(lambda e: sp.expand(e.subs(SIGMA, DELTA_S / ETA)))


def convention_drift(root: sp.Matrix, coordinates, convention: str) -> sp.Matrix:
    """Return the vector c (d, 1) of J = −P∇L − cP − D∇P for D = BBᵀ, B the ``root`` (d, k).

    Raises ValueError for an unknown convention, or a root without a row for each of the ``coordinates``.
    """
    convention_power(convention)
    _check.instance("root", root, sp.MatrixBase)
    if isinstance(coordinates, str) or not all(isinstance(q, sp.Symbol) for q in np.ravel(coordinates)):
        raise _check.refused("coordinates", coordinates, "symbols")
    if root.rows != np.size(coordinates):
        raise _check.refused("coordinates", coordinates, f"as many as root has rows, {root.rows}")
    indices = range(root.rows)
    if convention == "ito":
        matrix = root * root.T
        return sp.Matrix([sum(sp.diff(matrix[i, j], coordinates[j]) for j in indices) for i in indices])
    if convention == "stratonovich":
        pairs = [(j, k) for j in indices for k in range(root.cols)]
        return sp.Matrix(
            [sum(root[i, k] * sp.diff(root[j, k], coordinates[j]) for j, k in pairs) for i in indices]
        )
    return sp.zeros(root.rows, 1)


@dataclass(frozen=True)
class Region:
    """Where the equation is solved and with what elements.

    Parameters
    ----------
    extent : (float, float) or float
        Half-widths of a box centred at 0, or the radius of a disk.
    elements : (int, int)
        Along each coordinate between 0 and the rim.
    degree : int
        Of the polynomials in each coordinate, at least 2.
    rim : {"reflecting", "absorbing"}
        No flux through the rim, or P = 0 on it (the paper's choice, Y22 §III.C).

    Raises
    ------
    ValueError
        For values outside these, or more elements than a direct solver can take.
    """

    extent: tuple[float, float] | float = (2.0, 2.0)
    elements: tuple[int, int] = (5, 5)
    degree: int = 10
    rim: str = "reflecting"

    def __post_init__(self):
        sizes = _check.array("extent", self.extent, above=0)
        if sizes.shape not in ((), (2,)):
            raise _check.refused("extent", self.extent, "two half-widths (box) or one radius (disk)")
        _check.array("elements", self.elements, shape=(2,), dtype=int, least=1, most=200)
        _check.integer("degree", self.degree, least=2, most=40)
        _check.choice("rim", self.rim, ("reflecting", "absorbing"))

    @property
    def is_disk(self) -> bool:
        """Whether the region is a disk."""
        return np.ndim(self.extent) == 0

    @property
    def half_widths(self) -> np.ndarray:
        """Half-widths of the smallest box around the region, shape (2,)."""
        return np.broadcast_to(np.asarray(self.extent, dtype=float), (2,))

    def _basis(self, halved: tuple[bool, bool]):
        """The finite-element basis on the region, or on its half where a coordinate is positive."""
        lines = []
        for half, number in zip(halved, self.elements, strict=True):
            lines.append(np.linspace(0 if half else -1, 1, number + 1 if half else 2 * number + 1))
        import skfem  # networks and their experiments come without it

        mesh = skfem.MeshQuad.init_tensor(*lines)
        p = mesh.p
        if self.is_disk:
            # the square onto the disk, axes onto axes; elements keep straight sides
            p = np.stack([p[0] * np.sqrt(1 - p[1] ** 2 / 2), p[1] * np.sqrt(1 - p[0] ** 2 / 2)])
        mesh = replace(mesh, doflocs=p * self.half_widths[:, None])
        # two Gauss points more than a polynomial of this degree needs, for the coefficients
        return skfem.CellBasis(mesh, skfem.ElementQuadP(int(self.degree)), intorder=2 * self.degree + 4)

    def _on_rim(self, points: np.ndarray) -> np.ndarray:
        """Which of ``points`` (2, n) lie on the rim."""
        scaled = points / self.half_widths[:, None]
        distance = np.hypot(*scaled) if self.is_disk else np.abs(scaled).max(axis=0)
        return distance > 1 - 1e-9


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
            raise ValueError(
                "cross=False: the Stratonovich drift belongs to the whole noise; use 'ito' or 'isothermal'"
            )
        region = Region() if region is None else _check.instance("region", region, Region)
        self.landscape, self.noise, self.convention, self.cross = landscape, noise, convention, bool(cross)
        self.region, self._moments, self._patterns = region, {}, {}
        root = noise_root(landscape, noise)
        diffusion = (root * root.T).applyfunc(sp.expand)
        if not cross:
            diffusion = sp.diag(diffusion[0, 0], diffusion[1, 1])
        q = landscape.coordinates
        if convention == "ito":
            c = sp.Matrix([sum(sp.diff(diffusion[i, j], q[j]) for j in range(2)) for i in range(2)])
        else:
            c = convention_drift(root, q, convention)
        # D and c are proportional to Δ_S: what is kept is their value per unit of Δ_S
        self.diffusion = diffusion.subs(DELTA_S, 1)
        self.noise_drift = c.applyfunc(sp.expand).subs(DELTA_S, 1)
        self.basis = self.region._basis(self._even)

    @cached_property
    def _even(self) -> tuple[bool, bool]:
        """In which coordinates loss and diffusion are symmetric, so that half the region is enough."""
        even = []
        for k, q in enumerate(self.landscape.coordinates):
            mirror = sp.diag(*[-1 if i == k else 1 for i in range(2)])
            turned = mirror * self.diffusion.subs(q, -q) * mirror
            same = (turned - self.diffusion).applyfunc(sp.expand) == sp.zeros(2, 2)
            even.append(same and self.landscape.even(self.landscape.loss, q))
        return tuple(even)

    @property
    def copies(self) -> int:
        """How many mirror images of the meshed part make up the region: 1, 2 or 4."""
        low = self.basis.mesh.p.min(axis=1)
        return int(np.prod(np.where(low > -1e-12, 2, 1)))

    @property
    def unknowns(self) -> int:
        """Number of coefficients."""
        return int(self.basis.N)

    @cached_property
    def _at_nodes(self):
        """Basis functions (n, 1, points), the same in each element, and weights (elements, points)."""
        return np.stack([np.asarray(f[0])[:1] for f in self.basis.basis]), self.basis.dx

    @cached_property
    def coefficients_at_nodes(self):
        """∇L (2, e, q), and per unit of Δ_S c (2, e, q) and D (2, 2, e, q), at the quadrature points."""
        x, y = np.asarray(self.basis.global_coordinates())
        slope = np.moveaxis(self.landscape.function(self.landscape.gradient)(x, y), -1, 0)
        drift = np.moveaxis(self.landscape.function(self.noise_drift)(x, y), -1, 0)
        matrix = np.moveaxis(self.landscape.function(self.diffusion)(x, y), (-2, -1), (0, 1))
        return slope, drift, matrix

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """The matrices A₀ and A₁ of :meth:`_elements`."""
        (phi, weight), (slope, drift, matrix) = self._at_nodes, self.coefficients_at_nodes
        parts = np.empty((2, len(weight), len(phi), len(phi)))
        for start in range(0, len(weight), _ELEMENTS):
            e = slice(start, start + _ELEMENTS)
            grad = np.stack([np.asarray(f[0].grad)[:, e] for f in self.basis.basis])
            steady = phi[:, None] * slope[None, :, e]
            noisy = phi[:, None] * drift[None, :, e]
            noisy += sum(matrix[:, j, e] * grad[:, None, j] for j in range(2))
            grad *= weight[e]
            parts[0, e], parts[1, e] = _products(grad, steady), _products(grad, noisy)
        return tuple(parts)

    def _elements(self, delta_s: float) -> np.ndarray:
        """A₀ + Δ_S A₁ of each element, (elements, n, n): ∫∇φ·(P∇L + cP + D∇P) = φᵀ(A₀ + Δ_S A₁)P."""
        delta_s = _check.number("delta_s", delta_s, above=0)
        with np.errstate(over="ignore", invalid="ignore"):
            total = self._parts[0] + delta_s * self._parts[1]
            _check.finite(total.sum(), delta_s=delta_s)
        return total

    def operator(self, delta_s: float) -> sparse.csc_matrix:
        """The matrix of the weak form, all elements added up. ValueError: delta_s is not positive, finite."""
        return _added(self._elements(delta_s), self.basis.element_dofs.T)

    @cached_property
    def mass_matrix(self) -> sparse.csc_matrix:
        """∫φₐφ_b over the meshed part."""
        phi, weight = self._at_nodes
        test = (phi * weight)[:, None]
        trial = np.broadcast_to(phi[:, None], test.shape)
        return _added(_products(test, trial), self.basis.element_dofs.T)

    @cached_property
    def load(self) -> np.ndarray:
        """∫φₐ over the whole region: load · coefficients is the probability."""
        return self.copies * self._integrals(1.0)

    def _integrals(self, factor) -> np.ndarray:
        """∫φₐ·factor over the meshed part, ``factor`` given at the quadrature points (elements, points)."""
        phi, weight = self._at_nodes
        parts, dofs = (phi * weight * factor).sum(axis=-1).ravel(), self.basis.element_dofs.ravel()
        return np.bincount(dofs, weights=parts, minlength=self.unknowns)

    def _moment(self, expression) -> np.ndarray:
        """∫φₐ·expression over the whole region, as :attr:`load`; kept for the next density.

        Raises ValueError for an expression without the symmetry of the density.
        """
        if isinstance(expression, str) and expression in self._moments:
            return self._moments[expression]
        parsed = self.landscape.expression(expression)
        if parsed not in self._moments:
            for half, q in zip(self._even, self.landscape.coordinates, strict=True):
                if half and not self.landscape.even(parsed, q):
                    raise ValueError(
                        f"expression {expression!r} is not even in {q}: odd parts average to 0, leave them "
                        "out"
                    )
            with np.errstate(all="ignore"):
                factor = self.landscape.function(parsed)(*np.asarray(self.basis.global_coordinates()))
                self._moments[parsed] = self.copies * self._integrals(factor)
        if isinstance(expression, str):
            self._moments[expression] = self._moments[parsed]
        return self._moments[parsed]

    @cached_property
    def _inner(self) -> np.ndarray:
        """Unknowns that an absorbing rim leaves free."""
        facets = self.basis.mesh.boundary_facets()
        ends = self.basis.mesh.p[:, self.basis.mesh.facets[:, facets]]
        on_rim = self.region._on_rim(ends.reshape(2, -1)).reshape(2, -1).all(axis=0)
        return self.basis.complement_dofs(self.basis.get_dofs(facets[on_rim]))

    def stationary(self, delta_s: float) -> Density:
        """Return the stationary density at noise level Δ_S = ησ.

        With an absorbing rim probability leaks out; the density is then the slowest-decaying one and
        ``leak`` its decay rate. Raises ValueError for a delta_s that is not positive, or when the elements
        are too coarse for the density.
        """
        with np.errstate(all="ignore"):
            coefficients, leak = self._solved(self._elements(delta_s))
            density = Density(self, float(delta_s), coefficients, leak)
            lowest = density.lowest
        if not lowest >= -_WORST_NEGATIVE:
            raise ValueError(
                f"elements={self.region.elements} of degree {self.region.degree} are too coarse at "
                f"delta_s={delta_s:g}: the density falls to {lowest:.2g} of its peak; "
                f"use more elements or a smaller extent"
            )
        return density

    def _solved(self, elements) -> tuple[np.ndarray, float]:
        """Coefficients of the density and the rate at which it leaks; NaN where the matrix is singular."""
        try:
            if self.region.rim == "absorbing":
                return self._slowest(_added(elements, self.basis.element_dofs.T))
            return self._closed(elements), 0.0
        except RuntimeError:
            return np.full(self.unknowns, np.nan), 0.0

    @cached_property
    def _lowest_corner(self) -> int:
        """The unknown at the corner of the mesh where the loss is least."""
        loss = self.landscape.function(self.landscape.loss)
        return self.basis.nodal_dofs[0][loss(*self.basis.mesh.p).argmin()]

    def _closed(self, elements) -> np.ndarray:
        """The density without leak, inner unknowns of the elements eliminated first (static condensation).

        They are most of the unknowns, and a dense solution for all elements at once is several times faster
        than a sparse one. Where rounding has spoilt it, all unknowns together are solved for.
        """
        dofs = self.basis.element_dofs.T
        outer = dofs.shape[1] - len(self.basis.interior_dofs)  # at the edges; these come first
        left = np.inf
        try:
            inner = np.linalg.solve(elements[:, outer:, outer:], -elements[:, outer:, :outer])
            edges = elements[:, :outer, :outer] + elements[:, :outer, outer:] @ inner
            vector = self._null_vector(edges, dofs[:, :outer], **_DIAGONAL)
            vector[dofs[:, outer:]] = (inner @ vector[dofs[:, :outer], None])[..., 0]
            flows = (elements @ vector[dofs][..., None]).ravel()
            size = (np.abs(elements) @ np.abs(vector[dofs])[..., None]).max()
            left = np.abs(np.bincount(dofs.ravel(), flows)).max() / size
        except (np.linalg.LinAlgError, RuntimeError):
            pass
        if not left < _RESIDUAL:
            vector = self._null_vector(elements, dofs)
        return vector / (self.load @ vector)

    def _null_vector(self, elements, dofs, **how) -> np.ndarray:
        """The null vector of the sum of element matrices over ``dofs``; unknowns not among them are 0.

        One coefficient is given and its row left out, which is minus the sum of the others: a row and a
        column of the whole normalisation would fill the factors instead. It is at the corner of the mesh
        where the density is largest; which that is, is found by solving with another first where the guess
        was poor.
        """
        corners, pinned, vector = self.basis.nodal_dofs[0], self._lowest_corner, np.zeros(self.unknowns)
        for _ in range(2):
            order, slots, rows, starts = self._pattern(dofs, pinned)
            data, number, end = np.bincount(slots, elements.ravel()), len(order) - 1, starts[-1]
            matrix = sparse.csc_matrix((data[:end], rows[:end], starts), shape=(number, number))
            right = np.zeros(number)
            right[rows[end:-1]] = -data[end:-1]
            vector[pinned], vector[order[:-1]] = 1.0, splu(matrix, **how).solve(right)
            if np.abs(vector[corners]).max() < _STEEP:
                break
            pinned = corners[np.abs(vector[corners]).argmax()]
        return vector

    def _pattern(self, dofs, pinned: int):
        """Where the entries of element matrices over ``dofs`` go: kept for the next Δ_S.

        The order of the unknowns, ``pinned`` last; of each entry its number among those of the sum, column by
        column, those of the row left out last; the rows of these; where each column starts.
        """
        key = dofs.shape[1], pinned
        if key not in self._patterns:
            order = np.append(np.setdiff1d(dofs, pinned), pinned)
            place, number = np.empty(self.unknowns, dtype=int), len(order) - 1
            place[order] = np.arange(number + 1)
            rows, columns = place[dofs][:, :, None], place[dofs][:, None, :]
            entries = np.where(rows == number, (number + 1) ** 2, columns * number + rows)
            entries, slots = np.unique(entries.ravel(), return_inverse=True)
            starts = np.searchsorted(entries, number * np.arange(number + 1)).astype(np.int32)
            self._patterns[key] = order, slots, (entries % number).astype(np.int32), starts
        return self._patterns[key]

    def _slowest(self, operator) -> tuple[np.ndarray, float]:
        """Slowest-decaying density and its rate, by inverse iteration."""
        inner = self._inner
        factors = _factored(operator[inner][:, inner])
        mass = self.mass_matrix[inner][:, inner]
        vector = np.ones(len(inner))
        rate = np.inf
        for _ in range(2000):
            new = factors.solve(mass @ vector)
            size = self.load[inner] @ new
            vector, before, rate = new / size, rate, (self.load[inner] @ vector) / size
            if abs(rate - before) <= 1e-10 * abs(rate) + 1e-14:
                break
        else:
            raise ValueError(
                f"rim={self.region.rim!r}: no slowest density at this delta_s, its rate does not settle"
            )
        coefficients = np.zeros(self.unknowns)
        coefficients[inner] = vector
        return coefficients, float(rate)

    def solve_source(self, delta_s: float, source: np.ndarray) -> Density:
        """Return the solution of ∇·(P∇L + cP + D∇P) = −``source`` with P = 0 on an absorbing rim.

        ``source`` (elements, points) is given at the quadrature points. For tests by manufactured solutions;
        the solution is not normalised. Raises ValueError for a source of another shape or a reflecting rim.
        """
        if self.region.rim != "absorbing":
            raise ValueError(f"rim={self.region.rim!r}: a source needs an absorbing rim")
        source = _check.array("source", source, shape=self.basis.dx.shape)
        right = self._integrals(source)
        inner = self._inner
        coefficients = np.zeros(self.unknowns)
        operator = self.operator(delta_s)[inner][:, inner]
        coefficients[inner] = _factored(operator).solve(right[inner])
        return Density(self, float(delta_s), coefficients, 0.0)


@dataclass(frozen=True)
class Density:
    """A stationary density P(x, y) on its region, as finite-element coefficients.

    Attributes
    ----------
    equation : Equation
    delta_s : float
    coefficients : array, (unknowns,)
    leak : float
        Rate in τ at which probability leaves through an absorbing rim; 0 for a reflecting one.
    """

    equation: Equation
    delta_s: float
    coefficients: np.ndarray
    leak: float

    @cached_property
    def _values(self) -> np.ndarray:
        """P at the quadrature points, (elements, points)."""
        phi = self.equation._at_nodes[0][:, 0]
        return np.einsum("bq,be->eq", phi, self.coefficients[self.equation.basis.element_dofs])

    @property
    def mass(self) -> float:
        """Probability in the region."""
        return float(self.equation.load @ self.coefficients)

    @property
    def lowest(self) -> float:
        """Lowest value of P over its highest, at the quadrature points: slightly negative where P is tiny."""
        return float(self._values.min() / self._values.max())

    def mean(self, expression) -> float:
        """⟨expression⟩ over the region.

        Raises ValueError for an expression without the symmetry of the density, or one that is not finite.
        """
        with np.errstate(all="ignore"):
            mean = float(self.equation._moment(expression) @ self.coefficients / self.mass)
        return _check.finite(mean, expression=expression)

    def _locate(self, x, y):
        """Signs of the points, element of each, coordinates in it, and which lie inside the region."""
        x, y = _check.array("x", x, empty=True), _check.array("y", y, empty=True)
        _check.together(x=x, y=y)
        x, y = np.broadcast_arrays(x, y)
        points = np.stack([x.ravel(), y.ravel()])
        low = self.equation.basis.mesh.p.min(axis=1)
        mirrored = np.where((low > -1e-12)[:, None], np.sign(points) + (points == 0), 1.0)
        folded = points * mirrored
        region = self.equation.region
        scaled = np.abs(folded) / region.half_widths[:, None]
        inside = (np.hypot(*scaled) if region.is_disk else scaled.max(axis=0)) <= 1
        element, local = _find(self.equation.basis.mesh, folded[:, inside])
        found = element >= 0
        inside[np.flatnonzero(inside)[~found]] = False
        return x.shape, mirrored, inside, element[found], local[:, found]

    def _evaluate(self, x, y):
        """P (n,) and ∇P (2, n) at points; zero outside the region. Returns the points' shape too."""
        shape, mirrored, inside, element, local = self._locate(x, y)
        values, slopes = np.zeros(inside.size), np.zeros((2, inside.size))
        dofs = self.equation.basis.element_dofs[:, element]
        weights = self.coefficients[dofs]
        inverse = self.equation.basis.mapping.invDF(local[:, :, None], element)[..., 0]
        partial = np.zeros((2, len(element)))
        total = np.zeros(len(element))
        for number in range(dofs.shape[0]):
            phi, dphi = self.equation.basis.elem.lbasis(local, number)
            total += weights[number] * phi
            partial += weights[number] * dphi
        values[inside] = total
        slopes[:, inside] = np.einsum("ijn,in->jn", inverse, partial) * mirrored[:, inside]
        return shape, values, slopes

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
        region = self.equation.region
        reach = region.half_widths[1 - axis]
        half = self.equation._even[1 - axis]
        panels = region.elements[1 - axis] * (1 if half else 2)
        nodes, weights = np.polynomial.legendre.leggauss(int(region.degree) + 2)
        breaks = np.linspace(0 if half else -reach, reach, panels + 1)
        width = np.diff(breaks)[:, None]
        other = (breaks[:-1, None] + width * (nodes + 1) / 2).ravel()
        weights = (width * weights / 2).ravel() * (2 if half else 1)
        grid = (at[:, None], other[None]) if axis == 0 else (other[None], at[:, None])
        return self(*grid) @ weights


def _products(test: np.ndarray, trial: np.ndarray) -> np.ndarray:
    """Sum over components and quadrature points of (n, components, elements, points): (elements, n, n)."""
    n, _, number, _ = test.shape
    left, right = (np.moveaxis(part, 2, 0).reshape(number, n, -1) for part in (test, trial))
    return left @ right.transpose(0, 2, 1)


def _added(elements: np.ndarray, dofs: np.ndarray) -> sparse.csc_matrix:
    """The sum of element matrices (elements, n, n) whose unknowns are ``dofs`` (elements, n)."""
    rows, columns = np.broadcast_arrays(dofs[:, :, None], dofs[:, None, :])
    return sparse.coo_matrix((elements.ravel(), (rows.ravel(), columns.ravel()))).tocsc()


def _factored(matrix):
    """LU factors of a matrix whose pattern is symmetric.

    Kept on the diagonal as far as possible, the pivots leave factors 5 to 10 times sparser than freely chosen
    ones; these are taken where the residual of a solution says that they are needed.
    """
    matrix = matrix.tocsc()
    factors = splu(matrix, **_DIAGONAL)
    right = abs(matrix) @ np.ones(matrix.shape[0])
    with np.errstate(all="ignore"):
        solution = factors.solve(right)
        left = np.abs(matrix @ solution - right).max() / (abs(matrix) @ np.abs(solution)).max()
    return factors if left < _RESIDUAL else splu(matrix)


def _find(mesh, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Element of each point (−1 for none) and its coordinates in the unit square.

    Elements are tried from the nearest on, inverting the bilinear map by Newton's method; exact in one step
    for rectangles.
    """
    corners = mesh.p[:, mesh.t]
    centres = corners.mean(axis=1)
    scale = np.ptp(mesh.p, axis=1)[:, None] / np.sqrt(mesh.t.shape[1])
    tried = min(6, mesh.t.shape[1])
    order = cKDTree((centres / scale).T).query((points / scale).T, k=tried)[1].reshape(-1, tried)
    element = np.full(points.shape[1], -1)
    local = np.zeros_like(points)
    for candidate in order.T:
        open_ = np.flatnonzero(element < 0)
        if not len(open_):
            break
        guess = _invert(corners[:, :, candidate[open_]], points[:, open_])
        good = np.all((guess > -1e-9) & (guess < 1 + 1e-9), axis=0)
        element[open_[good]] = candidate[open_[good]]
        local[:, open_[good]] = guess[:, good]
    return element, local


def _invert(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Coordinates (2, n) in the unit square of points (2, n) in quadrilaterals with corners (2, 4, n)."""
    a, b, c, d = corners[:, 0], corners[:, 1], corners[:, 2], corners[:, 3]
    along, up, twist = b - a, d - a, a - b + c - d
    s = np.full_like(points, 0.5)
    for _ in range(8):
        residual = a + along * s[0] + up * s[1] + twist * s[0] * s[1] - points
        first, second = along + twist * s[1], up + twist * s[0]
        determinant = first[0] * second[1] - first[1] * second[0]
        s = s - np.stack(
            [
                (second[1] * residual[0] - second[0] * residual[1]) / determinant,
                (first[0] * residual[1] - first[1] * residual[0]) / determinant,
            ]
        )
    return s


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
    equation = Equation(
        landscape,
        noise if noise is not None else RandomShift(),
        convention=convention,
        cross=cross,
        region=region,
    )
    return equation.stationary(delta_s)
