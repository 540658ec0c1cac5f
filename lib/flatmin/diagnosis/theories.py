"""What each theory predicts at this η and B, from what was measured; None where its premise does not hold."""

from __future__ import annotations

from flatmin.estimate import Estimate
from flatmin.ledger.decimals import approx

__all__ = ["NEEDS", "fill"]

#: conditions that SGD breaks when it leaves
_NECESSARY = ("descent", "trace", "bound", "necessary")
#: lines from which others follow
NEEDS = {
    "binding": _NECESSARY,
    "theory_Y22": ("exponent", "lambda_1"),
    "theory_W22": ("bound",),
    "theory_M22": ("lambda_1", "exponent"),
    "theory_Y26": ("exponent",),
}


def fill(steps) -> None:
    """Put the lines of the theories, and the condition that binds, from what ``steps`` has found."""
    known = {name: estimate for name, (estimate, _, _) in steps.found.items() if estimate is not None}
    ratios = {name: known[name] for name in _NECESSARY if name in known}
    if ratios:
        name = max(ratios, key=lambda name: ratios[name].value)
        steps.put("binding", Estimate(*ratios[name], ratios[name].n, f"{name!r} of {', '.join(ratios)}"))
    else:
        steps.put("binding", None, "none of them was measured")
    for name, make in (("Y22", _valley), ("W22", _stability), ("M22", _logarithmic), ("Y26", _freezing)):
        steps.tried(f"theory_{name}", lambda make=make: make(steps, known))


def _needed(known, *names):
    for name in names:
        if name not in known:
            raise ValueError(f"follows from the line {name!r}, which has no number here")
    return [known[name] for name in names]


def _power(known, wanted, papers):
    """The exponent of C against H; ValueError unless it is the ``wanted`` one within three errors."""
    (x,) = _needed(known, "exponent")
    if abs(x.value - wanted) > 3 * x.error:
        raise ValueError(
            f"{papers}: premise C ∝ H^{wanted}; along the leading eigenvectors the exponent is "
            f"{approx(x.value, x.error)}"
        )
    return x


def _valley(steps, known):
    """V_y = η C₁₁/2λ₁ (Y22 S26: Δ_S λ with C = 2σλ², Δ_S = ησ)."""
    steps.plain()
    x = _power(known, 2, "Y22 and Y23")
    first, noise = _needed(known, "lambda_1", "noise_along")
    if first.value <= 0:
        raise ValueError("no positive curvature, no valley")
    value = steps.eta * float(noise.value[0]) / (2 * first.value)
    how = f"η C₁₁/2λ₁, small steps; C ∝ H² is within three errors of the exponent {approx(x.value, x.error)}"
    return Estimate(value, value * float(noise.error[0] / noise.value[0]), noise.n, how)


def _stability(steps, known):
    """γ₀ = (η‖G‖)² μ/B (W22 Theorem 3.5, with the μ of the present residuals)."""
    (bound,) = _needed(known, "bound")
    value = bound.value**2
    says = "above 1: it leaves" if value > 1 else "below 1: the theorem says nothing"
    return Estimate(value, 2 * bound.value * bound.error, bound.n, f"{says}; μ of the present residuals")


def _logarithmic(steps, known):
    """φ = 1 + B/(ηh*) (M22 Eq. 17, h* along the sharpest direction)."""
    steps.plain()
    if not steps.square:
        raise ValueError("M22 derives noise ∝ loss for the square loss")
    (first,) = _needed(known, "lambda_1")
    if first.value <= 0:
        raise ValueError("no positive curvature, no minimum")
    value = steps.size / (steps.eta * first.value)
    x = known.get("exponent")
    found = "has no number here" if x is None else f"is {approx(x.value, x.error)}"
    how = f"of one direction, the sharpest; premise C ∝ H, the exponent {found}"
    return Estimate(1 + value, value * first.error / first.value, 0, how)


def _freezing(steps, known):
    x = known.get("exponent")
    if x is None:
        premise = "untested, the exponent has no number"
    else:
        fits = "within" if abs(x.value - 1) <= 3 * x.error else "not within"
        premise = f"{fits} three errors of the exponent {approx(x.value, x.error)}"
    raise ValueError(
        "its freezing time hangs on the ridge between two valleys, which no single point shows; pairs of "
        "runs that part later and later tell, once both end in one valley. Its premise C ∝ H is "
        f"{premise}"
    )
