"""W22 §3.1 against the exact threshold: random minima of n = 512 samples, batches from 1 to n."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.theory.stability import bounds
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import leading_mode

#: bounds compared with the exact learning rate, by the name of their array
BOUNDS = {
    "theorem_3_3": bounds.theorem_3_3_step,
    "proposition_3_4": bounds.proposition_3_4_step,
    "trace": bounds.trace_necessary_step,
    "direction": bounds.direction_necessary_step,
    "sufficient": bounds.trace_sufficient_step,
}
FAMILIES = ("gaussian", "power law", "relu features", "unequal")


def random_minimum(family, samples, seed):
    """A minimum with random per-sample gradients, twice as many parameters as samples.

    "gaussian": independent standard normals; "power law": the same with variance 1/j in parameter j;
    "relu features": W22's random features, ReLU(w_j·x), x uniform on the sphere in 10 dimensions (Prop. 2.5);
    "unequal": Gaussian, each gradient times exp of a normal number with standard deviation ½;
    "orthogonal": unit vectors (no randomness). Raises ValueError for another family.
    """
    rng = np.random.default_rng(seed)
    size = (samples, 2 * samples)
    if family == "orthogonal":
        gradients = np.eye(samples)
    elif family == "gaussian":
        gradients = rng.normal(size=size)
    elif family == "power law":
        gradients = rng.normal(size=size) / np.sqrt(np.arange(1, 2 * samples + 1))
    elif family == "relu features":
        inputs, weights = rng.normal(size=(samples, 10)), rng.normal(size=(2 * samples, 10))
        inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        gradients = np.maximum(inputs @ weights.T, 0)
    elif family == "unequal":
        gradients = rng.normal(size=size) * np.exp(rng.normal(size=(samples, 1)) / 2)
    else:
        raise ValueError(f"family={family!r}: allowed are {FAMILIES} and 'orthogonal'")
    return Minimum.from_gradients(gradients)


def compare(minimum, batch_sizes):
    """Exact threshold and bounds at each batch size, drawn with replacement, as W22 does.

    Returns ``exact`` (B,), the largest stable η; each of ``BOUNDS`` (B,), the η it allows; ``contraction``
    and ``alignment`` (B,) of the critical mode; ``trace_h``, ``frobenius``, ``sharpness``,
    ``effective_rank``, ``gamma``, ``mu_0``.
    """
    found = {name: [bound(minimum, b, True) for b in batch_sizes] for name, bound in BOUNDS.items()}
    modes = [leading_mode(minimum, None, b, True) for b in batch_sizes]
    return {
        **{name: np.array(values) for name, values in found.items()},
        "exact": np.array([mode.eta for mode in modes]),
        "contraction": np.array([mode.contraction for mode in modes]),
        "alignment": np.array([mode.alignment for mode in modes]),
        "trace_h": minimum.trace,
        "frobenius": minimum.frobenius,
        "sharpness": minimum.sharpness,
        "effective_rank": minimum.effective_rank,
        "gamma": minimum.gamma,
        "mu_0": minimum.mu_0,
    }


def measure(point, seed):
    """:func:`compare` for one random minimum; ``point``: family, samples, repeat, batch_sizes."""
    minimum = random_minimum(point["family"], point["samples"], seed)
    return compare(minimum, np.array(point["batch_sizes"], dtype=float))


def run(folder, quick):
    """Four families, three seeds each, batch sizes in powers of two up to n."""
    samples, repeats = (60, 2) if quick else (512, 3)
    batch_sizes = [2**k for k in range(samples.bit_length())]
    points = [
        {"family": family, "samples": samples, "repeat": repeat, "batch_sizes": batch_sizes}
        for family in FAMILIES
        for repeat in range(repeats)
    ]
    results = record.sweep(measure, points, name=EXPERIMENT.name, seed=7, folder=folder)
    stacked = {
        name: values.reshape(len(FAMILIES), repeats, *values.shape[1:])
        for name, values in record.stack(results).items()
    }
    return record.save(
        EXPERIMENT.name,
        {"batch_sizes": np.array(batch_sizes), **stacked},
        seed=7,
        scale=f"n = {samples}, P = {2 * samples}, {repeats} minima in each of {len(FAMILIES)} families",
        command=EXPERIMENT.command,
        wall_time=results.seconds,
        folder=folder,
    )


EXPERIMENT = Experiment(
    name="stability-random",
    title="How far W22's bounds are from the exact threshold",
    claims=("w22-exact-threshold", "w22-thm-3.3", "w22-prop-3.4"),
    run=run,
    minutes=1,
)
