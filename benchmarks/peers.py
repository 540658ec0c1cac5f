"""What one would take instead of flatmin for a network's curvature and gradient noise: one call a tool.

Each function takes a model, its data and a seed, for the cross-entropy. ``by_hand`` is double backward, the
graph of the gradient kept (PyHessian's product), under scipy's Lanczos or a few lines of our own.
"""

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.func import functional_call, grad, vmap

from flatmin.networks import parameters

CE = torch.nn.functional.cross_entropy
#: products of a trace; steps and vectors of a density
PROBES, STEPS, VECTORS = 50, 30, 2


def product_by_hand(model, data):
    """v (P,) → Hv."""
    tensors = list(model.parameters())
    graph = torch.autograd.grad(CE(model(data.inputs), data.targets), tensors, create_graph=True)

    def product(v):
        pieces = [p.view_as(t) for p, t in zip(v.split([t.numel() for t in tensors]), tensors, strict=True)]
        out = torch.autograd.grad(graph, tensors, pieces, retain_graph=True)
        return torch.cat([o.reshape(-1) for o in out])

    return product


def theta_of(model):
    """θ (P,)."""
    return parameters.vector(model)


def named(model, theta):
    """θ (P,) as the tensors of the model, by name; views."""
    pairs = parameters.trainable(model)
    parts = theta.split([p.numel() for _, p in pairs])
    return {name: part.view(p.shape) for (name, p), part in zip(pairs, parts, strict=True)}


def sums_of_squares(parts):
    """Σ |part|² of tensors."""
    return sum(float(part.double().square().sum()) for part in parts)


# --- eigenvalues: the k largest, largest first


def _eigsh(operator, k, seed):
    start = np.random.default_rng(seed).standard_normal(operator.shape[0]).astype(np.float32)
    return np.sort(eigsh(operator, k, which="LA", tol=1e-3, v0=start)[0])[::-1]


def top_by_hand(model, data, k, seed):
    theta, product = theta_of(model), product_by_hand(model, data)

    def matvec(v):
        return product(torch.from_numpy(v.reshape(-1)).to(theta)).cpu().numpy()

    return _eigsh(LinearOperator((len(theta),) * 2, matvec=matvec, dtype=np.float32), k, seed)


def top_by_curvlinops(model, data, k, seed):
    return _eigsh(curvlinops_hessian(model, data).to_scipy(), k, seed)


def top_by_pyhessian(model, data, k, seed):
    return pyhessian(model, data).eigenvalues(top_n=k)[0]


def top_by_eigenthings(model, data, k, seed):
    from hessian_eigenthings import lanczos

    call = {"max_iter": max(30, 5 * k), "which": "LA", "seed": seed, "reorthogonalize": True}
    found = lanczos(eigenthings(model, data), k=k, **call)
    return found.eigenvalues.sort(descending=True).values.cpu().numpy()


def curvlinops_hessian(model, data, tensors=None):
    """Its operator of H, or of the block of ``tensors``."""
    from curvlinops import HessianLinearOperator

    how = {"check_deterministic": False}
    tensors = list(model.parameters()) if tensors is None else tensors
    batches = [(data.inputs, data.targets)]
    return HessianLinearOperator(model, torch.nn.CrossEntropyLoss(), tensors, batches, **how)


def pyhessian(model, data):
    """Its object, the gradient's graph made."""
    from pyhessian import hessian

    cuda = data.inputs.device.type == "cuda"
    return hessian(model, torch.nn.CrossEntropyLoss(), data=(data.inputs, data.targets), cuda=cuda)


def eigenthings(model, data):
    """Its operator of H."""
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(model, [(data.inputs, data.targets)], supervised_loss(CE))


# --- Tr H


def trace_by_hand(model, data, seed, probes=PROBES):
    theta, product, total = theta_of(model), product_by_hand(model, data), 0.0
    generator = torch.Generator().manual_seed(seed)
    for _ in range(probes):
        signs = torch.randint(2, theta.shape, generator=generator).to(theta) * 2 - 1
        total += float(signs @ product(signs))
    return total / probes


def trace_by_curvlinops(model, data, seed):
    from curvlinops import hutchinson_trace

    return float(hutchinson_trace(curvlinops_hessian(model, data), PROBES))


def trace_by_eigenthings(model, data, seed):
    from hessian_eigenthings import hutchinson

    return float(hutchinson(eigenthings(model, data), num_samples=PROBES, seed=seed).estimate)


def trace_by_pyhessian(model, data, seed):
    return float(np.mean(pyhessian(model, data).trace()))


def trace_by_backpack(model, data, seed):
    """Tr G, which is Tr H for piecewise linear networks: exact."""
    from backpack import backpack, extend
    from backpack.extensions import DiagGGNExact

    twin = extend(parameters.with_parameters(model, theta_of(model)))
    with backpack(DiagGGNExact()):
        extend(torch.nn.CrossEntropyLoss())(twin(data.inputs), data.targets).backward()
    return sum(float(p.diag_ggn_exact.double().sum()) for p in twin.parameters())


# --- Tr Σ, the gradient noise


def noise_by_vmap(model, data, seed):
    theta = theta_of(model)

    def loss(t, x, y):
        return CE(functional_call(model, named(model, t), (x[None],)), y[None])

    total, squares = torch.zeros_like(theta), 0.0
    for start in range(0, len(data), 64):
        part = slice(start, start + 64)
        rows = vmap(grad(loss), (None, 0, 0))(theta, data.inputs[part], data.targets[part])
        total, squares = total + rows.sum(0), squares + sums_of_squares([rows])
    return squares / len(data) - sums_of_squares([total / len(data)])


def noise_by_backpack(model, data, seed):
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    twin = extend(parameters.with_parameters(model, theta_of(model)))
    with backpack(BatchL2Grad()):
        extend(torch.nn.CrossEntropyLoss())(twin(data.inputs), data.targets).backward()
    squares = sum(float(p.batch_l2.double().sum()) for p in twin.parameters())
    return squares * len(data) - sums_of_squares(p.grad for p in twin.parameters())


def noise_by_loop(model, data, seed):
    tensors, squares, total = list(model.parameters()), 0.0, None
    for x, y in zip(data.inputs, data.targets, strict=True):
        one = torch.autograd.grad(CE(model(x[None]), y[None]), tensors)
        squares += sums_of_squares(one)
        total = one if total is None else [a + b for a, b in zip(total, one, strict=True)]
    return squares / len(data) - sums_of_squares(t / len(data) for t in total)


# --- spectral density: (nodes, weights)


def density_by_hand(model, data, seed):
    theta, product, found = theta_of(model), product_by_hand(model, data), []
    for _ in range(VECTORS):
        basis, entries = torch.zeros(STEPS + 1, len(theta)).to(theta), torch.zeros(STEPS + 1, STEPS + 1)
        basis[0] = torch.nn.functional.normalize(torch.randn(theta.shape).to(theta), dim=0)
        for j in range(STEPS):
            new = product(basis[j])
            entries[j, j] = basis[j] @ new
            for _ in range(2):
                new -= basis[: j + 1].T @ (basis[: j + 1] @ new)
            entries[j + 1, j] = entries[j, j + 1] = new.norm()
            basis[j + 1] = new / new.norm()
        values, vectors = torch.linalg.eigh(entries[:STEPS, :STEPS])
        found.append((values.numpy(), vectors[0].square().numpy()))
    return _together(found)


def density_by_curvlinops(model, data, seed):
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    operator = curvlinops_hessian(model, data)
    found = (fast_lanczos(operator, STEPS) for _ in range(VECTORS))
    return _together([(values.cpu().numpy(), vectors[0].cpu().numpy() ** 2) for values, vectors in found])


def density_by_eigenthings(model, data, seed):
    from hessian_eigenthings.algorithms.spectral_density import spectral_density

    call = {"num_runs": VECTORS, "lanczos_steps": STEPS, "seed": VECTORS * seed, "num_grid_points": 10}
    found = spectral_density(eigenthings(model, data), **call)
    return _together(
        list(zip(found.raw_eigenvalues.cpu().numpy(), found.raw_weights.cpu().numpy(), strict=True))
    )


def density_by_pyhessian(model, data, seed):
    found = pyhessian(model, data).density(iter=STEPS, n_v=VECTORS)
    return _together(list(zip(*map(np.asarray, found), strict=True)))


def _together(found):
    nodes, weights = (np.concatenate(part) for part in zip(*found, strict=True))
    return nodes, weights / len(found)
