"""Full-batch descent from R checkpoints: stacked, one after the other, and a plain torch loop.

784-50-50-10, 1000 Gaussian samples in ten classes, cross-entropy: microseconds a step and run, of processor
time on one CPU core, of wall time on a GPU; medians of the rounds, run in turn; the largest difference of the
end points from those of the plain loop. Then, with R = 512 on a GPU and 20 on a CPU: how many networks a
second are evaluated on 10 000 samples, have their top ten eigenvalues of layer 2, and barriers on 11 points.

    python benchmarks/freezing.py [--device cuda] [--runs 20] [--steps 200]
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from flatmin.networks import device, freezing, models
from flatmin.networks.data.sets import Data
from flatmin.networks.parameters import vector, with_parameters

ETA, LOSS, ROUNDS = 0.05, "cross-entropy", 3


def samples(count, seed=0):
    """Gaussian classes around ten points."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    centres = torch.randn(10, 784, generator=torch.Generator().manual_seed(9))
    return Data(0.3 * centres[labels] + torch.randn(count, 784, generator=generator), labels)


def plain(model, thetas, data, steps, where):
    """What one writes: a loop over runs of forward, backward, step."""
    inputs, targets, ends = data.inputs.to(where), data.targets.to(where), []
    for theta in thetas:
        twin = with_parameters(model, theta).to(where)
        optimiser = torch.optim.SGD(twin.parameters(), lr=ETA)
        for _ in range(steps):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(twin(inputs), targets).backward()
            optimiser.step()
        ends.append(vector(twin).cpu())
    return torch.stack(ends)


def seconds(function, where):
    """Time of a call, and its result."""
    cuda = where.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    begin = clock()
    found = function()
    if cuda:
        torch.cuda.synchronize()
    return clock() - begin, found


def main():
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    where = device.choose(options.device)
    runs, steps = options.runs or (512 if where.type == "cuda" else 20), options.steps
    torch.set_num_threads(1)
    data, model = samples(1000), models.mlp((784, 50, 50, 10))
    thetas = torch.stack([vector(models.mlp((784, 50, 50, 10), seed)) for seed in range(runs)])
    few = thetas[: min(runs, 20)]

    def descend(starts):
        return freezing.descend(model, LOSS, data, starts, eta=ETA, steps=steps, device=where).ends

    tools = {
        f"stacked, R = {len(few)}": (len(few), lambda: descend(few)),
        f"stacked, R = {runs}": (runs, lambda: descend(thetas)),
        "one after the other": (5, lambda: torch.cat([descend(one[None]) for one in few[:5]])),
        "plain torch loop": (5, lambda: plain(model, few[:5], data, steps, where)),
    }
    print(f"device: {device.describe(where) or 'CPU, one thread'}; n = 1000, {steps} steps")
    for _, tool in tools.values():
        tool()
    rounds = [{name: seconds(tool, where) for name, (_, tool) in tools.items()} for _ in range(ROUNDS)]
    times = {n: median(one[n][0] for one in rounds) / steps / count for n, (count, _) in tools.items()}
    print(f"{'':26}{'us/step/run':>12}{'ratio':>8}{'difference':>12}")
    for name, spent in times.items():
        gap = float((rounds[0][name][1][:5] - rounds[0]["plain torch loop"][1]).abs().max())
        print(f"{name:26}{1e6 * spent:12.1f}{times['plain torch loop'] / spent:8.1f}{gap:12.0e}")
    readings(model, thetas, data, where)


def readings(model, thetas, data, where):
    """Networks a second of what is measured at end points."""
    large, pairs = samples(10_000, 1), torch.randint(len(thetas), (4 * len(thetas), 2)).numpy()
    ends, how = thetas, {"device": where}
    measures = {
        "evaluated on 10 000": (len(ends), lambda: freezing.evaluate(model, LOSS, large, ends, **how)),
        "top ten of layer 2": (len(ends), lambda: freezing.flatness_of(model, LOSS, data, ends, **how)),
        "sharpness of all": (20, lambda: freezing.sharpness_of(model, LOSS, data, ends[:20], **how)),
        "barriers": (len(pairs), lambda: freezing.barriers(model, LOSS, data, ends, pairs, **how)),
    }
    print(f"{'':26}{'a second':>12}")
    for name, (count, measure) in measures.items():
        measure()
        print(f"{name:26}{count / seconds(measure, where)[0]:12.1f}")


if __name__ == "__main__":
    main()
