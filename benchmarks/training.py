"""Races: training small networks, many at once or one, against what one writes with torch.

SGD of 20 networks 784-50-50-10 on 1000 Gaussian samples with B = 10, 50, 200 (sgd10, sgd50, sgd200); of four
small convolutional ones at B = 50 (sgd-cnn) and one VGG-11 of a quarter of its width at B = 25 (sgd-vgg);
full-batch descent of R = 1, 8, 20 (gd1, gd8, gd20). Peers: a loop over a DataLoader, a loop that gathers
its batches by index, and an ensemble under torch.func's vmap, whose batches are gathered likewise. Time is
that of a step and network. The error is the distance of the final loss from the plain loop's: zero to
rounding for descent, and some percent for SGD, whose batches differ.
"""

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.data import DataLoader, TensorDataset

from flatmin.networks import device, freezing, models
from flatmin.networks.data.sets import Data
from flatmin.networks.parameters import vector, with_parameters
from flatmin.networks.train import train
from harness import Race

CE = torch.nn.functional.cross_entropy
ETA, RUNS, GD_STEPS, CNN_STEPS = 0.05, 20, 15, 12
SGD_STEPS = {10: 200, 50: 80, 200: 30}


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


def by_loader(start, data, batch_size, steps, eta):
    """One network: a loop over a DataLoader."""
    loader = DataLoader(TensorDataset(data.inputs, data.targets), batch_size, shuffle=True, drop_last=True)
    return _loop(start, data, (batch for _ in range(steps) for batch in loader), steps, eta)


def by_index(start, data, batch_size, steps, seed, eta):
    """One network: a loop that gathers its batches."""
    picks = order(batch_size, steps, seed).to(data.inputs.device)
    return _loop(start, data, ((data.inputs[pick], data.targets[pick]) for pick in picks), steps, eta)


def by_whole(start, data, steps):
    """One network: a loop over all samples at once."""
    return _loop(start, data, ((data.inputs, data.targets) for _ in range(steps)), steps)


def _loop(start, data, batches, steps, eta=ETA):
    model = with_parameters(start, vector(start))
    optimiser = torch.optim.SGD(model.parameters(), lr=eta)
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


def sgd(start_of, data, runs, steps, batch_size, allowed=0.2, eta=ETA):
    """SGD of ``runs`` networks; ``start_of``: seed → model."""
    where = device.choose()
    starts = [start_of(seed).to(where) for seed in range(runs)]
    data = Data(data.inputs.to(where), data.targets.to(where), "")

    def own(chosen, seed):
        seeds = range(100 * seed, 100 * seed + len(chosen))
        call = {"eta": eta, "batch_size": batch_size, "steps": steps, "seed": seeds, "keep": [steps]}
        return float(train(chosen, "cross-entropy", data, **call).losses(data)[:, -1].mean())

    tools = {
        f"flatmin, {runs} at once": lambda seed: own(starts, seed),
        "flatmin, one": lambda seed: own(starts[:1], seed),
        "DataLoader loop": lambda seed: by_loader(starts[0], data, batch_size, steps, eta),
        "index loop": lambda seed: by_index(starts[0], data, batch_size, steps, seed, eta),
        f"vmap, {runs} at once": lambda seed: by_vmap(starts, data, batch_size, steps),
    }
    if runs == 1:
        tools = dict(list(tools.items())[1:4])
    plain = sum(by_index(start, data, batch_size, steps, 0, eta) for start in starts[:4]) / len(starts[:4])
    work = {tool: steps * (runs if "at once" in tool else 1) for tool in tools}
    return Race(tools, lambda loss: abs(loss / plain - 1), allowed, work)


def descent(runs):
    """Full-batch descent of ``runs`` networks."""
    where, steps = device.choose(), GD_STEPS
    starts = [models.mlp((784, 50, 50, 10), seed).to(where) for seed in range(runs)]
    data = problem()
    data = Data(data.inputs.to(where), data.targets.to(where), "")
    thetas = torch.stack([vector(start) for start in starts])

    def own(seed):
        how = {"eta": ETA, "steps": steps, "device": where}
        return float(freezing.descend(starts[0], "cross-entropy", data, thetas, **how).loss.mean())

    def loops(seed):
        return sum(by_whole(start, data, steps) for start in starts) / runs

    tools = {"flatmin": own, "loop": loops, "vmap": lambda seed: by_vmap(starts, data, None, steps)}
    plain = loops(0)
    work = dict.fromkeys(tools, runs * steps)
    return Race(tools, lambda loss: abs(loss / plain - 1), 1e-4, work)


def _mlp(seed):
    return models.mlp((784, 50, 50, 10), seed)


STEP = "µs a step and network"
RACES = {
    f"sgd{size}": (lambda size=size: sgd(_mlp, problem(), RUNS, SGD_STEPS[size], size), STEP)
    for size in SGD_STEPS
}
RACES["sgd-cnn"] = (
    lambda: sgd(lambda seed: models.cnn(seed, channels=1, size=16), problem((1, 16, 16)), 4, CNN_STEPS, 50),
    STEP,
)
RACES["sgd-vgg"] = (
    lambda: sgd(
        lambda seed: models.vgg(11, seed, width=16), problem((3, 32, 32)), 1, CNN_STEPS, 25, 0.5, 1e-3
    ),
    STEP,
)
RACES |= {f"gd{runs}": (lambda runs=runs: descent(runs), STEP) for runs in (1, 8, 20)}
