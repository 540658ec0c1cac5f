"""The formulas of the papers as printed, each against a number worked out by hand."""

import numpy as np
import pytest

from flatmin.theory import printed


def test_y23_eq6():
    assert printed.y23_eq6([4.0, 16.0]) == pytest.approx(2**-1.5)  # (½ · ¼)^½


def test_y23_eq15():
    # mean Δ = 2: (2 − 10·1) ln 2 + (2 − 10·3) ln ½ = 20 ln 2
    assert printed.y23_eq15([1.0, 3.0], 10.0, np.log([2.0, 0.5])) == pytest.approx(20 * np.log(2))
    # one direction: the first term of Eq. 14, Δ(1 − κ) ln F
    assert printed.y23_eq15([0.5], 9.0, [2.0]) == pytest.approx(-8.0)


def test_y23_eq16():
    assert printed.y23_eq16([1.0, 3.0], [[16.0, 1.0], [1.0, 16.0]]) == pytest.approx([2.0, 8.0])
