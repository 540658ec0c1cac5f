"""Where end points and trajectories lie: principal axes, and the radius of Y26 Eq. 4."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh
from torch import Tensor

from flatmin import _check

__all__ = ["Principal", "principal", "radius"]


@dataclass(frozen=True, eq=False)
class Principal:
    """Principal axes of points: ``mean`` (p,), ``axes`` (k, p) orthonormal, and their share of the variance,
    ``ratio`` (k,), the largest first."""

    mean: np.ndarray = field(repr=False)
    axes: np.ndarray = field(repr=False)
    ratio: np.ndarray

    def project(self, points) -> np.ndarray:
        """Coordinates (…, k) of points (…, p); ValueError for another p."""
        points = _points("points", points)
        if points.shape[-1] != len(self.mean):
            raise _check.refused("points", points, f"of shape (…, {len(self.mean)})")
        return (points - self.mean) @ self.axes.T


def principal(points, axes: int = 2) -> Principal:
    """The first principal ``axes`` of points (…, p), each axis with its largest entry positive.

    Raises ValueError for fewer than two points, more axes than there are, or points that all coincide.
    """
    points = _points("points", points)
    points = points.reshape(-1, points.shape[-1])
    axes = _check.integer("axes", axes, least=1, most=max(min(len(points) - 1, points.shape[1]), 1))
    mean = points.mean(0)
    moved = points - mean
    total = np.square(moved).sum()
    if len(points) < 2 or not total > 0:
        raise _check.refused("points", points, "at least two points that differ")
    wide = len(points) < points.shape[1]
    gram = moved @ moved.T if wide else moved.T @ moved
    values, vectors = eigh(gram, subset_by_index=[len(gram) - axes, len(gram) - 1])
    rows = np.linalg.qr(moved.T @ vectors[:, ::-1])[0].T if wide else vectors.T[::-1]
    rows = rows * np.sign(np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1))
    return Principal(mean, rows, values[::-1].clip(min=0) / total)


def radius(ends) -> float:
    """Root of the mean squared distance of the points ``ends`` (R, p) from their mean, r_θ (Y26 Eq. 4).

    Raises ValueError for fewer than two points, or what is not finite.
    """
    ends = _points("ends", ends)
    if ends.ndim != 2 or len(ends) < 2:
        raise _check.refused("ends", ends, "of shape (R, p), at least two rows")
    return float(np.sqrt(np.square(ends - ends.mean(0)).sum(1).mean()))


def _points(name, value) -> np.ndarray:
    """Finite points along all axes but the last, as doubles."""
    value = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    found = _check.array(name, value, least=-1e150, most=1e150)
    if not found.ndim:
        raise _check.refused(name, value, "points, their coordinates along the last axis")
    return found
