"""Full-scale experiments: one module each, run by ``python -m flatmin experiments run NAME``."""
