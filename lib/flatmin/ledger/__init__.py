"""Claims and verdicts, recorded results with provenance, and the one figure style."""
