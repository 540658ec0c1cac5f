"""Records of deep networks as the experiments scale and scale-escape make them, with known answers."""

import numpy as np

from flatmin.ledger.record import Result

DEPTHS = {"vgg": (11, 13, 16, 19), "resnet": (20, 32, 44, 56)}


def runs():
    """4 depths, 3 runs, 4 checkpoints, 3 batch sizes: ‖G‖ ∝ P^½ B^¼; see tests/networks/test_deep.py."""
    rng, arrays = np.random.default_rng(0), {}
    for kind, depths in DEPTHS.items():
        P = np.tile(1000 * np.array(depths)[:, None] ** 2, (1, 3))

        def along(values):
            return np.tile(np.asarray(values, float)[..., None], 4)

        for key, size, batch in (
            ("", P, 25.0),
            ("batch_", P[:2] * 0 + P[2, 0], np.array([[5.0], [100]])),
        ):
            norm = np.sqrt(size) * batch**0.25 * rng.lognormal(0, 0.01, size.shape)
            loss = np.full(size.shape, 0.001)
            if not key:
                loss[-1, 1] = 0.5  # has not converged
            else:
                loss[1, 1] = 0.5
            diverged = np.zeros(size.shape, bool)
            diverged[1, 0] = not key
            arrays |= {f"{kind}_{key}{name}": along(values) for name, values in {
                "g_norm": norm, "mu": 0.1 + 0 * norm, "loss": loss,
                "trace_g": 3.0 + 0 * norm, "trace_sigma": 2.0 + 0 * norm,
            }.items()}  # fmt: skip
            arrays |= {f"{kind}_{key}parameters": size, f"{kind}_{key}diverged": diverged}
            arrays[f"{kind}_{key}edge_exact"] = 0.5 * np.ones(size.shape)
        arrays |= {f"{kind}_depths": np.array(depths), f"{kind}_eta": np.array(0.1)}
        arrays[f"{kind}_batch_depth"] = np.array(depths[2])
        arrays[f"{kind}_steps"] = np.array([0, 10, 100, 1000])
    arrays |= {"batch_size": np.array(25), "batch_sizes": np.array([5, 100])}
    return Result("scale", arrays, {})


def escapes():
    """2 depths, 3 minima: the second too high, the third stable."""
    arrays, steps, count = {"batch_sizes": np.array([5, 50])}, np.arange(21), 2
    for kind, depths in DEPTHS.items():
        mean = 1e-4 * np.exp(0.1 * steps)
        values = {
            "losses": np.tile(mean * np.ones((5, 1)), (count, 3, 2, 1, 1)),
            "mean": np.tile(mean, (count, 3, 2, 1)),
            "growth": np.tile([[1.1, 0.9], [1.1, 0.9], [0.99, 0.9]], (count, 1, 1)),
            "reached": np.tile([1e-4, 0.2, 1e-4], (count, 1)),
            "eta": np.full((count, 3), 0.1),
            "sharpness": np.full((count, 3), 19.0),
        }
        arrays |= {f"{kind}_{name}": each for name, each in values.items()}
        arrays[f"{kind}_depths"] = np.array((depths[0], depths[-1]))
    return Result("scale-escape", arrays, {})
