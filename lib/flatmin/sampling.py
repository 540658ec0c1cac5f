"""How a minibatch is drawn: the three ways, in one vocabulary for theory and networks.

- ``"replacement"``: each of the B samples independently of the others;
- ``"fresh"``: B different samples, drawn anew at every step;
- ``"epoch"``: the set is shuffled and cut into batches, a remainder is left out; the next epoch shuffles anew
  (Y26, and most practice).

The covariance of the batch gradient is C = c Σ, with Σ that of one sample's: c = 1/B with replacement and
(n − B)/((n − 1)B) otherwise (M22 Eq. 8).
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from flatmin import _check

__all__ = ["Sampling"]


class Sampling(StrEnum):
    """How a minibatch is drawn; every function takes the word itself too, ``sampling="fresh"``.

    Examples
    --------
    >>> import flatmin as fm
    >>> fm.Sampling("fresh").factor(samples=100, batch_size=10)
    0.09090909090909091
    """

    REPLACEMENT = "replacement"
    FRESH = "fresh"
    EPOCH = "epoch"

    @classmethod
    def of(cls, value: str, allowed=("replacement", "fresh", "epoch"), name: str = "sampling") -> Sampling:
        """Return the member that ``value`` names; ValueError for any other value."""
        return cls(_check.choice(name, value, allowed))

    def factor(self, samples: int, batch_size: float) -> float:
        """Return c = C/Σ for ``samples`` = n and ``batch_size`` = B (M22 Eq. 8).

        B may be any real number from 1 on (up to n unless drawn with replacement), so that a boundary in the
        (η, B) plane can be drawn as a line. Raises ValueError outside.
        """
        samples = _check.integer("samples", samples, least=1, most=10**15)  # n − 1 exact in a double
        most = None if self is Sampling.REPLACEMENT else samples
        size = _check.number("batch_size", batch_size, least=1, most=most)
        if self is Sampling.REPLACEMENT:
            return 1 / size
        return 0.0 if samples == 1 else (samples - size) / (size * (samples - 1))

    def draw(self, samples: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        """Return the batches of one epoch, positions (samples // batch_size, batch_size).

        The result depends on the arguments only. Raises ValueError for a batch size outside 1…n, or a
        negative seed or epoch.
        """
        samples = _check.integer("samples", samples, least=1, most=10**9)
        batch_size = _check.integer("batch_size", batch_size, least=1, most=samples)
        seed, epoch = _check.integer("seed", seed, least=0), _check.integer("epoch", epoch, least=0)
        rng, count = np.random.default_rng([seed, epoch]), samples // batch_size
        if self is Sampling.EPOCH:
            return rng.permutation(samples)[: count * batch_size].reshape(count, batch_size)
        if self is Sampling.REPLACEMENT:
            return rng.integers(samples, size=(count, batch_size))
        return np.stack([rng.permutation(samples)[:batch_size] for _ in range(count)])
