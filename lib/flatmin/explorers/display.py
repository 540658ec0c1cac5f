"""An explorer where the reader is: a widget in a notebook, a place to mount it and a still in a page."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from functools import cache

from flatmin import _check
from flatmin.explorers import bundle
from flatmin.explorers.catalogue import EXPLORERS, Points, is_whole
from flatmin.ledger.widgets import Choice, draw, is_static

__all__ = ["show", "widget"]


def show(name: str, still: Callable | None = None, **start):
    """Show an explorer by its name in :data:`~flatmin.explorers.catalogue.EXPLORERS`, such as ``"valley"``.

    ``start`` changes start values, such as ``sigma=0.2``. Where a notebook runs, it is a widget; otherwise
    ``still``, called with all start values, draws what print and plain notebooks show, and the book's page
    mounts the explorer in its place. Raises ValueError for an unknown name, or a value out of its range.
    """
    explorer = EXPLORERS[_check.choice("name", name, EXPLORERS)]
    state = explorer.state(**start)
    if not (still is None or callable(still)):
        raise _check.refused("still", still, "a function that draws the still")
    if is_static():
        from IPython.display import HTML, display

        if still is not None:
            draw(still, state)
        words = f"{explorer.about}: it moves in the page of the book and in a running notebook."
        data = html.escape(json.dumps(state, ensure_ascii=False))
        display(HTML(f'<div data-explorer="{name}" data-state="{data}"><p>{words}</p></div>'))
    else:
        from IPython.display import display

        display(widget(name, **start))


def widget(name: str, **start):
    """The explorer as an anywidget: its parameters and ``summary``, what is seen, are traits.

    Raises ValueError as :func:`show`.
    """
    explorer = EXPLORERS[_check.choice("name", name, EXPLORERS)]
    return _kind(name)(**explorer.state(**start))


@cache
def _kind(name):
    """The class of widgets of one explorer."""
    import anywidget
    import traitlets

    explorer = EXPLORERS[name]
    traits = {"summary": traitlets.Dict()}
    for key, (_, control) in explorer.controls.items():
        if isinstance(control, Choice):
            traits[key] = traitlets.Enum([value for _, value in control.options], control.value)
            continue
        number = traitlets.Int if is_whole(control) else traitlets.Float
        inside = {"min": control.low, "max": control.high}
        if isinstance(control, Points):
            many = {"minlen": len(control.value), "maxlen": len(control.value)}
            traits[key] = traitlets.List(number(**inside), list(control.value), **many)
        else:
            traits[key] = number(control.value, **inside)
    body = {"_esm": bundle.module(name), "_css": bundle.styles()}
    body |= {key: trait.tag(sync=True) for key, trait in traits.items()}
    return type(f"Explorer_{name}", (anywidget.AnyWidget,), body)
