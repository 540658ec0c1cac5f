"""Elementary functions of the compiled simulator, as source text.

A library's ``exp`` or ``cos`` differs in the last digit from one machine to the next and does not vectorise.
These are made of correctly rounded operations and selects only, so they give the same bits on every machine.
Errors are a few units in the last place (see the tests); ``power`` loses |p ln b| of them. NaN and what is
not defined give NaN.
"""

from __future__ import annotations

import math

__all__ = ["SOURCES", "source"]


def _nested(coefficients, variable: str) -> str:
    """c₀ + v (c₁ + v (…)) as source."""
    *rest, text = map(repr, coefficients)
    for c in reversed(rest):
        text = f"({c} + {variable} * {text})"
    return text


#: eʳ = 1 + r·(…), Taylor to r¹³: the remainder is 4·10⁻¹⁸ for |r| ≤ ln 2/2
TAYLOR = _nested([1 / math.factorial(k) for k in range(1, 14)], "r")
#: minimax coefficients of fdlibm for the sine and cosine on (−π/4, π/4) and the logarithm on (√½, √2)
_SINE = _nested(
    (
        *(-1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04),
        *(2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10),
    ),
    "z",
)
_COSINE = _nested(
    (
        *(4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05),
        *(-2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11),
    ),
    "z",
)
_EVEN = _nested([3.999999999940941908e-01, 2.222219843214978396e-01, 1.531383769920937332e-01], "w")
_ODD = _nested(
    [6.666666666666735130e-01, 2.857142874366239149e-01, 1.818357216161805012e-01, 1.479819860511658591e-01],
    "w",
)

_NJIT = '@njit(nogil=True, error_model="numpy", inline="always")\n'

#: name → text; a function stands below those it calls
SOURCES = {
    "larger": """
def larger(a, b):  # a plain select: max() also orders NaNs, which costs a branch
    return a if a > b else b
""",
    "smaller": """
def smaller(a, b):
    return a if a < b else b
""",
    "sign": """
def sign(x):
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else x)
""",
    "exponential": f'''
def exponential(x):
    """eˣ without the branches of a library's, good to the last digit or two; x is cut at ±708."""
    x = min(max(x, -708.0), 708.0)
    # adding 1.5·2⁵² rounds to the nearest integer n and leaves n in the low bits
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10
    p = 1.0 + r * {TAYLOR}
    power = np.int64((np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)).view(np.float64)
    return p * power
''',
    "logarithm": f'''
def logarithm(x):
    """ln x; -inf at 0."""
    tiny = x < 2.3e-308
    bits = np.float64(x * 18014398509481984.0 if tiny else x).view(np.int64)
    # x = 2ᵏ (1 + f) with 1 + f in (√½, √2)
    shifted = bits + np.int64(0x00095F6200000000)
    k = np.float64((shifted >> np.int64(52)) - np.int64(1023)) - (54.0 if tiny else 0.0)
    mantissa = (shifted & np.int64(0x000FFFFFFFFFFFFF)) + np.int64(0x3FE6A09E00000000)
    f = np.int64(mantissa).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    half = 0.5 * f * f
    rest = z * {_ODD} + w * {_EVEN}
    found = k * 6.93147180369123816490e-01
    found = found - ((half - (s * (half + rest) + k * 1.90821492927058770002e-10)) - f)
    found = found if x < np.inf else x
    return found if x > 0.0 else (-np.inf if x == 0.0 else np.nan)
''',
    "sine": f'''
def sine(x, turn):
    """sin(x + turn·π/2); an angle beyond 10⁹ is NaN, its own rounding is 10⁻⁷ of a turn."""
    shifted = x * 0.6366197723675814 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    quadrant = np.float64(shifted).view(np.int64) + np.int64(turn)
    r = ((x - n * 1.57079632673412561417) - n * 6.07710050630396597660e-11) - n * 2.02226624879595063154e-21
    z = r * r
    first = r + r * z * {_SINE}
    half = 0.5 * z
    rest = 1.0 - half
    second = rest + (((1.0 - rest) - half) + z * z * {_COSINE})
    found = second if (quadrant & 1) != 0 else first
    found = -found if (quadrant & 2) != 0 else found
    return found if abs(x) < 1e9 else np.nan
''',
    "hyperbolic_tangent": f"""
def hyperbolic_tangent(x):
    # e^2|x| − 1 from the same polynomial, so that nothing cancels near 0
    r = 2.0 * (abs(x) if abs(x) < 20.0 else 20.0)
    m = r * {TAYLOR} if r < 0.3465 else exponential(r) - 1.0
    found = m / (m + 2.0)
    return found if x > 0.0 else (-found if x < 0.0 else x)
""",
    "power": '''
def power(b, p):
    """bᵖ = e^(p ln b) for b ≥ 0."""
    found = exponential(p * logarithm(b))
    return found if b > 0.0 else (0.0 if b == 0.0 and p > 0.0 else np.nan)
''',
}


def source(text: str) -> str:
    """Source of the functions that ``text`` calls, and of those they call."""
    needed = []
    for name, function in reversed(SOURCES.items()):
        if f"{name}(" in text:
            needed.insert(0, function.replace("\ndef ", "\n" + _NJIT + "def ", 1))
            text += function
    return "\n".join(needed)
