"""Linear stability of minibatch SGD at an interpolating minimum: what it knows of the minimum.

At a minimum that fits all n samples the linearised model has the errors e_i = g_i·δ, with g_i the gradient of
sample i's output and δ the distance from the minimum (W22 Eq. 4–5). With K outputs g_i becomes the K rows of
a matrix R_i: the loss of sample i is ½|R_i δ|² and its curvature H_i = R_iᵀR_i. For the square loss R_i is
the Jacobian J_i of the outputs; for another one R_i = Q_iᵀJ_i with Q_iQ_iᵀ = ∂²ℓ_i/∂f². A step of SGD is δ ←
(I − ηH_batch)δ with H = (1/n) Σ H_i. With a fresh batch at each step the second moment S = E δδᵀ obeys the
linear recursion

    S ← T S = (I − ηH) S (I − ηH) + η² c [ (1/n) Σ_i H_i S H_i − H S H ],

c = 1/B for draws with replacement and (n − B)/(B(n − 1)) without (:class:`~flatmin.sampling.Sampling`). A
sample brings its K rows together: n·K rows are not n·K samples. T is self-adjoint and maps covariance
matrices to covariance matrices, so its largest eigenvalue ρ, with a covariance matrix as its eigenvector,
decides: E L = ½ Tr(HS) grows as ρᵗ. Since T = 1 − ηA + η²M with A S = HS + SH, the minimum is stable exactly
if ηM ≤ A as quadratic forms, which makes both thresholds an eigenvalue of their own: no search for a root.

Everything happens in the span of the rows (rank r ≤ min(nK, P); nothing else moves) and in the eigenbasis of
H, where T is diagonal but for the sum over samples. A product costs about 4nKr² operations, nothing of the
size of P is formed, and the Lanczos method needs some ten to a hundred products, keeping forty matrices
(r, r). Beyond rank 2500 (1 GB) it is refused; :func:`~.bracket.step_bracket` then encloses the threshold.

Away from a minimum the gradients do not vanish together, but the distance of two runs that see the same
batches obeys the same δ ← (I − ηH_batch)δ: ρ then says whether they meet again.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.sparse.linalg import eigsh

from flatmin import _check
from flatmin.sampling import Sampling

__all__ = ["Minimum", "checked"]

#: eigenvalues of the Gram matrix below this share of the largest count as zero, per row
_ROUNDING = 4 * np.finfo(float).eps

#: rows of a Gram matrix from which eigenvectors wait until they are asked for
_LAZY = 3000


class Minimum:
    """An interpolating minimum as linear stability sees it; made from gradients or from their Gram matrix.

    From a Gram matrix of more than 3000 rows the eigenvectors are only computed where something asks for
    them: the trace rules, alignments, batch sharpness and :func:`~.bracket.step_bracket` do without.

    Attributes
    ----------
    outputs : int
        K, how many rows belong to one sample.
    eigenvalues : (r,) array
        The non-zero eigenvalues of H, largest first.
    modes : (n·K, r) array
        Orthonormal columns: the same eigenvectors in the space of errors, e = √n modes √λ δ; sample by
        sample, output by output.

    Examples
    --------
    >>> import flatmin as fm
    >>> minimum = fm.Minimum.from_gradients([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> minimum.samples, minimum.rank, round(minimum.trace, 6)
    (3, 2, 1.333333)
    >>> from flatmin.theory.stability.threshold import largest_step
    >>> round(largest_step(minimum, batch_size=1), 4), round(largest_step(minimum, batch_size=3), 4)
    (1.2679, 2.0)
    """

    def __init__(self, outputs: int, *, pairs=None, kernel=None):
        self.outputs, self._pairs, self._kernel = outputs, pairs, kernel
        self._edge = None  # what :mod:`.threshold` found last: c, η* and the second moment there

    def __repr__(self) -> str:
        of = f", {self.outputs} outputs" if self.outputs > 1 else ""
        return f"<Minimum of {self.samples} samples{of}; Tr H = {self.trace:.6g}>"

    @classmethod
    def from_gradients(cls, gradients) -> Minimum:
        """Build from the gradients g_i (n, P) of the only output, or the rows R_i (n, K, P) of several.

        Raises ValueError for another shape, numbers that are not finite (or whose squares are not), or
        nothing but zeros.
        """
        rows = _check.array("gradients", gradients, least=-1e150, most=1e150)
        if rows.ndim not in (2, 3):
            raise _check.refused("gradients", rows, "of shape (n, P), or (n, K, P) for K outputs")
        outputs = rows.shape[1] if rows.ndim == 3 else 1
        rows = rows.reshape(-1, rows.shape[-1])
        if not rows.any():
            raise _check.refused("gradients", rows, "not all 0, or nothing moves")
        if rows.shape[1] >= len(rows):
            return cls.from_gram(rows @ rows.T, outputs)
        modes, values, _ = np.linalg.svd(rows, full_matrices=False)
        return cls._kept(np.square(values) * outputs / len(rows), modes, outputs, "gradients")

    @classmethod
    def from_gram(cls, gram, outputs: int = 1) -> Minimum:
        """Build from the inner products ``gram`` (n·K, n·K) of all rows, without a factor 1/n.

        For K ``outputs`` sample by sample, output by output. Raises ValueError unless ``gram`` is square,
        finite, symmetric and positive semi-definite up to rounding, and not zero, and ``outputs`` divides its
        rows.
        """
        gram = _check.array("gram", gram, ndim=2, least=-1e300, most=1e300)
        outputs, size = _check.integer("outputs", outputs, least=1), len(gram)
        top = np.abs(gram).max()
        if gram.shape != (size, size) or not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-6 * top):
            raise _check.refused("gram", gram, "a symmetric (n·K, n·K) matrix")
        if size % outputs:
            raise _check.refused("outputs", outputs, f"a divisor of the {size} rows of gram")
        if size > _LAZY:
            found = cls(outputs, kernel=(gram + gram.T) * (outputs / (2 * size)))
            if not 1e-300 < found.trace < np.inf or np.diag(gram).min() < -1e-4 * top:
                raise _check.refused("gram", gram, "positive semi-definite and not zero")
            return found
        return cls._from_eigh((gram + gram.T) / 2, outputs)

    @classmethod
    def _from_eigh(cls, gram, outputs):
        values, modes = np.linalg.eigh(gram)
        if values[0] < -1e-4 * values[-1]:
            allowed = f"positive semi-definite, it has the eigenvalue {values[0]:.3g}"
            raise _check.refused("gram", gram, allowed)
        return cls._kept(values[::-1] * outputs / len(gram), modes[:, ::-1], outputs, "gram")

    @classmethod
    def _kept(cls, values, modes, outputs, name):
        """The minimum with those of the falling eigenvalues that are not rounding."""
        if not values[0] > 1e-300:
            raise ValueError(f"{name}: must not be zero, or nothing moves")
        kept = values > len(modes) * _ROUNDING * values[0]
        return cls(outputs, pairs=(values[kept], modes[:, kept]))

    @property
    def lazy(self) -> bool:
        """Whether the eigenvectors have not been asked for yet."""
        return self._pairs is None

    @property
    def _decomposed(self):
        if self.lazy:
            self._pairs = self._from_eigh(self._kernel, 1)._pairs
            self._pairs = self._pairs[0] * len(self._kernel), self._pairs[1]
        return self._pairs

    @property
    def eigenvalues(self) -> np.ndarray:
        """The non-zero eigenvalues of H, largest first, (r,)."""
        return self._decomposed[0]

    @property
    def modes(self) -> np.ndarray:
        """Their eigenvectors in the space of errors, (n·K, r)."""
        return self._decomposed[1]

    def leading(self, directions: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``directions`` first eigenvalues (q,) and modes (n·K, q), or all there are."""
        directions = _check.integer("directions", directions, least=1)
        if self.lazy and directions < len(self._kernel) // 4:
            start = np.ones(len(self._kernel))
            values, modes = eigsh(self._kernel, k=directions, which="LA", v0=start)
            kept = np.argsort(values)[::-1]
            kept = kept[values[kept] > len(modes) * _ROUNDING * values.max()]
            return values[kept], modes[:, kept]
        return self.eigenvalues[:directions], self.modes[:, :directions]

    def factor(self, batch_size: float, sampling: str = "fresh") -> float:
        """c, the covariance of a batch's curvature over that of one sample's; all that T knows of B.

        Raises ValueError for a batch size outside its range and for shuffled epochs, whose batches are not
        independent (:func:`~.paths.epoch_growth`).
        """
        if isinstance(sampling, str) and sampling == Sampling.EPOCH:
            allowed = "'replacement' or 'fresh', each batch independent of the others (epochs: epoch_growth)"
            raise _check.refused("sampling", str(sampling), allowed)
        return Sampling.of(sampling, ("replacement", "fresh")).factor(self.samples, batch_size)

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return self._rows // self.outputs

    @property
    def _rows(self) -> int:
        return len(self._kernel if self.lazy else self._pairs[1])

    @property
    def rank(self) -> int:
        """Number of directions r that the rows span."""
        return len(self.eigenvalues)

    @cached_property
    def gradients(self) -> np.ndarray:
        """The gradients g_i, or the rows of the R_i one below the other, in the eigenbasis of H: (n·K, r)."""
        return np.sqrt(self.samples * self.eigenvalues) * self.modes

    @property
    def roots(self) -> np.ndarray:
        """The R_i in the eigenbasis of H, (n, K, r)."""
        return self.gradients.reshape(self.samples, self.outputs, -1)

    @cached_property
    def kernel(self) -> np.ndarray:
        """Gram matrix over n, (n·K, n·K), with the non-zero eigenvalues of H."""
        return (self.modes * self.eigenvalues) @ self.modes.T if self._kernel is None else self._kernel

    def gram_product(self, vectors) -> np.ndarray:
        """Each of the ``vectors`` (k, n·K) times the Gram matrix n·K_ij: (k, n·K)."""
        vectors = _check.array("vectors", vectors, shape=(None, self._rows))
        if self._kernel is not None:
            return self.samples * (vectors @ self._kernel)
        return (vectors @ self.gradients) @ self.gradients.T

    @cached_property
    def blocks(self) -> np.ndarray:
        """R_i R_iᵀ, (n, K, K)."""
        if self._kernel is not None:
            n, each = self.samples, np.arange(self.samples)
            return n * self._kernel.reshape(n, self.outputs, n, self.outputs)[each, :, each]
        return self.roots @ self.roots.transpose(0, 2, 1)

    @cached_property
    def pulls(self) -> np.ndarray:
        """R_i H R_iᵀ, (n, K, K): what gradient descent on one sample does to its own errors."""
        if self._kernel is not None:
            rows = self._kernel.reshape(self.samples, self.outputs, -1)
            return self.samples * np.einsum("ikr,ilr->ikl", rows, rows, optimize=True)
        return (self.roots * self.eigenvalues) @ self.roots.transpose(0, 2, 1)

    @property
    def squared_norms(self) -> np.ndarray:
        """Tr H_i = ‖R_i‖_F², (n,): ‖g_i‖² for one output; their mean is Tr H."""
        return np.trace(self.blocks, axis1=1, axis2=2)

    @property
    def chi(self) -> np.ndarray:
        """χ_i = Tr(H_i H), (n,): g_iᵀ H g_i for one output; their mean is ‖H‖_F² (W22 Definition 2.1)."""
        return np.trace(self.pulls, axis1=1, axis2=2)

    @property
    def trace(self) -> float:
        """Tr H."""
        return float(self.eigenvalues.sum() if self._kernel is None else np.trace(self._kernel))

    @property
    def frobenius(self) -> float:
        """‖H‖_F."""
        return float(np.linalg.norm(self.eigenvalues if self._kernel is None else self._kernel))

    @cached_property
    def sharpness(self) -> float:
        """λ₁, the largest eigenvalue of H."""
        return float(self.leading(1)[0][0])

    @property
    def effective_rank(self) -> float:
        """(Tr H)²/‖H‖_F²: how many eigenvalues count."""
        return (self.trace / self.frobenius) ** 2

    @cached_property
    def gamma(self) -> float:
        """Norm uniformity γ = min χ/mean χ (W22 Definition 2.1); γ ≤ inf μ₁ (Lemma 2.2).

        Raises ValueError for several outputs: the lemma compares numbers, there χ_i is a matrix.
        """
        if self.outputs > 1:
            raise _check.refused("outputs", self.outputs, "1: W22 defines γ for one output")
        return float(self.chi.min() / self.chi.mean())

    @cached_property
    def mu_0(self) -> float:
        """Infimum of the alignment μ(θ) over all θ, W22's μ₀ at its best.

        μ does not depend on the length of δ, so the infimum over any neighbourhood is the same. It is the
        least value of eᵀ(X − K²)e/(‖H‖_F² eᵀe) over the errors e that the model can make, X with the blocks
        R_i H R_iᵀ on its diagonal (the numbers χ_i for one output). Cost (nK)³.

        It is never negative, and 0 for one gradient repeated: 0 is returned up to rounding. With N = nK rows
        and the unit ε of float64, sums and eigensolvers are exact for a form and a Gram matrix that differ by
        Nε of their norms. The form and the two sums in it have norm max χ at most. An error δK of K moves
        eᵀK²e by 2λ₁|δK| and eᵀXe by 2√(n eᵀXe)|δK|, where at the zero eᵀXe = eᵀK²e ≤ λ₁². In all
        Nε(3 max χ + 2(1 + √n)λ₁²).
        """
        found = self._least(self.reached(self.pulls) - np.diag(np.square(self.eigenvalues)))
        size = 3 * self.chi.max() + 2 * (1 + np.sqrt(self.samples)) * self.sharpness**2
        rounding = self._rows * np.finfo(float).eps * size / self.frobenius**2
        return found if found > rounding else 0.0

    @cached_property
    def mu_1(self) -> float:
        """Infimum of the relaxed alignment μ₁(θ) over all θ: γ when r = n, at least γ otherwise. Cost n³."""
        return self._least(self.reached(self.pulls))

    def reached(self, blocks) -> np.ndarray:
        """The form of the errors with ``blocks`` (n, K, K) on its diagonal, on errors the model makes."""
        blocks = _check.array("blocks", blocks, shape=(self.samples, self.outputs, self.outputs))
        modes = self.modes.reshape(self.samples, self.outputs, -1)
        return self.modes.T @ (blocks @ modes).reshape(self.modes.shape)

    def _least(self, form) -> float:
        return float(np.linalg.eigvalsh(form)[0] / self.frobenius**2)

    def alignment(self, residuals) -> float:
        """μ = Tr(ΣH)/(2L‖H‖_F²) at the ``residuals`` e (n·K,) or (n, K), the errors at some θ (W22 §2).

        Σ is the covariance of one sample's gradient R_iᵀe_i, 2L = (1/n) Σ |e_i|². Raises ValueError for
        residuals that do not fit or vanish.
        """
        e = self.residuals_of(residuals)
        pulled = np.einsum("ik,ikl,il->", e, self.pulls, e)
        if self._kernel is None:
            moved = self.eigenvalues * (self.modes.T @ e.ravel())
        else:
            moved = self._kernel @ e.ravel()
        return float((pulled - moved @ moved) / (np.sum(np.square(e)) * self.frobenius**2))

    def residuals_of(self, residuals) -> np.ndarray:
        """``residuals`` as (n, K), checked: finite and not all zero; ValueError otherwise."""
        e = _check.array("residuals", residuals)
        if e.size != self._rows or not np.any(e):
            raise _check.refused("residuals", e, f"{self._rows} numbers, not all 0")
        return e.reshape(self.samples, self.outputs)


def checked(minimum) -> Minimum:
    """``minimum`` if it is one; ValueError otherwise."""
    if not isinstance(minimum, Minimum):
        raise _check.refused("minimum", minimum, "a Minimum, made by from_gradients or from_gram")
    return minimum
