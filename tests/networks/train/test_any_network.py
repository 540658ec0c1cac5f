"""Any module, loss and data: trained as a plain loop of torch trains it, or refused by name."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, Dataset, TensorDataset

from flatmin.networks import losses, models, parameters
from flatmin.networks.data.samples import samples_of
from flatmin.networks.data.sets import Data
from flatmin.networks.train import stacks, train
from flatmin.sampling import Sampling

N, ETA, SIZE, STEPS = 12, 0.1, 5, 6


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def labels(classes, *shape):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(2))


INPUTS, TOKENS, IMAGES = draw(N, 6), labels(11, N, 7), draw(N, 3, 8, 8)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 4)

    def forward(self, x):
        return torch.tanh(self.encoder(x)) @ self.encoder.weight


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.top = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.top(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(11, 5), nn.LSTM(5, 4, batch_first=True)
        self.top = nn.Linear(4, 3)

    def forward(self, tokens):
        return self.top(self.lstm(self.embedding(tokens))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.top = nn.Embedding(11, 8), nn.Linear(8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, tokens):
        return self.top(self.block(self.embedding(tokens)).mean(1))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.inner, self.top = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.top(torch.relu(x + self.inner(x)).mean((2, 3)))


class Branching(nn.Module):
    """A choice by value, which torch.func cannot follow."""

    def __init__(self):
        super().__init__()
        self.top = nn.Linear(6, 3)

    def forward(self, x):
        if self.top.weight.sum() > 1e9:
            return self.top(-x)
        return self.top(x)


def hooked():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model[1].register_forward_hook(lambda module, arguments, output: 2 * output)
    return model


def pruned():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def frozen():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)
    return model


def shared():
    middle = nn.Linear(6, 6)
    return nn.Sequential(middle, nn.Tanh(), middle, nn.Tanh(), nn.Linear(6, 3))


def evaluated():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    return model.eval()


PLAIN = [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)]
#: networks and their inputs
NETWORKS = {
    "residual in a Sequential": (
        lambda: nn.Sequential(Residual(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), nn.Linear(6, 3)),
        INPUTS,
    ),
    "subclass of Linear": (lambda: nn.Sequential(Doubled(6, 5), nn.ReLU(), nn.Linear(5, 3)), INPUTS),
    "forward hook": (hooked, INPUTS),
    "pruned": (pruned, INPUTS),
    "partly frozen": (frozen, INPUTS),
    "weight norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3)),
        INPUTS,
    ),
    "module used twice": (Twice, INPUTS),
    "module twice in a Sequential": (shared, INPUTS),
    "batch norm and dropout in evaluation": (evaluated, INPUTS),
    "GELU": (lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)), INPUTS),
    "LSTM on tokens": (Recurrent, TOKENS),
    "transformer on tokens": (Attention, TOKENS),
    "convolutions with group norm": (Grouped, IMAGES),
    "choice by value": (Branching, INPUTS),
    "squeezed": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)), INPUTS),
}


def made(make, seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


def plain(model, loss, inputs, targets, seed):
    """θ after STEPS steps of a plain loop with the same batches."""
    twin = made(lambda: model) if isinstance(model, nn.Module) else made(model)
    optimiser, per = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=ETA), N // SIZE
    for t in range(STEPS):
        index = Sampling("epoch").draw(N, SIZE, seed, t // per)[t % per]
        optimiser.zero_grad()
        loss(twin(inputs[index]), targets[index]).backward()
        optimiser.step()
    return parameters.vector(twin)


def assert_trained(runs, make, loss, inputs, targets):
    for run, seed in enumerate(runs.seeds):
        expected = plain(make, loss, inputs, targets, int(seed))
        torch.testing.assert_close(runs.parameters[run, -1], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_as_in_a_plain_loop(name, runs):
    make, inputs = NETWORKS[name]
    one = name == "squeezed"
    targets = draw(N) if one else labels(3, N)
    loss = (lambda f, y: functional.mse_loss(f, y) / 2) if one else functional.cross_entropy
    word = "square" if one else "cross-entropy"
    call = {"eta": ETA, "batch_size": SIZE, "steps": STEPS, "seed": range(runs)}
    found = train(made(make), word, (inputs, targets), **call)
    assert_trained(found, make, loss, inputs, targets)
    assert found.losses((inputs, targets)).shape == (runs, 2)
    again = found.model_at()
    torch.testing.assert_close(parameters.vector(again), found.parameters[0, -1])


def test_a_tied_autoencoder_trains_on_both_uses_of_its_weight():
    found = train(
        made(Tied), "square", (INPUTS, INPUTS), eta=ETA, batch_size=SIZE, steps=STEPS, seed=range(2)
    )
    assert_trained(found, Tied, lambda f, y: (f - y).square().sum() / 2 / len(f), INPUTS, INPUTS)


WEIGHTS = torch.tensor([0.2, 1.0, 3.0])
MASKED = torch.where(torch.arange(N) % 4 == 1, -100, labels(3, N))
#: losses, and targets that suit outputs (n, 3)
LOSSES = {
    "MSELoss": (nn.MSELoss(), draw(N, 3)),
    "CrossEntropyLoss": (nn.CrossEntropyLoss(), labels(3, N)),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS.double()), labels(3, N)),
    "ignored labels": (nn.CrossEntropyLoss(), MASKED),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), labels(3, N)),
    "logits": (nn.BCEWithLogitsLoss(), labels(2, N, 3).double()),
    "Huber": (nn.HuberLoss(delta=0.3), draw(N, 3)),
    "callable": (lambda f, y: (f - y).abs().pow(3).mean(), draw(N, 3)),
}


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "any"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_the_users_own_on_every_batch(name, dense):
    loss, targets = LOSSES[name]

    def make():
        layers = nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
        return nn.Sequential(*layers) if dense else nn.Sequential(nn.Sequential(*layers), Residual())

    def own(f, y):
        return loss(f, y)

    call = {"eta": ETA, "batch_size": SIZE, "steps": STEPS, "seed": range(2)}
    made_of = make if dense else lambda: nn.Sequential(Wrapped(make()))
    found = train(made(made_of), loss, (INPUTS, targets), **call)
    assert_trained(found, made_of, own, INPUTS, targets)
    end = found.model_at(1)(INPUTS)
    assert found.losses((INPUTS, targets))[1, -1] == pytest.approx(
        float(own(end, targets).detach()), rel=1e-10
    )


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_tokens_with_a_label_each_and_some_ignored():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.top = nn.Embedding(11, 5), nn.Linear(5, 4)

        def forward(self, tokens):
            return self.top(self.embedding(tokens)).transpose(1, 2)

    targets = labels(4, N, 7)
    targets[:, 5:] = -100
    call = {"eta": ETA, "batch_size": SIZE, "steps": STEPS, "seed": range(2)}
    found = train(made(Tagger), nn.CrossEntropyLoss(), (TOKENS, targets), **call)
    assert_trained(found, Tagger, functional.cross_entropy, TOKENS, targets)
    counted = targets >= 0
    right = (found.model_at()(TOKENS).argmax(1) == targets)[counted].double().mean()
    assert found.accuracies((TOKENS, targets))[0, -1] == pytest.approx(float(right))


def test_langevin_noise_of_any_loss_has_the_trace_of_its_batch_gradients():
    model = made(lambda: nn.Sequential(*PLAIN))
    loss, targets = nn.CrossEntropyLoss(WEIGHTS.double()), labels(3, N)
    # a sample's loss is n times its share of the weighted mean
    share = N * WEIGHTS.double()[targets] / WEIGHTS.double()[targets].sum()
    rows = []
    for i, weight in enumerate(share):
        one = weight * functional.cross_entropy(model(INPUTS[i : i + 1]), targets[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(one, list(model.parameters()))]))
    rows = torch.stack(rows)
    expected = rows.square().sum(1).mean() - rows.mean(0).square().sum()
    for kind, start in ((stacks.DenseStack, model), (stacks.GenericStack, Wrapped(model))):
        network = stacks.private(start, torch.device("cpu"))
        samples = samples_of((INPUTS, targets))
        read = losses.of(loss)
        samples = stacks.fitted(read, network.outputs(samples.rows(slice(0, 1))).detach(), samples)
        thetas = parameters.vector(start)[None].repeat(2, 1)
        stack, samples = stacks.stacked(network, samples, read, thetas, SIZE)
        assert isinstance(stack, kind)
        gradients, traces = stack.gradients_and_traces(stacks.spread(samples, 2), read)
        torch.testing.assert_close(gradients[1], rows.mean(0), rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(traces, expected.expand(2), rtol=1e-10, atol=0)


class Points(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return INPUTS[index], labels(3, N)[index]


class OnDicts(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, left, right):
        return self.one(left) + torch.tanh(self.other(right))


FORMS = {
    "Data": Data(INPUTS, labels(3, N)),
    "arrays": (INPUTS.numpy(), labels(3, N).numpy()),
    "Dataset": Points(),
    "loader": DataLoader(TensorDataset(INPUTS, labels(3, N)), batch_size=7),
    "shuffling loader": DataLoader(TensorDataset(INPUTS, labels(3, N)), batch_size=2, shuffle=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_runs_and_our_own_batches(form):
    def make():
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

    found = train(made(make), "cross-entropy", FORMS[form], eta=ETA, batch_size=SIZE, steps=STEPS)
    assert_trained(found, make, functional.cross_entropy, INPUTS, labels(3, N))


def test_a_model_of_named_inputs_trains_on_a_dict():
    data = {"left": INPUTS, "right": -INPUTS.flip(1), "labels": labels(3, N)}
    found = train(made(OnDicts), "cross-entropy", data, eta=ETA, batch_size=SIZE, steps=1, seed=[4, 5])
    for run, seed in enumerate((4, 5)):
        twin = made(OnDicts)
        index = Sampling("epoch").draw(N, SIZE, seed, 0)[0]
        outputs = twin(data["left"][index], data["right"][index])
        functional.cross_entropy(outputs, data["labels"][index]).backward()
        expected = torch.cat([(p - ETA * p.grad).detach().flatten() for p in twin.parameters()])
        torch.testing.assert_close(found.parameters[run, -1], expected)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            nn.BatchNorm1d(5),
            r"model: 1 \(BatchNorm1d\) is in training mode and makes a sample's output depend",
        ),
        (
            nn.Dropout(0.3),
            r"model: 1 \(Dropout\) is in training mode and is random \(p=0.3\).*model.eval\(\)",
        ),
        (nn.RReLU(), r"model: 1 \(RReLU\) is in training mode and is random"),
    ],
)
def test_layers_that_are_random_or_couple_samples_are_refused_by_name(layer, words):
    model = nn.Sequential(nn.Linear(6, 5), layer, nn.Linear(5, 3)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        train(model, "cross-entropy", (INPUTS, labels(3, N)), batch_size=SIZE, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


class Coupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.top = nn.Linear(6, 3)

    def forward(self, x):
        return self.top(x - x.mean(0))


class Noisy(Coupled):
    def forward(self, x):
        return self.top(x + torch.rand_like(x))


@pytest.mark.parametrize(
    ("model", "loss", "inputs", "targets", "words"),
    [
        (Coupled(), "square", INPUTS, draw(N, 3), "check 'samples apart'"),
        (Noisy(), "square", INPUTS, draw(N, 3), "check 'same twice'"),
        (nn.Sequential(*PLAIN), "square", INPUTS[:, :5], draw(N, 3), r"does not take the inputs"),
        (nn.Sequential(*PLAIN), "square", INPUTS.byte(), draw(N, 3), "does not take the inputs.*uint8"),
        (nn.Sequential(*PLAIN), "square", INPUTS, draw(N, 2), r"targets .*\(12, 3\)"),
        (nn.Sequential(*PLAIN), nn.MSELoss(), INPUTS, draw(N), r"targets .*\(12, 3\)"),
        (nn.Sequential(*PLAIN), "cross-entropy", INPUTS, labels(4, N) + 1, "labels run to 4"),
        (nn.Sequential(*PLAIN), nn.MSELoss(reduction="sum"), INPUTS, draw(N, 3), "must be a mean"),
        (nn.Sequential(*PLAIN), lambda f, y: (f - y).square().sum(), INPUTS, draw(N, 3), "must be"),
        (nn.Sequential(*PLAIN), lambda f, y: f, INPUTS, draw(N, 3), "loss=.*must be one number"),
        (nn.Sequential(*PLAIN), "square", INPUTS * float("nan"), draw(N, 3), "inputs .*must be finite"),
        (nn.Sequential(*PLAIN), "square", INPUTS, draw(N, 3) / 0, "targets .*must be finite"),
        (nn.Sequential(nn.Linear(6, 3), nn.Flatten()), "square", "text", None, "data"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(model, loss, inputs, targets, words):
    data = inputs if isinstance(inputs, str) else (inputs, targets)
    with pytest.raises(ValueError, match=words):
        train(model.double(), loss, data, batch_size=SIZE, steps=2)


def test_parameters_that_are_not_finite_are_named():
    model = nn.Sequential(*[nn.Linear(6, 3)]).double()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"model: parameter 0\.weight holds NaN"):
        train(model, "cross-entropy", (INPUTS, labels(3, N)), steps=2)


def test_starts_must_share_all_but_their_trained_parameters():
    starts = [models.random_features(6, 4, seed, torch.float64) for seed in (0, 1)]
    with pytest.raises(ValueError, match="model: start 1 differs from start 0"):
        train(starts, "square", (INPUTS, draw(N, 1)), steps=2)
    with pytest.raises(ValueError, match="model: start 1 differs from start 0"):
        train(
            [models.mlp((6, 4, 1)), models.mlp((6, 4, 1), activation="tanh")], "square", (INPUTS, draw(N, 1))
        )


@pytest.mark.parametrize(
    "name", ["pruned", "forward hook", "LSTM on tokens", "batch norm and dropout in evaluation"]
)
def test_the_users_model_and_all_global_state_stay_as_they_were(name):
    make, inputs = NETWORKS[name]
    model = made(make)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    modes = [m.training for m in model.modules()]
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    torch.manual_seed(11)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    threads = torch.get_num_threads()
    data = inputs, labels(3, N)
    runs = train(model, "cross-entropy", data, eta=ETA, batch_size=SIZE, steps=STEPS, seed=range(2))
    runs.losses(data), runs.accuracies(data), runs.model_at()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert modes == [m.training for m in model.modules()]
    assert flags == [(p.requires_grad, p.grad) for p in model.parameters()]


def test_networks_that_torch_maps_badly_are_trained_in_turn_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(
            made(Recurrent), "cross-entropy", (TOKENS, labels(3, N)), batch_size=SIZE, steps=2, seed=range(2)
        )


def test_on_a_cpu_convolutions_of_much_work_go_one_run_after_the_other(monkeypatch):
    # operations of one sample: 2 · 8 · 8 · 9 · 3 · 4 of the stem, 2 · 8 · 8 · 9 · 4 · 4 of the inner one
    work, loss, mapped = SIZE * 2 * 64 * 9 * (3 * 4 + 4 * 4), losses.of("cross-entropy"), []
    for limit in (work + 1, work):
        monkeypatch.setattr(stacks, "_HEAVY", limit)
        network, samples = (
            stacks.private(made(Grouped), torch.device("cpu")),
            samples_of((IMAGES, labels(3, N))),
        )
        thetas = parameters.vector(network.module)[None].repeat(2, 1)
        mapped.append(stacks.stacked(network, samples, loss, thetas, SIZE)[0].mapped)
    assert mapped == [True, False]


def test_runs_say_in_one_line_what_they_are():
    runs = train(
        models.mlp((6, 4, 3)), "cross-entropy", (INPUTS, labels(3, N)), steps=3, seed=range(2), keep=2
    )
    assert repr(runs) == "<Runs: 2 runs of sgd, P = 43, kept at 2 steps up to 3, none diverged>"
    for name, value in (("run", 2), ("checkpoint", -3), ("run", 0.5)):
        with pytest.raises(ValueError, match=f"{name}={value}: must be an integer"):
            runs.model_at(**{name: value})


def test_outputs_come_in_chunks_of_samples(monkeypatch):
    monkeypatch.setattr("flatmin.networks.train.runs._ENTRIES", 12)  # two samples of six inputs
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    runs = train(
        made(lambda: Watching(6, 3)), "cross-entropy", (INPUTS, labels(3, N)), batch_size=SIZE, steps=2
    )
    seen.clear()
    found = runs.losses((INPUTS, labels(3, N)))[0, -1]
    assert seen == [2] * (2 * N // 2)
    whole = functional.cross_entropy(runs.model_at()(INPUTS).detach(), labels(3, N))
    assert found == pytest.approx(float(whole), rel=1e-12)


def test_one_output_is_classified_by_its_sign_against_ones_and_zeros_too():
    bits = labels(2, N).double()
    runs = train(made(lambda: nn.Linear(6, 1)), nn.BCEWithLogitsLoss(), (INPUTS, bits), eta=1.0, steps=300)
    outputs = runs.model_at()(INPUTS)[:, 0]
    expected = ((outputs > 0) == (bits > 0)).double().mean()
    assert runs.accuracies((INPUTS, bits))[0, -1] == pytest.approx(float(expected))
    assert runs.accuracies((INPUTS, 2 * bits - 1))[0, -1] == pytest.approx(float(expected))


class Checkpointed(nn.Module):
    """Its inner activations are computed again on the way back."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 3)

    def forward(self, x):
        return self.outer(torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False))


def test_a_checkpointed_network_trains_as_one_that_keeps_its_activations():
    torch.manual_seed(0)
    model = Checkpointed().double()
    plain = nn.Sequential(*model.inner, model.outer)
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.randint(3, (9,))
    how = {"eta": 0.5, "method": "gd", "steps": 5, "seed": [0, 1]}
    found, expected = (train(one, "cross-entropy", (x, y), **how).parameters for one in (model, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_a_loss_that_sees_the_parameters_is_refused():
    model = nn.Linear(6, 3)

    def penalised(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets) + 0.1 * model.weight.square().sum()

    data = torch.randn(9, 6), torch.randint(3, (9,))
    with pytest.raises(ValueError, match="depends on parameters besides the outputs"):
        train(model, penalised, data, eta=0.1, steps=2, method="gd")
