"""Alignment from a few samples against the exact one, and training of convolutional networks against a loop.

    python benchmarks/sampled.py [TASK ...] [--device cuda] [--samples 500] [--full]

Tasks:

- ``accuracy``: seconds, error bar and distance from the exact alignment against the number of samples drawn,
  at the start of training;
- ``gradients``: seconds for the inner products of the per-sample gradients of 64 samples, three cotangents
  each, by three routes: layer by layer, one backward pass a sample, ``torch.func.vmap``;
- ``training``: images per second of one run at B = 25, :func:`flatmin.train` against a plain torch loop
  (zero_grad, backward, step), from the fastest of five turns, less the time of one step (the set-up: proofs,
  copies); and the largest difference of the parameters.

Networks: VGG-11 at a quarter and Fixup ResNet-20 at half of their width (``--full``: full width), on Gaussian
images of ten classes; a CUDA device where there is one, else one thread of the CPU (whose own
time is taken, so that other processes do not count).
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import flatmin as fm
from flatmin.networks import device, parameters
from flatmin.networks.data.sets import Data
from flatmin.networks.models.convolutional import FixupResNet, vgg
from flatmin.sampling import Sampling

BATCH_SIZE, ETA, ROUNDS = 25, 0.001, 5
QUANTITIES = ("g_norm", "mu", "alpha", "trace_sigma_g", "trace_sigma")


def images(samples):
    """Ten Gaussian classes of 3×32×32 images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (samples,), generator=generator)
    centres = 0.5 * torch.randn(10, 3, 32, 32, generator=generator)
    return Data(torch.randn(samples, 3, 32, 32, generator=generator) + centres[labels], labels)


def networks(full):
    fixup = FixupResNet(20, width=16 if full else 8)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # its layers start at 0
        for p in fixup.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return {"VGG-11": vgg(11, width=64 if full else 16), "Fixup ResNet-20": fixup}


def timed(call):
    """(seconds, result), the device idle before and after; on the CPU, of its one thread alone."""
    clock = time.process_time if device.choose().type == "cpu" else time.perf_counter
    wait()
    start = clock()
    found = call()
    wait()
    return clock() - start, found


def wait():
    if device.choose().type == "cuda":
        torch.cuda.synchronize()


def accuracy(name, model, samples):
    here = fm.at(model, "square", images(samples))
    here.noise.sampled_alignment(8), here.gradient()
    seconds, exact = timed(here.noise.alignment)
    print(f"\naccuracy, {name}, P = {here.parameters}, n = {samples}: exact in {seconds:.2f} s")
    print(f"{'samples':>8}{'seconds':>9}  " + "".join(f"{q:>24}" for q in QUANTITIES))
    for drawn in (32, 64, 128, 256, samples):
        seconds, found = timed(lambda drawn=drawn: here.noise.sampled_alignment(drawn, seed=1))
        parts = [(getattr(found, q), getattr(exact, q)) for q in QUANTITIES]
        cells = (f"{(e.value / x - 1) * 100:+8.1f} % ± {e.error / x * 100:4.1f} %" for e, x in parts)
        print(f"{drawn:8}{seconds:9.2f}  " + "".join(f"{cell:>24}" for cell in cells), flush=True)


def gradients(name, model, samples):
    here = fm.at(model, "square", images(64))
    tops = torch.randn(64, 3, 10, generator=torch.Generator().manual_seed(0)).to(here.device)
    passed = here.passed

    def product(pull):
        rows = torch.cat([pull(slice(i, i + 8), tops[i : i + 8]).flatten(0, 1) for i in range(0, 64, 8)])
        return rows @ rows.T

    routes = {
        "layer by layer": lambda: passed.pulled_gram(tops),
        "one backward pass a sample": lambda: product(passed._pull_one_by_one),
        "vmap": lambda: product(passed._pull_mapped),
    }
    print(f"\ngradients, {name}, P = {here.parameters}")
    wanted = None
    for route, call in routes.items():
        call()
        seconds, found = timed(call)
        wanted = found if wanted is None else wanted
        off = float((found - wanted).abs().max() / wanted.abs().max())
        print(f"{route:28}{seconds:9.3f} s   differs by {off:.1e}", flush=True)


def training(name, model, samples):
    data, steps = images(samples), 40 if device.choose().type == "cpu" else 400
    where = device.choose()

    def ours(steps):
        how = {"eta": ETA, "batch_size": BATCH_SIZE, "steps": steps, "keep": [steps]}
        return parameters.vector(fm.train(model, "square", data, **how).model_at())

    def loop(steps):
        twin, done, epoch = parameters.with_parameters(model, parameters.vector(model)).to(where), 0, 0
        x, y = data.inputs.to(where), torch.nn.functional.one_hot(data.targets, 10).float().to(where)
        optimiser = torch.optim.SGD(twin.parameters(), lr=ETA)
        while done < steps:
            drawn = torch.from_numpy(Sampling.EPOCH.draw(samples, BATCH_SIZE, 0, epoch)).to(where)
            for batch in drawn[: steps - done]:
                optimiser.zero_grad()
                (0.5 * (twin(x[batch]) - y[batch]).square().sum(1).mean()).backward()
                optimiser.step()
                done += 1
            epoch += 1
        return parameters.vector(twin).cpu()

    runs = {(tool, count): [] for count in (1, steps + 1) for tool in (ours, loop)}
    ends = {run: run[0](run[1]) for run in runs}
    for run in list(runs) * ROUNDS:
        runs[run].append(timed(lambda run=run: run[0](run[1]))[0])
    short, long = ([min(runs[tool, count]) for tool in (ours, loop)] for count in (1, steps + 1))
    mine, plain = (steps * BATCH_SIZE / (b - a) for a, b in zip(short, long, strict=True))
    off = float((ends[ours, steps + 1] - ends[loop, steps + 1]).abs().max())
    print(
        f"\ntraining, {name}, B = {BATCH_SIZE}: images per second: train {mine:.0f}, plain loop {plain:.0f}"
    )
    print(f"ratio {mine / plain:.2f}; set-up {short[0]:.2f} s; θ differs by {off:.1e}", flush=True)


TASKS = {"accuracy": accuracy, "gradients": gradients, "training": training}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …: default as in flatmin.networks.device")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.tasks) - set(TASKS):
        parser.error(f"unknown {', '.join(sorted(unknown))}: allowed are {', '.join(TASKS)}")
    os.environ[device.ENVIRONMENT] = str(device.choose(options.device))
    torch.set_num_threads(1)
    print(device.describe() or f"CPU, one thread, torch {torch.__version__}")
    for task in options.tasks or TASKS:
        for name, model in networks(options.full).items():
            TASKS[task](name, model, options.samples)


if __name__ == "__main__":
    main()
