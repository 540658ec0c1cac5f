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
