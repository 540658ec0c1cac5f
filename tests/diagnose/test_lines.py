"""Every line of a report on networks of many kinds, against dense derivatives by plain backward passes."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
import zoo

import flatmin as fm
from flatmin.networks import curvature, models
from flatmin.theory.stability import paths, threshold

torch.set_num_threads(1)
N, B = zoo.N, 4
SQUARE = "square", "MSELoss()"
NETWORKS = [
    "mlp", "mlp, smooth", "tanh regression", "lenet", "groupnorm resnet", "layernorm resnet",
    "batchnorm in eval", "transformer", "lstm", "tied autoencoder", "embedding bag", "frozen", "dict inputs",
    "vision transformer", "several labels", "odd parameters", "packed gru", "experts", "weight norm",
    "module used twice",
]  # fmt: skip


@functools.cache
def dense(name):
    """Loss, gradient, per-sample gradients, Hessian and rows R_i (n, C, P), by plain backward passes."""
    model, inputs, targets, _, plain = zoo.problem(name)
    found = [each.detach().numpy() for each in zoo.reference(model, inputs, targets, plain)]
    return *found, zoo.output_rows(model, inputs, targets, plain, N).numpy()


@functools.cache
def reported(name, **more):
    """The report at η = 0.5/λ₁, and η."""
    model, inputs, targets, loss, _ = zoo.problem(name)
    eta = 0.5 / float(np.linalg.eigvalsh(dense(name)[3])[-1])
    options = {"eta": eta, "batch_size": B, "k": 4, "budget": math.inf, "progress": False} | more
    return fm.diagnose(model, loss, (inputs, targets), **options), eta


def close(line, expected, error=0.0, rel=1e-6):
    """The number of a line is the expected one, within five of its errors where these are of chance."""
    assert line.estimate is not None, (line.name, line.reason)
    value, own = np.asarray(line.estimate.value), np.asarray(line.estimate.error)
    allowed = 5 * own * error + rel * np.maximum(np.abs(expected), 1e-9)
    assert (np.abs(value - expected) <= allowed).all(), (line.name, value, expected, own)


@pytest.mark.parametrize("name", NETWORKS)
def test_checks_and_curvature(name):
    loss, gradient, _, hessian, _ = dense(name)
    report, _ = reported(name)
    values = np.linalg.eigvalsh(hessian)
    square, bent = gradient @ gradient, gradient @ hessian @ gradient
    close(report["loss"], loss)
    close(report["gradient_norm"], square**0.5)
    if bent > 0:
        close(report["gain"], square**2 / (2 * bent * loss))
    else:
        assert report["gain"].estimate is None
    for index in range(1, 5):
        close(report[f"lambda_{index}"], values[-index], error=1)
    close(report["lambda_min"], values[0], error=1)
    close(report["trace_H"], np.trace(hessian), error=1)
    close(report["frobenius"], np.linalg.norm(hessian), error=1)
    model = zoo.problem(name)[0]
    kept = [(n, p.numel()) for n, p in model.named_parameters() if p.requires_grad]
    ends = np.cumsum([0, *(count for _, count in kept)])
    shares = [np.diag(hessian)[a:b].sum() for a, b in itertools.pairwise(ends)]
    assert report["trace_by_layer"].at == tuple(n for n, _ in kept)
    close(report["trace_by_layer"], np.array(shares), error=1, rel=1e-6)
    grid = np.array(report["density"].at)
    width = (grid[-1] - grid[0]) / 64
    kernel = np.exp(-0.5 * ((values[:, None] - grid) / width) ** 2) / np.sqrt(2 * np.pi) / width
    found, expected = report["density"].estimate, kernel.mean(0)
    # twelve vectors: Student's t with a skewed tail where one eigenvalue counts
    assert np.mean(np.abs(found.value - expected) <= 3 * found.error + 1e-3 * expected.max()) > 0.9
    assert np.sum(found.value) * (grid[1] - grid[0]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", NETWORKS)
def test_flatness(name):
    _, _, _, hessian, _ = dense(name)
    report, _ = reported(name)
    top, trace = np.linalg.eigvalsh(hessian)[::-1][:4], np.trace(hessian)
    expected = {"Y22": top[0] ** -0.5, "M22": 1 / top[0]}
    expected["Y26"] = np.prod(top) ** -0.25 if top[-1] > 0 else None
    expected["Y23"] = np.prod(top) ** -0.125 if top[-1] > 0 else None
    expected["W22_trace"] = 1 / trace if trace > 0 else None
    expected["W22_frobenius"] = 1 / np.linalg.norm(hessian)
    for definition, value in expected.items():
        line = report[f"flatness_{definition}"]
        if value is None:
            assert line.estimate is None
            assert line.reason
        else:
            close(line, value, error=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_noise(name):
    loss, gradient, samples, hessian, rows = dense(name)
    report, _ = reported(name)
    centred = samples - samples.mean(0)
    sigma, gauss = centred.T @ centred / N, np.einsum("icp,icq->pq", rows, rows) / N
    strength, square = np.trace(sigma), gradient @ gradient
    factor = (N - B) / (B * (N - 1))
    close(report["noise_strength"], strength)
    close(report["noise_scale"], strength / square)
    close(report["signal"], square / (factor * strength))
    # the error that leaving out one sample after the other gives
    left = [np.delete(samples, i, 0) for i in range(N)]
    jack = [np.square(s - s.mean(0)).sum(1).mean() for s in left]
    assert report["noise_strength"].estimate.error == pytest.approx((N - 1) * np.std(jack) / N**0.5, rel=0.3)
    values, vectors = np.linalg.eigh(hessian)
    along = np.einsum("pk,pq,qk->k", vectors, sigma, vectors)[::-1][:4] * factor
    if np.min(-np.diff(values[::-1][:5])) > 1e-3 * values[-1]:  # else the eigenvectors are not unique
        close(report["noise_along"], along, rel=1e-2)
    norms = np.linalg.norm(sigma), np.linalg.norm(gauss)
    cross = np.sum(sigma * gauss)
    close(report["alpha"], cross / (norms[0] * norms[1]), error=1)
    close(report["beta"], norms[0] / (2 * loss * norms[1]), error=1)
    close(report["mu"], cross / (2 * loss * norms[1] ** 2), error=1)
    close(report["trace_G"], np.trace(gauss), error=1)
    if report.facts["loss"] in SQUARE:
        outputs = rows.shape[1]
        close(report["noise_ratio"], outputs * strength / (2 * loss * np.trace(gauss)), error=1)
        errors = np.square(samples).sum(1).mean()
        both = report["decoupling_samples"].estimate.value * report["decoupling_outputs"].estimate.value
        assert both == pytest.approx(outputs * errors / (2 * loss * np.trace(gauss)), rel=1e-6)
    else:
        for none in ("noise_ratio", "decoupling_samples", "decoupling_outputs"):
            assert report[none].estimate is None
            assert "square" in report[none].reason


@pytest.mark.parametrize("name", NETWORKS)
def test_exponent(name):
    _, _, samples, hessian, _ = dense(name)
    report, _ = reported(name)
    values, vectors = np.linalg.eigh(hessian)
    values, vectors = values[::-1][:4], vectors[:, ::-1][:, :4]
    kept = values >= max(1e-2 * values[0], values[-1] * (1 - 1e-9))
    spread = np.var(samples @ vectors, axis=0)
    unique = np.min(-np.diff(values)) > 1e-3 * values[0]
    if values[-1] > 0 and kept.sum() >= 3 and unique:
        expected = np.polyfit(np.log(values[kept]), np.log(spread[kept]), 1)[0]
        close(report["exponent"], expected, rel=0.02)
    elif kept.sum() < 3:
        assert report["exponent"].estimate is None


@pytest.mark.parametrize("name", NETWORKS)
def test_stability_and_theories(name):
    _, _, _, hessian, rows = dense(name)
    report, eta = reported(name)
    first = np.linalg.eigvalsh(hessian)[-1]
    close(report["descent_step"], 2 / first, error=1)
    close(report["descent"], eta * first / 2, error=1)
    minimum = fm.Minimum.from_gradients(rows)
    step = threshold.largest_step(minimum, B)
    close(report["largest_step"], step)
    close(report["exact"], eta / step)
    close(report["growth"], threshold.growth(minimum, eta, B))
    batch = threshold.smallest_batch(minimum, eta)
    if np.isfinite(batch):
        close(report["smallest_batch"], batch)
    else:
        assert "none is" in report["smallest_batch"].reason
    assert step * (1 - 1e-9) <= report["step_bound"].estimate.value <= 1.5 * step
    close(report["necessary"], eta / report["step_bound"].estimate.value)
    typical = paths.typical_edge(minimum, B, steps=200, trajectories=32, seed=5)
    close(report["typical"], eta / typical.value, rel=1e-2)  # of paths: rounding grows
    factor, outputs = (N - B) / (B * (N - 1)), rows.shape[1]
    trace = np.square(rows).sum() / N
    close(report["trace"], eta * factor * trace / (2 * outputs), error=1)
    close(report["sharpness"], eta / 2 * report["batch_sharpness"].estimate.value)
    ratios = [report[n].estimate for n in ("descent", "trace", "bound", "necessary")]
    close(report["binding"], max(r.value for r in ratios if r is not None))
    square = report.facts["loss"] in SQUARE
    if square:
        gauss, mu = np.einsum("icp,icq->pq", rows, rows) / N, report["mu"].estimate.value
        bound = eta * np.linalg.norm(gauss) * (mu / B) ** 0.5
        close(report["bound"], bound, error=1)
        close(report["theory_W22"], bound**2, error=1)
        close(report["theory_M22"], 1 + B / (eta * first), error=1)
    else:
        for none in ("bound", "theory_W22", "theory_M22"):
            assert report[none].estimate is None
            assert report[none].reason
    assert report["theory_Y26"].estimate is None


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_sharpness(name):
    _, gradient, _, hessian, _ = dense(name)
    report, _ = reported(name, batch_size=N, what="batch_sharpness")  # the one batch there is
    close(report["batch_sharpness"], gradient @ hessian @ gradient / (gradient @ gradient))
    assert [line.name for line in report.lines] == ["batch_sharpness"]


def test_batch_sharpness_is_the_mean_over_all_batches():
    model, inputs, targets, loss, plain = zoo.problem("tanh regression")
    found = []
    for i in range(N):
        _, gradient, _, hessian = zoo.reference(model, inputs[[i]], targets[[i]], plain)
        found.append(float(gradient @ hessian @ gradient / gradient.square().sum()))
    options = {
        "eta": 0.1,
        "batch_size": 1,
        "what": "batch_sharpness",
        "sampling": "fresh",
        "budget": math.inf,
    }
    line = fm.diagnose(model, loss, (inputs, targets), **options)["batch_sharpness"]
    assert abs(line.estimate.value - np.mean(found)) <= 4 * line.estimate.error


def test_a_model_with_a_forward_of_its_own():
    model, inputs, targets, loss, _ = zoo.problem("dict inputs")
    options = {"eta": 0.1, "batch_size": B, "budget": math.inf, "what": ("curvature", "noise")}
    one = fm.diagnose(model, loss, (inputs, targets), **options)
    other = fm.diagnose(
        model, loss, (inputs, targets), forward=lambda model, batch: model(**batch)["logits"], **options
    )
    assert all(not z for z in one.compare(other).values())


@pytest.mark.parametrize("what", ["trace_H", ("trace_H", "flatness_W22_frobenius")])
def test_products_for_the_norm_are_taken_only_where_it_is_asked_for(what, monkeypatch):
    model = models.cnn_stacks((4,), depth=1, channels=1, size=8, outputs=3, dtype=torch.float64)
    data = torch.randn(10, 1, 8, 8, dtype=torch.float64), torch.randint(3, (10,))
    hessian, taken, real = fm.at(model, "cross-entropy", data).hessian(), [], curvature._probe
    monkeypatch.setattr(curvature, "_probe", lambda *given: taken.append(given) or real(*given))
    report = fm.diagnose(model, "cross-entropy", data, what=what, k=1, budget=math.inf, progress=False)
    close(report["trace_H"], float(hessian.trace()))
    assert bool(taken) == (what != "trace_H")
    if taken:
        close(report["flatness_W22_frobenius"], 1 / float(hessian.norm()), error=1)
