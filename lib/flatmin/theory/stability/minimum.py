"""Linear stability of minibatch SGD at an interpolating minimum: the exact mean-square threshold.

At a minimum that fits all n samples the linearised model has the errors e_i = g_i·δ, with g_i the gradient of
sample i's output and δ the distance from the minimum (W22 Eq. 4–5). A step of SGD is δ ← (I − ηH_batch)δ,
where H = (1/n) Σ g_i g_iᵀ. With a fresh batch at each step the second moment S = E δδᵀ obeys the linear
recursion

    S ← T S = (I − ηH) S (I − ηH) + η² c [ (1/n) Σ_i g_i g_iᵀ S g_i g_iᵀ − H S H ],

c = 1/B for draws with replacement and (n − B)/(B(n − 1)) without (:func:`noise_factor`). T is self-adjoint
and maps covariance matrices to covariance matrices, so its largest eigenvalue ρ, with a covariance matrix as
its eigenvector, decides: E L = ½ Tr(HS) grows as ρᵗ. Since T = 1 − ηA + η²M with A S = HS + SH, the minimum
is stable exactly if ηM ≤ A as quadratic forms, which makes both thresholds an eigenvalue of their own: no
search for a root.

Everything happens in the span of the gradients (rank r ≤ min(n, P); nothing else moves) and in the eigenbasis
of H, where T is diagonal but for the sum over samples. A product costs about 4nr² operations, nothing of the
size of P is formed, and the Lanczos method needs some ten to a hundred products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Minimum"]

#: eigenvalues of the Gram matrix below this share of the largest count as zero, per sample
_ROUNDING = 4 * np.finfo(float).eps


@dataclass(frozen=True)
class Minimum:
    """An interpolating minimum as linear stability sees it; made from gradients or from their Gram matrix.

    Attributes
    ----------
    eigenvalues : (r,) array, the non-zero eigenvalues of H, largest first
    modes : (n, r) array, orthonormal columns: the same eigenvectors in the space of errors, e = √n modes √λ δ
    """

    eigenvalues: np.ndarray
    modes: np.ndarray

    @classmethod
    def from_gradients(cls, gradients) -> Minimum:
        """Build from the per-sample gradients g_i of the model's only output, (n, P).

        Raises ValueError for another shape, numbers that are not finite, or nothing but zeros.
        """
        gradients = _matrix("gradients", gradients)
        return cls.from_gram(gradients @ gradients.T)

    @classmethod
    def from_gram(cls, gram) -> Minimum:
        """Build from K_ij = g_i·g_j, (n, n), without a factor 1/n.

        Raises ValueError unless ``gram`` is square, finite, symmetric and positive semi-definite up to
        rounding, and not zero.
        """
        gram = _matrix("gram", gram)
        n = len(gram)
        if gram.shape != (n, n) or not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-6 * np.abs(gram).max()):
            raise ValueError(f"gram of shape {gram.shape}: must be a symmetric (n, n) matrix")
        values, modes = np.linalg.eigh((gram + gram.T) / (2 * n))
        if values[-1] <= 0:
            raise ValueError("gram: must not be zero, or nothing moves")
        if values[0] < -1e-4 * values[-1]:
            raise ValueError(f"gram: must be positive semi-definite, has the eigenvalue {n * values[0]:.3g}")
        kept = np.flatnonzero(values > n * _ROUNDING * values[-1])[::-1]
        return cls(values[kept], modes[:, kept])

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.modes)

    @property
    def rank(self) -> int:
        """Number of directions r that the gradients span."""
        return len(self.eigenvalues)

    @cached_property
    def gradients(self) -> np.ndarray:
        """The gradients g_i in the eigenbasis of H, (n, r)."""
        return np.sqrt(self.samples * self.eigenvalues) * self.modes

    @cached_property
    def kernel(self) -> np.ndarray:
        """Gram matrix over n, (n, n): K_ij = g_i·g_j/n, with the non-zero eigenvalues of H."""
        return (self.modes * self.eigenvalues) @ self.modes.T

    @cached_property
    def squared_norms(self) -> np.ndarray:
        """‖g_i‖², (n,); their mean is Tr H."""
        return np.square(self.gradients).sum(axis=1)

    @cached_property
    def chi(self) -> np.ndarray:
        """χ_i = g_iᵀ H g_i, (n,); their mean is ‖H‖_F² (W22 Definition 2.1)."""
        return np.square(self.gradients) @ self.eigenvalues

    @property
    def trace(self) -> float:
        """Tr H."""
        return float(self.eigenvalues.sum())

    @property
    def frobenius(self) -> float:
        """‖H‖_F."""
        return float(np.linalg.norm(self.eigenvalues))

    @property
    def sharpness(self) -> float:
        """λ₁, the largest eigenvalue of H."""
        return float(self.eigenvalues[0])

    @property
    def effective_rank(self) -> float:
        """(Tr H)²/‖H‖_F²: how many eigenvalues count."""
        return (self.trace / self.frobenius) ** 2

    @cached_property
    def gamma(self) -> float:
        """Norm uniformity γ = min χ/mean χ (W22 Definition 2.1); γ ≤ inf μ₁ (Lemma 2.2)."""
        return float(self.chi.min() / self.chi.mean())

    @cached_property
    def mu_0(self) -> float:
        """Infimum of the alignment μ(θ) over all θ, W22's μ₀ at its best.

        μ does not depend on the length of δ, so the infimum over any neighbourhood is the same. It is the
        least value of eᵀ(diag χ − K²)e/(χ̄ eᵀe) over the errors e that the model can make. Cost n³.
        """
        return self._least(np.diag(self.chi) - self.kernel @ self.kernel)

    @cached_property
    def mu_1(self) -> float:
        """Infimum of the relaxed alignment μ₁(θ) over all θ: γ when r = n, at least γ otherwise. Cost n³."""
        return self._least(np.diag(self.chi))

    def _least(self, form):
        """Least value of a quadratic form of the errors, (n, n), over reachable errors, in units of
        ‖H‖_F²."""
        reachable = self.modes.T @ form @ self.modes
        return float(np.linalg.eigvalsh(reachable)[0] / self.chi.mean())


def _matrix(name, values):
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or 0 in values.shape or not np.all(np.isfinite(values)):
        raise ValueError(
            f"{name} of shape {values.shape}: must be a finite matrix with a row for each sample"
        )
    return values
