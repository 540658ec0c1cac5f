"""Measured while training: the training stays the same to the bit, whoever trains; numbers go to its logger.

The tests of Lightning and Transformers run where these are installed; `make test-clean` installs them.
"""

import copy
import math
import os
import random
import subprocess
import sys
import venv

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import flatmin as fm
from flatmin.diagnosis import callbacks
from flatmin.diagnosis.callbacks import Watch, scalars

REQUIRED = os.environ.get("FLATMIN_REQUIRE_TRAINERS") == "1"
WHAT = ("lambda_1", "noise_strength", "descent")


def library(name):
    """A trainer's library; without it the test is skipped, unless it is required."""
    return __import__(name, fromlist=["_"]) if REQUIRED else pytest.importorskip(name)


class Net(nn.Module):
    """Batch norm's buffers, dropout's chance and a frozen parameter: what measuring must leave alone."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.body[0].bias.requires_grad_(False)

    def forward(self, x):
        return self.body(x)


def problem(samples=48):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(samples, 6, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


def seeded():
    """The same start for every run."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    return Net()


def chance():
    """The states of all global generators."""
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def same(one, other):
    """Whether two trees of tensors and numbers are equal, to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(np.asarray(one), np.asarray(other))


def loop(watch=None, optimiser=torch.optim.SGD, shared=None, steps=24, **settings):
    """A plain loop with a shuffling loader; what is left of it."""
    model = seeded()
    loader = DataLoader(TensorDataset(*problem()), 12, shuffle=True, generator=shared)
    optimiser = optimiser([p for p in model.parameters() if p.requires_grad], lr=0.1, **settings)
    step, losses = 0, []
    while step < steps:
        for inputs, targets in loader:
            if watch is not None:
                watch(model, step, optimiser)
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimiser.step()
            step += 1
            losses.append(loss.item())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return model.state_dict(), optimiser.state_dict()["state"], losses, gradients, model.training, chance()


@pytest.mark.parametrize(
    ("optimiser", "settings", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-3}, {"what": WHAT}),
        (torch.optim.Adam, {}, {"k": 2, "budget": "4s"}),
    ],
)
def test_a_loop_is_the_same_to_the_bit(optimiser, settings, options):
    watch = Watch("cross-entropy", problem(), every=9, batch_size=12, **options)
    with_it, without = loop(watch, optimiser, **settings), loop(None, optimiser, **settings)
    assert same(with_it, without)
    assert list(watch.reports) == [0, 9, 18]
    last = watch.reports[18]
    if optimiser is torch.optim.Adam:
        assert not last.sections["stability"]
        assert last["noise_strength"].estimate.value > 0
    else:
        assert (last.facts["eta"], last.facts["momentum"], last.facts["weight_decay"]) == (0.1, 0.9, 1e-3)
        assert last["descent"].estimate.value > 0


def test_a_loader_that_the_loop_shares_is_read_once_and_left_as_it_was():
    def run(watched):
        shared = torch.Generator().manual_seed(5)
        loader = DataLoader(TensorDataset(*problem()), 12, shuffle=True, generator=shared)
        before = chance()
        watch = Watch("cross-entropy", loader, every=8, batch_size=12, what=WHAT) if watched else None
        assert same(before, chance())
        return loop(watch, shared=shared)

    assert same(run(True), run(False))


def test_numbers_are_those_of_a_report_at_that_step():
    written = []
    how = {"every": 10, "batch_size": 12, "what": WHAT, "budget": 60}
    watch = Watch("cross-entropy", problem(), log=lambda *one: written.append(one), **how)
    model = seeded()
    assert watch(model, 5, eta=0.2) is None
    report = watch(model, 10, eta=0.2)
    alone = fm.diagnose(
        model, "cross-entropy", problem(), eta=0.2, batch_size=12, what=WHAT, budget=60, progress=False
    )
    assert report["lambda_1"].estimate.value == alone["lambda_1"].estimate.value
    assert report["descent"].estimate.value == pytest.approx(0.1 * float(report["lambda_1"].estimate), abs=0)
    assert watch(model, 10, eta=0.2) is None  # once a step
    assert written == [(scalars(report), 10)]
    assert written[0][0]["flatmin/lambda_1"] == alone["lambda_1"].estimate.value
    steps, values, errors = watch.series("noise_strength")
    assert (steps, values[0]) == ([10], alone["noise_strength"].estimate.value)
    assert errors[0] == written[0][0]["flatmin/noise_strength_error"]
    with pytest.raises(ValueError, match="name='lambda_9': must be one of"):
        watch.series("lambda_9")


@pytest.mark.parametrize(
    "change",
    [{"nesterov": True, "momentum": 0.9}, {"dampening": 0.1, "momentum": 0.9}, {"maximize": True}],
)
def test_another_rule_than_plain_sgd_gets_no_edge(change):
    model = seeded()
    watch = Watch("cross-entropy", problem(), batch_size=12, k=1)
    report = watch(model, 0, torch.optim.SGD(model.body[4].parameters(), lr=0.1, **change))
    assert not report.sections["stability"]
    assert report.facts["eta"] is None
    groups = [{"params": model.body[0].weight, "lr": 0.1}, {"params": model.body[4].weight, "lr": 0.2}]
    assert callbacks._settings(torch.optim.SGD(groups)) is None
    assert callbacks._settings(None) is None


def test_refused_at_once_but_a_divergence_ends_no_training():
    model = seeded()
    watch = Watch("cross-entropy", problem(), every=1, batch_size=100, what=WHAT)
    with pytest.raises(ValueError, match="batch_size=100: must be"):
        watch(model, 0, eta=0.1)
    watch = Watch("cross-entropy", problem(), every=1, batch_size=12, what=WHAT)
    watch(model, 0, eta=0.1)
    with torch.no_grad():
        model.body[0].weight.fill_(torch.nan)
    assert watch(model, 1, eta=0.1) is None
    assert list(watch.refused) == [1]
    assert "finite" in watch.refused[1]


def test_few_of_the_samples_and_a_batch_larger_than_they_are():
    watch = Watch("cross-entropy", problem(), batch_size=24, what=WHAT, samples=16)
    facts = watch(seeded(), 0, eta=0.1).facts
    assert (facts["samples"], facts["of_samples"], facts["batch_size"]) == (16, 48, 24)


def test_bad_arguments_are_refused_by_name():
    for bad in ({"every": 0}, {"batch_size": 0}, {"log": 3}, {"eta": 0.1}, {"layer": 2}):
        with pytest.raises(ValueError, match=rf"(every|batch_size|log|options)=.*must be|{next(iter(bad))}"):
            Watch("cross-entropy", problem(), **bad)
    watch = Watch("cross-entropy", problem(), batch_size=12)
    with pytest.raises(ValueError, match="step=-1"):
        watch(seeded(), -1)
    model = seeded()
    with pytest.raises(ValueError, match=r"eta=0.1: must be left to the optimiser"):
        watch(model, 0, torch.optim.SGD(model.parameters(), lr=0.1), eta=0.1)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install flatmin\[lightning\]"):
        callbacks.lightning("cross-entropy", problem())
    with pytest.raises(ModuleNotFoundError, match=r"pip install flatmin\[transformers\]"):
        callbacks.transformers(None, "cross-entropy", problem())


# PyTorch Lightning


def lightning_run(pl, folder, watch=None, optimiser=torch.optim.SGD, accumulate=1):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return optimiser([p for p in self.parameters() if p.requires_grad], lr=0.1)

    class Kept(pl.loggers.logger.DummyLogger):
        def __init__(self):
            super().__init__()
            self.kept = []

        def log_metrics(self, metrics, step=None):
            self.kept.append((step, dict(metrics)))

    seeded()
    module, logger = Module(), Kept()
    trainer = pl.Trainer(
        max_epochs=3, logger=logger, callbacks=[] if watch is None else [watch], accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, log_every_n_steps=2, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(*problem()), 12, shuffle=True))
    left = module.state_dict(), trainer.optimizers[0].state_dict()["state"], module.training, chance()
    return copy.deepcopy(left), logger.kept


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_the_same_and_logs_the_numbers(name, tmp_path, monkeypatch):
    pl = library(name)
    if name == "pytorch_lightning":
        monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    watch = fm.callbacks.lightning("cross-entropy", problem(), every=4, what=WHAT)
    with_it, kept = lightning_run(pl, tmp_path, watch)
    without, plain = lightning_run(pl, tmp_path)
    assert same(with_it, without)
    own = [(step, one) for step, one in kept if "flatmin/lambda_1" in one]
    assert [step for step, _ in own] == [0, 4, 8, 12]
    assert [one for one in kept if one not in own] == plain
    assert watch.watch.batch_size == 12
    assert own[1][1] == scalars(watch.watch.reports[4])


@pytest.mark.filterwarnings("ignore")
def test_lightning_measures_a_part_counts_what_is_accumulated_and_takes_any_optimiser(tmp_path):
    pl = library("lightning.pytorch")
    how = {"every": 2, "k": 1, "module": lambda module: module.net}
    watch = fm.callbacks.lightning("cross-entropy", problem(), **how)
    lightning_run(pl, tmp_path, watch, torch.optim.Adam, accumulate=2)
    assert list(watch.watch.reports) == [0, 2, 4, 6]
    assert watch.watch.batch_size == 24
    assert watch.watch.reports[0].facts["model"] == "Net"
    assert not watch.watch.reports[0].sections["stability"]


# Hugging Face


def tokens():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 20, (32, 6), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (ids[:, 0] > 10).long()}


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, i):
        return {name: tensor[i] for name, tensor in tokens().items()}


def trainer_run(hf, folder, options=None, optim="sgd"):
    seeded()
    config = hf.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    args = hf.TrainingArguments(
        output_dir=str(folder), max_steps=9, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        logging_steps=3, save_strategy="no", report_to=[], use_cpu=True, optim=optim, learning_rate=0.05,
        disable_tqdm=True, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = hf.Trainer(hf.BertForSequenceClassification(config), args, train_dataset=Rows())
    trainer.remove_callback(hf.PrinterCallback)
    watch = options and fm.callbacks.transformers(trainer, "cross-entropy", tokens(), **options)
    trainer.train()
    state = trainer.model.state_dict(), trainer.optimizer.state_dict()["state"]
    return copy.deepcopy((*state, trainer.model.training, chance())), trainer, watch


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
@pytest.mark.filterwarnings("ignore")
def test_transformers_trains_the_same_and_logs_the_numbers(optim, tmp_path):
    hf = library("transformers")
    written = []
    what = WHAT if optim == "sgd" else WHAT[:2]
    options = {"every": 3, "what": what, "log": lambda *one: written.append(one), "budget": math.inf}
    with_it, trainer, watch = trainer_run(hf, tmp_path, options, optim)
    without, plain, _ = trainer_run(hf, tmp_path, None, optim)
    assert same(with_it, without)
    history = [one for one in trainer.state.log_history if "flatmin/lambda_1" in one]
    assert [one["step"] for one in history] == [0, 3, 6, 9]
    assert [step for step, _ in map(reversed, written)] == [0, 3, 6, 9]
    rest = [one for one in trainer.state.log_history if one not in history]
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    bare = [[{k: v for k, v in one.items() if k not in timed} for one in run]
            for run in (rest, plain.state.log_history)]  # fmt: skip
    assert bare[0] == bare[1]
    assert sum("loss" in one for one in rest) == 3
    assert watch.batch_size == 8
    found = watch.reports[3]
    assert ("descent" in found and found.facts["eta"] == 0.05) == (optim == "sgd")
    with pytest.raises(ValueError, match="trainer=3: must be of the type Trainer"):
        fm.callbacks.transformers(3, "cross-entropy", tokens())


@pytest.mark.clean
def test_the_extras_can_be_installed_and_pass(root, tmp_path):
    """The real libraries beside this environment's torch, in an environment of their own."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    ask = "import site; print(site.getsitepackages()[0])"
    own = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    here = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    with open(f"{own}/this.pth", "w") as file:
        file.write(f"{here.strip()}\n{root / 'lib'}\n{root / 'tools'}\n")
    extras = f"{root}[lightning,transformers]"
    subprocess.run([python, "-m", "pip", "install", "-q", extras, "pytorch-lightning"], check=True)
    command = [python, "-m", "pytest", "-q", "-m", "not clean", "-p", "no:cacheprovider", __file__]
    environ = os.environ | {"FLATMIN_REQUIRE_TRAINERS": "1"}
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout
