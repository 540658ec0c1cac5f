"""Spectra, trace, norms, diagonal and flatness against dense linear algebra and double backward."""

import numpy as np
import pytest
import torch
from torch import nn

from flatmin.networks import curvature, models
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at

DOUBLE = torch.finfo(torch.float64).eps


@pytest.fixture
def here(case):
    model, data, loss = case
    return at(model, loss, data)


@pytest.fixture
def pair(small, wrapped):
    """The same network read by the fast route, and not."""

    def make(activation="tanh", loss="cross-entropy", **options):
        model, data = small(activation, loss, **options)
        return at(model, loss, data), at(wrapped(model), loss, data)

    return make


def double_backward(model, loss, inputs, targets):
    """The Hessian in rows, by differentiating the gradient."""
    tensors = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(loss(model(inputs), targets), tensors, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = []
    for one in flat:
        found = torch.autograd.grad(one, tensors, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([g.reshape(-1) for g in found]))
    return torch.stack(rows)


def test_trace_norm_and_diagonal_are_those_of_the_dense_hessian(here):
    dense = here.hessian()
    trace, norm, diagonal = here.trace(), here.frobenius_norm(), here.diagonal()
    assert trace.value == pytest.approx(float(dense.trace()), rel=1e-12)
    assert norm.value == pytest.approx(float(dense.norm()), rel=1e-12)
    np.testing.assert_allclose(diagonal.value, dense.diagonal().numpy(), rtol=1e-12, atol=1e-14)
    assert (trace.error, norm.error, np.abs(diagonal.error).max()) == (0, 0, 0)


def test_trace_norm_and_diagonal_of_one_layer(here):
    for layer in (1, 3, "1.weight" if "1.weight" in here.names else 2):
        dense = here.hessian(layer)
        assert here.trace(layer).value == pytest.approx(float(dense.trace()), rel=1e-12)
        assert here.frobenius_norm(layer).value == pytest.approx(float(dense.norm()), rel=1e-12)
        np.testing.assert_allclose(
            here.diagonal(layer).value, dense.diagonal().numpy(), rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("plain", [True, False])
def test_exact_measures_of_smooth_activations_against_double_backward(activation, plain, wrapped):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3)).double()
    inputs, targets = torch.randn(20, 4).double(), torch.randint(3, (20,))
    dense = double_backward(model, nn.CrossEntropyLoss(), inputs, targets)
    here = at(model if plain else wrapped(model), nn.CrossEntropyLoss(), (inputs, targets))
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(here.hessian(), dense, **close)
    np.testing.assert_allclose(here.diagonal().value, dense.diagonal().numpy(), **close)
    assert here.trace().value == pytest.approx(float(dense.trace()), rel=1e-10)
    assert here.frobenius_norm().value == pytest.approx(float(dense.norm()), rel=1e-10)
    values = np.linalg.eigvalsh(dense.numpy())
    for which, expected in (("largest", values[::-1][:5]), ("smallest", values[:5])):
        np.testing.assert_allclose(here.eigenpairs(5, which=which, tolerance=1e-7).values, expected, **close)


def test_eigenvalues_through_layer_norm_against_double_backward():
    """torch.func.hessian is wrong by percents here."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()
    inputs, targets = torch.randn(16, 5).double(), torch.randint(3, (16,))
    dense = double_backward(model, nn.CrossEntropyLoss(), inputs, targets)
    here = at(model, nn.CrossEntropyLoss(), (inputs, targets))
    expected = torch.linalg.eigvalsh(dense).flip(0)[:6]
    torch.testing.assert_close(here.eigenpairs(6, tolerance=1e-8).values, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(here.hessian("1.weight"), dense[48:56, 48:56], rtol=1e-10, atol=1e-12)


def test_the_trace_of_a_bias_is_exact(pair):
    here, generic = pair()
    dense = here.hessian("3.bias")
    for one, name in ((here, "3.bias"), (generic, "inner.3.bias")):
        assert one.trace(name).value == pytest.approx(float(dense.trace()), rel=1e-12)
        assert one.frobenius_norm(name).value == pytest.approx(float(dense.norm()), rel=1e-12)
        assert one.trace(name).error == 0


def test_the_gauss_newton_trace_is_the_hessian_trace_for_piecewise_linear_networks(pair):
    for activation, same in (("relu", True), ("tanh", False)):
        here = pair(activation)[0]
        trace, other = here.trace().value, float(here.gauss_newton().trace())
        assert (abs(trace - other) < 1e-12 * abs(trace)) is same


def test_estimates_for_other_modules_agree_within_their_error(pair):
    here, generic = pair("tanh", "square", sizes=(6, 8, 5))
    dense = here.hessian()
    for name, exact in (("trace", dense.trace()), ("frobenius_norm", dense.norm())):
        estimate = getattr(generic, name)(probes=120)
        assert 0 < estimate.error < 0.2 * abs(exact)
        assert abs(estimate.value - exact) < 4 * estimate.error


@pytest.fixture
def estimated(pair, monkeypatch):
    """A network whose measures are estimated although they could be exact (its products are fast), and H."""
    here = pair(sizes=(6, 8, 5))[0]
    dense = here.hessian()
    monkeypatch.setattr(curvature, "_exact_diagonal", lambda *_: None)
    monkeypatch.setattr(curvature, "_EXACT_WORK", 0)
    return here, dense


def test_errors_of_trace_norm_and_diagonal_are_calibrated(estimated):
    """Over 200 seeds the deviations in units of their errors have a standard deviation of 1, known to 5 %."""
    here, dense = estimated
    for name, exact in {"trace": float(dense.trace()), "frobenius_norm": float(dense.norm())}.items():
        found = [getattr(here, name)(probes=60, seed=seed) for seed in range(200)]
        scores = [(estimate.value - exact) / estimate.error for estimate in found]
        assert abs(np.std(scores) - 1) < 0.2
        assert abs(np.mean(scores)) < 0.3
    exact = dense.diagonal().numpy()
    found = [here.diagonal(probes=60, seed=seed) for seed in range(100)]
    scores = np.array([(one.value - exact) / one.error for one in found])[:, np.abs(exact) > 1e-3]
    assert abs(scores.std() - 1) < 0.2


def test_the_norm_of_few_probes_has_no_bias(estimated):
    """The root of a mean of four squares is too small on average; the correction takes most of it off."""
    here, dense = estimated
    exact, block = float(dense.norm()), here.block()
    found, plain = [], []
    for seed in range(1000):
        found.append(here.frobenius_norm(probes=4, seed=seed).value)
        ((_, products),) = curvature._probe(here.passed, block, 4, seed)
        plain.append(float(products.square().sum(1).mean()) ** 0.5)
    assert abs(np.mean(found) - exact) < 0.5 * abs(np.mean(plain) - exact)


@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
@pytest.mark.parametrize("wrap", [False, True])
def test_the_gauss_newton_trace_is_estimated_within_its_error(pair, loss, wrap):
    both = pair("tanh", loss, samples=400)
    exact = float(both[0].gauss_newton().trace())
    one = both[wrap]
    found = [one.gauss_newton_trace(seed=seed) for seed in range(40)]
    values = np.array([estimate.value for estimate in found])
    assert abs(values.mean() - exact) < 4 * values.std(ddof=1) / 40**0.5
    # the spread over 40 seeds is known to 11 %
    assert values.std(ddof=1) / 1.33 < np.mean([estimate.error for estimate in found]) < 0.1 * exact
    twice = [one.gauss_newton_trace(probes=2, seed=seed) for seed in range(100)]
    scores = [(estimate.value - exact) / estimate.error for estimate in twice]
    assert abs(np.std(scores) - 1) < 0.25
    whole = one.gauss_newton_trace(probes=3)
    assert whole.value == pytest.approx(exact, rel=1e-12)
    assert whole.error == 0
    with pytest.raises(ValueError, match="probes=0: must be an integer at least 1"):
        one.gauss_newton_trace(probes=0)


def test_traces_are_had_without_the_products_that_only_the_norm_needs(pair, monkeypatch):
    monkeypatch.setattr(curvature, "_probe", None)  # no products
    for one in pair("relu"):
        trace, norm, layers = curvature.moments(one, norm=False)
        assert norm is None
        assert trace.value == pytest.approx(float(one.hessian().trace()), rel=1e-10)
        assert layers.value.sum() == pytest.approx(trace.value, rel=1e-12)
    monkeypatch.undo()
    curved = pair("tanh")[1]  # signs give all three at once
    assert curvature.moments(curved, 5, norm=False)[1].value == curvature.moments(curved, 5)[1].value


@pytest.mark.parametrize("layer", [None, 2, "3.bias"])
@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_eigenpairs_are_those_of_the_dense_matrix(pair, activation, wrap, matrix, layer):
    here, generic = pair(activation)
    dense = here.hessian(layer) if matrix == "hessian" else here.gauss_newton(layer)
    k = 3 if layer == "3.bias" else 8
    name = layer if isinstance(layer, int | None) or not wrap else "inner." + layer
    pairs = (generic if wrap else here).eigenpairs(k, layer=name, matrix=matrix, tolerance=1e-9)
    expected = torch.linalg.eigvalsh(dense).flip(0)[:k]
    torch.testing.assert_close(pairs.values, expected, rtol=1e-9, atol=1e-12)
    off = dense @ pairs.vectors - pairs.vectors * pairs.values
    assert (off.norm(dim=0) < 1e-8 * expected[0]).all()
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, torch.eye(k, dtype=torch.float64))


@pytest.mark.parametrize("way", ["dense", "columns", "chains"])
def test_ten_outputs_with_the_square_loss_have_tenfold_eigenvalues(way, wrapped, monkeypatch):
    torch.manual_seed(0)
    model, inputs = nn.Linear(6, 10), torch.randn(50, 6)
    if way == "chains":
        monkeypatch.setattr(curvature, "_SMALL", 0)
    here = at(wrapped(model) if way == "columns" else model, "square", (inputs, torch.randn(50, 10)))
    moments = torch.cat([inputs, torch.ones(50, 1)], 1).double()
    expected = torch.linalg.eigvalsh(moments.T @ moments / 50).flip(0)
    for k in (10, 13):
        found = here.eigenpairs(k).values.double()
        torch.testing.assert_close(found, expected.repeat_interleave(10)[:k], rtol=1e-4, atol=0)
        assert found.shape == (k,)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_both_ends_of_a_larger_network_by_chains(which, wrapped):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 10)).double()
    data = torch.randn(40, 10).double(), 3 * torch.randn(40, 10).double()
    here = at(wrapped(model), "square", data)
    values = np.linalg.eigvalsh(at(model, "square", data).hessian().numpy())
    size = {"largest": -values, "smallest": values, "magnitude": -abs(values)}[which]
    expected = values[np.argsort(size, kind="stable")[:12]]
    pairs = here.eigenpairs(12, which=which, tolerance=1e-4)
    assert 0 < pairs.products < len(values)
    np.testing.assert_allclose(pairs.values, expected, rtol=1e-6)


@pytest.mark.parametrize("small", [0, 600])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("layer", [None, 1, 2])
def test_few_samples_of_many_inputs_have_the_spectrum_of_all_parameters(
    layer, which, matrix, bias, small, monkeypatch
):
    """12 samples of 40 inputs are measured along 12 axes; zeros of the other directions count as well."""
    monkeypatch.setattr(curvature, "_SMALL", small)
    torch.manual_seed(0)
    layers = nn.Linear(40, 15, bias), nn.Tanh(), nn.Linear(15, 4, bias)
    data = torch.randn(12, 40).double(), torch.randint(4, (12,))
    here = at(nn.Sequential(*layers).double(), "cross-entropy", data)
    assert here.passed.narrowed() is not None
    dense = here.hessian(layer) if matrix == "hessian" else here.gauss_newton(layer)
    values = torch.linalg.eigvalsh(dense).numpy()
    size = {"largest": -values, "smallest": values, "magnitude": -abs(values)}[which]
    expected = values[np.argsort(size, kind="stable")[:8]]
    pairs = here.eigenpairs(8, layer=layer, matrix=matrix, which=which, tolerance=1e-6)
    np.testing.assert_allclose(pairs.values, expected, rtol=1e-9, atol=1e-13)
    off = dense @ pairs.vectors - pairs.vectors * pairs.values
    assert (off.norm(dim=0) <= 2e-6 * pairs.values.abs() + 1e-13).all()
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, torch.eye(8).double())


def test_where_no_sample_lies_the_smallest_eigenvalues_are_zero():
    """A linear network: along its 12 samples all curvatures are positive."""
    torch.manual_seed(0)
    data = torch.randn(12, 40).double(), torch.randn(12, 2).double()
    here = at(nn.Linear(40, 2, bias=False).double(), "square", data)
    assert here.eigenpairs(5, which="smallest").values.abs().max() < 1e-12


def test_samples_that_depend_on_each_other_are_measured_in_all_parameters():
    torch.manual_seed(0)
    inputs, targets = torch.randn(10, 30).double(), torch.arange(10)
    model = models.mlp((30, 12, 10), 0, dtype=torch.float64)
    twice = torch.cat([inputs, inputs + 1e-6 * torch.randn(10, 30)])[:14], torch.cat([targets, targets])[:14]
    here = at(model, "cross-entropy", twice)
    assert here.passed.narrowed() is None
    expected = torch.linalg.eigvalsh(here.hessian()).flip(0)[:3]
    torch.testing.assert_close(here.eigenpairs(3).values, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("samples", [8, 60])
def test_gauss_newton_spectrum_is_that_of_the_dense_matrix(pair, samples):
    """8 samples go through the Gram matrix, 60 through the matrix itself."""
    both = pair("relu", samples=samples)
    expected = torch.linalg.eigvalsh(both[0].gauss_newton()).flip(0)
    for one in both:
        found = curvature.gauss_newton_spectrum(one)
        m = min(len(found), len(expected))
        torch.testing.assert_close(found[:m], expected[:m], rtol=1e-8, atol=1e-12)


def test_gram_matrix_is_that_of_the_root(here, monkeypatch):
    root = here.passed.sample_roots(slice(None)).flatten(0, 1)
    torch.testing.assert_close(curvature.gram(here.passed), root @ root.T)


def test_gram_matrix_in_chunks(pair, monkeypatch):
    here, generic = pair("relu")
    whole = curvature.gram(here.passed)
    monkeypatch.setattr(curvature, "_ENTRIES", 2000)
    torch.testing.assert_close(curvature.gram(generic.passed), whole)


def test_spectral_density_has_the_moments_of_the_hessian(pair):
    here = pair()[0]
    values = torch.linalg.eigvalsh(here.hessian()).numpy()
    density = here.spectral_density(steps=25, probes=100)
    assert density.weights.sum() == pytest.approx(1)
    for power in (1, 2, 4):
        moment = density.moment(power)
        assert abs(moment.value - (values**power).mean()) < 4 * moment.error
        assert moment.error < 0.3 * abs(moment.value)
    grid = np.linspace(-2, 2 * values.max(), 4000)
    curve = density.on(grid, 0.05)
    assert np.trapezoid(curve.value, grid) == pytest.approx(1, abs=1e-6)
    exact = np.exp(-0.5 * ((grid[:, None] - values) / 0.05) ** 2).mean(1) / (0.05 * np.sqrt(2 * np.pi))
    assert (np.abs(curve.value - exact) < 5 * curve.error + 1e-6).all()


def test_errors_of_the_spectral_density_are_calibrated(pair):
    here = pair()[0]
    values = torch.linalg.eigvalsh(here.hessian()).numpy()
    found = [here.spectral_density(steps=3, probes=20, seed=seed).moment(2) for seed in range(100)]
    scores = [(one.value - (values**2).mean()) / one.error for one in found]
    assert abs(np.std(scores) - 1) < 0.25


def test_flatness_follows_each_definition(pair):
    here = pair("relu")[0]
    block = torch.linalg.eigvalsh(here.hessian(2)).flip(0)
    product = float(block[:4].prod())
    close = {"rel": 1e-5}
    assert here.flatness("Y26", layer=2, top=4).value == pytest.approx(product ** (-1 / 4), **close)
    assert here.flatness("Y23", 2, top=4).value == pytest.approx(product ** (-1 / 8), **close)
    assert here.flatness("Y22", 2).value == pytest.approx(float(block[0]) ** -0.5, **close)
    assert here.flatness("M22", 2).value == pytest.approx(1 / float(block[0]), **close)
    assert here.flatness("W22-trace", 2).value == pytest.approx(1 / float(block.sum()), **close)
    assert here.flatness("W22-frobenius", 2).value == pytest.approx(1 / float(block.norm()), **close)
    assert here.flatness("Y26", layer="3.weight", top=4).error < 1e-10


def test_flatness_is_refused_where_it_is_not_defined(pair):
    here = pair("relu")[0]
    with pytest.raises(
        ValueError, match=r"top=87: must be as many as there are positive eigenvalues; number"
    ):
        here.flatness("Y26", top=87)
    with pytest.raises(ValueError, match=r"definition='volume': must be one of"):
        here.flatness("volume")
    with pytest.raises(ValueError, match=r"definition='Y25': .*did you mean 'Y2"):
        here.flatness("Y25")
    bent = pair(sizes=(6, 8, 5))[0]
    assert bent.trace().value < 0
    with pytest.raises(ValueError, match=r"definition='W22-trace': the trace is -.*must be positive"):
        bent.flatness("W22-trace")


def test_flatness_carries_the_error_of_an_estimated_trace(pair):
    here, generic = pair("tanh", "square", sizes=(6, 8, 5))
    found = generic.flatness("W22-trace")
    assert found.error > 0
    assert abs(found.value - 1 / here.trace().value) < 4 * found.error


def test_effective_dimension_counts_equal_eigenvalues():
    values = torch.tensor([2.0] * 7 + [0.0] * 20)
    assert curvature.effective_dimension(values) == pytest.approx(7)
    for bad in ([1.0, -0.5], [0.0, 0.0], [np.nan, 1.0], [], None):
        with pytest.raises(ValueError, match=r"values=.*must be"):
            curvature.effective_dimension(bad)


def test_dense_matrices_in_chunks(pair, monkeypatch):
    here = pair()[0]
    whole = here.hessian()
    expected = float(whole.norm())
    monkeypatch.setattr(curvature, "_ENTRIES", 40)
    monkeypatch.setattr(curvature, "_CACHED", 40)
    monkeypatch.setattr("flatmin.networks.passes.dense.ENTRIES", 900)
    block = here.block(2)
    torch.testing.assert_close(here.hessian(), whole)
    torch.testing.assert_close(here.hessian(2), whole[block, block])
    assert here.frobenius_norm().value == pytest.approx(expected)


def test_the_norm_is_estimated_where_the_exact_one_costs_too_much(pair, monkeypatch):
    here = pair("relu", sizes=(8, 9, 7))[0]
    exact = here.frobenius_norm()
    monkeypatch.setattr(curvature, "_EXACT_WORK", 1000)
    estimate = here.frobenius_norm(probes=120)
    assert exact.error == 0 < estimate.error
    assert abs(estimate.value - exact.value) < 4 * estimate.error


BAD = [
    ("eigenpairs", {"k": 0}, "k=0"),
    ("eigenpairs", {"k": 10**6}, "k=1000000"),
    ("eigenpairs", {"matrix": "fisher"}, "matrix='fisher'"),
    ("eigenpairs", {"which": "both"}, "which='both'"),
    ("eigenpairs", {"tolerance": np.nan}, "tolerance=nan"),
    ("eigenpairs", {"steps": 0}, "steps=0"),
    ("eigenpairs", {"seed": -1}, "seed=-1"),
    ("eigenpairs", {"layer": "4.weight"}, "layer='4.weight'"),
    ("trace", {"probes": 1}, "probes=1"),
    ("trace", {"layer": 0}, "layer=0"),
    ("diagonal", {"probes": 1.5}, "probes=1.5"),
    ("frobenius_norm", {"probes": None}, "probes=None"),
    ("spectral_density", {"probes": 1}, "probes=1"),
    ("spectral_density", {"steps": 0}, "steps=0"),
    ("flatness", {"definition": "Y26", "top": 0}, "top=0"),
    ("hessian", {"layer": 2.5}, "layer=2.5"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD)
def test_arguments_are_checked(pair, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(pair()[0], name)(**arguments)


def test_a_dense_matrix_beyond_the_memory_is_refused():
    model = models.mlp((784, 100, 10), 0)
    here = at(model, "cross-entropy", (torch.randn(5, 784), torch.arange(5)))
    with pytest.raises(ValueError, match="GiB"):
        here.hessian()
    assert here.hessian("3.weight").shape == (1000, 1000)


def test_without_the_proof_of_multiplicities_the_products_are_fewer():
    """A simple spectrum: the same eigenvalues; the proof is what the other products are for."""
    train = datasets.digits().train
    here = at(models.mlp((64, 30, 30, 10), 1), "cross-entropy", train)
    proven, plain = here.eigenpairs(5), here.eigenpairs(5, missed=1)
    torch.testing.assert_close(proven.values, plain.values, rtol=1e-4, atol=0)
    assert plain.products < proven.products
