"""Pictures of the chapters, one module each: every function draws one figure, and computes nothing new."""
