"""Data sets, models, training and the curvature and gradient noise of real networks."""
