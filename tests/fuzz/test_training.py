"""Bad values for training, its runs, the models and the data sets."""

import pytest
import torch

from flatmin.networks import models, train
from flatmin.networks.data import sets
from flatmin.networks.data.sets import Data
from flatmin.networks.models.fully_connected import DiagonalLinear
from fuzz import Case, check, uncovered

INPUTS = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(10, 4)
DATA = Data(INPUTS, torch.arange(10) % 3)
MODEL = models.mlp((4, 3, 3), dtype=torch.float64)
RUNS = train.train(MODEL, "cross-entropy", DATA, batch_size=5, steps=4, seed=range(2))
DIGITS = sets.digits(30).train
THETA = RUNS.parameters[0, -1]

DEVICE = "strings and devices of torch are checked by tests/networks/test_device.py"
HUGE = dict.fromkeys(("1e308", "10**30", "entry 1e30"), "parameters leave the range of float32")


def finite(runs):
    """What must be finite of runs: their parameters, whatever became of them."""
    return runs.parameters


CASES = [
    Case(
        train.train,
        {
            "model": MODEL,
            "loss": "cross-entropy",
            "data": DATA,
            "eta": [0.1, 0.2],
            "batch_size": 5,
            "steps": 4,
            "seed": [0, 1],
            "keep": [0, 4],
            "method": "gld",
            "noise_trace": 0.1,
        },
        right={
            "eta": HUGE,
            "noise_trace": {"None": "that of a batch"} | HUGE,
            "save_every": {"inf": "only at the end"},
            "device": {"None": "the default"},
        },
        leave={"file": "in tests/networks/train/test_checkpoints.py", "device": DEVICE},
        then=finite,
    ),
    Case(RUNS.model_at, {"run": 0, "checkpoint": 1}, then=lambda model: model[1].weight),
    Case(RUNS.losses, {"data": DATA}),
    Case(RUNS.accuracies, {"data": DATA}),
    Case(train.predict, {"model": MODEL, "theta": THETA, "data": DATA}, leave={"device": DEVICE}),
    Case(
        Data,
        {"inputs": INPUTS, "targets": torch.arange(10) % 3, "name": "ten"},
        right={"name": {"text": "a name", "no text": "none"}},
        then=lambda data: data.inputs,
    ),
    Case(DATA.subset, {"index": [0, 3]}, then=lambda data: data.inputs),
    Case(DATA.first, {"samples": 3}, then=lambda data: data.inputs),
    Case(DIGITS.per_class, {"samples": 1}, then=lambda data: data.inputs),
    Case(DIGITS.one_hot, {"classes": 10}, then=lambda data: data.targets),
    Case(DATA.to, {"dtype": torch.float64, "device": "cpu"}, then=lambda data: data.inputs),
    Case(
        sets.digits,
        {"train": 7, "scale": "unit", "dtype": torch.float32},
        then=lambda split: split.train.inputs,
    ),
    Case(
        sets.by_name,
        {"name": "digits", "train": 7, "scale": "unit"},
        right={"train": {"None": "all"}},
        then=lambda split: split.train.inputs,
    ),
    Case(sets.gaussian, {"samples": 5, "dimension": 3, "seed": 1}, then=lambda data: data.inputs),
    Case(sets.sphere, {"samples": 5, "dimension": 3, "seed": 1}, then=lambda data: data.inputs),
    Case(models.mlp, {"sizes": (4, 3, 2), "seed": 1}, then=lambda model: model[1].weight),
    Case(models.linear_network, {"sizes": (4, 3, 2), "seed": 1}, then=lambda model: model[1].weight),
    Case(models.random_features, {"dimension": 4, "features": 3}, then=lambda model: model[0].weight),
    Case(DiagonalLinear, {"dimension": 4, "scale": 0.2}, then=lambda model: model.a),
    Case(models.cnn, {"size": 8, "hidden": 4, "channels": 1}, then=lambda model: model[0].weight),
    Case(
        models.cnn_stacks,
        {"widths": (2, 3), "depth": 1, "size": 8, "channels": 1, "outputs": 2},
        then=lambda model: model[0].weight,
    ),
    Case(models.vgg, {"depth": 11, "width": 2}, then=lambda model: model[0].weight),
    Case(
        models.FixupResNet,
        {"depth": 8, "width": 2, "branch": 1.0, "head": 1.0},
        then=lambda model: model.stem.weight,
    ),
    Case(models.initialise, {"model": models.mlp((4, 3)), "seed": 1}, then=lambda model: model[1].weight),
]
SKIPPED = {
    "Split": "a pair",
    "Runs": "made by train",
    "FixupResNet.forward": "a module's",
    "DiagonalLinear.forward": "a module's",
    **dict.fromkeys(("mnist", "fashion_mnist", "cifar10"), "need a download"),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


@pytest.mark.parametrize("load", [sets.mnist, sets.fashion_mnist, sets.cifar10])
@pytest.mark.parametrize(
    ("name", "value"),
    [("scale", "unity"), ("dtype", torch.uint8), ("train", 0), ("test", -1), ("train", 2.5)],
)
def test_image_sets_refuse_before_they_download(load, name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        load(**{name: value})


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, train, sets, models, skip=SKIPPED)
