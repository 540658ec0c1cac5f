"""One pass over a set of samples, from which derivatives of the loss are taken."""
