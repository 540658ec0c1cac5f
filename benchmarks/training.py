"""Training many small networks at once, against what one writes with torch, as ratios in one run.

    python benchmarks/training.py [TASK ...] [--rounds 3] [--device cuda]

SGD of 20 networks 784-50-50-10 on 1000 Gaussian samples with B = 10, 50, 200 (tasks sgd10, sgd50, sgd200); of
four small convolutional ones at B = 50 (cnn); full-batch descent of R = 1, 8, 20 (gd1, gd8, gd20). Peers: a
loop over a DataLoader, a loop that gathers its batches by index, and an ensemble under torch.func's vmap,
whose batches are gathered likewise. Microseconds a step and network, of processor time on one thread of the
CPU, of wall time on a GPU; medians of the rounds, run in turn; each tool runs as many steps as it needs for a
steady rate. The last column is the loss after them (of all for SGD, whose batches differ; equal for descent).
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.data import DataLoader, TensorDataset

from flatmin.networks import device, freezing, models
from flatmin.networks.data.sets import Data
from flatmin.networks.parameters import vector, with_parameters
from flatmin.networks.train import train

CE = torch.nn.functional.cross_entropy
ETA, RUNS, SGD_STEPS, GD_STEPS, CNN_RUNS, CNN_STEPS = 0.05, 20, 300, 60, 4, 40


def problem(shape=(784,)):
    """Ten Gaussian classes, 1000 samples."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 10
    centres = 0.15 * torch.randn(10, *shape, generator=generator)
    return Data(torch.randn(1000, *shape, generator=generator) + centres[labels], labels)


def order(batch_size, steps, seed):
    """Batches of an epoch without replacement, as positions, (steps, B)."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch_size // 1000)
    return torch.cat([torch.randperm(1000, generator=generator) for _ in range(epochs)])[
        : steps * batch_size
    ].view(steps, batch_size)


def by_loader(start, data, batch_size, steps):
    """One network: a loop over a DataLoader."""
    loader = DataLoader(TensorDataset(data.inputs, data.targets), batch_size, shuffle=True, drop_last=True)
    return _loop(start, data, (batch for _ in range(steps) for batch in loader), steps)


def by_index(start, data, batch_size, steps):
    """One network: a loop that gathers its batches."""
    picks = order(batch_size, steps, 0).to(data.inputs.device)
    return _loop(start, data, ((data.inputs[pick], data.targets[pick]) for pick in picks), steps)


def by_whole(start, data, _, steps):
    """One network: a loop over all samples at once."""
    return _loop(start, data, ((data.inputs, data.targets) for _ in range(steps)), steps)


def _loop(start, data, batches, steps):
    model = with_parameters(start, vector(start))
    optimiser = torch.optim.SGD(model.parameters(), lr=ETA)
    for (inputs, targets), _ in zip(batches, range(steps), strict=False):
        optimiser.zero_grad()
        CE(model(inputs), targets).backward()
        optimiser.step()
    return float(CE(model(data.inputs), data.targets).detach())


def by_vmap(starts, data, batch_size, steps):
    """All networks: one vmap of the gradient; ``batch_size`` None: all samples."""
    values, _ = stack_module_state(starts)
    values = {name: value.detach() for name, value in values.items()}
    picks = None
    if batch_size is not None:
        picks = torch.stack([order(batch_size, steps, seed) for seed in range(len(starts))], 1)
        picks = picks.to(data.inputs.device)

    def loss(theta, inputs, targets):
        return CE(functional_call(starts[0], theta, (inputs,)), targets)

    slopes = vmap(grad(loss), (0, None, None) if picks is None else (0, 0, 0))
    for step in range(steps):
        inputs, targets = data.inputs, data.targets
        if picks is not None:
            inputs, targets = inputs[picks[step]], targets[picks[step]]
        for name, slope in slopes(values, inputs, targets).items():
            values[name] = values[name] - ETA * slope
    losses = vmap(loss, (0, None, None))(values, data.inputs, data.targets)
    return float(losses.mean())


def sgd_task(batch_size, where, kind="mlp"):
    """Tools of SGD: name → (networks, steps, call)."""
    if kind == "mlp":
        data, runs, steps = problem(), RUNS, SGD_STEPS
        starts = [models.mlp((784, 50, 50, 10), seed).to(where) for seed in range(runs)]
    else:
        data, runs, steps = problem((1, 28, 28)), CNN_RUNS, CNN_STEPS
        starts = [models.cnn(seed, channels=1, size=28).to(where) for seed in range(runs)]
    data = Data(data.inputs.to(where), data.targets.to(where), "")

    def own(chosen):
        call = {"eta": ETA, "batch_size": batch_size, "steps": steps, "seed": range(len(chosen))}
        return float(train(chosen, "cross-entropy", data, **call).losses(data)[:, -1].mean())

    return {
        f"flatmin, {runs} at once": (runs, steps, lambda: own(starts)),
        "flatmin, one": (1, steps, lambda: own(starts[:1])),
        "DataLoader loop": (1, steps, lambda: by_loader(starts[0], data, batch_size, steps)),
        "index loop": (1, steps, lambda: by_index(starts[0], data, batch_size, steps)),
        f"vmap, {runs} at once": (runs, steps, lambda: by_vmap(starts, data, batch_size, steps)),
    }


def descent_task(runs, where):
    """Tools of full-batch descent: name → (networks, steps, call)."""
    data, steps = problem(), GD_STEPS
    starts = [models.mlp((784, 50, 50, 10), seed).to(where) for seed in range(runs)]
    data = Data(data.inputs.to(where), data.targets.to(where), "")
    thetas = torch.stack([vector(start) for start in starts])

    def own():
        how = {"eta": ETA, "steps": steps, "device": where}
        return float(freezing.descend(starts[0], "cross-entropy", data, thetas, **how).loss.mean())

    def loops():
        return sum(by_whole(start, data, None, steps) for start in starts) / runs

    return {
        f"flatmin, {runs} at once": (runs, steps, own),
        "loop": (runs, steps, loops),
        f"vmap, {runs} at once": (runs, steps, lambda: by_vmap(starts, data, None, steps)),
    }


TASKS = {f"sgd{size}": (lambda where, size=size: sgd_task(size, where)) for size in (10, 50, 200)}
TASKS["cnn"] = lambda where: sgd_task(50, where, "cnn")
TASKS |= {f"gd{runs}": (lambda where, runs=runs: descent_task(runs, where)) for runs in (1, 8, 20)}


def measure(tools, rounds, where):
    """Rows (tool, microseconds a step and network, loss); the first call of each tool does not count."""
    clock = time.perf_counter if where.type == "cuda" else time.process_time
    spent, losses = {name: [] for name in tools}, {name: tool[2]() for name, tool in tools.items()}
    for _ in range(rounds):
        for name, (runs, steps, call) in tools.items():
            begin = clock()
            call()
            if where.type == "cuda":
                torch.cuda.synchronize()
            spent[name].append(1e6 * (clock() - begin) / runs / steps)
    return [(name, statistics.median(times), losses[name]) for name, times in spent.items()]


def main():
    """Print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device")
    options = parser.parse_args()
    if unknown := set(options.tasks) - set(TASKS):
        parser.error(f"unknown {', '.join(sorted(unknown))}: allowed are {', '.join(TASKS)}")
    where = device.choose(options.device)
    torch.set_num_threads(1)
    print(f"device: {device.describe(where) or 'CPU, one thread'}")
    for task in options.tasks or TASKS:
        rows = measure(TASKS[task](where), options.rounds, where)
        print(f"\n{task:26}{'us/step/run':>12}{'ratio':>8}{'loss':>10}")
        for name, spent, loss in rows:
            print(f"{name:26}{spent:12.1f}{spent / rows[0][1]:8.2f}{loss:10.4f}", flush=True)


if __name__ == "__main__":
    main()
