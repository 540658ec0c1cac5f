"""What fits into a budget of seconds: steps in order of value, each with a forecast, each timed.

A step runs if its forecast fits into what is left; its size (products, batches, random vectors) was chosen
for a share of the budget. What does not fit is dropped, and the plan says what it would have taken. After
``KeyboardInterrupt`` what is done is kept.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from tqdm.auto import tqdm

from flatmin import _check
from flatmin.diagnosis.report import Plan, Step
from flatmin.ledger.decimals import approx

__all__ = ["Clock", "Task", "seconds"]


def seconds(budget) -> float:
    """Seconds in a ``budget``: a number, or "90s", "5m", "1.5h"; ∞ is no limit. ValueError for another."""
    allowed = "seconds above 0, or a text such as '90s', '5m', '1.5h'"
    if isinstance(budget, str):
        return _check.duration("budget", re.sub(r"\s+(?=[smh]$)", "", budget.strip()), allowed)
    try:
        return _check.number("budget", budget, above=0, infinite=True)
    except ValueError:
        raise _check.refused("budget", budget, allowed) from None


@dataclass(frozen=True)
class Task:
    """A step to come: ``run`` measures, ``forecast`` seconds, ``gives`` the names of its lines."""

    name: str
    run: Callable
    forecast: float
    gives: tuple[str, ...]


class Clock:
    """The budget, what was spent of it since the start, and the steps so far."""

    def __init__(self, budget: float):
        self.budget, self.began = budget, time.perf_counter()
        self.interrupted = False
        self.steps: list[Step] = []
        self.notes: list[str] = []

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began

    @property
    def left(self) -> float:
        """Seconds that the budget leaves."""
        return self.budget - self.spent

    def share(self, part: float, unit: float, least: int, most: int) -> int:
        """How many things of ``unit`` seconds fit into a ``part`` of the budget, within the two numbers."""
        return int(min(most, max(least, min(part * self.budget / max(unit, 1e-9), 1e9))))

    def work(self, tasks: list[Task], failed: Callable[[Task, str], None], progress: bool) -> None:
        """Run the tasks in order; ``failed`` hears which gave no numbers, and why."""
        total = sum(task.forecast for task in tasks)
        with tqdm(total=round(total, 2), unit="s", disable=None if progress else True, leave=False) as bar:
            for index, task in enumerate(tasks):
                bar.set_description(task.name)
                try:
                    if self.interrupted:
                        raise KeyboardInterrupt
                    self._one(task, failed)
                except KeyboardInterrupt:
                    for rest in tasks[index:]:
                        self._log(rest, None, "interrupted")
                        failed(rest, "interrupted before it was measured")
                    return
                bar.update(round(task.forecast, 2))

    def _one(self, task, failed):
        if task.forecast > max(self.left, 0):
            why = f"would take {_about(task.forecast)} s, the budget leaves {_about(max(self.left, 0))} s"
            self._log(task, None, "dropped", why)
            failed(task, f"dropped: {why}")
            return
        began = time.perf_counter()
        try:
            note = task.run() or ""
        except (
            ValueError,
            RuntimeError,
            NotImplementedError,
            MemoryError,
        ) as error:  # torch's out-of-memory too
            why = (str(error).splitlines() or [type(error).__name__])[0]
            failed(task, why)
            self._log(task, time.perf_counter() - began, "failed", why)
        else:
            self._log(task, time.perf_counter() - began, "done", note)

    def _log(self, task, took, state, note=""):
        self.steps.append(Step(task.name, task.forecast, took, state, note))

    def plan(self) -> Plan:
        """What became of it all."""
        budget = self.budget if math.isfinite(self.budget) else 0.0
        return Plan(budget, tuple(self.steps), tuple(self.notes))


def _about(time: float) -> str:
    return approx(time, digits=2)
