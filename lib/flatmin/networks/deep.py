"""What is read off the recorded runs of VGG and ResNet (W22 Fig. 5 and 6): experiments scale, scale-full and
scale-escape. What counts, and as what, was decided there before they were run."""

from __future__ import annotations

import numpy as np

from flatmin import _check, fits
from flatmin.estimate import Estimate, independent_mean, student
from flatmin.ledger.record import Result

__all__ = ["CONVERGED", "HELD", "LEAST", "NAMES", "NEAR", "Family", "by_network", "judged"]

NAMES = {"vgg": "VGG", "resnet": "ResNet"}
#: loss at which a run counts as converged; loss that descent must reach before SGD takes over
CONVERGED, NEAR = 0.01, 1e-3
#: least alignment that is significantly positive; factor by which the loss of the control may grow
LEAST, HELD = 0.01, 2.0


class Family:
    """The networks of one kind, ``"vgg"`` or ``"resnet"``, in a recorded result; D depths, R runs, T steps.

    Depths at which a run diverged are left out. Raises ValueError for a result without that kind, or with no
    depth left.

    Attributes
    ----------
    labels : list of str
        "VGG-11", …
    name : str
    steps : (T,)
    eta : float
    parameters : (D, R)
        P.
    converged : (D, R)
        Whether the last loss is at most CONVERGED.
    """

    def __init__(self, result: Result, kind: str):
        _check.instance("result", result, Result)
        held = {one for one in NAMES if f"{one}_diverged" in result.arrays}
        self.kind, self._result = _check.choice("kind", kind, held), result
        self._kept = ~np.asarray(result.arrays[f"{kind}_diverged"]).any(1)
        if not self._kept.any():
            raise _check.refused("kind", kind, "one with a depth at which no run diverged")
        self.name = NAMES[kind]
        depths = np.asarray(result.arrays[f"{kind}_depths"])[self._kept]
        self.labels = [f"{self.name}-{depth}" for depth in depths]
        self.steps, self.eta = (result.arrays[f"{kind}_{name}"] for name in ("steps", "eta"))
        self.parameters = self.values("parameters").astype(float)
        self.converged = self.values("loss")[..., -1] <= CONVERGED

    def values(self, name: str) -> np.ndarray:
        """A recorded array by its name without the kind, (D, R, …); ValueError for one that is not there."""
        return self._array(name)[self._kept]

    def last(self, name: str) -> np.ndarray:
        """The last of the values along training, (D, R)."""
        values = self.values(name)
        return values[..., -1] if values.ndim == 3 else values

    def _array(self, name):
        key = f"{self.kind}_{_check.instance('name', name, str)}"
        if key not in self._result.arrays:
            known = [one[len(self.kind) + 1 :] for one in self._result.arrays if one.startswith(self.kind)]
            raise _check.refused("name", name, f"one of {', '.join(known)}")
        return np.asarray(self._result.arrays[key])

    @property
    def isotropic(self) -> np.ndarray:
        """μ of noise of the same trace but no direction, Tr Σ Tr G/(2LP‖G‖²), (D, R, T)."""
        sigma, g, loss, norm = map(self.values, ("trace_sigma", "trace_g", "loss", "g_norm"))
        return sigma * g / (2 * loss * self.parameters[..., None] * norm**2)

    def size_slope(self, name: str, converged: bool = False) -> Estimate:
        """Slope of ln of the last value on ln P, by the scatter about the lines of the runs, Student's t.

        ``converged``: of these networks only. Raises ValueError where too few are left.
        """
        values, _ = self.last(name), _check.flag("converged", converged)
        used = self.converged | (not converged)
        runs = [run for run in range(used.shape[1]) if used[:, run].sum() >= 2]
        pairs = [(self.parameters[used[:, r], r], values[used[:, r], r]) for r in runs]
        free = sum(len(x) for x, _ in pairs) - len(pairs) - 1
        if free < 2:
            raise _check.refused("name", name, "known of three networks of one run, or more")
        fit = fits.common_slope(*zip(*pairs, strict=True))
        return Estimate(float(fit.value), student(float(fit.error), free), len(pairs), fit.method)

    @property
    def batch_label(self) -> str:
        """The network trained with several batch sizes: ``"VGG-13"``."""
        return f"{self.name}-{self._array('batch_depth')}"

    def batch_values(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Batch sizes (N,) and last values (N, R) of that network, of the runs that converged at all."""
        sizes, size = np.asarray(self._result.batch_sizes), self._result.batch_size
        depths = np.asarray(self._result.arrays[f"{self.kind}_depths"])
        row = np.flatnonzero((depths == self._array("batch_depth")) & (size not in sizes))

        def joined(one):
            values = np.concatenate([self._array(f"batch_{one}"), self._array(one)[row]])
            return values[..., -1] if values.ndim == 3 else values

        kept = (joined("loss") <= CONVERGED).all(0) & ~joined("diverged").any(0)
        sizes = np.append(sizes, np.repeat(size, len(row)))
        order = np.argsort(sizes)
        return sizes[order], joined(name)[order][:, kept]

    def batch_slope(self, name: str) -> Estimate:
        """Slope of ln of the last value on ln B, mean over the runs, Student's t; ValueError for too few."""
        sizes, values = self.batch_values(name)
        if values.shape[1] < 2:
            raise _check.refused("name", name, "known of two runs that converged at every batch size")
        return independent_mean(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def by_network(result: Result) -> Result:
    """The escapes of a recorded result with a kind for each network, ``"VGG-11_losses"`` (R, 2, S, T + 1), …

    As :func:`flatmin.networks.edges.escape_rates` reads them. Raises ValueError for a result without them.
    """
    arrays = {}
    for kind, name in NAMES.items():
        keys = [key for key in _check.instance("result", result, Result).arrays if key.startswith(f"{kind}_")]
        if f"{kind}_reached" not in keys:
            continue
        for place, depth in enumerate(result.arrays[f"{kind}_depths"]):
            for key in keys:
                if (short := key.removeprefix(f"{kind}_")) != "depths":
                    arrays[f"{name}-{depth}_{short}"] = result.arrays[key][place]
    if not arrays:
        raise _check.refused("result", result, "one that holds KIND_reached: escapes")
    return Result(result.name, arrays | {"batch_sizes": result.batch_sizes}, {})


def judged(result: Result, network: str) -> Result:
    """Of one network of :func:`by_network` the minima that are judged, in a result like the given one.

    Those where descent came down to NEAR and is stable, and the linearised network is unstable at the small
    and stable at the large batch. Raises ValueError for a network that is not there.
    """
    _check.instance("result", result, Result)
    known = [key.removesuffix("_reached") for key in result.arrays if key.endswith("_reached")]
    network = _check.choice("network", network, known)
    own = {key: each for key, each in result.arrays.items() if key.startswith(f"{network}_")}
    reached, eta, top, growth = (own[f"{network}_{n}"] for n in ("reached", "eta", "sharpness", "growth"))
    good = (reached <= NEAR) & (eta * top < 2) & (growth[:, 0] > 1) & (growth[:, 1] < 1)
    chosen = {key: each[good] for key, each in own.items()}
    return Result(result.name, chosen | {"batch_sizes": result.batch_sizes}, {})
