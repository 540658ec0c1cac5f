"""When does a network commit to its valley? Y26's continuation experiment, and what can be read off it.

From checkpoints of SGD, full-batch descent to the end points (:func:`descend`); how alike these are
(:func:`evaluate`, :func:`jaccard`, :func:`agreement`, :func:`barriers`); since when they are all alike
(:func:`frozen_from`, Y26 Eq. 3) and what the search finds that was run (:func:`search`); where they lie
(:func:`principal`, :func:`radius`) and how curved the loss is there (:func:`flatness_of`,
:func:`sharpness_of`). All take many networks of one architecture at once, ``thetas`` (R, P).
"""

from flatmin.networks.freezing.descent import Descents, Outcome, Stop, descend
from flatmin.networks.freezing.geometry import Principal, principal, radius
from flatmin.networks.freezing.similarity import (
    Counts,
    Readings,
    agreement,
    barriers,
    evaluate,
    jaccard,
)
from flatmin.networks.freezing.spectra import Tops, flatness_of, sharpness_of, tops
from flatmin.networks.freezing.times import Freezing, Frozen, frozen_from, search

__all__ = [
    "Counts",
    "Descents",
    "Freezing",
    "Frozen",
    "Outcome",
    "Principal",
    "Readings",
    "Stop",
    "Tops",
    "agreement",
    "barriers",
    "descend",
    "evaluate",
    "flatness_of",
    "frozen_from",
    "jaccard",
    "principal",
    "radius",
    "search",
    "sharpness_of",
    "tops",
]
