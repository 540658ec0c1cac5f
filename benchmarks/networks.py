"""Curvature and gradient noise against the best public tools, as ratios in one run.

    python benchmarks/networks.py [TASK ...] [--rounds 5] [--device cuda] [--record]

Tasks: top10, top50, layer, trace, norm, alignment. (Training: benchmarks/training.py.) The peers (PyHessian,
curvlinops, hessian-eigenthings, BackPACK) are used where they are installed:

    pip install --no-deps pyhessian==0.1 curvlinops-for-pytorch==3.0.1 hessian-eigenthings==1.0.0a5 \\
        backpack-for-pytorch==1.7.1 einops einconv unfoldNd linear_operator jaxtyping

(in an environment of their own; ``--no-deps`` keeps the torch that is there). All tools run on one device, a
CUDA device where there is one, else one thread of the CPU; the tools of one task in turn, ``--rounds`` times;
times are medians. Memory is the growth of a process that does nothing else, on CUDA that of the device's
memory. Accuracy is against float64, and always shown: a tool that stops early is quick and wrong.
"""

import argparse
import ctypes
import os
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.func import functional_call, grad, jvp, vmap

from flatmin.networks import device, models, parameters
from flatmin.networks.data.sets import Data
from flatmin.networks.point import at
from flatmin.networks.train import train

CE = torch.nn.functional.cross_entropy
ETA, BATCH_SIZE = 0.05, 50


def chosen():
    """The device of this run: ``main`` puts it into the variable that flatmin reads."""
    return device.choose()


def problem(hidden=50, outputs=10, samples=1000):
    """Ten Gaussian classes in 784 dimensions, and a network trained on them for 300 steps."""
    generator = torch.Generator().manual_seed(0)
    centres = 0.15 * torch.randn(10, 784, generator=generator)
    labels = torch.randint(10, (samples,), generator=generator)
    data = Data(torch.randn(samples, 784, generator=generator) + centres[labels], labels)
    if outputs == 1:
        data = data.parity()
    start = models.mlp((784, hidden, hidden, outputs), 1)
    loss = "square" if outputs == 1 else "cross-entropy"
    runs = train(start, loss, data, eta=0.01 if outputs == 1 else ETA, batch_size=BATCH_SIZE, steps=300)
    return device.place(runs.model_at(), data, chosen())


def optional(name):
    """Return the module, or None where it is not installed."""
    try:
        return __import__(name)
    except ImportError:
        return None


# --- eigenvalues


def _at(model, data):
    """The point without its self-checks, which the peers do not make either."""
    return at(model, "cross-entropy", data, checks=False)


def by_flatmin(model, data, k):
    return _at(model, data).eigenpairs(k).values


def by_double_backward(model, data, k):
    """PyHessian's product (one cached graph) under scipy's Lanczos: the best of the existing parts."""
    tensors = list(model.parameters())
    graph = torch.autograd.grad(CE(model(data.inputs), data.targets), tensors, create_graph=True)

    def product(v):
        pieces = _vector(v).split([p.numel() for p in tensors])
        pieces = [piece.view_as(p) for piece, p in zip(pieces, tensors, strict=True)]
        out = torch.autograd.grad(graph, tensors, pieces, retain_graph=True)
        return torch.cat([o.reshape(-1) for o in out]).cpu().numpy()

    return _eigsh(product, parameters.vector(model).numel(), k)


def by_torch_func(model, data, k):
    """Forward over reverse, nothing cached, under scipy's Lanczos."""
    theta, product = parameters.vector(model), _jvp_product(model, data)
    return _eigsh(lambda v: product(_vector(v)).cpu().numpy(), theta.numel(), k)


def _vector(v):
    return torch.from_numpy(v.astype(np.float32)).to(chosen())


def _named(model, theta):
    """θ (P,) as the tensors of the model, by name; views."""
    named = parameters.trainable(model)
    parts = theta.split([p.numel() for _, p in named])
    return {name: part.view(p.shape) for (name, p), part in zip(named, parts, strict=True)}


def _jvp_product(model, data):
    theta = parameters.vector(model)

    def loss(t):
        return CE(functional_call(model, _named(model, t), (data.inputs,)), data.targets)

    return lambda v: jvp(grad(loss), (theta,), (v,))[1]


def _eigsh(product, size, k):
    operator = LinearOperator((size, size), matvec=lambda v: product(v.reshape(-1)), dtype=np.float32)
    start = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    return torch.from_numpy(np.sort(eigsh(operator, k, which="LA", tol=1e-3, v0=start)[0])[::-1].copy())


def by_curvlinops(model, data, k):
    operator = _curvlinops_hessian(model, list(model.parameters()), data).to_scipy()
    start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(np.float32)
    return torch.from_numpy(np.sort(eigsh(operator, k, which="LA", tol=1e-3, v0=start)[0])[::-1].copy())


def _curvlinops_hessian(model, tensors, data):
    from curvlinops import HessianLinearOperator

    batches = [(data.inputs, data.targets)]
    loss = torch.nn.CrossEntropyLoss()
    return HessianLinearOperator(model, loss, tensors, batches, check_deterministic=False)


def by_pyhessian(model, data, k):
    return torch.tensor(_pyhessian(model, data).eigenvalues(top_n=k)[0])


def by_tight_pyhessian(model, data, k):
    """With the tolerance that the accuracy of the others takes."""
    return torch.tensor(_pyhessian(model, data).eigenvalues(maxIter=1000, tol=1e-6, top_n=k)[0])


def _pyhessian(model, data):
    from pyhessian import hessian

    return hessian(
        model, torch.nn.CrossEntropyLoss(), data=(data.inputs, data.targets), cuda=chosen().type == "cuda"
    )


def by_eigenthings(model, data, k):
    from hessian_eigenthings import lanczos

    call = {"max_iter": max(30, 5 * k), "which": "LA", "seed": 0, "reorthogonalize": True}
    found = lanczos(_eigenthings(model, data), k=k, **call)
    return found.eigenvalues.sort(descending=True).values


def _eigenthings(model, data):
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(model, [(data.inputs, data.targets)], supervised_loss(CE))


def eigenvalue_task(k):
    model, data = problem()
    exact = _at(_double(model), data).eigenpairs(k, tolerance=1e-7).values

    def error(values):
        return float((values.double().cpu() / exact - 1).abs().max())

    tools = {
        "flatmin": by_flatmin,
        "double backward + eigsh": by_double_backward,
        "torch.func + eigsh": by_torch_func,
        "curvlinops + eigsh": by_curvlinops if optional("curvlinops") else None,
        "hessian-eigenthings": by_eigenthings if optional("hessian_eigenthings") else None,
        "PyHessian": by_pyhessian if optional("pyhessian") else None,
    }
    if k == 10 and optional("pyhessian"):
        tools["PyHessian, tol 1e-6"] = by_tight_pyhessian
    return {name: tool and (lambda tool=tool: tool(model, data, k)) for name, tool in tools.items()}, error


def _double(model):
    return parameters.with_parameters(model, parameters.vector(model)).double()


# --- one layer, trace, norm


def layer_task():
    """The exact 2500×2500 Hessian of the middle layer; what its spectrum costs is the same for all."""
    model, data = problem()
    exact = _at(_double(model), data).hessian(2)

    def by_func():
        def loss(w):
            return CE(functional_call(model, {"3.weight": w}, (data.inputs,)), data.targets)

        return torch.func.hessian(loss)(model[3].weight.detach()).reshape(2500, 2500)

    def by_autograd():
        def loss(w):
            return CE(functional_call(model, {"3.weight": w}, (data.inputs,)), data.targets)

        return torch.autograd.functional.hessian(loss, model[3].weight.detach()).reshape(2500, 2500)

    def by_chunks():
        weight = model[3].weight.detach()

        def loss(w):
            return CE(functional_call(model, {"3.weight": w}, (data.inputs,)), data.targets)

        def product(v):
            return jvp(grad(loss), (weight,), (v.view_as(weight),))[1].reshape(-1)

        unit = torch.eye(2500, device=chosen())
        return torch.cat([vmap(product)(unit[i : i + 50]) for i in range(0, 2500, 50)])

    def by_linop():
        operator, unit = _curvlinops_hessian(model, [model[3].weight], data), torch.eye(2500, device=chosen())
        return torch.cat([operator @ unit[:, i : i + 250] for i in range(0, 2500, 250)], 1)

    def error(matrix):
        return float((matrix.double().cpu() - exact).norm() / exact.norm())

    tools = {
        "flatmin": lambda: _at(model, data).hessian(2),
        "torch.func.hessian": by_func,
        "vmap of products, chunks of 50": by_chunks,
        "autograd.functional.hessian": by_autograd,
        "curvlinops @ I": by_linop if optional("curvlinops") else None,
    }
    return tools, error


def trace_task():
    model, data = problem()
    exact = _at(_double(model), data).trace().value

    def by_linop():
        from curvlinops import hutchinson_trace

        return float(hutchinson_trace(_curvlinops_hessian(model, list(model.parameters()), data), 100))

    def by_things():
        from hessian_eigenthings import hutchinson

        return float(hutchinson(_eigenthings(model, data), num_samples=100, seed=0).estimate)

    tools = {
        "flatmin": lambda: _at(model, data).trace().value,
        "curvlinops, 100 probes": by_linop if optional("curvlinops") else None,
        "hessian-eigenthings, 100 probes": by_things if optional("hessian_eigenthings") else None,
        "PyHessian": (lambda: float(np.mean(_pyhessian(model, data).trace())))
        if optional("pyhessian")
        else None,
    }
    return tools, lambda value: abs(value / exact - 1)


def norm_task():
    model, data = problem()
    exact = _at(_double(model), data).frobenius_norm().value

    def by_linop():
        from curvlinops import hutchinson_squared_fro

        operator = _curvlinops_hessian(model, list(model.parameters()), data)
        return float(hutchinson_squared_fro(operator, 100)) ** 0.5

    tools = {
        "flatmin": lambda: _at(model, data).frobenius_norm().value,
        "curvlinops, 100 probes": by_linop if optional("curvlinops") else None,
    }
    return tools, lambda value: abs(value / exact - 1)


# --- alignment


def alignment_task():
    """α, β, μ of a network with one output and the square loss on 1000 samples."""
    model, data = problem(outputs=1)
    exact = at(_double(model), "square", data).noise.alignment().mu

    def from_jacobian(jacobian):
        with torch.no_grad():
            errors = model(data.inputs)[:, 0] - data.targets[:, 0]
            kernel = jacobian @ jacobian.T / len(data)
        sums = kernel.square() * errors.square()[:, None]
        first, second = sums.sum(), (kernel @ errors).square().sum() / len(data)
        return float((first - second) / (errors.square().mean() * kernel.square().sum()))

    def by_vmap():
        theta = parameters.vector(model)

        def one(t, x):
            return functional_call(model, _named(model, t), (x[None],))[0, 0]

        return from_jacobian(vmap(grad(one), (None, 0))(theta, data.inputs))

    def by_backpack():
        from backpack import backpack, extend
        from backpack.extensions import BatchGrad

        twin = extend(parameters.with_parameters(model, parameters.vector(model)))
        with backpack(BatchGrad()):
            twin(data.inputs).sum().backward()
        return from_jacobian(torch.cat([p.grad_batch.flatten(1) for p in twin.parameters()], 1))

    tools = {
        "flatmin": lambda: at(model, "square", data).noise.alignment().mu,
        "vmap(grad) + J Jᵀ": by_vmap,
        "BackPACK + J Jᵀ": by_backpack if optional("backpack") else None,
    }
    return tools, lambda value: abs(value / exact - 1)


TASKS = {
    "top10": lambda: eigenvalue_task(10),
    "top50": lambda: eigenvalue_task(50),
    "layer": layer_task,
    "trace": trace_task,
    "norm": norm_task,
    "alignment": alignment_task,
}


def memory_of(call):
    """Growth in MB of the peak memory of a process of its own that makes one call, or of the CUDA device's.

    NaN on other systems than Linux.
    """
    if chosen().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not sys.platform.startswith("linux"):
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier rounds left free
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        before = _status("VmRSS")
        call()
        os.write(write, str((_status("VmHWM") - before) / 1024).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return float(pipe.read() or "nan")


def _status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(task, rounds):
    """Run the tools of a task in turn; return rows (tool, seconds, error, megabytes), flatmin first."""
    tools, error = TASKS[task]()
    tools = {name: tool for name, tool in tools.items() if tool}
    seconds, results = {name: [] for name in tools}, {}
    for _ in range(rounds):
        for name, tool in tools.items():
            finish()
            start = time.perf_counter()
            results[name] = tool()
            finish()
            seconds[name].append(time.perf_counter() - start)
    return [
        (
            name,
            statistics.median(seconds[name]),
            error(results[name]) if error else float("nan"),
            memory_of(tools[name]),
        )
        for name in tools
    ]


def finish():
    """Wait for what the device has still to do."""
    if chosen().type == "cuda":
        torch.cuda.synchronize()


def show(task, rows):
    first = rows[0][1]
    print(f"\n{task}\n{'tool':32}{'seconds':>10}{'ratio':>8}{'error':>10}{'+MB':>8}")
    for name, seconds, error, memory in rows:
        print(f"{name:32}{seconds:10.3f}{seconds / first:8.1f}{error:10.1e}{memory:8.0f}")
    sys.stdout.flush()


def keep(tables):
    """Record all rows in data/results/benchmark-networks."""
    from flatmin.ledger import record

    rows = [(task, *row) for task, table in tables.items() for row in table]
    tasks, tools, seconds, errors, memory = zip(*rows, strict=True)
    record.save(
        "benchmark-networks",
        {"task": tasks, "tool": tools, "seconds": seconds, "error": errors, "megabytes": memory},
        seed=0,
        scale="784-50-50-10 (alignment: 784-50-50-1), 1000 Gaussian samples, one thread of the host",
        device=device.describe(),
        command="python benchmarks/networks.py --record",
        data_set="ten Gaussian classes",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …: default as in flatmin.networks.device")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    try:
        os.environ[device.ENVIRONMENT] = str(device.choose(options.device))
    except ValueError as error:
        parser.error(str(error))
    unknown = set(options.tasks) - set(TASKS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}: allowed are {', '.join(TASKS)}")
    torch.set_num_threads(1)
    print(f"device: {device.describe() or 'CPU, one thread'}")
    tables = {}
    for task in options.tasks or TASKS:
        tables[task] = measure(task, options.rounds)
        show(task, tables[task])
    if options.record:
        keep(tables)


if __name__ == "__main__":
    main()
