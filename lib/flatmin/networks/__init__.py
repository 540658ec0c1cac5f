"""Data sets, models, training and the curvature and gradient noise of real networks."""

from flatmin.networks import curvature, datasets, fits, gradient_noise, models, training

__all__ = ["curvature", "datasets", "fits", "gradient_noise", "models", "training"]
