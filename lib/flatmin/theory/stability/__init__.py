"""Linear stability of minibatch SGD: exact thresholds, bounds and paths."""
