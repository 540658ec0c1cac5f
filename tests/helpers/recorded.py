"""Made-up recorded results of which everything is known."""

import numpy as np

from flatmin.ledger.record import Result

ETAS, SIZES, TIMES = (
    np.array([0.1, 0.05, 0.02, 0.01]),
    np.array([10, 50, 200]),
    np.array([0, 2, 5, 10, 20, 50, 100]),
)
CRITERIA = ["jaccard 0.90", "barrier 0.01"]


def freezing():
    """ηt_f = 600 (ηc)^½ exactly by the search, one checkpoint later by Eq. 3; two runs of two starts."""
    factor = (1000 - SIZES) / (SIZES * 999)
    noise = ETAS[:, None] * factor
    exact = 600 * noise**0.5
    place = np.searchsorted(TIMES, exact)
    frozen = np.broadcast_to(place[:, :, None, None, None, None], (4, 3, 4, 2, 2, 3)).copy()
    frozen[..., 0] = np.minimum(frozen[..., 0] + 1, len(TIMES) - 1)
    outcome = np.zeros((4, 3, 4, len(TIMES), 2), np.uint8)
    outcome[1, 1, 0, -1, 1] = 2
    correct = np.full((4, 3, 4, 101), 1000, np.uint16)
    correct[..., :7] = 900
    correct[3, 2, 1, -1] = 998
    counts = np.full((4, 3, 4, len(TIMES), 2, 2), 20, np.uint8)
    counts[..., 0] = 18
    counts[-1, -1, 3] = 255
    frozen[:, :, :, 1] = 1  # the barrier goes at the second checkpoint
    frozen[-1, -1, 3] = 255  # a run that was not continued
    pairs = np.full((4, 3, 6, 2, 2), 100, np.uint8)
    pairs[:2, ..., 0], pairs[2:, ..., 0] = 50, 95  # independent runs pass where the steps are small
    arrays = {
        "batch_sizes": SIZES,
        "etas": ETAS,
        "times": TIMES,
        "horizon": 100,
        "samples": 1000,
        "starts": np.array([0, 0, 1, 1]),
        "criteria": np.array(CRITERIA),
        "cells_noise": noise,
        "cells_diverged": np.zeros((4, 3, 4), bool),
        "cells_frozen": frozen.astype(np.uint8),
        "cells_search": np.where(np.arange(4) < 2, np.ceil(exact)[..., None], np.nan),
        "cells_end_outcome": outcome,
        "cells_correct": correct,
        "cells_loss": np.where(np.linspace(0, 100, 101) >= exact[..., None, None], 0.05, 1.0)
        * np.ones((4, 1)),
        "cells_same_few": counts,
        "tests": 100,
        "cells_pair_few": pairs,
        "cells_pair_barrier": np.full((4, 3, 6, 2), 0.02),
        "figure_times": np.array([0, 10, 20, 60]),
        "figure_reached": np.array([[True, True, True, True]] * 3 + [[False, True, True, True]]),
    }
    arrays["figure_flat"] = np.exp(0.01 * arrays["figure_times"])[None, :, None] * np.ones((4, 1, 2))
    return Result("freezing", arrays, {})
