"""Claims and verdicts, recorded results with provenance, and the one figure style."""

WORKERS = 2
#: the environment variable that says how many processes compute, instead of :data:`WORKERS`
WORKERS_VARIABLE = "FLATMIN_WORKERS"
