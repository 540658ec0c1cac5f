"""The experiments of the theory wing at their small scale: they record what is recorded at the full one."""

import numpy as np
import pytest

from flatmin.experiments import (
    critical_lifetimes,
    critical_marginals,
    critical_point,
    critical_tail,
    high_dimensional,
    high_dimensional_onset,
    logarithmic_passage,
    logarithmic_stationary,
    stability_random,
    two_valleys,
    two_valleys_h2,
)
from flatmin.ledger import record

MODULES = (
    critical_lifetimes,
    critical_marginals,
    critical_point,
    critical_tail,
    high_dimensional,
    high_dimensional_onset,
    logarithmic_passage,
    logarithmic_stationary,
    stability_random,
    two_valleys,
    two_valleys_h2,
)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.EXPERIMENT.name)
@pytest.mark.usefixtures("sweeps_here")
def test_the_small_scale_records_the_arrays_of_the_full_one(module, tmp_path):
    module.EXPERIMENT.run(tmp_path, quick=True)
    small, full = (record.load(module.EXPERIMENT.name, folder) for folder in (tmp_path, None))
    kinds = [
        {name: (np.ndim(values), np.asarray(values).dtype) for name, values in each.arrays.items()}
        for each in (small, full)
    ]
    assert kinds[0] == kinds[1]
    assert small.provenance["seed"] == full.provenance["seed"]
    assert small.provenance["scale"] != full.provenance["scale"]
