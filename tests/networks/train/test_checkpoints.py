"""Checkpoints: of this call and no other, whole or named, the same numbers whatever the threads."""

import functools
import multiprocessing
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from flatmin.networks import models, parameters
from flatmin.networks.train import loop, train
from flatmin.networks.train.identity import digest

INPUTS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 3
CALL = {"eta": 0.1, "batch_size": 5, "steps": 12, "seed": [0, 1], "keep": 3, "method": "sgd"}


def kept(model, loss="cross-entropy", data=(INPUTS, LABELS), **more):
    return train(model, loss, data, **CALL | more).parameters


class Scaled(nn.Module):
    def __init__(self, scale, function=torch.tanh):
        super().__init__()
        self.scale, self.function, self.top = scale, function, nn.Linear(6, 3)

    def forward(self, x):
        return self.top(self.scale * self.function(x))


class Shifted(Scaled):
    def forward(self, x):
        return self.top(self.scale + self.function(x))


class Buffered(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", torch.tensor(value))
        self.top = nn.Linear(6, 3)

    def forward(self, x):
        return self.top(x + self.value)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


def hooked(factor):
    model = models.mlp((6, 4, 3))
    model[2].register_forward_hook(lambda module, arguments, output: factor * output)
    return model


def frozen():
    model = models.mlp((6, 4, 3))
    model[1].bias.requires_grad_(False)
    return model


def of_mode(training):
    return nn.Sequential(seeded(lambda: nn.Linear(6, 3)), nn.Dropout(0.0)).train(training)


def scaled_loss(factor):
    return lambda f, y: factor * nn.functional.cross_entropy(f, y)


def moved_first():
    inputs = INPUTS.clone()
    inputs[0, 0] += 1e-6
    return inputs


#: pairs of calls that differ in one thing, with the part that must say so; start and arrays are alike
OTHERS = {
    "activation": ({}, {"model": lambda: models.mlp((6, 4, 3), activation="tanh")}, "model"),
    "attribute": ({"model": lambda: Scaled(1.0)}, {"model": lambda: Scaled(2.0)}, "model"),
    "function": ({"model": lambda: Scaled(1.0)}, {"model": lambda: Scaled(1.0, torch.relu)}, "model"),
    "forward": ({"model": lambda: Scaled(1.0)}, {"model": lambda: Shifted(1.0)}, "model"),
    "buffer": ({"model": lambda: Buffered(1.0)}, {"model": lambda: Buffered(2.0)}, "model"),
    "hook": ({"model": lambda: hooked(1.0)}, {"model": lambda: hooked(2.0)}, "model"),
    "frozen": ({}, {"model": frozen}, "model"),
    "mode": ({"model": lambda: of_mode(True)}, {"model": lambda: of_mode(False)}, "model"),
    "start": ({}, {"model": lambda: models.mlp((6, 4, 3), 1)}, "start"),
    "loss by name": ({}, {"loss": "square"}, "loss"),
    "loss module": ({}, {"loss": nn.CrossEntropyLoss()}, "loss"),
    "class weights": (
        {"loss": nn.CrossEntropyLoss(torch.ones(3))},
        {"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 1.0, 2.0]))},
        "loss",
    ),
    "smoothing": (
        {"loss": nn.CrossEntropyLoss()},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        "loss",
    ),
    "what a loss encloses": ({"loss": scaled_loss(1.0)}, {"loss": scaled_loss(2.0)}, "loss"),
    "a loss in part": (
        {"loss": functools.partial(nn.functional.cross_entropy, label_smoothing=0.1)},
        {"loss": functools.partial(nn.functional.cross_entropy, label_smoothing=0.2)},
        "loss",
    ),
    "inputs": ({}, {"data": (moved_first(), LABELS)}, "data"),
    "targets": ({}, {"data": (INPUTS, LABELS.flip(0))}, "data"),
    "sampling": ({}, {"sampling": "fresh"}, "sampling"),
    "batch size": ({}, {"batch_size": 4}, "batch_size"),
    "method": ({"batch_size": 20}, {"batch_size": 20, "method": "gd"}, "method"),
    "noise trace": ({"method": "gld"}, {"method": "gld", "noise_trace": 1.0}, "noise_trace"),
    "step size": ({}, {"eta": 0.2}, "eta"),
    "seed": ({}, {"seed": [0, 2]}, "seed"),
    "keep": ({}, {"keep": 4}, "keep"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_call_is_refused_and_says_what_differs(name, tmp_path):
    file = tmp_path / "run.npz"
    first, second, part = OTHERS[name]
    first, second = (
        {"model": seeded(one.get("model", lambda: models.mlp((6, 4, 3))))}
        | {k: v for k, v in one.items() if k != "model"}
        for one in (first, second)
    )
    before = kept(file=file, **first)
    with pytest.raises(
        ValueError, match=rf"file='.*run.npz': holds another training call, which differs in .*{part}"
    ):
        kept(file=file, **second)
    assert torch.equal(kept(file=file, **first), before)


def test_the_same_call_made_again_is_the_same_call(tmp_path):
    for number, make in enumerate((lambda: Scaled(1.0), lambda: hooked(2.0), frozen, lambda: of_mode(True))):
        file = tmp_path / f"{number}.npz"
        first = kept(seeded(make), scaled_loss(2.0), file=file)
        assert torch.equal(kept(seeded(make), scaled_loss(2.0), file=file), first)


def test_a_model_that_was_called_before_is_the_same_model(tmp_path):
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    prune.l1_unstructured(model[0], "weight", 0.5)
    first = digest(model)
    model(INPUTS)
    assert digest(model) == first
    with torch.no_grad():
        model(INPUTS)
    assert digest(model) == first


def test_what_decides_a_value_is_in_its_digest():
    tied, apart = (seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))) for _ in range(2))
    tied[1].weight = tied[0].weight
    values = [tied, apart, 0, 0.0, False, None, "", b"", (), (1, 2), (12,), {"a": 1}, {"a": 2}]
    values += [torch.relu, torch.tanh, np.tanh, np.sin, lambda x: x, lambda x: x + 1]
    values += [torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.float64)]
    values += [np.array([0, 0]), np.array([0, 1]), nn.ReLU, nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)]
    assert len({digest(value) for value in values}) == len(values)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint" * 20, None])
def test_a_file_that_is_empty_damaged_or_foreign_is_named(content, tmp_path):
    file = tmp_path / "run.npz"
    model = models.mlp((6, 4, 3))
    kept(model, file=file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"run\.npz"):
        kept(model, file=file)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    file.write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match=r"run\.npz"):
        kept(model, file=file)
    assert list(tmp_path.iterdir()) == [file]


def _train_into(file, results):
    call = CALL | {"steps": 700, "file": file, "save_every": 0}
    try:
        found = train(models.mlp((6, 4, 3)), "cross-entropy", (INPUTS, LABELS), **call)
        results.put(found.parameters.numpy())
    except BaseException as error:
        results.put(repr(error))
        raise


def test_two_trainings_on_one_file_at_the_same_time_are_both_right(tmp_path):
    expected = kept(models.mlp((6, 4, 3)), steps=700).numpy()
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [context.Process(target=_train_into, args=(tmp_path / "run.npz", results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join(60)
    for one in found:
        assert np.array_equal(one, expected), one
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_the_number_of_threads_is_the_calls_own(tmp_path):
    """Sums over 784 inputs are split between threads: the same bits only if their number is fixed."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(200, 784, generator=generator), torch.randint(10, (200,), generator=generator)
    model, before, found = models.mlp((784, 50, 10)), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            runs = train(model, "cross-entropy", data, eta=0.1, batch_size=100, steps=40)
            found.append(runs.parameters)
            assert torch.get_num_threads() == threads
            assert runs.threads == 1
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_going_on_with_other_threads_is_refused(tmp_path):
    model, file = models.mlp((6, 4, 3)), tmp_path / "run.npz"
    kept(model, file=file)
    with pytest.raises(ValueError, match=r"was begun with threads=1 on cpu and not threads=2 on cpu"):
        kept(model, file=file, threads=2)


def test_a_process_killed_at_any_moment_goes_on_bit_for_bit(tmp_path):
    code = """
        import sys, torch
        from flatmin.networks import models
        from flatmin.networks.train import train
        inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
        data = inputs, torch.arange(20) % 3
        call = dict(eta=0.1, batch_size=5, steps=60_000, seed=[0, 1], keep=3)
        train(models.mlp((6, 4, 3)), "cross-entropy", data, **call, file=sys.argv[1], save_every=0.02)
    """
    file = tmp_path / "run.npz"
    command = [sys.executable, "-c", textwrap.dedent(code), str(file)]
    process = subprocess.Popen(command)
    state = None
    while process.poll() is None and (state is None or state["t"] < 300):
        time.sleep(0.01)
        state = loop.load_state(file, "training")
    process.kill()
    process.wait()
    state = loop.load_state(file, "training")
    call = CALL | {"steps": 60_000, "file": file}
    steps, original = [], loop._Steps.__call__

    class Enough(Exception):
        pass

    def few(self, t):
        steps.append(t)
        if t >= state["t"] + 250:
            raise Enough
        original(self, t)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Steps, "__call__", few)
        with pytest.raises(Enough):
            train(models.mlp((6, 4, 3)), "cross-entropy", (INPUTS, LABELS), **call, save_every=0)
    assert steps[0] == state["t"] < 60_000
    end = int(loop.load_state(file, "training")["t"])
    assert end == state["t"] + 200
    whole = train(
        models.mlp((6, 4, 3)), "cross-entropy", (INPUTS, LABELS), **CALL | {"steps": end, "keep": [end]}
    )
    assert np.array_equal(loop.load_state(file, "training")["thetas"], whole.parameters[:, 0].numpy())


def test_parameters_of_a_state_are_those_of_the_model(tmp_path):
    model = models.mlp((6, 4, 3))
    kept(model, file=tmp_path / "run.npz", keep=[0])
    state = loop.load_state(tmp_path / "run.npz", "training")
    assert np.array_equal(state["thetas"][0], parameters.vector(model).numpy())
