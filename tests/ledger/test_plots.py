import io

import numpy as np
import pytest
from matplotlib import colors, pyplot
from matplotlib.image import imread

from flatmin.ledger import plots


@pytest.fixture(autouse=True)
def style():
    with pyplot.rc_context():
        plots.use()
        yield


def test_every_thing_has_a_colour_and_the_main_ones_differ():
    main = ["sgd", "gd", "langevin", "theory", "printed", "flat", "sharp"]
    assert len({plots.colour(kind) for kind in main}) == len(main)
    assert all(colors.is_color_like(value) for value in plots.COLOURS.values())
    assert set(plots.LINES) | set(plots.MARKERS) <= set(plots.COLOURS)
    with pytest.raises(ValueError, match="kind='sdg'"):
        plots.colour("sdg")


def test_things_drawn_together_survive_grey_print():
    for one, other in [("sgd", "gd"), ("sgd", "langevin"), ("gd", "langevin"), ("flat", "sharp")]:
        looks = [(plots.LINES.get(kind, "-"), plots.MARKERS.get(kind, "o")) for kind in (one, other)]
        assert looks[0] != looks[1]
    assert plots.LINES["printed"] != plots.LINES.get("theory", "-")


def test_pictures_are_opaque_and_white():
    figure, _ = pyplot.subplots()
    pixels = imread(io.BytesIO(plots.png(figure)))
    np.testing.assert_allclose(pixels[..., :3][[0, -1]], 1)
    assert pixels.shape[:2] == (int(3.8 * 110), 660)
    if pixels.shape[2] == 4:
        assert (pixels[..., 3] == 1).all()


def test_measurement_is_points_with_errors_and_theory_lines():
    _, ax = pyplot.subplots()
    measured = plots.points(ax, [1, 2], [1, 2], 0.1, "measured", kind="sgd")
    line = plots.theory(ax, [1, 2], [1, 2], "theory")
    dashed = plots.printed(ax, [1, 2], [2, 1])
    assert measured.lines[0].get_linestyle() == "None"
    assert measured.has_yerr
    assert (line.get_color(), line.get_linestyle()) == (plots.COLOURS["theory"], "-")
    assert dashed.get_linestyle() == "--"
    assert dashed.get_linewidth() < line.get_linewidth()
    assert [text.get_text() for text in ax.legend().get_texts()] == ["theory", "as printed", "measured"]


def test_edges_lie_halfway_on_the_axis():
    np.testing.assert_allclose(plots.edges([1, 2, 4]), [0.5, 1.5, 3, 5])
    np.testing.assert_allclose(plots.edges([1, 100], log=True), [0.1, 10, 1000])
    for centres in ([1], [2, 1], [[1, 2]], [1, np.nan]):
        with pytest.raises(ValueError, match="centres="):
            plots.edges(centres)
    with pytest.raises(ValueError, match="positive"):
        plots.edges([0, 1], log=True)


def test_heatmap_hatches_what_diverged():
    figure, ax = pyplot.subplots()
    values = np.arange(6.0).reshape(2, 3)
    values[1, 2] = np.nan
    mesh = plots.heatmap(ax, [1, 10, 100], [1, 2], values, "F", log="x", limits=(0, 4))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert mesh.get_clim() == (0, 4)
    hatched = [item for item in ax.collections if item.get_hatch()]
    assert [len(item.get_paths()) for item in hatched] == [1]
    assert len(figure.axes) == 2
    figure.draw_without_rendering()
    np.testing.assert_allclose(hatched[0].get_facecolor(), [colors.to_rgba(plots.COLOURS["diverged"])])


def test_heatmap_without_divergence_has_no_hatching():
    _, ax = pyplot.subplots()
    mesh = plots.heatmap(ax, [1, 2], [1, 2], np.ones((2, 2)), log_values=True)
    assert list(ax.collections) == [mesh]
    assert isinstance(mesh.norm, colors.LogNorm)


def test_heatmap_checks_its_arguments():
    _, ax = pyplot.subplots()
    with pytest.raises(ValueError, match=r"values of shape \(2, 3\)"):
        plots.heatmap(ax, [1, 2], [1, 2, 3], np.ones((2, 3)))
    with pytest.raises(ValueError, match="log='z'"):
        plots.heatmap(ax, [1, 2], [1, 2], np.ones((2, 2)), log="z")


def test_panels_are_lettered_in_order():
    _, axes = pyplot.subplots(2, 2)
    plots.label_panels(axes)
    assert [ax.get_title(loc="left") for ax in axes.flat] == ["(a)", "(b)", "(c)", "(d)"]
    _, ax = pyplot.subplots()
    plots.label_panels(ax)
    assert ax.get_title(loc="left") == "(a)"


def test_alt_needs_a_text_and_closes_the_figure():
    figure, _ = pyplot.subplots()
    with pytest.raises(ValueError, match="text=' '"):
        plots.alt(figure, " ")
    plots.alt(figure, "an empty pair of axes")
    assert pyplot.get_fignums() == []


def panels(widths, height=3.0):
    """Draw panels side by side, the last with a colour bar, and return where they may be cut."""
    figure, axes = pyplot.subplots(1, len(widths), figsize=(sum(widths), height), width_ratios=widths)
    for ax in np.ravel(axes):
        ax.plot([0, 1], [0, 1])
        ax.set_ylabel("a label")
    figure.colorbar(axes[-1].pcolormesh(np.eye(3)), ax=axes[-1])
    return figure, plots._cuts(figure)


def test_wide_figures_are_cut_between_their_panels_and_never_before_a_colour_bar():
    figure, cuts = panels([4, 4, 4])
    assert len(cuts) == 2
    figure.canvas.draw()
    for cut, left, right in zip(cuts, figure.axes, figure.axes[1:3], strict=False):
        ends = left.get_tightbbox().x1, right.get_tightbbox().x0
        assert ends[0] < cut / 1000 * figure.bbox.width < ends[1]
    assert panels([3, 3])[1] == []  # narrow enough as it is


def test_what_reaches_over_all_panels_forbids_a_cut():
    figure, cuts = panels([4, 4])
    assert len(cuts) == 1
    figure.suptitle("a title that is longer than one of the panels, and so stands above both of them")
    assert plots._cuts(figure) == []


def test_pictures_are_sharp_and_small():
    figure, ax = pyplot.subplots()
    ax.plot(np.sin(np.linspace(0, 30, 500)))
    sharp = plots._sharp_png(figure)
    assert imread(io.BytesIO(sharp)).shape[:2] == (int(3.8 * 200), 1200)
    everything = io.BytesIO()
    figure.savefig(everything, dpi=200)
    assert len(sharp) < 0.7 * len(everything.getvalue())
