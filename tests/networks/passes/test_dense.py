"""The fast pass against double backward, for every activation and loss it reads; what it must not read."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from flatmin.networks import losses, models
from flatmin.networks.passes import dense
from flatmin.networks.passes.dense import DensePass, dense_layers

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu-in-place": nn.ReLU(inplace=True),
    "leaky": nn.LeakyReLU(0.2),
    "identity": nn.Identity(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "softplus-steep": nn.Softplus(beta=3.0, threshold=2.0),
    "elu": nn.ELU(0.7),
    "gelu": nn.GELU(),
    "gelu-tanh": nn.GELU(approximate="tanh"),
}
CURVED = {"tanh", "sigmoid", "silu", "softplus", "softplus-steep", "elu", "gelu", "gelu-tanh"}


def network(activation="gelu", outputs=3, bias=True, sizes=(5, 6, 4), seed=0):
    generator, layers = torch.Generator().manual_seed(seed), [nn.Flatten()]
    for a, b in zip(sizes, (*sizes[1:], outputs), strict=True):
        layers += [nn.Linear(a, b, bias=bias, dtype=torch.float64), copy.deepcopy(ACTIVATIONS[activation])]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * p.shape[-1] ** -0.5)
    return model


def samples(outputs=3, n=9, inputs=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, inputs, generator=generator, dtype=torch.float64)
    y = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
    return x, y, torch.randint(outputs, (n,), generator=generator)


LOSSES = {
    "square": ("square", False),
    "cross-entropy": ("cross-entropy", True),
    "MSE": (nn.MSELoss(), False),
    "weighted": (nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1), True),
    "binary": (nn.BCEWithLogitsLoss(), "probabilities"),
    "huber": (nn.HuberLoss(delta=0.8), False),
    "fourth": (lambda f, y: (f - y).pow(4).sum(1).mean(), False),
    "coupled-outputs": (lambda f, y: (f - y).norm(dim=1).pow(3).mean(), False),
    "not-convex": (lambda f, y: (f.sum(1) * y.sum(1)).sin().mean(), False),
}


def passed_of(model, x, y, loss):
    return DensePass(*dense_layers(model, x), x, y, losses.of(loss))


def targets_of(kind, y, labels):
    return labels if kind is True else y.sigmoid() if kind == "probabilities" else y


def dense_hessian(model, x, y, loss):
    """∇L and H by double backward of the loss itself."""
    parameters = list(model.parameters())
    function = losses.of(loss)
    targets = function.targets(y, tuple(model(x).shape[1:]), torch.float64)
    gradient = torch.autograd.grad(function(model(x), targets), parameters, create_graph=True)
    gradient = torch.cat([g.reshape(-1) for g in gradient])

    def row(one):
        found = torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])

    return gradient.detach(), torch.stack([row(one) for one in gradient])


def close(found, expected, factor=1.0):
    """Equal to 1e-12 of the largest entry: some hundred roundings."""
    scale = max(float(expected.abs().max()), 1e-300)
    assert float((found - expected).abs().max()) <= factor * 1e-12 * scale


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_and_hessian_are_those_of_double_backward(activation, loss):
    function, kind = LOSSES[loss]
    model, (x, y, labels) = network(activation), samples()
    y = targets_of(kind, y, labels)
    passed = passed_of(model, x, y, function)
    gradient, hessian = dense_hessian(model, x, y, function)
    assert passed.piecewise_linear is (activation not in CURVED)
    close(passed.gradient(), gradient)
    close(passed.sample_gradients().mean(0), gradient)
    close(passed.hessian_product(torch.eye(len(hessian), dtype=torch.float64)), hessian)
    # the diagonal, layer by layer, and so the trace
    for layer, a, curvature in zip(passed.layers, passed.inputs, passed.curvature_diagonals, strict=True):
        exact = hessian.diagonal()
        close(((curvature.T @ a.square()) / len(x)).reshape(-1), exact[layer.weight_slice], 10)
        close(curvature.mean(0), exact[layer.bias_slice], 10)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "not-convex"])
@pytest.mark.parametrize("activation", ["leaky", "gelu"])
def test_gauss_newton_is_that_of_jacobians_and_output_hessians(activation, loss):
    function, kind = LOSSES[loss]
    model, (x, y, labels) = network(activation), samples()
    passed = passed_of(model, x, targets_of(kind, y, labels), function)
    unit = torch.eye(3, dtype=torch.float64).expand(len(x), 3, 3)
    jacobian = passed.pull(slice(None), unit)
    dense_part = passed.loss_function.curvature(passed.outputs)
    expected = torch.einsum("icp,icd,idq->pq", jacobian, dense_part, jacobian) / len(x)
    identity = torch.eye(passed.parameters, dtype=torch.float64)
    close(passed.gauss_newton_product(identity), expected)
    close(passed.output_derivatives(identity), jacobian.transpose(1, 2))
    root = passed.sample_roots().flatten(0, 1)
    close(root.T @ root / len(x), expected)
    rows = slice(2, 5)
    left = [s[rows] for s in passed.roots]
    close(passed.root_products(left, rows), passed.sample_roots(rows).flatten(0, 1) @ root.T)
    close(
        passed.root_products([d[rows] for d in passed.deltas], rows), passed.sample_gradients(rows) @ root.T
    )


def test_a_loss_that_is_not_convex_has_products_but_no_root():
    model, (x, y, _) = network(), samples()
    passed = passed_of(model, x, y, LOSSES["not-convex"][0])
    assert passed.gauss_newton_product(torch.ones(1, passed.parameters, dtype=torch.float64)).isfinite().all()
    with pytest.raises(ValueError, match="root not defined for this loss"):
        passed.sample_roots()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_curvature_in_each_layer_is_one_matrix_however_it_is_had(activation):
    model, (x, _, labels) = network(activation), samples()
    passed = passed_of(model, x, labels, "cross-entropy")
    for index, whole in enumerate(passed.curvatures()):
        h = whole.shape[1]
        unit = torch.eye(h, dtype=torch.float64).expand(len(x), h, h)
        close(passed.curvature_product(index, slice(None), unit), whole)
        close(passed.curvature_diagonals[index], whole.diagonal(dim1=1, dim2=2))
        gram = whole.flatten(1) @ whole.flatten(1).T
        close(passed.curvature_inner(index, slice(0, 4), slice(None)), gram[:4])


def test_small_chunks_change_nothing_but_the_order_of_sums(monkeypatch):
    model, (x, _, labels) = network("tanh"), samples()
    whole = passed_of(model, x, labels, "cross-entropy")
    vectors = torch.randn(
        2, whole.parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    expected = [whole.hessian_product(vectors), whole.gauss_newton_product(vectors)]
    expected += [*whole.curvature_diagonals, whole.root_products(whole.deltas, slice(None))]
    expected.append(whole.output_derivatives(vectors))
    monkeypatch.setattr(dense, "ENTRIES", 150)
    monkeypatch.setattr(dense, "_KEPT_GRAM", 0)
    part = passed_of(model, x, labels, "cross-entropy")
    assert len(list(part.chunks(60))) == 5
    found = [part.hessian_product(vectors), part.gauss_newton_product(vectors)]
    found += [*part.curvature_diagonals, part.root_products(part.deltas, slice(None))]
    found.append(part.output_derivatives(vectors))
    for one, other in zip(found, expected, strict=True):
        close(one, other)


# What the fast route must not take


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(5, 3)

    def forward(self, x):
        return self.encode(x).tanh() @ self.encode.weight


def chain(*between):
    return nn.Sequential(nn.Linear(5, 5), nn.ReLU(), *between, nn.Linear(5, 3))


def with_hook(register):
    model = chain()
    register(model)
    return model


def pruned():
    model = chain()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def shared_parameter():
    model = chain(nn.Linear(5, 5), nn.ReLU())
    model[2].weight = model[0].weight
    return model


def shared_module():
    inner = nn.Linear(5, 5)
    return nn.Sequential(inner, nn.ReLU(), inner, nn.ReLU(), nn.Linear(5, 3))


def frozen(index, name):
    model = chain(nn.Linear(5, 5), nn.ReLU())
    getattr(model[index], name).requires_grad_(False)
    return model


def own_forward():
    model = chain()
    model[0].forward = lambda x: x
    return model


def two_types():
    model = chain()
    model[0].double()
    return model


OTHERS = {
    "residual subclass of Sequential": lambda: chain(Residual(nn.Linear(5, 5))),
    "subclass at the top": lambda: Residual(nn.Linear(5, 5)),
    "subclass of Linear": lambda: chain(Doubled(5, 5)),
    "tied by use": Tied,
    "pruned": pruned,
    "parametrization": lambda: chain(parametrizations.weight_norm(nn.Linear(5, 5))),
    "spectral norm by a hook": lambda: chain(nn.utils.spectral_norm(nn.Linear(5, 5))),
    "forward hook": lambda: with_hook(lambda m: m[0].register_forward_hook(lambda *a: 2 * a[2])),
    "forward pre-hook": lambda: with_hook(lambda m: m[1].register_forward_pre_hook(lambda *a: None)),
    "backward hook": lambda: with_hook(lambda m: m[0].register_full_backward_hook(lambda *a: None)),
    "backward pre-hook": lambda: with_hook(lambda m: m[0].register_full_backward_pre_hook(lambda *a: None)),
    "hook on the Sequential": lambda: with_hook(lambda m: m.register_forward_hook(lambda *a: 2 * a[2])),
    "hook on a parameter": lambda: with_hook(lambda m: m[0].weight.register_hook(lambda g: 0 * g)),
    "hook after accumulation": lambda: with_hook(
        lambda m: m[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    ),
    "shared parameter": shared_parameter,
    "shared module": shared_module,
    "frozen weight": lambda: frozen(2, "weight"),
    "frozen bias in the first layer": lambda: frozen(0, "bias"),
    "forward of its own": own_forward,
    "two types": two_types,
    "unproven activation": lambda: chain(nn.Hardswish()),
    "two activations in a row": lambda: chain(nn.Tanh()),
    "activation at the end": lambda: nn.Sequential(nn.Linear(5, 3), nn.Sigmoid()),
    "dropout": lambda: chain(nn.Dropout(0.5)),
    "batch norm": lambda: chain(nn.BatchNorm1d(5)),
    "flatten in the middle": lambda: chain(nn.Flatten()),
    "flatten of other axes": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(5, 3)),
    "convolution first": lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten(), nn.Linear(5, 3)),
    "nothing trained": lambda: nn.Sequential(nn.Flatten()),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_exactly_a_chain_of_plain_layers_is_left_to_the_generic_route(kind):
    assert dense_layers(OTHERS[kind]()) is None
    assert dense_layers(chain()) is not None


def test_a_global_hook_closes_the_fast_route():
    handle = nn.modules.module.register_module_forward_hook(lambda *a: None)
    try:
        assert dense_layers(chain()) is None
    finally:
        handle.remove()
    assert dense_layers(chain()) is not None


def test_inputs_must_be_rows_where_the_layers_begin():
    tokens = torch.zeros(2, 7, 5)
    assert dense_layers(chain(), tokens) is None
    assert dense_layers(chain(), tokens[0]) is not None
    assert dense_layers(chain(), tokens[0, :, 0]) is None
    assert dense_layers(nn.Sequential(nn.Flatten(), nn.Linear(35, 3)), tokens) is not None


def test_frozen_layers_below_the_trained_ones_are_a_fixed_map():
    model = network("tanh")
    model[1].requires_grad_(False)
    fixed, layers = dense_layers(model)
    assert [type(m) for m in fixed] == [nn.Flatten, nn.Linear, nn.Tanh]
    x, y, _ = samples()
    passed = DensePass(fixed, layers, x, y, losses.of("square"))
    torch.testing.assert_close(passed.outputs, model(x).detach())
    top = passed_of(network("tanh"), x, y, "square").gradient()
    close(passed.gradient(), top[5 * 6 + 6 :])
    model[2] = nn.ReLU(inplace=True)
    model[1].weight.data.fill_(0)
    assert dense_layers(model) is None  # it would write into the reader's data where it comes first


def test_random_features_are_read():
    fixed, layers = dense_layers(models.random_features(5, 40))
    assert (len(fixed), len(layers)) == (1, 1)


MANY_OUTPUTS = """
import os, resource, sys, torch
from torch import nn
from flatmin.networks import curvature, gradient_noise
from flatmin.networks.point import at

torch.set_num_threads(1)
torch.manual_seed(0)
every = slice(None)


def growth(measure):
    # in a process of its own, which begins with the memory of this one
    with open("/proc/self/statm") as pages:
        before = int(pages.read().split()[1]) * resource.getpagesize() / 1024
    child = os.fork()
    if not child:
        measure()
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return (usage.ru_maxrss - before) / 1024


def measures(activation, loss, targets):
    layers = nn.Linear(50, 60), activation, nn.Linear(60, 40), activation, nn.Linear(40, 2000)
    here = at(nn.Sequential(*layers).double(), loss, (x, targets))
    passed = here.passed
    vectors = torch.randn(5, here.parameters, dtype=torch.float64)
    yield lambda: passed.hessian_product(vectors)
    yield lambda: passed.gauss_newton_product(vectors)
    yield lambda: passed.curvature_diagonals
    yield lambda: [passed.curvature_inner(i, every, every) for i in range(3)]
    yield lambda: passed.root_products([d[:1] for d in passed.deltas], slice(0, 1))
    yield lambda: curvature.eigenpairs(here, 2, tolerance=0.1)
    yield lambda: curvature.trace(here)
    yield lambda: curvature.diagonal(here)
    yield lambda: curvature.frobenius_norm(here)
    yield lambda: curvature.gauss_newton_trace(here)
    yield lambda: gradient_noise.noise_strength(here)


x = torch.randn(100, 50, dtype=torch.float64)
labels, real = torch.randint(2000, (100,)), torch.randn(100, 2000, dtype=torch.float64)
for case in (
    (nn.ReLU(), "square", real),
    (nn.GELU(), nn.CrossEntropyLoss(label_smoothing=0.1), labels),
    (nn.GELU(), nn.HuberLoss(), real),
):
    print(*(f"{growth(measure):.0f}" for measure in measures(*case)))
"""


def test_each_measure_of_two_thousand_outputs_stays_under_500_megabytes():
    command = [sys.executable, "-c", MANY_OUTPUTS]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    # one (100, 2000, 2000) array in float64 is 3 GB
    assert max(map(float, found.stdout.split())) < 500, found.stdout
