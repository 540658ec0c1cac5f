"""Training: many runs at once, resumable."""
