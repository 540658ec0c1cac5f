"""One call of `flatmin.diagnose` against the same quantities put together from the best public tools.

    python benchmarks/diagnose.py [NETWORK ...] [--rounds 3] [--device cuda] [--samples 500]

Ten largest eigenvalues, trace and gradient noise, cross-entropy, of three networks: mlp, cnn, transformer.
The peers are used where they are installed, as in benchmarks/networks.py, which says how; what a tool does
not measure is "—". "by hand" is double backward under scipy's Lanczos, 100 random signs for the trace and
vmap(grad) for the gradients of the samples. All tools run in turn in one process, on one device (one thread
of the CPU); times are medians. Errors are relative, against float64, the largest of ten for the eigenvalues;
for diagnose also how many of its own error bars the trace is off. Its time includes the checks of the
point and the timing for the plan; "whole report" is everything it measures in a minute. Torch's fast
attention has no second derivative, so the peers are given its plain one; diagnose takes that by itself.
"""

import argparse
import math
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import flatmin as fm
import networks as peers
from flatmin.networks import device, models
from flatmin.networks.data.sets import Data

ETA, BATCH_SIZE, TOP, PROBES = 0.05, 50, 10, 100
WHAT = (*(f"lambda_{i + 1}" for i in range(TOP)), "trace_H", "noise_strength")


class Transformer(nn.Module):
    """One layer on sequences of 8 tokens out of 20; the class is said by the first token."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(20, 8), nn.Linear(8, 10)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, tokens):
        """Outputs (n, 10) of tokens (n, 8)."""
        return self.head(self.layer(self.tokens(tokens)).mean(1))


def problem(name, samples):
    """A network trained for 100 steps, and its data."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (samples,), generator=generator)
    torch.manual_seed(0)
    if name == "transformer":
        inputs, model = torch.randint(20, (samples, 8), generator=generator), Transformer()
        inputs[:, 0] = labels
    else:
        shape = (1, 12, 12) if name == "cnn" else (784,)
        centres = 0.15 * torch.randn(10, *shape, generator=generator)
        inputs = torch.randn(samples, *shape, generator=generator) + centres[labels]
        layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(4)
        cnn = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))
        model = cnn if name == "cnn" else models.mlp((784, 50, 50, 10), 1)
    how = {"eta": ETA, "batch_size": BATCH_SIZE, "steps": 100}
    data = Data(inputs, labels)
    return device.place(fm.train(model, "cross-entropy", data, **how).model_at(), data, device.choose())


def by_diagnose(model, data, what=WHAT, budget=math.inf):
    how = {"eta": ETA, "batch_size": BATCH_SIZE, "k": TOP, "budget": budget, "progress": False}
    return fm.diagnose(model, "cross-entropy", data, what=what, **how)


def from_report(model, data):
    report = by_diagnose(model, data)
    values = [float(report[name].estimate) for name in WHAT[:TOP]]
    trace = report["trace_H"].estimate
    return values, trace.value, float(report["noise_strength"].estimate), trace.error


def noise_by_vmap(model, data):
    """Tr Σ from the gradient of each sample."""
    theta = peers.parameters.vector(model)

    def loss(t, x, y):
        return peers.CE(functional_call(model, peers._named(model, t), (x[None],)), y[None])

    rows = vmap(grad(loss), (None, 0, 0), chunk_size=250)(theta, data.inputs, data.targets)
    return float((rows - rows.mean(0)).square().sum(1).mean())


def trace_by_hand(model, data):
    tensors = list(model.parameters())
    graph = torch.autograd.grad(peers.CE(model(data.inputs), data.targets), tensors, create_graph=True)
    generator, total = torch.Generator().manual_seed(0), 0.0
    for _ in range(PROBES):
        signs = [torch.randint(2, p.shape, generator=generator).to(p) * 2 - 1 for p in tensors]
        product = torch.autograd.grad(graph, tensors, signs, retain_graph=True)
        total += sum(float((s * h).sum()) for s, h in zip(signs, product, strict=True))
    return total / PROBES


def by_hand(model, data):
    values = peers.by_double_backward(model, data, TOP)
    return values, trace_by_hand(model, data), noise_by_vmap(model, data)


def by_curvlinops(model, data):
    from curvlinops import hutchinson_trace

    operator = peers._curvlinops_hessian(model, list(model.parameters()), data)
    return peers.by_curvlinops(model, data, TOP), float(hutchinson_trace(operator, PROBES)), None


def by_eigenthings(model, data):
    from hessian_eigenthings import hutchinson

    trace = hutchinson(peers._eigenthings(model, data), num_samples=PROBES, seed=0).estimate
    return peers.by_eigenthings(model, data, TOP), float(trace), None


def by_pyhessian(model, data):
    values = peers.by_pyhessian(model, data, TOP)
    return values, float(np.mean(peers._pyhessian(model, data).trace())), None


TOOLS = {
    "diagnose": (from_report, None),
    "whole report": (lambda model, data: by_diagnose(model, data, "all", 60) and None, None),
    "by hand": (by_hand, None),
    "curvlinops": (by_curvlinops, "curvlinops"),
    "hessian-eigenthings": (by_eigenthings, "hessian_eigenthings"),
    "PyHessian": (by_pyhessian, "pyhessian"),
}


def exact(model, data):
    """The three in float64, exact: the trace layer by layer, or of the dense matrix."""
    here = peers._at(peers._double(model), Data(data.inputs, data.targets))
    trace = here.trace() if here.parameters > 10_000 else here.hessian().trace()
    found = here.eigenpairs(TOP, tolerance=1e-7).values, trace, here.noise.strength()
    return [np.asarray(getattr(one, "value", one), float) for one in found]


def compare(name, samples, rounds):
    model, data = problem(name, samples)
    tools = {tool: run for tool, (run, module) in TOOLS.items() if not module or peers.optional(module)}
    wanted, seconds, results = exact(model, data), {tool: [] for tool in tools}, {}
    for _ in range(rounds):
        for tool, run in tools.items():
            began = time.perf_counter()
            with sdpa_kernel(SDPBackend.MATH):
                results[tool] = run(model, data)
            peers.finish()
            seconds[tool].append(time.perf_counter() - began)
    size = sum(p.numel() for p in model.parameters())
    print(f"\n{name}: P = {size}, n = {samples}")
    print(f"{'tool':22}{'seconds':>9}{'ratio':>8}{'λ₁…λ₁₀':>10}{'Tr H':>10}{'Tr Σ':>10}")
    unit = statistics.median(seconds["diagnose"])
    for tool in tools:
        middle = statistics.median(seconds[tool])
        off = [_off(*pair) for pair in zip((results[tool] or ())[:3], wanted, strict=False)]
        print(f"{tool:22}{middle:9.2f}{middle / unit:8.2f}", *(f"{one:>9}" for one in off), flush=True)
    value, error = results["diagnose"][1], results["diagnose"][3]
    if error:
        print(f"diagnose's trace is off by {(value - wanted[1]) / error:+.1f} of its error bars")


def _off(found, right):
    if found is None:
        return "—"
    return f"{np.max(np.abs(np.asarray(found, float) / right - 1)):.0e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="mlp, cnn, transformer (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …: default as in flatmin.networks.device")
    options = parser.parse_args()
    if unknown := set(options.networks) - {"mlp", "cnn", "transformer"}:
        parser.error(f"unknown {', '.join(sorted(unknown))}: allowed are mlp, cnn, transformer")
    os.environ[device.ENVIRONMENT] = str(device.choose(options.device))
    torch.set_num_threads(1)
    print(device.describe() or f"CPU, one thread, torch {torch.__version__}")
    for name in options.networks or ("mlp", "cnn", "transformer"):
        compare(name, options.samples, options.rounds)


if __name__ == "__main__":
    main()
