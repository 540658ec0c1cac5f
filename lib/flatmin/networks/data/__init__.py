"""Data sets, and where their files come from."""
