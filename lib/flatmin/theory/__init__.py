"""Landscapes, gradient noise, compiled ensembles and the continuum theory built on them (no torch here)."""
