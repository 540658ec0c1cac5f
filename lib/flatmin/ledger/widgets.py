"""Sliders beside a figure where a frontend listens; the same figure, drawn once, where none does."""

import os
from dataclasses import dataclass
from math import log10

from matplotlib import pyplot

from flatmin.ledger.plots import png
from flatmin.ledger.verdicts import running_shell


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
    """Let the reader turn the arguments of ``function``, which draws a new figure (and may print).

    Each control is a tuple (min, max, step, value), a :func:`log_slider`, a list or :func:`choice` of
    values, or a bool; it is passed to ``function`` under its own name. The function draws anew when a
    control is let go. In static mode (:func:`is_static`) it is called once, at the start values, and no
    widget is made. Raises ValueError, naming the control, for one that is none of these.
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
    before = set(pyplot.get_fignums())
    try:
        function(**values)
        for number in sorted(set(pyplot.get_fignums()) - before):
            _show(pyplot.figure(number))
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)


def _show(figure):
    if running_shell() is not None:
        from IPython.display import Image, display

        display(Image(png(figure)))


def _live(function, controls):
    """Show the controls and, below them, what the function draws; draw again whenever a value changes."""
    import ipywidgets
    from IPython.display import display

    widgets = {name: _widget(name, control) for name, control in controls.items()}
    output = ipywidgets.Output()

    def redraw(_change=None):
        with output:
            # wait=True keeps the old picture until the new one is there
            output.clear_output(wait=True)
            draw(function, {name: widget.value for name, widget in widgets.items()})

    for widget in widgets.values():
        widget.observe(redraw, names="value")
    display(ipywidgets.VBox([*widgets.values(), output]))
    redraw()


def _widget(name, control):
    """Return the ipywidgets control for a Slider, Choice or bool."""
    import ipywidgets

    look = {"description": name, "style": {"description_width": "initial"}}
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
