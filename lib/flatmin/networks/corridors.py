"""Straight lines between networks: loss on them, and the curvature and noise that decide a hop along them.

In the two-valley model of Y26 a walker leaves a valley of curvature h over a barrier ΔL against the diffusion
D = η uᵀCu/2 along the direction u of the hop, per unit of τ = ηt at the rate (Y26 A29, with f = 2/h and
2Δ_S/f = D)

    k = h z e^(−z²) / √π,  z² = ΔL/D .

All that is in it can be measured on the line between two networks; nothing is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jvp

from flatmin import _check
from flatmin.networks import losses
from flatmin.networks.data.samples import samples_of
from flatmin.networks.device import choose
from flatmin.networks.freezing.forms import vectors
from flatmin.networks.train.stacks import private, ready, still
from flatmin.sampling import Sampling

__all__ = ["Corridors", "corridors"]


@dataclass(frozen=True)
class Corridors:
    """What :func:`corridors` finds on K lines.

    Attributes
    ----------
    samples : int
        n.
    length : (K,)
        ‖b − a‖.
    losses : (K, points)
        Mean loss at equally spaced points from a to b, both included.
    curvature, noise : (K, 2)
        uᵀHu and uᵀΣu at a and at b, with u along the line and Σ the covariance of one sample's gradient.
    """

    samples: int
    length: np.ndarray
    losses: np.ndarray
    curvature: np.ndarray
    noise: np.ndarray

    @property
    def barrier(self) -> np.ndarray:
        """By how much the largest loss on the line exceeds the larger one of its ends, (K,)."""
        return self.losses.max(1) - self.losses[:, [0, -1]].max(1)

    def heights(self, eta: float, batch_size: int, sampling: str = "epoch") -> np.ndarray:
        """z² = ΔL/D seen from a and from b, (K, 2), with D = η c uᵀΣu/2.

        ΔL is the largest loss on the line less that of the end; z² is 0 where there is no barrier between the
        two, ∞ where there is one and no noise. Raises ValueError for numbers out of range.
        """
        eta = _check.number("eta", eta, above=0, most=1e9)
        factor = Sampling.of(sampling).factor(self.samples, _check.integer("batch_size", batch_size, least=1))
        climb = self.losses.max(1, keepdims=True) - self.losses[:, [0, -1]]
        diffusion = eta * factor * self.noise / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.barrier[:, None] > 0, climb / diffusion, 0.0)

    def hop_rates(self, eta: float, batch_size: int, sampling: str = "epoch") -> np.ndarray:
        """k of leaving a and b along the line, (K, 2), per unit of ηt (Y26 A29).

        NaN where the end is no valley along the line: no barrier, or no positive curvature. A29 is meant for
        z² well above 1. Raises as :meth:`heights`.
        """
        height = self.heights(eta, batch_size, sampling)
        z = np.sqrt(np.minimum(height, 700.0))  # e^(−700) is still a double
        rates = self.curvature * z * np.exp(-(z**2)) / np.sqrt(np.pi)
        return np.where((height > 0) & (self.curvature > 0), rates, np.nan)


def corridors(
    model: nn.Module,
    loss,
    data,
    starts: Tensor,
    ends: Tensor,
    *,
    points: int = 11,
    device: str | torch.device | None = None,
) -> Corridors:
    """Measure the straight lines from ``starts`` to ``ends``, pairs of parameter vectors of one network.

    Derivatives along the lines are exact (forward mode); kinks of ReLUs have no curvature.

    Parameters
    ----------
    model : torch.nn.Module
        Gives the architecture.
    loss, data
        As for :func:`flatmin.networks.train.train`.
    starts, ends : Tensor, (K, P)
        a and b of each line; the two must differ.
    points : int
        At least 3.
    device : str or torch.device, optional

    Raises
    ------
    ValueError
        Naming the argument: parameters that are not finite or not P a row, pairs that coincide, data or a
        loss that do not fit.
    """
    points = _check.integer("points", points, least=3, most=10_001)
    device = choose(device, _check.instance("model", model, nn.Module))
    network = private(model, device)
    pairs = [vectors(name, value, network.parameters) for name, value in (("starts", starts), ("ends", ends))]
    pairs = [each.to(network.device, network.dtype) for each in pairs]
    if len(pairs[0]) != len(pairs[1]):
        raise ValueError(f"starts: {len(pairs[0])} rows and ends: {len(pairs[1])}: must be as many")
    length = (pairs[1] - pairs[0]).norm(dim=1)
    if not bool((length > 0).all()):
        raise _check.refused("ends", ends, "other parameters than starts, row by row")
    with still(network), torch.no_grad():
        read = losses.of(loss)
        samples = ready(read, network, samples_of(data).to(device, network.dtype), model)
        found = [_line(network, read, samples, a, b, points) for a, b in zip(*pairs, strict=True)]
    heights, bent, noise = (np.array(part) for part in zip(*found, strict=True))
    return Corridors(len(samples), length.double().cpu().numpy(), heights, bent, noise)


def _line(network, loss, samples, a, b, points):
    """Losses along the line from a to b, uᵀHu and uᵀΣu at its ends."""

    def outputs(theta):
        values = dict(zip(network.names, network.split(theta), strict=True))
        return network.outputs(samples.inputs, values)

    share = torch.linspace(0, 1, points).tolist()
    f = [outputs(a + s * (b - a)) for s in share[1:-1]]
    ends = [_along(outputs, theta, (b - a) / (b - a).norm()) for theta in (a, b)]
    f = [ends[0][0], *f, ends[1][0]]
    bent, noise = [], []
    for g, first, second in ends:
        bound = loss.bind(g, samples.targets)
        g, first, second = (part.reshape(len(g), -1) for part in (g, first, second))
        pull = bound.gradient(g)
        slopes = (pull * first).sum(1).double()
        noise.append(float(slopes.var(unbiased=False)))
        squares = (bound.curvature_product(g, slice(None), first[:, None])[:, 0] * first).sum(1)
        bent.append(float((squares + (pull * second).sum(1)).double().mean()))
    return [float(loss(one, samples.targets)) for one in f], bent, noise


def _along(outputs, theta, direction):
    """Outputs at θ and their first and second derivative along a direction."""

    def first(x):
        return jvp(outputs, (x,), (direction,))

    (value, slope), (_, bend) = jvp(first, (theta,), (direction,))
    return value, slope, bend
