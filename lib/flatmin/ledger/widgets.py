"""Sliders beside a figure where a frontend listens; the same figure, drawn once, where none does."""

import asyncio
import contextlib
import html
import io
import os
from dataclasses import dataclass
from math import log10

from matplotlib import pyplot

from flatmin.ledger.plots import png, publish
from flatmin.ledger.verdicts import running_shell

#: seconds that a change waits for another one
_PATIENCE = 0.05
#: what a control is called, where its name is that of a symbol
_SYMBOLS = {"epsilon": "ε", "sigma": "σ", "eta": "η", "delta_s": "Δₛ", "ratio": "ρ", "batch_size": "B"}
_SYMBOLS |= {"dimension": "d"} | {f"lambda_{k}": f"λ{digit}" for k, digit in enumerate("₀₁₂")}


@dataclass(frozen=True)
class Slider:
    """A control from ``low`` to ``high`` in steps of ``step``, starting at ``value``.

    With ``log`` the steps are ``step`` decades.
    """

    low: float
    high: float
    step: float
    value: float
    log: bool = False

    def check(self, name):
        """Raise ValueError, naming the control, unless the numbers make a slider."""
        if not (self.low < self.high and self.low <= self.value <= self.high and self.step > 0):
            raise ValueError(
                f"{name}={(self.low, self.high, self.step, self.value)}: must be (min, max, step, value) "
                "with min < max, step > 0 and min ≤ value ≤ max"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"{name}: min={self.low}: must be positive on a logarithmic slider")


@dataclass(frozen=True)
class Choice:
    """A control that takes one of ``options`` (a list, or a dict from shown name to value)."""

    options: tuple
    value: object


def log_slider(low, high, value, step=0.05):
    """Return a logarithmic slider from ``low`` to ``high``, starting at ``value``; ``step`` in decades."""
    return Slider(low, high, step, value, log=True)


def choice(options, value=None):
    """Return a control for a list of values, or a dict from name to value.

    It starts at ``value``, by default the first. Raises ValueError for no values, or another start value.
    """
    pairs = tuple(options.items() if isinstance(options, dict) else ((str(item), item) for item in options))
    if not pairs:
        raise ValueError("options: must hold at least one value")
    if value is None:
        value = pairs[0][1]
    if value not in [item for _, item in pairs]:
        raise ValueError(f"value={value!r}: must be one of the options {[item for _, item in pairs]}")
    return Choice(pairs, value)


def is_static():
    """Return whether controls are left out: FLATMIN_STATIC=1 is set, or no IPython runs."""
    return os.environ.get("FLATMIN_STATIC") == "1" or running_shell() is None


def explore(function, **controls):
    """Let the reader turn the arguments of ``function``, which draws one new figure (and may print).

    Each control is a tuple (min, max, step, value), a :func:`log_slider`, a list or :func:`choice` of
    values, or a bool; it is passed to ``function`` under its own name. The function draws anew when a
    control is let go, once for several quick moves. In static mode (:func:`is_static`) it is called once, at
    the start values, and no widget is made. Raises ValueError, naming the control, for one that is none of
    these.
    """
    controls = {name: _control(name, control) for name, control in controls.items()}
    if is_static():
        draw(function, {name: _start(control) for name, control in controls.items()})
    else:
        _live(function, controls)


def _control(name, control):
    """Return a control as Slider, Choice or bool."""
    if isinstance(control, tuple) and len(control) == 4:
        control = Slider(*control)
    if isinstance(control, (list, dict)):
        control = choice(control)
    if isinstance(control, Slider):
        control.check(name)
    elif not isinstance(control, (Choice, bool)):
        raise ValueError(
            f"{name}={control!r}: must be (min, max, step, value), log_slider(...), a list or dict of "
            "choices, or a bool"
        )
    return control


def _start(control):
    return control if isinstance(control, bool) else control.value


def draw(function, values):
    """Call ``function(**values)``; show and close the pyplot figures it leaves open, and no others."""
    _drawn(function, values, publish if running_shell() is not None else lambda figure: None)


def _drawn(function, values, take) -> list:
    """What ``take`` makes of each figure that ``function(**values)`` leaves open; then they are closed."""
    before = set(pyplot.get_fignums())
    try:
        function(**values)
        return [take(pyplot.figure(number)) for number in sorted(set(pyplot.get_fignums()) - before)]
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)


def _live(function, controls):
    """Show the controls and, below them, one picture, whose content is replaced when a value changes."""
    import ipywidgets
    from IPython.display import display

    widgets = {name: _widget(name, control) for name, control in controls.items()}
    image, words = ipywidgets.Image(format="png"), ipywidgets.HTML()
    waiting = []

    def redraw():
        waiting.clear()
        words.value, said = "<em>computing …</em>", io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                values = {name: widget.value for name, widget in widgets.items()}
                pictures = _drawn(function, values, png)
        except Exception as error:  # there is no cell under which a traceback could stand
            pictures = []
            said.write(f"{type(error).__name__}: {error}")
        image.value = pictures[-1] if pictures else b""
        image.layout.display = None if pictures else "none"
        words.value = f"<pre>{html.escape(said.getvalue())}</pre>" if said.getvalue() else ""

    def changed(_change):
        """Draw once the messages that wait are read: of several quick moves only the last counts."""
        while waiting:
            waiting.pop().cancel()
        try:
            waiting.append(asyncio.get_running_loop().call_later(_PATIENCE, redraw))
        except RuntimeError:  # no event loop: nothing else can be waiting
            redraw()

    for widget in widgets.values():
        widget.observe(changed, names="value")
    display(ipywidgets.VBox([*widgets.values(), words, image]))
    redraw()


def _widget(name, control):
    """Return the ipywidgets control for a Slider, Choice or bool."""
    import ipywidgets

    look = {
        "description": _SYMBOLS.get(name, name.replace("_", " ")),
        "style": {"description_width": "initial"},
    }
    if isinstance(control, bool):
        return ipywidgets.Checkbox(value=control, **look)
    if isinstance(control, Choice):
        return ipywidgets.Dropdown(options=control.options, value=control.value, **look)
    look |= {"value": control.value, "step": control.step, "continuous_update": False}
    if control.log:
        return ipywidgets.FloatLogSlider(
            min=log10(control.low), max=log10(control.high), readout_format=".2g", **look
        )
    whole = all(isinstance(item, int) for item in (control.low, control.high, control.step, control.value))
    slider = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    extra = {} if whole else {"readout_format": ".3g"}
    return slider(min=control.low, max=control.high, **extra, **look)
