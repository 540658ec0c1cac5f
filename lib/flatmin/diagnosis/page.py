"""The report as HTML and as a figure: tables for a notebook, one self-contained file, a matplotlib figure.

The file needs no network and no script; its figures are inline SVG in the colour of the text around them, so
that they follow the reader's light or dark mode. All text that came from the reader is escaped.
"""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from flatmin import _check
from flatmin.diagnosis.report import Report
from flatmin.ledger import plots
from flatmin.ledger.claims import approx
from flatmin.ledger.files import write_bytes

__all__ = ["EDGES", "html", "page", "plot", "save"]

#: entries of an array that are shown
_SHOWN = 10

_LEADS = {
    "checks": "How near a minimum, where most theories hold. Derivatives were tried first, on some samples.",
    "curvature": "The Hessian H of the mean loss, and the Gauss–Newton matrix G.",
    "flatness": "The same word, defined differently in each paper. They need not agree.",
    "noise": "The gradient of one sample about the mean gradient, covariance Σ.",
    "stability": "A ratio is 1 at the edge. Above 1, SGD with this η and B leaves so sharp a minimum.",
    "theories": "What each paper predicts at this η and B, and where the book tests it.",
}
_LIMITS = """\
<section class="limits"><h2>What these numbers do not say</h2><ul>
<li>Flatness depends on how the function is written: scaling one layer up and the next one down leaves the
function of a ReLU network as it is and changes H.</li>
<li>With cross-entropy, larger weights make a fitted network flatter without making it better.</li>
<li>None of the numbers is a test error. What they tell is where SGD with this η and B goes next.</li>
</ul></section>
"""
# in a notebook the colours are those of the page around it
_STYLE = """\
.flatmin-report { line-height: 1.45; overflow-wrap: anywhere; }
.flatmin-report table { width: 100%; border-collapse: collapse; font-size: 0.92em; margin: 0.3em 0 1.2em; }
.flatmin-report tr { border-bottom: 1px solid rgba(128, 128, 128, 0.35); background: none !important; }
.flatmin-report th, .flatmin-report td { text-align: left !important; vertical-align: top;
  padding: 0.35em 0.6em; font-weight: normal; white-space: normal; }
.flatmin-report th { width: 16%; font-weight: 600; }
.flatmin-report .words { width: 30%; }
.flatmin-report .value { width: 22%; font-variant-numeric: tabular-nums; }
.flatmin-report .how, .flatmin-report .about, .flatmin-report .facts { opacity: 0.78; font-size: 0.92em; }
.flatmin-report .none .value, .flatmin-report .none .how { font-style: italic; }
.flatmin-report h2 { font-size: 1.15em; margin: 1.2em 0 0.1em; }
.flatmin-report p { margin: 0.2em 0 0.5em; }
@media (max-width: 44em) {
  .flatmin-report table, .flatmin-report tbody, .flatmin-report tr, .flatmin-report th, .flatmin-report td
    { display: block; width: auto !important; }
  .flatmin-report tr { padding: 0.5em 0; }
  .flatmin-report th, .flatmin-report td { padding: 0.05em 0; }
}
"""
_PAGE_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --link: #005b8f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --paper: #14171b; --link: #7cc4f2; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1rem clamp(0.8rem, 4vw, 2rem) 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.8rem 0 0.3rem; }
a { color: var(--link); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 1rem; }
.figures figure { margin: 0; }
.figures svg { width: 100%; height: auto; display: block; fill: currentColor; }
@media (prefers-color-scheme: dark) { .figures svg { filter: brightness(1.35); } }
figcaption { font-size: 0.85em; opacity: 0.8; }
@media print { .figures { break-inside: avoid; } }
"""


def html(report) -> str:
    """The tables of ``report`` as HTML for a notebook, in the colours of the page around them.

    Here and below ``report`` is what :func:`flatmin.diagnose` returns; ValueError for anything else.
    """
    _check.instance("report", report, Report)
    return f'<div class="flatmin-report"><style>{_STYLE}</style>{_tables(report)}</div>'


def page(report) -> str:
    """``report`` as one HTML file: facts, figures, tables, and what the numbers do not say."""
    _check.instance("report", report, Report)
    title = f"{report.facts['model']}: what SGD sees"
    drawn = "".join(
        f"<figure>{_svg(name, draw, words)}<figcaption>{escape(words)}</figcaption></figure>"
        for name, (draw, words) in _panels(report).items()
    )
    figures = f'<div class="figures">{drawn}</div>' if drawn else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{_PAGE_STYLE}{_STYLE}</style></head>\n"
        f'<body><main class="flatmin-report"><h1>{escape(title)}</h1>\n{_facts(report)}\n{figures}\n'
        f"{_tables(report, facts=False)}{_LIMITS}</main></body></html>\n"
    )


def save(report, path) -> Path:
    """Write :func:`page` to ``path`` and return it; ValueError for no path, or a folder that is not there."""
    _check.instance("report", report, Report)
    target = Path(_check.instance("path", path, (str, Path)))
    if not target.name or target.is_dir() or not target.parent.is_dir():
        raise _check.refused("path", str(path), "the name of a file in a folder that exists")
    write_bytes(target, page(report).encode("utf8"))
    return target


def plot(report) -> Figure:
    """Draw spectrum, ratios to the edge and noise along the eigenvectors side by side, what is there of them.

    The figure belongs to no window: a notebook shows it, ``savefig`` keeps it. Raises ValueError for a report
    that holds none of the three.
    """
    panels = _panels(_check.instance("report", report, Report))
    if not panels:
        raise ValueError("report: must hold curvature, noise or stability, there is nothing to draw")
    with matplotlib.rc_context():
        plots.use()
        made = Figure(figsize=(4.4 * len(panels), 3.6), layout="constrained")
        FigureCanvasAgg(made)
        axes = np.atleast_1d(made.subplots(1, len(panels)))
        for ax, (draw, _) in zip(axes, panels.values(), strict=True):
            draw(ax)
        plots.label_panels(axes)
    return made


# --- tables


def _tables(report, facts=True) -> str:
    parts = [_facts(report)] if facts else []
    for name, lines in report.sections.items():
        if lines:
            rows = "".join(map(_row, lines))
            lead = _LEADS[name] + (f" {escape(report.tested)}" if name == "checks" else "")
            head = f'<h2>{name.capitalize()}</h2><p class="about">{lead}</p>'
            parts.append(f"<section>{head}<table>{rows}</table></section>\n")
    plan = "".join(
        f'<tr><th scope="row">{escape(step.name)}</th><td class="words">{escape(step.state)}</td>'
        f'<td class="value">{"—" if step.took is None else approx(step.took, digits=2) + " s"}</td>'
        f'<td class="how">{escape(step.note)}</td></tr>\n'
        for step in report.plan.steps
    )
    notes = "".join(f'<p class="about">{escape(note)}</p>' for note in report.plan.notes)
    return "".join(parts) + f"<section><h2>Plan</h2>{notes}<table>{plan}</table></section>\n"


def _facts(report) -> str:
    """What was measured on what: one short paragraph."""
    return f'<p class="facts">{escape(report.head)}</p>'


def _row(line) -> str:
    """One line of the report as a row; what is not defined says why."""
    found = line.estimate is not None
    how = line.method if found else line.reason
    cells = ("words", line.words), ("value", _value(line))
    shown = "".join(f'<td class="{name}">{escape(text)}</td>' for name, text in cells)
    head = f'<tr class="{"found" if found else "none"}"><th scope="row">{escape(line.symbol)}</th>'
    return f'{head}{shown}<td class="how">{escape(how)}{_where(line)}</td></tr>\n'


def _where(line) -> str:
    """The chapter that tests a line, and its claim."""
    chapter = f"chapter {int(line.link[:2])}" if re.match(r"\d\d_", line.link or "") else line.link
    text = ", ".join(filter(None, (chapter, line.claim)))
    return f" <small>({escape(text)})</small>" if text else ""


def _value(line) -> str:
    """The estimate of a line as text; of an array along names ten of its numbers, of a curve its ends."""
    if line.estimate is None or line.at is None:
        return line.number
    if isinstance(line.at[0], str):
        pairs = zip(line.at[:_SHOWN], line.estimate.value, strict=False)
        shown = ", ".join(f"{name} {approx(number)}" for name, number in pairs)
        return shown + ", …" * (len(line.at) > _SHOWN)
    return f"{line.number}, from {approx(line.at[0])} to {approx(line.at[-1])}"


# --- figures


def _panels(report) -> dict:
    """What can be drawn: {name: (function of an axes, what it shows in words)}."""
    found, panels = {line.name: line for line in report.lines if line.estimate is not None}, {}
    values = [float(line.estimate) for name, line in found.items() if re.fullmatch(r"lambda_\d+", name)]
    edges = [found[name] for name in EDGES if name in found]
    if values or "density" in found:
        eta = report.facts["eta"]
        panels["spectrum"] = lambda ax: _spectrum(ax, np.array(values), found.get("density"), eta), _SPECTRUM
    if edges:
        panels["edges"] = lambda ax: _edges(ax, edges), _EDGES
    if "noise_along" in found:
        panels["noise"] = lambda ax: _noise(ax, found["noise_along"], found.get("exponent")), _NOISE
    return panels


#: the lines that are a ratio to an edge of stability
EDGES = ("descent", "exact", "necessary", "typical", "sharpness", "bound", "trace")
_SPECTRUM = "Spectrum of the Hessian, the largest eigenvalues as ticks; dashed, 2/η, where descent leaves."
_EDGES = "η over each edge of stability: right of the line, SGD leaves a minimum as sharp as this."
_NOISE = "Noise of a batch along the leading eigenvectors of H against their curvature; dashed, a power."


def _spectrum(ax, values, density, eta):
    """The density on a logarithmic scale, or else the eigenvalues by rank."""
    if density is not None:
        grid, height = np.asarray(density.at), density.estimate.value
        low = height.max() * 1e-7
        ax.semilogy(grid, np.maximum(height, low), color=plots.colour("simulation"), linestyle="-")
        ax.set(xlabel="eigenvalue of H", ylabel="density", ylim=(low, None))
        ax.plot(values, np.full(values.shape, low * 2), "|", color=plots.colour("sharp"), markersize=12)
        mark, right = ax.axvline, max(grid.max(), values.max(initial=0))
    else:
        plots.points(ax, np.arange(1, len(values) + 1), values)
        ax.set(xlabel="rank", ylabel="eigenvalue of H")
        mark, right = ax.axhline, values.max()
    if eta and 2 / eta < 4 * right:
        mark(2 / eta, color=plots.colour("theory"), linestyle="--", linewidth=1.2)


def _edges(ax, lines):
    """One point a ratio, on a logarithmic scale with a line at 1."""
    ratios, errors = np.array([[*line.estimate] for line in lines], float).T
    places = np.arange(len(lines))[::-1]
    plots.points(ax, ratios, places, xerr=np.minimum(errors, 0.9 * ratios))
    ax.axvline(1, color=plots.colour("theory"), linestyle="--", linewidth=1.2)
    ax.set(xlabel="ratio to the edge", ylim=(-0.6, len(lines) - 0.4), yticks=places)
    ax.set(xscale="log", xlim=(min(ratios.min(), 0.5) / 1.6, max(ratios.max(), 2) * 1.6))
    _plain(ax.xaxis)
    ax.set_yticklabels([line.name for line in lines])


def _noise(ax, line, exponent):
    """C_ii against λ_i, both positive, and the power law where one was fitted."""
    curvature, noise = np.asarray(line.at), np.asarray(line.estimate.value)
    error = np.broadcast_to(line.estimate.error, noise.shape)
    kept = (curvature > 0) & (noise > 0)
    x, y = curvature[kept], noise[kept]
    plots.points(ax, x, y, np.minimum(error[kept], 0.9 * y))
    ax.set(xscale="log", yscale="log", xlabel="curvature along it", ylabel="noise along an eigenvector")
    _plain(ax.xaxis), _plain(ax.yaxis)
    if exponent is not None and len(x) > 1:
        power, ends = float(exponent.estimate), np.array([x.min(), x.max()])
        middle = np.exp(np.mean(np.log(y) - power * np.log(x)))
        plots.theory(ax, ends, middle * ends**power, label=f"power {power:.2g}", linestyle="--")
        ax.legend()


def _plain(axis):
    """Label a logarithmic axis 0.5, 1, 2, 5; by decades alone where it is long."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,), numticks=8))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _svg(name: str, draw, words: str) -> str:
    """One panel as inline SVG, black as the colour of the text around it, its ids its own."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        plots.use()
        made = Figure(figsize=(4.4, 3.4), layout="constrained")
        draw(made.subplots())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        made.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("#000000", "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(words)}"', 1)
