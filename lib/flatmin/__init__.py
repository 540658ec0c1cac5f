"""Why SGD finds flat minima: the library of the book.

A network of your own, measured where it stands::

    import flatmin as fm
    here = fm.at(model, loss, data)
    here.eigenpairs(10).values, here.noise.strength(), here.edge(eta=0.1, batch_size=64)
    runs = fm.train(model, loss, data, eta=0.1, batch_size=64, steps=1000, seed=range(8), keep=10)

A landscape of the papers, simulated::

    valley = fm.near_degenerate_valley().at(epsilon=0.001, lambda_0=8, lambda_1=-2, lambda_2=1)
    runs = fm.simulate(valley, fm.RandomShift(sigma=0.2), eta=0.01, steps=100_000, start=(1.5, 1.5))

Everything here is loaded when it is asked for; torch only by what needs it. Behind these names stand
:mod:`flatmin.theory`, :mod:`flatmin.networks`, :mod:`flatmin.ledger` (claims, results, figure style) and
:mod:`flatmin.experiments`.
"""

import contextlib
import importlib
import os

__version__ = "1.0.0"


def _keep_compiled():
    """Give numba a folder of this process where none beside the library or at home can be written to."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for folder in (os.path.join(os.path.dirname(__file__), "__pycache__"), os.path.join(home, "numba")):
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return
    import tempfile  # slow, and seldom needed

    with contextlib.suppress(OSError):  # then numba says so, if it is needed
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="flatmin-")


if "NUMBA_CACHE_DIR" not in os.environ:
    _keep_compiled()

#: where each name of the door is; a module itself where the second word is empty
_DOOR = {
    # networks
    "at": ("flatmin.networks.point", "at"),
    "Point": ("flatmin.networks.point", "Point"),
    "train": ("flatmin.networks.train", "train"),
    "Runs": ("flatmin.networks.train", "Runs"),
    "diagnose": ("flatmin.diagnosis.measure", "diagnose"),
    "Report": ("flatmin.diagnosis.report", "Report"),
    "callbacks": ("flatmin.diagnosis.callbacks", ""),
    "Data": ("flatmin.networks.data.sets", "Data"),
    "datasets": ("flatmin.networks.data.sets", ""),
    "models": ("flatmin.networks.models", ""),
    # theory
    "Landscape": ("flatmin.theory.landscape", "Landscape"),
    "near_degenerate_valley": ("flatmin.theory.valleys.near_degenerate", "near_degenerate_valley"),
    "two_valleys": ("flatmin.theory.two_valleys.landscape", "two_valleys"),
    "RandomShift": ("flatmin.theory.noise", "RandomShift"),
    "HessianAligned": ("flatmin.theory.noise", "HessianAligned"),
    "Isotropic": ("flatmin.theory.noise", "Isotropic"),
    "NoNoise": ("flatmin.theory.noise", "NoNoise"),
    "simulate": ("flatmin.theory.sgd.simulate", "simulate"),
    "Passage": ("flatmin.theory.sgd.simulate", "Passage"),
    "stationary": ("flatmin.theory.continuum.fokker_planck", "stationary"),
    "Reduction": ("flatmin.theory.continuum.reduction", "Reduction"),
    "critical_law": ("flatmin.theory.continuum.critical", "critical_law"),
    "RegressionChain": ("flatmin.theory.logarithmic.multiplicative", "RegressionChain"),
    "Minimum": ("flatmin.theory.stability.minimum", "Minimum"),
    # both, and the ledger
    "Estimate": ("flatmin.estimate", "Estimate"),
    "Sampling": ("flatmin.sampling", "Sampling"),
    "check": ("flatmin.ledger.claims", "check"),
    "load_result": ("flatmin.ledger.record", "load"),
}

__all__ = list(_DOOR)


def __getattr__(name):
    """Load a name of the door when it is first asked for."""
    if name not in _DOOR:
        raise AttributeError(f"module 'flatmin' has no attribute {name!r}; it has {', '.join(_DOOR)}")
    module, inside = _DOOR[name]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f"flatmin.{name} needs torch, which is not installed: pip install torch (see pytorch.org for the "
            "build of your machine)",
            name="torch",
        ) from None
    found = getattr(found, inside) if inside else found
    globals()[name] = found
    return found


def __dir__():
    return sorted({*globals(), *_DOOR})
