"""Why SGD finds flat minima: the library of the book.

Three wings: :mod:`flatmin.theory` (landscapes, noise, simulation and what follows from them),
:mod:`flatmin.networks` (the same measurements on real networks) and :mod:`flatmin.ledger` (claims,
recorded results and the figure style); :mod:`flatmin.experiments` runs them at the papers' scale.
"""

__version__ = "0.1.0"
