"""Training: many runs at once, resumable."""

from flatmin.networks.train.loop import train
from flatmin.networks.train.runs import Runs, predict

__all__ = ["Runs", "predict", "train"]
