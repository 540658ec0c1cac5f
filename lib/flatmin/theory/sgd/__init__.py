"""Ensembles of discrete SGD on a landscape: the compiled simulator and what its runs leave."""
