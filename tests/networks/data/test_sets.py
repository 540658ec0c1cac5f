"""Data sets: what a Data takes, its methods, and the sets themselves."""

import numpy as np
import pytest
import torch

from flatmin.networks.data import sets as datasets
from flatmin.networks.data.sets import Data

NAN, INF = float("nan"), float("inf")


def real(*shape):
    return torch.arange(1.0, 1 + np.prod(shape)).reshape(shape)


def test_data_methods():
    train, test = datasets.digits()
    assert (len(train), len(test)) == (1000, 797)
    assert train.inputs.min() == -1
    assert train.inputs.max() == 1
    few = train.per_class(7)
    assert torch.bincount(few.targets).tolist() == [7] * 10
    assert torch.equal(few.parity().targets[:, 0] == 1, few.targets % 2 == 0)
    assert torch.equal(few.one_hot().targets.argmax(1), few.targets)
    assert torch.equal(datasets.digits(scale="unit").train.inputs, (train.inputs + 1) / 2)
    with pytest.raises(ValueError, match="samples=10000: must be an integer at least 1 and at most 98"):
        train.per_class(10_000)
    with pytest.raises(ValueError, match="integer labels"):
        train.one_hot().parity()
    with pytest.raises(ValueError, match="train=1797: must be an integer at least 1 and at most 1796"):
        datasets.digits(train=1797)
    with pytest.raises(ValueError, match="scale='none': must be one of"):
        datasets.digits(scale="none")
    with pytest.raises(ValueError, match="3 samples, targets 2"):
        Data(torch.zeros(3, 1), torch.zeros(2))


def test_image_sets_by_name():
    train, test = datasets.by_name("digits", 7, "unit", torch.float64)
    expected = datasets.digits(7, "unit", torch.float64)
    assert torch.equal(train.inputs, expected.train.inputs)
    assert torch.equal(test.targets, expected.test.targets)
    assert len(datasets.by_name("digits").train) == 1000
    with pytest.raises(
        ValueError, match=r"name='cifar': must be one of .*'fashion-mnist'.*did you mean 'cifar10'"
    ):
        datasets.by_name("cifar")


@pytest.mark.parametrize(
    ("inputs", "targets", "word"),
    [
        (torch.tensor([[0.0], [NAN]]), torch.zeros(2), "inputs: must be finite, holds NaN or ∞"),
        (torch.tensor([[0.0], [-INF]]), torch.zeros(2), "inputs: must be finite"),
        (real(2, 1), torch.tensor([0.0, NAN]), "targets: must be finite"),
        (real(2, 1), torch.tensor([0, -1]), "targets=-1: labels must be integers from 0 on"),
        (real(2, 1), torch.tensor([True, False]), "targets=.*not truth values"),
        (real(2, 1) + 1j, torch.zeros(2), "inputs=.*must be a dense real tensor"),
        (real(2, 2).to_sparse(), torch.zeros(2), "inputs=.*must be a dense real tensor"),
        (torch.tensor(1.0), torch.zeros(1), "inputs=.*samples along its first axis"),
        (torch.zeros(0, 3), torch.zeros(0), "inputs=.*at least one"),
        ([[1.0], [2.0]], torch.zeros(2), "inputs=.*must be of the type Tensor"),
        (real(2, 1), None, "targets=None: must be of the type Tensor"),
        (real(3, 1), torch.zeros(2), "inputs hold 3 samples, targets 2: must be as many"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_where_it_enters(inputs, targets, word):
    with pytest.raises(ValueError, match=word):
        Data(inputs, targets)


def test_tokens_and_ignored_labels_are_samples_as_well():
    tokens = Data(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[0, -100], [1, 2]]))
    assert tokens.to(torch.float64).inputs.dtype == torch.int64
    assert tokens.first(1).targets.tolist() == [[0, -100]]


@pytest.mark.parametrize("index", [slice(1, 3), [1, 2], np.array([1, 2]), torch.tensor([1, 2]), [-2, -1]])
def test_subsets_by_position(index):
    data = Data(real(3, 2), torch.arange(3))
    assert data.subset(index).targets.tolist() == [1, 2]
    assert data.subset([False, True, True]).targets.tolist() == [1, 2]


@pytest.mark.parametrize("index", [[3], [-4], [0.5], [[0]], "text", None, [], slice(3, 9), [True, False], 1])
def test_positions_that_are_not_there_are_refused(index):
    with pytest.raises(ValueError, match=r"index=.*must be"):
        Data(real(3, 2), torch.arange(3)).subset(index)


def test_a_cast_that_overflows_is_refused():
    large = Data(torch.tensor([[1e300]], dtype=torch.float64), torch.zeros(1))
    with pytest.raises(ValueError, match=r"inputs in torch.float32: must be finite"):
        large.to(torch.float32)


@pytest.mark.parametrize("make", [datasets.digits, lambda dtype: datasets.gaussian(3, 2, dtype=dtype)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64, float, "float32"])
def test_types_that_truncate_pixels_are_refused(make, dtype):
    with pytest.raises(ValueError, match=r"dtype=.*must be a floating-point type"):
        make(dtype=dtype)


def test_a_request_beyond_memory_is_refused_by_name():
    with pytest.raises(ValueError, match="dimension=10000000: must be an integer"):
        datasets.sphere(10_000, 10_000_000)


def test_one_line_says_what_data_are():
    assert repr(datasets.digits(7).train) == "<Data digits: inputs (7, 64), targets (7,)>"
