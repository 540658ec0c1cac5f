"""Valleys whose curvature changes along their floor."""
