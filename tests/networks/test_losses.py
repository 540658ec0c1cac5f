"""Losses in output space against automatic differentiation of the loss itself, and what is refused."""

import copy
import resource
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from flatmin.networks import losses

SHAPES = {"(n,C)": (3,), "(n,)": (), "(n,1)": (1,), "(n,V,T)": (4, 3), "(n,1,5,5)": (1, 5, 5)}
N = 6
ALL = slice(None)


def numbers(shape, seed=0):
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_for(shape, seed=2):
    return torch.randint(shape[0], (N, *shape[1:]), generator=torch.Generator().manual_seed(seed))


def cubed(f, y):
    return (f - y).abs().pow(3).mean()


def joint(f, y):
    """Outputs of a sample act on each other, samples do not."""
    return (f.reshape(len(f), -1) - y.reshape(len(y), -1)).square().sum(1).add(1).sqrt().mean()


REAL = {
    "square": lambda shape: "square",
    "MSE": lambda shape: nn.MSELoss(),
    "huber": lambda shape: nn.HuberLoss(delta=0.7),
    "smooth-l1": lambda shape: nn.SmoothL1Loss(beta=0.4),
    "smooth-l1-sharp": lambda shape: nn.SmoothL1Loss(beta=0.0),
    "L1": lambda shape: nn.L1Loss(),
    "function": lambda shape: cubed,
    "joint": lambda shape: joint,
    "soft-margin": lambda shape: nn.SoftMarginLoss(),
}
LIKELY = {
    "binary": lambda shape: nn.BCEWithLogitsLoss(),
    "binary-pos": lambda shape: nn.BCEWithLogitsLoss(pos_weight=torch.full(shape, 2.5)),
    "binary-weighted": lambda shape: nn.BCEWithLogitsLoss(weight=numbers(shape, 5).abs()),
    "poisson": lambda shape: nn.PoissonNLLLoss(),
}


def weights(shape):
    return torch.linspace(0.5, 2.0, shape[0])


LABELLED = {
    "cross-entropy": lambda shape: "cross-entropy",
    "plain": lambda shape: nn.CrossEntropyLoss(),
    "weights": lambda shape: nn.CrossEntropyLoss(weights(shape)),
    "smoothing": lambda shape: nn.CrossEntropyLoss(label_smoothing=0.2),
    "ignored": lambda shape: nn.CrossEntropyLoss(ignore_index=1),
    "all-three": lambda shape: nn.CrossEntropyLoss(weights(shape), ignore_index=1, label_smoothing=0.3),
    "likelihood": lambda shape: nn.NLLLoss(weights(shape), ignore_index=1),
    "function": lambda shape: lambda f, y: functional.cross_entropy(f, y),
    "functional": lambda shape: functional.cross_entropy,
}
WITH_CLASSES = ("(n,C)", "(n,V,T)")
CASES = (
    [(loss, shape, REAL[loss], numbers) for loss in REAL for shape in SHAPES]
    + [
        (loss, shape, LIKELY[loss], lambda s, seed: numbers(s, seed).sigmoid())
        for loss in LIKELY
        for shape in SHAPES
    ]
    + [(loss, shape, LABELLED[loss], labels_for) for loss in LABELLED for shape in WITH_CLASSES]
    + [
        (f"{loss}-probabilities", shape, LABELLED[loss], lambda s, seed: numbers(s, seed).softmax(1))
        for loss in ("plain", "weights", "smoothing", "function")
        for shape in WITH_CLASSES
    ]
)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    """A loss as given, outputs (n, *s) and targets."""
    _, shape, make, targets = request.param
    shape = SHAPES[shape]
    return make(shape), numbers(shape), targets(shape, 3)


def reference(loss, outputs, targets):
    """n ∂L/∂f (n, C) and the blocks n ∂²L/∂f_i² (n, C, C), by double backward of the loss as torch has it."""
    if loss == "square":
        loss = lambda f, y: 0.5 * (f - y).square().sum() / len(f)  # noqa: E731
    elif loss == "cross-entropy":
        loss = functional.cross_entropy
    if isinstance(loss, nn.Module):
        loss = copy.deepcopy(loss).double()
    f = outputs.reshape(N, -1).clone().requires_grad_()
    total = N * loss(f.reshape(outputs.shape), targets)
    (slope,) = torch.autograd.grad(total, f, create_graph=True)
    rows = [
        torch.autograd.grad(slope[:, c].sum(), f, retain_graph=True, materialize_grads=True)[0]
        if slope.requires_grad
        else torch.zeros_like(f)
        for c in range(f.shape[1])
    ]
    return total.detach() / N, slope.detach(), torch.stack(rows, 1).detach()


def close(found, expected):
    """Equal to 1e-13 of the largest entry (of 1 at least): a few hundred roundings."""
    scale = max(float(expected.abs().max()), 1.0)
    assert float((found - expected).abs().max()) <= 1e-13 * scale


def test_values_slopes_and_curvature_are_those_of_automatic_differentiation(case):
    loss, outputs, targets = case
    mean, slope, curvature = reference(loss, outputs, targets)
    bound, f = losses.of(loss).bind(outputs, targets), outputs.reshape(N, -1)
    close(bound.values(f).mean(), mean)
    close(bound.total(f), N * mean)
    close(bound.gradient(f), slope)
    v = numbers((4, f.shape[1]), 8)
    close(bound.curvature_product(f, ALL, v), v @ curvature)
    close(bound.curvature(f), curvature)
    close(bound.curvature_diagonal(f), curvature.diagonal(dim1=1, dim2=2))
    flat = curvature.flatten(1)
    close(bound.curvature_inner(f[:4], slice(0, 4), f, ALL), flat[:4] @ flat.T)


def test_roots_multiply_to_the_curvature(case):
    loss, outputs, targets = case
    _, _, curvature = reference(loss, outputs, targets)
    bound, f = losses.of(loss).bind(outputs, targets), outputs.reshape(N, -1)
    unit = torch.eye(f.shape[1], dtype=torch.float64).expand(N, -1, -1)
    root = bound.root_product(f, ALL, unit).mT  # Q: column c is Q e_c
    # the root of a curvature known to eps is known to √eps where it vanishes, its square to eps
    close(root @ root.mT, curvature)
    close(bound.root_transpose(f, ALL, unit).mT, root.mT)


def test_some_samples_are_these_rows_of_all(case):
    loss, outputs, targets = case
    bound, f = losses.of(loss).bind(outputs, targets), outputs.reshape(N, -1)
    v = numbers((2, f.shape[1]), 8)
    for rows in (slice(2, 5), slice(3, 4), torch.tensor([5, 0, 3])):
        close(bound.values(f[rows], rows), bound.values(f)[rows])
        close(bound.total(f[rows], rows), bound.values(f)[rows].sum())
        close(bound.gradient(f[rows], rows), bound.gradient(f)[rows])
        close(bound.curvature_product(f[rows], rows, v[rows]), bound.curvature_product(f, ALL, v)[rows])
        close(bound.root_product(f[rows], rows, v[rows]), bound.root_product(f, ALL, v)[rows])
        close(bound.curvature_diagonal(f[rows], rows), bound.curvature_diagonal(f)[rows])


def test_values_can_be_differentiated_twice(case):
    loss, outputs, targets = case
    _, slope, _ = reference(loss, outputs, targets)
    bound, f = losses.of(loss).bind(outputs, targets), outputs.reshape(N, -1).requires_grad_()
    (found,) = torch.autograd.grad(bound.total(f), f, create_graph=True)
    close(found.detach(), slope)


def test_the_mean_square_is_two_over_the_outputs_times_the_square_loss():
    outputs, targets = numbers((4,)), numbers((4,), 1)
    square, mean = (losses.of(one).bind(outputs, targets) for one in ("square", nn.MSELoss()))
    close(mean.values(outputs), 2 / 4 * square.values(outputs))


def test_labels_of_the_square_loss_are_one_hot_rows():
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    bound = losses.of("square").bind(numbers((3,)), labels)
    assert torch.equal(bound.targets.argmax(1), labels)
    assert torch.equal(bound.targets.sum(1), torch.ones(6, dtype=torch.float64))


def test_an_ignored_label_counts_for_nothing_and_the_others_for_more():
    outputs, labels = numbers((4, 3)), labels_for((4, 3))
    labels[0] = -100  # the whole first sample
    bound = losses.of(nn.CrossEntropyLoss()).bind(outputs, labels)
    values = bound.values(outputs.reshape(N, -1))
    assert float(values[0]) == 0
    assert float(values.mean()) == pytest.approx(float(functional.cross_entropy(outputs, labels)), rel=1e-14)
    expected = functional.cross_entropy(outputs, labels, reduction="none").sum(1) * N / (5 * 3)
    close(values, expected)


@pytest.mark.parametrize("name", ["square", "cross-entropy", "MSE", "weights"])
def test_batches_are_means_of_their_own(name):
    """∂(B L_r)/∂f of three batches at once, as training takes it: weights normalise each batch."""
    loss = losses.of({**REAL, **LABELLED}[name]((3,)))
    outputs = torch.stack([numbers((3,), seed) for seed in range(3)])
    make = numbers if name in REAL else labels_for
    targets = torch.stack([make((3,), seed) for seed in range(3)])
    found = loss.slopes(outputs, targets)
    for r in range(3):
        _, slope, _ = reference(loss.given, outputs[r], targets[r])
        close(found[r], slope)


def test_columns_and_rows_of_one_output_are_the_same_and_never_spread():
    outputs, targets = numbers((1,)), numbers((), 1)
    for loss in ("square", nn.MSELoss(), nn.BCEWithLogitsLoss()):
        target = targets.sigmoid()
        one = losses.of(loss).bind(outputs, target)
        other = losses.of(loss).bind(outputs[:, 0], target[:, None])
        assert torch.equal(one.values(outputs), other.values(outputs))
        assert one.values(outputs).shape == (N,)


def test_float32_weights_serve_a_float64_network_and_stay_as_they_are():
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.3]))
    bound = losses.of(loss).bind(numbers((3,)), labels_for((3,)))
    assert bound.values(numbers((3,))).dtype == torch.float64
    assert loss.weight.dtype == torch.float32


def test_float32_is_known_to_its_own_rounding():
    generator = torch.Generator().manual_seed(0)
    outputs = 20 * torch.randn(2000, 10, generator=generator)
    labels = torch.randint(10, (2000,), generator=generator)
    for loss in (
        "square",
        "cross-entropy",
        nn.CrossEntropyLoss(),
        lambda f, y: functional.cross_entropy(f, y),
    ):
        low, high = (losses.of(loss).bind(o, labels) for o in (outputs, outputs.double()))
        error = low.values(outputs).double() - high.values(outputs.double())
        assert (
            float(error.abs().max()) < 16 * torch.finfo(torch.float32).eps * float(outputs.abs().max()) ** 2
        )


# Refusals


def contrast(f, y):
    return functional.cross_entropy(f @ f.T, torch.arange(len(f)))


def normalised(f, y):
    return ((f - f.mean(0)) / (f.std(0, correction=0) + 1) - y).square().mean()


def normalised_slope(f, y):
    """Right in value for every sample alone; the slope sees the others."""
    return (f - y).square().mean() + (f - f.detach()).sum() * (len(f) - 1)


REFUSED = [
    ("hinge", ValueError, "loss='hinge': must be one of 'square', 'cross-entropy'"),
    ("squar", ValueError, "did you mean 'square'"),
    (3, ValueError, "loss=3: must be"),
    (None, ValueError, "loss=None: must be"),
    (nn.MSELoss, ValueError, "loss=.*MSELoss.*: must be one of"),
    (nn.MSELoss(reduction="sum"), ValueError, r"reduction='sum'\): must be a mean over samples"),
    (nn.CrossEntropyLoss(reduction="none"), ValueError, r"reduction='none'\): must be a mean"),
]


@pytest.mark.parametrize(("loss", "kind", "words"), REFUSED, ids=lambda one: str(one)[:20])
def test_what_is_no_loss_is_refused(loss, kind, words):
    with pytest.raises(kind, match=words):
        losses.of(loss)


UNFIT = {
    "sum": (lambda f, y: (f - y).square().sum(), "but their sum: must be divided by the number of samples"),
    "contrast": (contrast, "must be a mean over samples that do not act on each other"),
    "batch statistics": (normalised, "must be a mean over samples that do not act on each other"),
    "slope of others": (normalised_slope, "slope depends on the other samples"),
    "no number": (lambda f, y: f - y, "must be one number"),
    "a float": (lambda f, y: 1.0, "must be one number"),
    "not torch": (
        lambda f, y: torch.tensor(((f - y).detach().numpy() ** 2).mean()),
        "computed by torch alone",
    ),
    "fails": (lambda f, y: f @ y, "fails on outputs"),
    "not finite": (lambda f, y: (f - 1e9).log().mean(), "must be finite"),
    "ignored in a function": (
        lambda f, y: functional.cross_entropy(f, y.argmax(1), ignore_index=0),
        "give nn.CrossEntropyLoss",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_no_mean_over_samples_is_refused(kind):
    loss, words = UNFIT[kind]
    with pytest.raises(ValueError, match=words):
        losses.of(loss).bind(numbers((3,)), numbers((3,), 1))


def test_outputs_that_would_spread_over_the_targets_are_refused():
    with pytest.raises(ValueError, match="must be a mean over samples"):
        losses.of(lambda f, y: (f - y).square().mean()).bind(numbers((1,)), numbers((), 1))
    with pytest.raises(ValueError, match=r"targets .* do not fit: must be \(6, 3\)"):
        losses.of(nn.MSELoss()).bind(numbers((3,)), numbers((), 1))


NAN = torch.full((N, 3), torch.nan, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "words"),
    [
        ("square", NAN, numbers((3,)), "outputs of shape .* hold NaN"),
        ("square", numbers((3,)), NAN, "targets of shape .* hold NaN"),
        (cubed, numbers((3,)), NAN, "targets of shape .* hold NaN"),
        ("square", numbers((3,)), numbers((3,))[:5], "targets: 5 rows, must be 6"),
        ("square", numbers((3,)), numbers((2,)), "2 columns"),
        ("square", numbers((1,)), labels_for((3,)), "one output"),
        ("square", numbers((2,)), torch.full((N,), 2), "labels must lie in 0…1"),
        ("square", numbers((2, 3)), labels_for((3,)), "do not fit"),
        ("square", numbers((3,)), numbers((3,)) + 1j, "do not fit"),
        ("square", numbers((3,)), [0, 1], "targets"),
        ("square", numbers((3,)).numpy(), numbers((3,)), "outputs"),
        ("cross-entropy", numbers((3,)), torch.full((N,), 3), "labels run to 3"),
        ("cross-entropy", numbers((3,)), torch.full((N,), -1), "from -1"),
        ("cross-entropy", numbers((3,)), numbers((3,)), "integer labels"),
        ("cross-entropy", numbers((3, 4)), labels_for((5, 3)), "integer labels with classes along axis 1"),
        ("cross-entropy", numbers(()), labels_for((3,)), "must be .n, classes"),
        (nn.CrossEntropyLoss(), numbers((3,)), torch.full((N,), -100), "every label is ignored"),
        (nn.CrossEntropyLoss(torch.ones(4)), numbers((3,)), labels_for((3,)), "weight must be one for each"),
        (nn.BCEWithLogitsLoss(torch.ones(4)), numbers((3,)), numbers((3,)), "must fit outputs"),
        (nn.MSELoss(), numbers((3,)), labels_for((3,)), "do not fit"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss, outputs, targets, words):
    with pytest.raises(ValueError, match=words):
        losses.of(loss).bind(outputs, targets)


def test_a_curvature_that_is_negative_somewhere_has_products_and_no_root():
    def waves(f, y):
        return (f.sum(1) - y.sum(1)).sin().mean()

    negative = nn.BCEWithLogitsLoss(weight=torch.tensor([1.0, -1.0, 1.0]))
    for loss in (waves, negative):
        bound, f = losses.of(loss).bind(numbers((3,)), numbers((3,), 1).sigmoid()), numbers((3,))
        assert bound.curvature_product(f, ALL, f[:, None]).isfinite().all()
        assert not bound.convex
        with pytest.raises(ValueError, match="root not defined for this loss"):
            bound.root_product(f, ALL, f[:, None])


def test_a_loss_without_a_closed_form_has_a_root_for_few_outputs_only():
    f, y = numbers((65,)), numbers((65,), 1)
    bound = losses.of(joint).bind(f, y)
    assert bound.curvature_product(f, ALL, f[:, None]).isfinite().all()
    with pytest.raises(ValueError, match="65 outputs it has no Gauss–Newton root: must be at most 64"):
        bound.root_product(f, ALL, f[:, None])
    single = losses.of(nn.L1Loss()).bind(f, y)  # every output for itself
    assert not single.root_product(f, ALL, f[:, None]).any()


def test_targets_may_be_a_tree_for_a_function():
    def two(f, y):
        return (f - y["mean"]).square().mul(y["weight"][:, None]).mean()

    targets = {"mean": numbers((3,), 1), "weight": numbers((), 2).abs()}
    bound, f = losses.of(two).bind(numbers((3,)), targets), numbers((3,))
    close(bound.gradient(f), 2 / 3 * targets["weight"][:, None] * (f - targets["mean"]))


def test_a_function_called_square_is_not_the_square_loss():
    def square(f, y):
        return 3 * (f - y).square().mean()

    loss = losses.of(square)
    assert loss.name != "square"
    outputs, targets = numbers((3,)), numbers((3,), 1)
    close(loss.total(outputs, targets), N * square(outputs, targets))
    close(loss.slopes(outputs[None], targets[None])[0], 2 * (outputs - targets))


THOUSANDS = """
import resource, torch
from torch import nn
from flatmin.networks import losses
torch.set_num_threads(1)
f, y = torch.randn(100, 2000, dtype=torch.float64), torch.randint(2000, (100,))
v = torch.randn(100, 3, 2000, dtype=torch.float64)
every, start = slice(None), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
for loss in ("square", nn.MSELoss(), nn.HuberLoss(), "cross-entropy", smooth, nn.L1Loss(),
             lambda f, y: (f - y).square().sum(1).sqrt().mean()):
    labels = "ross" in str(losses.of(loss).name)
    bound = losses.of(loss).bind(f, y if labels else f.flip(0))
    bound.values(f), bound.gradient(f), bound.curvature_product(f, every, v)
    if losses.of(loss).name[0] != "<":
        bound.root_product(f, every, v), bound.root_transpose(f, every, v), bound.curvature_diagonal(f)
        bound.curvature_inner(f, every, f, every)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024)
"""


def test_two_thousand_outputs_need_no_square_of_them():
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
    found = subprocess.run([sys.executable, "-c", THOUSANDS], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 200  # one (100, 2000, 2000) array in float64 is 3 GB
