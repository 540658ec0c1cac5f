"""One figure style for the whole book: one colour per thing, theory as lines, measurement as points.

The palette is that of Okabe and Ito, told apart by colour-blind readers; every thing also has a line style
and a marker of its own, so that figures survive print in grey.
"""

import base64
import io

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from flatmin import _check
from flatmin.ledger.verdicts import running_shell

_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
_YELLOW, _BLUE, _VERMILION, _PURPLE = "#f0e442", "#0072b2", "#d55e00", "#cc79a7"

#: Colour of each thing the book draws. Phases carry the colour of where SGD ends up.
COLOURS = {
    "sgd": _BLUE,
    "simulation": _BLUE,
    "gd": _ORANGE,
    "langevin": _GREEN,
    "gld": _GREEN,
    "theory": _BLACK,
    "printed": _PURPLE,
    "flat": _SKY,
    "sharp": _VERMILION,
    "exact": "#666666",
    "phase I": _VERMILION,
    "phase II": _SKY,
    "phase III": "#bdbdbd",
    "diverged": "#bdbdbd",
    "highlight": _YELLOW,
}

#: Line style of each thing; what is not listed is drawn solid.
LINES = {
    "gd": (0, (1, 1)),
    "langevin": (0, (4, 1.5, 1, 1.5)),
    "gld": (0, (4, 1.5, 1, 1.5)),
    "printed": (0, (6, 3)),
    "exact": (0, (3, 1, 1, 1, 1, 1)),
    "sharp": (0, (3, 1.5)),
}

#: Marker of each thing; what is not listed is drawn as a circle.
MARKERS = {"gd": "s", "langevin": "^", "gld": "^", "flat": "D", "sharp": "v", "exact": "x"}

_STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "savefig.format": "png",
    "figure.figsize": (6.0, 3.8),
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "mathtext.fontset": "dejavusans",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(
        color=[_BLUE, _VERMILION, _GREEN, _ORANGE, _PURPLE, _SKY, _BLACK],
        linestyle=["-", "--", "-.", ":", (0, (6, 2)), (0, (3, 1, 1, 1)), "-"],
    ),
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "legend.frameon": False,
    "image.cmap": "viridis",
    "hatch.linewidth": 0.6,
    "hatch.color": "#808080",
}


def use():
    """Make the book's style the style of every figure drawn from now on."""
    matplotlib.rcParams.update(_STYLE)


def colour(kind):
    """Return the colour of a thing. Raises ValueError for a thing that has none."""
    return COLOURS[_check.choice("kind", kind, COLOURS)]


def points(ax, x, y, error=None, label=None, kind="simulation", **options):
    """Draw measurements as points with error bars and return the artist.

    ``x``, ``y`` have shape (n,); ``error`` (n,), a number, or (2, n) below and above, is one standard
    error; ``kind`` is a key of ``COLOURS``; ``options`` go to ``Axes.errorbar``.
    """
    settings = {"color": colour(kind), "marker": MARKERS.get(kind, "o"), "linestyle": "none", "zorder": 3}
    return ax.errorbar(x, y, yerr=error, label=label, **(settings | options))


def theory(ax, x, y, label=None, kind="theory", **options):
    """Draw a theory as a line and return the artist; arguments as for :func:`points`."""
    settings = {"color": colour(kind), "linestyle": LINES.get(kind, "-"), "zorder": 2}
    return ax.plot(x, y, label=label, **(settings | options))[0]


def printed(ax, x, y, label="as printed", **options):
    """Draw the formula as the paper prints it, where it differs from ours: a thin dashed line."""
    return theory(ax, x, y, label, "printed", **({"linewidth": 1.2} | options))


def edges(centres, log=False):
    """Return the n + 1 edges of cells with the given n increasing ``centres``, halfway between them.

    ``log`` halves on a logarithmic scale. Raises ValueError for fewer than two centres, for centres that
    do not increase, and for non-positive ones with ``log``.
    """
    centres, log = _check.array("centres", centres, ndim=1, increasing=True), _check.flag("log", log)
    if len(centres) < 2:
        raise _check.refused("centres", centres, "at least two increasing numbers")
    if log and centres[0] <= 0:
        raise _check.refused("centres", centres, "positive on a logarithmic scale")
    scaled = np.log(centres) if log else centres
    middle = (scaled[1:] + scaled[:-1]) / 2
    ends = np.concatenate([[2 * scaled[0] - middle[0]], middle, [2 * scaled[-1] - middle[-1]]])
    return np.exp(ends) if log else ends


def heatmap(ax, x, y, values, label=None, *, log="", log_values=False, limits=None, cmap="viridis"):
    """Draw ``values`` of shape (len(y), len(x)) as cells around the points of a grid; return the mesh.

    Cells that are masked or not finite (diverged) are hatched grey. ``log`` names the logarithmic axes:
    "", "x", "y" or "xy"; ``log_values`` makes the colour scale logarithmic; ``limits`` (low, high) fix it;
    ``label`` stands beside the colour bar (none without a label). Raises ValueError for a wrong shape.
    """
    values = np.ma.masked_invalid(values)
    if values.shape != (len(y), len(x)):
        raise ValueError(f"values of shape {values.shape}: must be (len(y), len(x)) = {(len(y), len(x))}")
    _check.choice("log", log, ("", "x", "y", "xy"))
    across, up = edges(x, "x" in log), edges(y, "y" in log)
    low, high = limits or (None, None)
    scale = {"norm": LogNorm(low, high)} if log_values else {"vmin": low, "vmax": high}
    mesh = ax.pcolormesh(across, up, values, cmap=cmap, **scale)
    mask = np.ma.getmaskarray(values)
    if mask.any():
        hatched = np.ma.array(np.ones(values.shape), mask=~mask)
        grey = ListedColormap([COLOURS["diverged"]])
        ax.pcolor(across, up, hatched, cmap=grey, hatch="////", edgecolor="#808080", linewidth=0)
    ax.set_xscale("log" if "x" in log else "linear")
    ax.set_yscale("log" if "y" in log else "linear")
    if label is not None:
        ax.figure.colorbar(mesh, ax=ax, label=label)
    return mesh


def label_panels(axes, labels="abcdefghijklmnopqrstuvwxyz"):
    """Write (a), (b), … at the upper left of each of the ``axes`` (any nesting of arrays and lists)."""
    for ax, letter in zip(np.ravel(axes), labels, strict=False):
        ax.set_title(f"({letter})", loc="left", fontweight="bold")


def png(figure):
    """Return the figure as the bytes of a PNG picture, at the figure's own size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return buffer.getvalue()


def _sharp_png(figure):
    """Return the figure as PNG at 200 dots per inch, with 256 colours at most: half as many bytes."""
    from PIL import Image

    drawn, made = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=200)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(made, "png", optimize=True)
    return made.getvalue()


def _cuts(figure):
    """Return where a figure wider than a page of a phone may be cut between its columns of panels.

    In thousandths of the width, increasing; none where something reaches over all columns, such as a
    legend of the figure. The pages stack the pieces on narrow screens.
    """
    if figure.get_figwidth() <= 6.5:
        return []
    figure.canvas.draw()
    width, renderer = figure.bbox.width, figure.canvas.get_renderer()
    spans = []
    for artist in [*figure.axes, *figure.legends, *figure.texts]:
        boxes = [artist.get_tightbbox(renderer) for artist in (artist, *_parents(artist))]
        boxes = [box for box in boxes if box is not None and box.width]
        spans += [(min(box.x0 for box in boxes), max(box.x1 for box in boxes))] if boxes else []
    found, end = [], None
    for left, right in sorted(spans):
        if end is not None and left > end:
            found.append(round(500 * (left + end) / width))
        end = right if end is None else max(end, right)
    return found


def _parents(artist):
    """Return the axes whose colours the artist explains, where it is a colour bar."""
    bar = getattr(artist, "_colorbar", None)
    return [] if bar is None or bar.mappable.axes is None else [bar.mappable.axes]


def publish(figure, text=None):
    """Show the figure now, sharp enough for print, with its alternative ``text`` (None: the cell has it).

    Raises ValueError for what is no figure, and for an empty text.
    """
    if not isinstance(figure, Figure):
        raise _check.refused("figure", figure, "a figure of matplotlib")
    if text is not None and not (isinstance(text, str) and text.strip()):
        raise _check.refused("text", text, "a sentence that says what the figure shows")
    if running_shell() is None:
        return
    from IPython.display import publish_display_data

    about = {"width": round(figure.get_figwidth() * _STYLE["figure.dpi"]), "cuts": _cuts(figure)}
    if text is not None:
        about["alt"] = " ".join(text.split())
    picture = base64.b64encode(_sharp_png(figure)).decode()
    shown = {"image/png": picture, "text/plain": about.get("alt", "a figure")}
    publish_display_data(shown, metadata={"image/png": {key: value for key, value in about.items() if value}})


def alt(figure, text):
    """Show the figure with ``text`` in its place for those who cannot see it, and close it.

    The text says in a sentence what the figure shows. It is kept in the notebook as the picture's plain
    text and becomes the ``alt`` text on the page. Use it as the last line of a plotting cell. Raises
    ValueError for an empty text, and for what is no figure.
    """
    publish(figure, "" if text is None else text)
    pyplot.close(figure)
