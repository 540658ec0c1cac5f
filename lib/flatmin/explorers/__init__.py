"""What moves in the page and in the notebook: the library's own simulations, in the browser."""

from flatmin.explorers.display import show

__all__ = ["show"]
