"""Pictures with sliders: one module per chapter, each function draws one figure from a few numbers."""
