"""Measure a network while it trains: in a plain loop, under PyTorch Lightning, under Hugging Face's Trainer.

What is measured is a copy, in evaluation mode, on samples read once; mode, buffers, gradients and all random
states stay as they were, so that the training is to the bit what it is without. η, momentum and weight decay
are those of the optimiser at that step: plain ``torch.optim.SGD`` with one group of settings. Beside another
optimiser, to which the theories do not apply, curvature and noise are measured alone.

Examples
--------
>>> import torch
>>> import flatmin as fm
>>> train, test = fm.datasets.digits()
>>> model = fm.models.mlp((64, 8, 10))
>>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
>>> watch = fm.callbacks.Watch("cross-entropy", train, every=20, batch_size=50, what="lambda_1")
>>> for step in range(40):
...     found = watch(model, step, optimiser)  # None but for the steps 0 and 20
...     rows = slice(50 * (step % 20), 50 * (step % 20) + 50)
...     optimiser.zero_grad()
...     loss = torch.nn.functional.cross_entropy(model(train.inputs[rows]), train.targets[rows])
...     loss.backward()
...     optimiser.step()
>>> watch.series("lambda_1")[0]
[0, 20]
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from flatmin import _check
from flatmin.diagnosis.measure import diagnose
from flatmin.diagnosis.report import Report
from flatmin.networks import losses
from flatmin.networks.data.samples import samples_of
from flatmin.networks.network import quiet

__all__ = ["Watch", "lightning", "scalars", "transformers"]

#: what is asked for beside an optimiser that is no plain SGD
_WITHOUT_ETA = ("checks", "curvature", "flatness", "noise")
#: options of diagnose that come from the optimiser and the loop
_FROM_LOOP = ("eta", "batch_size", "momentum", "weight_decay")


class Watch:
    """Reports of a network in training, one every so many steps; to be called in the loop.

    Parameters
    ----------
    loss, data
        As for :func:`flatmin.diagnose`. All samples are read once, now: of a large data set give a part.
    every : int
        Measure at the steps that this divides.
    batch_size : int, optional
        B of the training; without it stability and theories are left out.
    log : callable, optional
        Called as ``log(scalars, step)`` with the numbers of each report by name.
    options
        Of :func:`flatmin.diagnose`: ``what``, ``samples``, ``budget`` (here "10s"), ``forward``, …

    Attributes
    ----------
    reports : dict
        {step: Report}.
    refused : dict
        {step: reason} where the network could not be measured, once it was: NaN after a divergence, say.
        The first refusal is raised.

    Raises
    ------
    ValueError
        For arguments out of range, data that cannot be read, and options that diagnose has not.
    """

    def __init__(
        self,
        loss,
        data,
        *,
        every: int = 100,
        batch_size: int | None = None,
        log: Callable | None = None,
        **options,
    ):
        self.every = _check.integer("every", every, least=1)
        self.batch_size = None if batch_size is None else _check.integer("batch_size", batch_size, least=1)
        if log is not None and not callable(log):
            raise _check.refused("log", log, "a function of (scalars, step)")
        known = set(inspect.signature(diagnose).parameters) - {"model", "loss", "data", *_FROM_LOOP}
        for name in options:
            _check.choice("options", name, sorted(known))
        losses.of(loss)  # refused now, not after the first steps
        self.loss, self.log = loss, log
        self.data = _read(data)
        self.options = {"progress": False, "budget": "10s"} | options
        self.reports, self.refused = {}, {}

    def __call__(self, model: nn.Module, step: int, optimiser=None, eta: float | None = None):
        """Measure if ``every`` divides ``step``; the Report, or None.

        η is that of ``optimiser``, or ``eta`` where the loop has none. Raises ValueError for a step below 0,
        and for what diagnose refuses the first time.
        """
        step = _check.integer("step", step, least=0)
        if step % self.every or step in self.reports or step in self.refused:
            return None
        how = self._loop(optimiser, eta)
        try:
            report = diagnose(model, self.loss, self.data, **(self.options | how))
        except ValueError as error:
            if not self.reports:
                raise
            self.refused[step] = str(error)
            return None
        self.reports[step] = report
        if self.log is not None:
            self.log(scalars(report), step)
        return report

    def series(self, name: str) -> tuple[list[int], np.ndarray, np.ndarray]:
        """(steps, values, errors) of one number of the reports, where it is defined.

        Raises ValueError for a name that no report has.
        """
        names = {line.name: None for report in self.reports.values() for line in report.lines}
        _check.choice("name", name, names)
        found = {
            step: line.estimate
            for step, report in self.reports.items()
            for line in report.lines
            if line.name == name and line.estimate is not None
        }
        values, errors = ([getattr(one, part) for one in found.values()] for part in ("value", "error"))
        return list(found), np.array(values), np.array(errors)

    def _loop(self, optimiser, eta) -> dict:
        """What diagnose is told of the loop: η, B, momentum and weight decay, or to do without."""
        if optimiser is not None:
            _check.instance("optimiser", optimiser, torch.optim.Optimizer)
            if eta is not None:
                raise _check.refused("eta", eta, "left to the optimiser that is given")
        how = {"eta": eta} if optimiser is None and eta is not None else _settings(optimiser)
        if how is not None and self.batch_size is not None:
            return how | {"batch_size": self.batch_size}
        asked = self.options.get("what", "all")
        return {"eta": None, "batch_size": None} | ({"what": _WITHOUT_ETA} if asked == "all" else {})


def scalars(report) -> dict[str, float]:
    """The finite numbers of a report for a logger: {"flatmin/lambda_1": …, "flatmin/lambda_1_error": …}.

    Raises ValueError for what is no report.
    """
    found = {}
    for line in _check.instance("report", report, Report).lines:
        if line.estimate is None or np.ndim(line.estimate.value):
            continue
        for name, number in ((line.name, line.estimate.value), (f"{line.name}_error", line.estimate.error)):
            if math.isfinite(number) and (number or name == line.name):
                found[f"flatmin/{name}"] = float(number)
    return found


def lightning(loss, data, *, module: Callable = lambda module: module, **options):
    """A callback for PyTorch Lightning's ``Trainer(callbacks=[…])``, with the arguments of :class:`Watch`.

    Numbers go to the trainer's loggers at the steps measured, the first before the training. B is the
    loader's times what is accumulated, unless given. ``module(lightning_module)`` is what is measured, by
    default the module itself. The callback's ``watch`` holds the reports. Needs ``pip install
    flatmin[lightning]``. Raises ValueError as :class:`Watch` does.
    """
    if not callable(module):
        raise _check.refused("module", module, "a function of the Lightning module")
    base = _imported("lightning", "lightning.pytorch", "pytorch_lightning").Callback

    class WatchLightning(base):
        def __init__(self):
            self.watch = Watch(loss, data, **options)

        def on_train_start(self, trainer, pl_module):
            if self.watch.batch_size is None:
                own = getattr(trainer.train_dataloader, "batch_size", None)
                many = trainer.accumulate_grad_batches * trainer.world_size
                self.watch.batch_size = own and own * many
            self._measure(trainer, pl_module)

        def on_train_batch_end(self, trainer, pl_module, *_):
            self._measure(trainer, pl_module)

        def _measure(self, trainer, pl_module):
            if not trainer.is_global_zero:
                return
            optimiser = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
            report = self.watch(module(pl_module), trainer.global_step, optimiser)
            for logger in trainer.loggers if report is not None else ():
                logger.log_metrics(scalars(report), step=trainer.global_step)

    return WatchLightning()


def transformers(trainer, loss, data, **options) -> Watch:
    """Let Hugging Face's ``trainer`` measure its model, with the arguments of :class:`Watch`; the Watch.

    Numbers go through ``trainer.log`` to where its own go, the first before the training. B is that of all
    devices times what is accumulated, unless given. Needs ``pip install flatmin[transformers]``. Raises
    ValueError for another trainer, and as :class:`Watch` does.
    """
    library = _imported("transformers", "transformers")
    _check.instance("trainer", trainer, library.Trainer)
    args, log = trainer.args, options.pop("log", None)
    many = args.gradient_accumulation_steps * args.world_size
    watch = Watch(loss, data, **({"batch_size": args.train_batch_size * many} | options))

    def logged(numbers, step):
        due = trainer.control.should_log  # of the trainer's own numbers, which log takes for written
        trainer.log(dict(numbers))
        trainer.control.should_log = due
        if log is not None:
            log(numbers, step)

    watch.log = logged

    class WatchTrainer(library.TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **_):
            if state.is_world_process_zero:
                watch(model, state.global_step, getattr(optimizer, "optimizer", optimizer))

        on_step_end = on_train_begin

    trainer.add_callback(WatchTrainer())
    return watch


def _settings(optimiser) -> dict | None:
    """η, momentum and weight decay of plain SGD with one group of settings, None for any other optimiser."""
    if type(optimiser) is not torch.optim.SGD:
        return None
    names = "lr", "momentum", "weight_decay", "dampening", "nesterov", "maximize"
    first, *rest = ({name: float(group[name]) for name in names} for group in optimiser.param_groups)
    if any(other != first for other in rest) or any(first[name] for name in names[3:]) or not first["lr"]:
        return None
    return {"eta": first["lr"], "momentum": first["momentum"], "weight_decay": first["weight_decay"]}


def _read(data):
    """All samples, read with every random state left as it was, a loader's own too."""
    own = data.generator if isinstance(data, DataLoader) else None
    state = None if own is None else own.get_state()
    try:
        with quiet():
            return samples_of(data)
    finally:
        if own is not None:
            own.set_state(state)


def _imported(extra, *names):
    """The first of these modules that is there; an ImportError that says what to install."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.split(".")[0]):
                raise
    raise ModuleNotFoundError(f"{names[-1]} is not installed: pip install flatmin[{extra}]", name=names[-1])
