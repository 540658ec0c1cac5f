"""Races: curvature and gradient noise of networks against the best public tools.

Of the network 784-50-50-10 on 1000 Gaussian samples in ten classes, after 300 steps of SGD: the ten (of 200
samples too) and the fifty largest eigenvalues, the exact Hessian of the middle layer (of 300 samples), Tr H,
‖H‖_F, and the alignment of its noise (one output, square loss). Of three networks of other layers, after 100
steps, a LeNet (32 images of 28 × 28), a ResNet-14 of width 8 with group norm (8 images of 16 × 16) and a
transformer of two layers (32 sequences of 16 tokens, plain attention, as the fast one has no second
derivative): the ten largest eigenvalues to 1e-3, Tr H, Tr Σ (of four times as many samples), the spectral
density by two vectors and thirty steps, and all but the last in one call of diagnose. Errors are relative to
flatmin's float64 results; those of a trace to 400 products by hand in float64 (of the LeNet to BackPACK's
exact one), and those of a density are the Wasserstein distance to six vectors in float64, in units of its
standard deviation. flatmin's points are made without their checks, as the peers make none.
"""

import copy
import math
from functools import cache, partial

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

import flatmin as fm
import peers
from flatmin.networks import device, models
from flatmin.networks.data.sets import Data
from harness import Race, peer, relative

CE = peers.CE
TOP = 10


class Block(nn.Module):
    """Two 3 × 3 convolutions with group norm and a shortcut."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(2))
        straight = stride == 1 and inputs == width
        self.shortcut = nn.Identity() if straight else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x):
        """Images to images."""
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.shortcut(x) + self.norms[1](self.second(inner)))


class Transformer(nn.Module):
    """Two layers of width 32 on sequences of 16 tokens out of 20."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(20, 32), nn.Linear(32, 10)
        self.places = nn.Parameter(0.1 * torch.randn(16, 32))
        layers = (
            nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
            for _ in range(2)
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens):
        """Outputs (n, 10) of tokens (n, 16)."""
        return self.head(self.layers(self.tokens(tokens) + self.places).mean(1))


def lenet():
    """62 thousand parameters."""
    stem = nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()
    top = nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
    return nn.Sequential(*stem, nn.MaxPool2d(2), nn.Flatten(), *top)


def resnet():
    """44 thousand parameters."""
    layers, inputs = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.GroupNorm(4, 8), nn.ReLU()], 8
    for width in (8, 16, 32):
        for block in range(2):
            layers.append(Block(inputs, width, 2 if block == 0 and width > 8 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def images(labels, shape, spread, generator):
    """Gaussian classes."""
    centres = spread * torch.randn(10, *shape, generator=generator)
    return torch.randn(len(labels), *shape, generator=generator) + centres[labels]


def mlp_problem(outputs=10, samples=1000):
    """784-50-50-10 trained for 300 steps."""
    generator = torch.Generator().manual_seed(0)
    centres = 0.15 * torch.randn(10, 784, generator=generator)
    labels = torch.randint(10, (samples,), generator=generator)
    data = Data(torch.randn(samples, 784, generator=generator) + centres[labels], labels)
    data = data.parity() if outputs == 1 else data
    loss, eta = ("square", 0.01) if outputs == 1 else ("cross-entropy", 0.05)
    start = models.mlp((784, 50, 50, outputs), 1)
    return _trained(start, loss, data, eta=eta, batch_size=50, steps=300)


@cache
def problem(name, more=1):
    """A network of other layers trained for 100 steps; ``more`` times as many samples."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    count, shape = {"lenet": (32, (1, 28, 28)), "resnet": (8, (3, 16, 16)), "transformer": (32, (16,))}[name]
    count *= more
    labels = torch.arange(count) % 10
    if name == "transformer":
        inputs, model = torch.randint(20, (count, 16), generator=generator), Transformer()
        inputs[:, :4] = labels[:, None]
    else:
        inputs = images(labels, shape, 0.3, generator)
        model = lenet() if name == "lenet" else resnet()
    return _trained(model, "cross-entropy", Data(inputs, labels), eta=0.05, batch_size=8, steps=100)


def _trained(start, loss, data, **how):
    return device.place(fm.train(start, loss, data, **how).model_at(), data, device.choose())


def at(model, data, loss="cross-entropy"):
    """The point without its self-checks, which the peers do not make either."""
    return fm.at(model, loss, data, checks=False)


def double(model, data):
    """Both in float64."""
    floats = data.inputs.is_floating_point()
    return copy.deepcopy(model).double(), Data(data.inputs.double() if floats else data.inputs, data.targets)


# --- eigenvalues


def eigenvalues(make, k):
    """The k largest."""
    model, data = make()
    exact = at(*double(model, data)).eigenpairs(k, tolerance=1e-7).values
    slow = {
        "curvlinops + eigsh": peer("curvlinops", partial(peers.top_by_curvlinops, model, data, k)),
        "hessian-eigenthings": peer("hessian_eigenthings", partial(peers.top_by_eigenthings, model, data, k)),
        "PyHessian": peer("pyhessian", partial(peers.top_by_pyhessian, model, data, k)),
    }
    tools = {
        "flatmin": lambda seed: at(model, data).eigenpairs(k, seed=seed).values,
        "flatmin, multiplicity unproven": lambda seed: (
            at(model, data).eigenpairs(k, seed=seed, missed=1).values
        ),
        "double backward + eigsh": partial(peers.top_by_hand, model, data, k),
    } | (slow if k == TOP else {})  # what is slow at ten is slower at fifty
    return Race(tools, relative(exact), allowed=1e-3)


# --- one layer


def layer():
    """The exact 2500 × 2500 Hessian of the middle layer, of 300 samples."""
    model, data = mlp_problem(samples=300)
    exact, weight = at(*double(model, data)).hessian(2), model[3].weight.detach()

    def loss(w):
        return CE(functional_call(model, {"3.weight": w}, (data.inputs,)), data.targets)

    def by_chunks(seed):
        unit = torch.eye(2500, device=weight.device)

        def product(v):
            return jvp(grad(loss), (weight,), (v.view_as(weight),))[1].reshape(-1)

        return torch.cat([vmap(product)(unit[i : i + 50]) for i in range(0, 2500, 50)])

    def by_curvlinops(seed):
        unit = torch.eye(2500, device=weight.device)
        operator = peers.curvlinops_hessian(model, data, [model[3].weight])
        return torch.cat([operator @ unit[:, i : i + 50] for i in range(0, 2500, 50)], 1)

    def error(matrix):
        return float((matrix.double().cpu() - exact).norm() / exact.norm())

    tools = {
        "flatmin": lambda seed: at(model, data).hessian(2),
        "vmap of products, chunks of 50": by_chunks,
        "torch.func.hessian": lambda seed: torch.func.hessian(loss)(weight).reshape(2500, 2500),
        "curvlinops @ I, chunks of 50": peer("curvlinops", by_curvlinops),
    }
    return Race(tools, error, allowed=1e-5)


# --- trace and norm


def traces(model, data, exact, piecewise=False):
    """Tr H; ``piecewise``: linear in pieces, where Tr H = Tr G."""
    tools = {
        "flatmin": lambda seed: at(model, data).trace(probes=peers.PROBES, seed=seed).value,
        "double backward, 50 products": partial(peers.trace_by_hand, model, data),
        "curvlinops, 50 products": peer("curvlinops", partial(peers.trace_by_curvlinops, model, data)),
        "hessian-eigenthings, 50 products": peer(
            "hessian_eigenthings", partial(peers.trace_by_eigenthings, model, data)
        ),
        "PyHessian": peer("pyhessian", partial(peers.trace_by_pyhessian, model, data)),
    }
    if piecewise:
        tools["BackPACK, Tr G"] = peer("backpack", partial(peers.trace_by_backpack, model, data))
    return Race(tools, relative(exact), allowed=1e-4)


def mlp_trace():
    """Of the fully connected network."""
    model, data = mlp_problem()
    return traces(model, data, at(*double(model, data)).trace().value, piecewise=True)


@cache
def exact_trace(name):
    """Tr H by hand in float64."""
    wide = double(*problem(name))
    if name == "lenet" and not isinstance(peer("backpack", 0), str):
        return peers.trace_by_backpack(*wide, 0)
    return peers.trace_by_hand(*wide, 1, 400)


def other_trace(name):
    """Of a network of other layers."""
    model, data = problem(name)
    return traces(model, data, exact_trace(name), piecewise=name == "lenet")


def norm():
    """‖H‖_F."""
    model, data = mlp_problem()

    def by_curvlinops(seed):
        from curvlinops import hutchinson_squared_fro

        return float(hutchinson_squared_fro(peers.curvlinops_hessian(model, data), peers.PROBES)) ** 0.5

    tools = {
        "flatmin": lambda seed: at(model, data).frobenius_norm().value,
        "curvlinops, 50 products": peer("curvlinops", by_curvlinops),
    }
    return Race(tools, relative(at(*double(model, data)).frobenius_norm().value), allowed=1e-4)


# --- gradient noise


def alignment():
    """μ of a network with one output and the square loss."""
    model, data = mlp_problem(outputs=1)

    def from_jacobian(jacobian):
        with torch.no_grad():
            errors = model(data.inputs)[:, 0] - data.targets[:, 0]
            kernel = jacobian @ jacobian.T / len(data)
        sums = kernel.square() * errors.square()[:, None]
        first, second = sums.sum(), (kernel @ errors).square().sum() / len(data)
        return float((first - second) / (errors.square().mean() * kernel.square().sum()))

    def by_vmap(seed):
        theta = peers.theta_of(model)

        def one(t, x):
            return functional_call(model, peers.named(model, t), (x[None],))[0, 0]

        return from_jacobian(vmap(grad(one), (None, 0))(theta, data.inputs))

    def by_backpack(seed):
        from backpack import backpack, extend
        from backpack.extensions import BatchGrad

        twin = extend(copy.deepcopy(model))
        with backpack(BatchGrad()):
            twin(data.inputs).sum().backward()
        return from_jacobian(torch.cat([p.grad_batch.flatten(1) for p in twin.parameters()], 1))

    tools = {
        "flatmin": lambda seed: at(model, data, "square").noise.alignment().mu,
        "vmap(grad) + J Jᵀ": by_vmap,
        "BackPACK + J Jᵀ": peer("backpack", by_backpack),
    }
    wide = double(model, data)
    exact = at(wide[0], Data(wide[1].inputs, data.targets.double()), "square").noise.alignment().mu
    return Race(tools, relative(exact), allowed=1e-3)


def noise(name):
    """Tr Σ, of four times as many samples."""
    model, data = problem(name, 4)
    tools = {
        "flatmin": lambda seed: float(at(model, data).noise.strength()),
        "vmap(grad)": partial(peers.noise_by_vmap, model, data),
        "loop over samples": partial(peers.noise_by_loop, model, data),
        "BackPACK": peer("backpack", partial(peers.noise_by_backpack, model, data)),
    }
    return Race(tools, relative(float(at(*double(model, data)).noise.strength())), allowed=1e-4)


# --- spectral density


def density(name):
    """Of a network of other layers."""
    model, data = problem(name)
    truth = at(*double(model, data)).spectral_density(peers.STEPS, 6, seed=99)
    mean = float(truth.weights @ truth.nodes)
    scale = math.sqrt(float(truth.weights @ (truth.nodes - mean) ** 2))

    def by_flatmin(seed):
        found = at(model, data).spectral_density(peers.STEPS, peers.VECTORS, seed=seed)
        return found.nodes, found.weights

    def error(found):
        nodes, weights = (np.asarray(part, float) for part in found)
        return wasserstein_distance(nodes, truth.nodes, np.abs(weights), truth.weights) / scale

    tools = {
        "flatmin": by_flatmin,
        "double backward + own Lanczos": partial(peers.density_by_hand, model, data),
        "curvlinops": peer("curvlinops", partial(peers.density_by_curvlinops, model, data)),
        "hessian-eigenthings": peer(
            "hessian_eigenthings", partial(peers.density_by_eigenthings, model, data)
        ),
        "PyHessian": peer("pyhessian", partial(peers.density_by_pyhessian, model, data)),
    }
    return Race(tools, error, allowed=1e-3)


# --- all in one call


def diagnosed(name):
    """The ten largest eigenvalues, Tr H and Tr Σ; flatmin's time holds its checks and its error bars too."""
    model, data = problem(name)
    wide = double(model, data)
    exact = np.append(
        at(*wide).eigenpairs(TOP, tolerance=1e-7).values,
        (exact_trace(name), float(at(*wide).noise.strength())),
    )
    what = (*(f"lambda_{i + 1}" for i in range(TOP)), "trace_H", "noise_strength")

    def by_diagnose(seed):
        how = {"eta": 0.05, "batch_size": 8, "k": TOP, "budget": math.inf, "progress": False}
        report = fm.diagnose(model, "cross-entropy", data, what=what, **how)
        return [float(getattr(report[entry].estimate, "value", report[entry].estimate)) for entry in what]

    def by_parts(top, trace, noise):
        return lambda seed: np.append(
            top(model, data, TOP, seed), (trace(model, data, seed), noise(model, data, seed))
        )

    tools = {
        "flatmin.diagnose": by_diagnose,
        "by hand": by_parts(peers.top_by_hand, peers.trace_by_hand, peers.noise_by_vmap),
    }
    return Race(tools, relative(exact), allowed=1e-3)


RACES = {
    "top10": (lambda: eigenvalues(mlp_problem, TOP), "ms"),
    "few-top10": (lambda: eigenvalues(partial(mlp_problem, samples=200), TOP), "ms"),
    "top50": (lambda: eigenvalues(mlp_problem, 50), "ms"),
    "layer": (layer, "ms"),
    "trace": (mlp_trace, "ms"),
    "norm": (norm, "ms"),
    "alignment": (alignment, "ms"),
}
for _name in ("lenet", "resnet", "transformer"):
    RACES |= {
        f"{_name}-top10": (partial(eigenvalues, partial(problem, _name), TOP), "ms"),
        f"{_name}-trace": (partial(other_trace, _name), "ms"),
        f"{_name}-noise": (partial(noise, _name), "ms"),
        f"{_name}-density": (partial(density, _name), "ms"),
    }
    if _name != "resnet":
        RACES[f"{_name}-diagnose"] = (partial(diagnosed, _name), "ms")
