"""The budget, what is refused, momentum and weight decay, drawn samples, JSON, executors, calibration."""

import copy
import itertools
import json
import math
import multiprocessing
import pickle
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import flatmin as fm
from flatmin.diagnosis import report as reports
from flatmin.diagnosis.lines import LINES
from flatmin.diagnosis.measure import diagnose
from flatmin.diagnosis.plan import seconds
from flatmin.diagnosis.steps import Steps

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 6, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(3, (40,), generator=GENERATOR)
MODEL = fm.models.mlp((6, 5, 3), 1, activation="tanh", dtype=torch.float64)
FREE = {"budget": math.inf, "progress": False}


def measured(**options):
    return diagnose(MODEL, "cross-entropy", (X, Y), **({"eta": 0.1, "batch_size": 8} | FREE | options))


# what is asked for


def test_what_names_sections_and_lines():
    every = measured(k=2)
    names = [line.name for line in every.lines]
    assert names == [*list(LINES)[:4], "lambda_1", "lambda_2", *list(LINES)[4:]]
    some = measured(k=2, what=("checks", "mu", "lambda_2"))
    assert [line.name for line in some.lines] == [*list(LINES)[:4], "lambda_2", "mu"]
    assert all(not z for name, z in every.compare(some).items() if name in some)
    assert {name for name, z in every.compare(some).items() if z is None} >= set(names) - {
        line.name for line in some.lines
    } - {"noise_ratio"}
    with pytest.raises(ValueError, match="did you mean 'curvature'"):
        measured(what="curvture")
    with pytest.raises(ValueError, match="did you mean 'lambda_1'"):
        every["lamda_1"]


def test_eta_is_needed_only_where_it_is_used():
    found = measured(eta=None, batch_size=None, what=("curvature", "flatness", "noise"), k=2)
    assert found["lambda_1"].estimate is not None
    assert found["noise_along"].estimate is not None
    assert "η" not in found.head
    for given, missing in ({"eta": None}, "eta"), ({"batch_size": None}, "batch_size"):
        with pytest.raises(ValueError, match=f"{missing}=None: must be given"):
            measured(**given)


def test_blocks_of_layers():
    found = measured(layers="*.weight", k=2, what="curvature")
    hessian = fm.at(MODEL, "cross-entropy", (X, Y)).hessian
    for name in ("0.weight", "2.weight") if "lambda_1[0.weight]" in found else ("1.weight", "3.weight"):
        expected = float(torch.linalg.eigvalsh(hessian(name))[-1])
        assert float(found[f"lambda_1[{name}]"].estimate) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="layers='head': must be a pattern"):
        measured(layers="head")


def test_theories_alone_bring_what_they_need():
    data, model = (X, torch.sin(X[:, :1])), fm.models.mlp((6, 5, 1), 1, activation="tanh", dtype=X.dtype)
    options = {"eta": 0.1, "batch_size": 8, **FREE}
    every = diagnose(model, "square", data, **options)
    for what in "theories", "binding", "theory_W22":
        some = diagnose(model, "square", data, what=what, **options)
        assert [(line.name, line.reason) for line in some.lines] == [
            (line.name, line.reason) for line in every.lines if line.name in some
        ]
        assert all(not every.compare(some)[line.name] for line in some.lines)
        assert any(line.estimate is not None for line in some.lines)


@pytest.mark.parametrize("n", [1, 2])
def test_few_samples(n):
    found = diagnose(MODEL, "cross-entropy", (X[:n], Y[:n]), eta=0.1, batch_size=1, **FREE)
    assert float(found["smallest_batch"].estimate) == 1
    assert found["mu"].reason


def test_no_batch_is_stable_above_the_edge_of_descent():
    found = measured(eta=1e4, what="stability")
    assert found["smallest_batch"].estimate is None
    assert "2/λ₁(G)" in found["smallest_batch"].reason


# the budget


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("1.5h", 5400), ("2 m", 120), (3, 3), (math.inf, math.inf)]
)
def test_budgets(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("bad", ["", "5", "0s", "-1s", 0, -1, math.nan, None, True, [1]])
def test_bad_budgets(bad):
    with pytest.raises(ValueError, match="budget="):
        seconds(bad)


def test_what_does_not_fit_is_dropped_with_a_sentence():
    found = measured(budget=1e-6)
    assert all(line.estimate is None and line.reason for line in found.lines)
    assert set(found.plan.dropped) >= {"eigenvalues", "noise"}
    assert "would take ≈" in found["lambda_1"].reason
    assert not found.plan.interrupted
    assert "dropped" in str(found)


def test_a_large_set_is_cut_to_what_the_budget_allows_and_says_so(monkeypatch):
    monkeypatch.setattr("flatmin.diagnosis.measure._timed", lambda here: (1.0, 1e-9))
    data = (X.repeat(5, 1), Y.repeat(5))
    options = {"eta": 0.1, "batch_size": 8, "progress": False}
    found = diagnose(MODEL, "cross-entropy", data, what="loss", budget=200.0, **options)
    assert found.facts["samples"] == 166  # of 200: half of the budget for 120 products
    assert found.facts["of_samples"] == 200
    assert "166 of 200 samples" in found.plan.notes[0]
    kept = diagnose(MODEL, "cross-entropy", data, what="loss", budget=200.0, samples=200, **options)
    assert kept.facts["samples"] == 200


def test_what_calls_cost_is_no_share_of_the_samples():
    """Two thousand samples of a small network take little longer than sixteen: nothing is cut."""
    data = X.repeat(50, 1), Y.repeat(50)
    found = diagnose(MODEL, "cross-entropy", data, eta=0.1, batch_size=8, what="loss", budget=10)
    assert found.facts["samples"] == 2000


def test_an_interruption_reports_what_is_done(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Steps, "_moments", stop)
    found = measured()
    assert found.plan.interrupted
    assert found["lambda_1"].estimate is not None
    assert found["trace_H"].reason == "interrupted before it was measured"
    assert found["theory_M22"].reason == "interrupted before it was measured"
    assert {step.state for step in found.plan.steps} == {"done", "interrupted"}


def test_an_interruption_before_the_first_step_reports_too(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("flatmin.diagnosis.measure._timed", stop)
    found = measured()
    assert all(line.reason == "interrupted before it was measured" for line in found.lines)
    assert "interrupted" in str(found)


def test_the_same_seed_gives_the_same_numbers_and_leaves_no_trace():
    model, state = copy.deepcopy(MODEL).train(), torch.get_rng_state()
    one, other = (diagnose(model, "cross-entropy", (X, Y), eta=0.1, batch_size=8, **FREE) for _ in range(2))
    assert all(not z for z in one.compare(other).values())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


# samples


def test_samples_are_drawn_by_the_seed():
    found = [measured(samples=20, seed=seed, what="loss") for seed in (0, 0, 1)]
    assert found[0].facts["samples"] == 20
    assert found[0].facts["of_samples"] == 40
    assert "other samples could have been drawn" in found[0].plan.notes[-1]
    assert not measured(what="loss").plan.notes
    assert not found[0].compare(found[1])["loss"]
    assert found[0].compare(found[2])["loss"]
    rows = np.sort(np.random.default_rng(1).permutation(40)[:20])
    expected = fm.at(MODEL, "cross-entropy", (X[rows], Y[rows])).loss
    assert float(found[2]["loss"].estimate) == pytest.approx(expected, rel=1e-12)
    for data in TensorDataset(X, Y), DataLoader(TensorDataset(X[rows], Y[rows]), batch_size=7):
        same = diagnose(MODEL, "cross-entropy", data, samples=20, seed=1, what="loss", **FREE)
        assert float(same["loss"].estimate) == pytest.approx(expected, rel=1e-12)


def test_a_batch_beyond_the_samples_drawn_drops_the_thresholds_only():
    found = measured(samples=16, batch_size=20)
    assert "more than the 16 samples" in found["exact"].reason
    assert found["lambda_1"].estimate is not None


# momentum and weight decay


def test_momentum_moves_the_edge_of_descent():
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = inputs, inputs[:, :1]
    model = nn.Linear(4, 1, bias=False).double()
    options = {"eta": 0.1, "batch_size": 5, "momentum": 0.8, "weight_decay": 0.05}
    found = diagnose(model, "square", data, **options, **FREE)
    step = float(found["descent_step"].estimate)
    for share, stays in (0.99, True), (1.01, False):
        twin = copy.deepcopy(model)
        optimiser = torch.optim.SGD(twin.parameters(), lr=share * step, momentum=0.8, weight_decay=0.05)
        for _ in range(3000):
            optimiser.zero_grad()
            (0.5 * (twin(data[0]) - data[1]).square().sum() / 30).backward()
            optimiser.step()
        assert (float(twin.weight.detach().norm()) < 10) == stays
    for name in ("exact", "growth", "necessary", "trace", "bound", "sharpness", "typical", "theory_M22"):
        assert found[name].estimate is None
        assert "momentum" in found[name].reason or "needs bound" in found[name].reason


def test_weight_decay_in_the_exact_growth():
    """Against the mean of (1 − ηw − ηH_B) ⊗ (1 − ηw − ηH_B) over all batches."""
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model, decay, eta = nn.Linear(3, 1, bias=False).double(), 0.3, 0.4
    options = {"batch_size": 2, "weight_decay": decay, **FREE}
    found = diagnose(model, "square", (inputs, inputs[:, :1]), eta=eta, what="stability", **options)

    def growth(eta):
        total = 0
        for batch in itertools.combinations(inputs.numpy(), 2):
            step = (1 - eta * decay) * np.eye(3) - eta / 2 * sum(np.outer(row, row) for row in batch)
            total = total + np.kron(step, step) / 28
        return np.abs(np.linalg.eigvals(total)).max()

    assert float(found["growth"].estimate) == pytest.approx(growth(eta), rel=1e-9)
    assert growth(float(found["largest_step"].estimate)) == pytest.approx(1, abs=1e-5)
    assert found["smallest_batch"].estimate is None
    assert "weight decay" in found["bound"].reason


def test_decay_alone_may_limit_the_step():
    """1e-6 of curvature: the edge is 2/(λ₁ + w), where (1 − ηw)² ρ is 1 from the other side."""
    model, inputs = nn.Linear(2, 1, bias=False).double(), 1e-3 * torch.eye(2, dtype=torch.float64)
    options = {"eta": 0.1, "batch_size": 1, "weight_decay": 0.5, "what": "stability", **FREE}
    found = diagnose(model, "square", (inputs, inputs[:, :1]), **options)
    assert found["largest_step"].estimate is None or float(found["largest_step"].estimate) > 1


# refusals


class Coupled(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


def spoiled(change):
    model = copy.deepcopy(MODEL)
    change(model)
    return model


def _nan(model):
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan


def _sparse(model):
    model.extra = nn.Parameter(torch.eye(2).to_sparse())


def _complex(model):
    model.extra = nn.Parameter(torch.ones(2, dtype=torch.complex64))


with torch.inference_mode():
    INFERENCE = nn.Linear(6, 3).double()

NORMED = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
REFUSED = {
    "batch norm in training mode": ({"model": NORMED, "mode": "train"}, "depend on its batch"),
    "dropout": ({"model": nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)), "mode": "train"}, "is random"),
    "samples coupled": ({"model": Coupled(6, 3)}, "samples apart|one alone"),
    "compiled": ({"model": torch.compile(copy.deepcopy(MODEL))}, "compiled"),
    "complex": ({"model": spoiled(_complex)}, "dense and real"),
    "sparse": ({"model": spoiled(_sparse)}, "dense and real"),
    "NaN in the model": ({"model": spoiled(_nan)}, "NaN"),
    "NaN in the inputs": ({"data": (X * math.nan, Y)}, "finite"),
    "labels that are none": ({"data": (X, Y + 5)}, "label|class"),
    "B > n": ({"batch_size": 41}, "batch_size=41: must be an integer at least 1 and at most 40"),
    "η = 0": ({"eta": 0}, "eta=0: must be a finite real number above 0"),
    "momentum 1": ({"momentum": 1.0}, "momentum=1.0: must be"),
    "decay": ({"weight_decay": -0.1}, "weight_decay=-0.1: must be"),
    "sampling": ({"sampling": "epochs"}, "did you mean 'epoch'"),
    "k": ({"k": 0}, "k=0: must be"),
    "threads": ({"executor": ThreadPoolExecutor(1)}, "executor=.*processes"),
    "a loss that no process gets": (
        {"loss": lambda outputs, targets: outputs.square().mean(), "executor": ProcessPoolExecutor(1)},
        "executor=.*pickle",
    ),
    "no samples": ({"samples": 0}, "samples=0: must be"),
    "nothing": ({"what": ()}, "what="),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_sentences(name):
    given, words = REFUSED[name]
    model = given.get("model", MODEL)
    if isinstance(model, nn.Module) and model is not MODEL and name != "compiled":
        model = model.double() if "complex" not in name else model
    options = {"model": model, "loss": "cross-entropy", "data": (X, Y), "eta": 0.1, "batch_size": 8} | FREE
    with pytest.raises(ValueError, match=words) as caught:
        diagnose(**(options | given | {"model": model}))
    assert len(str(caught.value)) < 400


def test_parameters_of_inference_mode_are_measured_inputs_refused():
    plain = nn.Linear(6, 3).double()
    plain.load_state_dict(INFERENCE.state_dict())
    one, other = (
        diagnose(model, "cross-entropy", (X, Y), eta=0.1, batch_size=8, **FREE)
        for model in (INFERENCE, plain)
    )
    assert all(not z for z in one.compare(other).values())
    with torch.inference_mode():
        inputs = X.clone()
    with pytest.raises(ValueError, match="Inference tensors"):
        diagnose(plain, "cross-entropy", (inputs, Y), what="loss", **FREE)


def test_the_loss_of_torch_that_is_the_square_loss():
    """Over C outputs nn.MSELoss is 2/C times it: the same as the square loss at another η."""
    inner, data = fm.models.mlp((6, 5, 3), 1, activation="tanh", dtype=X.dtype), (X, torch.sin(X[:, :3]))
    one = diagnose(inner, nn.MSELoss(), data, eta=0.3, batch_size=8, **FREE)
    other = diagnose(inner, "square", data, eta=0.2, batch_size=8, **FREE)
    ratios = "noise_ratio", "decoupling_samples", "decoupling_outputs"
    for name in ("alpha", "beta", "mu", *ratios, "bound", "theory_M22"):
        assert float(one[name].estimate) == pytest.approx(float(other[name].estimate), rel=1e-5), name


def test_the_premises_are_said_with_the_exponent():
    found = measured()
    for name in "theory_Y22", "theory_Y26":
        assert "the exponent" in found[name].reason or "the exponent" in found[name].method
    square = diagnose(MODEL, "square", (X, Y), eta=0.1, batch_size=8, what="theory_M22", **FREE)
    assert "the exponent is ≈" in square["theory_M22"].method


def test_weights_of_labels_drop_what_hangs_on_batches_only():
    """Torch divides each batch by its own weights: no covariance of batches follows from the samples."""
    loss = torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    found = diagnose(MODEL, loss, (X, Y), eta=0.1, batch_size=8, k=3, **FREE)
    for name in ("signal", "noise_along", "exact", "growth", "trace", "necessary", "typical", "sharpness"):
        assert found[name].estimate is None, name
        assert "must not weigh" in found[name].reason, name
    for name in ("lambda_1", "trace_H", "noise_strength", "exponent", "mu", "descent"):
        assert found[name].estimate is not None, name
    without = diagnose(MODEL, loss, (X, Y), what="noise", k=3, **FREE)
    assert without["noise_along"].estimate is not None


def test_a_loss_without_a_root_drops_its_lines_only():
    def hinge(outputs, targets):
        return (outputs * outputs.sin()).sum(1).mean()

    found = diagnose(MODEL, hinge, (X, Y), eta=0.1, batch_size=8, **FREE)
    for name in ("trace_G", "mu", "exact", "step_bound"):
        assert found[name].estimate is None
        assert found[name].reason
    for name in ("lambda_1", "trace_H", "noise_strength", "descent", "density"):
        assert found[name].estimate is not None


@pytest.mark.parametrize("margin", [3.0, 14.0, 28.0])
def test_a_close_fit_is_measured_in_double_precision(margin):
    """Two classes, outputs ±m/2: the loss is e^{−m}, H = p(1 − p) aaᵀ ⊗ [[1, −1], [−1, 1]]."""
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight[:] = torch.tensor([[margin / 2], [-margin / 2]])
    data = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    here = fm.at(model, "cross-entropy", data)
    expected = 2 * math.exp(-margin) / (1 + math.exp(-margin)) ** 2
    assert float(here.eigenpairs(1).values[0]) == pytest.approx(
        expected, rel=1e-15 * math.exp(margin) + 1e-12
    )


@pytest.mark.parametrize(
    ("dtype", "remedy"), [("float64", "an earlier step"), ("float32", "dtype='float64'")]
)
def test_a_fit_to_rounding_is_refused(dtype, remedy):
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight[:] = torch.tensor([[25.0], [-25.0]])
    data = torch.ones(4, 1), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=f"check 'rounding'.*{remedy}"):
        fm.at(model, "cross-entropy", data, dtype=dtype)


def straight(outputs, targets):
    return (outputs * torch.arange(1.0, 4.0, dtype=outputs.dtype)).sum(1).mean()


ODD = {
    "no curvature in the outputs": {"loss": nn.L1Loss(), "data": (X, torch.sin(X[:, :3]))},
    "nothing to bend": {"model": nn.Linear(6, 3).double(), "loss": straight},
    "one sample": {"data": (X[:1], Y[:1]), "batch_size": 1},
    "all samples alike": {"data": (X[:1].repeat(12, 1), Y[:1].repeat(12))},
    "two samples drawn": {"samples": 2, "batch_size": 1},
    "one sample drawn": {"samples": 1, "batch_size": 1},
    "one eigenvalue": {"k": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_reasons_are_sentences_without_the_names_of_inner_arguments(name):
    options = {"model": MODEL, "loss": "cross-entropy", "data": (X, Y), "eta": 0.1, "batch_size": 8} | FREE
    found = diagnose(**(options | ODD[name]))
    for line in found.lines:
        if line.estimate is None:
            assert len(line.reason.split()) > 3, line.name
            assert not re.match(r"(gram|gradients|top|window|steps|rank)\b\W", line.reason)
        else:
            assert np.isfinite(line.estimate.value).all()
            assert np.isfinite(line.estimate.error).all()


def test_what_no_draw_tells_is_said():
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    found = diagnose(MODEL, loss, (X, Y), samples=20, what="lambda_1", k=1, **FREE)
    assert "do not count in" in found.plan.notes[-1]


# the report as text


def test_json_and_back():
    found = measured(k=2)
    text = found.to_json()
    again = fm.Report.from_json(text)
    assert json.loads(text)["schema"] == reports.SCHEMA
    assert again.to_json() == text
    assert str(again) == str(found)
    assert all(not z for z in found.compare(again).values())
    assert pickle.loads(pickle.dumps(found)).to_json() == text


@pytest.mark.parametrize("bad", ["", "{}", "[]", "null", '{"schema": "flatmin.diagnose/2"}', 3, None])
def test_another_text_is_refused(bad):
    with pytest.raises(ValueError, match=r"text=|schema="):
        fm.Report.from_json(bad)


def test_differences_are_in_units_of_the_error():
    found = measured(k=2)
    lines = list(found.lines)
    place = [line.name for line in lines].index("mu")
    error = 0.1
    lines[place] = reports.Line(**{**vars(lines[place]), "estimate": fm.Estimate(1.0, error, 9, "made")})
    one = reports.Report(tuple(lines), found.facts, found.plan)
    lines[place] = reports.Line(**{**vars(lines[place]), "estimate": fm.Estimate(1.5, error, 9, "made")})
    other = reports.Report(tuple(lines), found.facts, found.plan)
    assert one.compare(other)["mu"] == pytest.approx(0.5 / (error * 2**0.5))
    assert "+3.5" in str(one.compare(other))


def test_the_checks_passed_are_named():
    found = measured(k=2, what="checks")
    for name in "same twice", "samples apart", "gradient", "symmetry", "finite difference":
        assert name in found.tested
        assert name in " ".join(str(found).split())
        assert name in found._repr_html_()


def test_the_text_shows_every_line():
    text = str(measured(k=2))
    for name, (_, symbol, _, _, _) in LINES.items():
        assert symbol in text, name


def test_processes_give_the_same_noise():
    data = X.repeat(30, 1), Y.repeat(30)  # 1200 samples: two chunks
    options = {"what": "noise_strength", "eta": 0.1, "batch_size": 8, **FREE}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        one, other = (
            diagnose(MODEL, "cross-entropy", data, executor=executor, **options)["noise_strength"].estimate
            for executor in (None, pool)
        )
    assert (one.value, one.error) == (other.value, other.error)


def test_processes_take_the_chunks_of_products():
    data = X.repeat(2, 1), Y.repeat(2)
    model = nn.Sequential(nn.Identity(), MODEL)
    options = {
        "what": ("lambda_1", "trace_H", "mu"),
        "k": 1,
        "chunk": 20,
        "eta": 0.1,
        "batch_size": 8,
        **FREE,
    }
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        one, other = (
            diagnose(model, "cross-entropy", data, executor=executor, **options) for executor in (None, pool)
        )
    assert all(not z for z in one.compare(other).values())
