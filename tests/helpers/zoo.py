"""Small networks of many kinds with their loss and data, and their derivatives by plain double backward."""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x):
        return self.head(self.features(x))


class GroupNormResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.inner, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.nn.functional.silu(self.norm(self.stem(x)))
        return self.head((x + torch.nn.functional.silu(self.inner(x))).mean((2, 3)))


class BatchNormNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)
        )
        self.body(torch.randn(20, 6))  # running statistics that are not the initial ones

    def forward(self, x):
        return self.body(x)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.layer(self.embedding(tokens)).mean(1))


class LanguageModel(Transformer):
    """Per-token logits with the classes along axis 1."""

    def forward(self, tokens):
        return self.head(self.layer(self.embedding(tokens))).transpose(1, 2)


class LSTMClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class TiedAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(6, 3)

    def forward(self, x):
        return torch.tanh(self.enc(x)) @ self.enc.weight


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class DictModel(nn.Module):
    """Keyword inputs, a dict of outputs: the manners of Hugging Face."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        weights = attention_mask.to(self.head.weight.dtype)[..., None]
        pooled = (self.embedding(input_ids) * weights).sum(1) / weights.sum(1)
        return {"logits": self.head(pooled.tanh()), "pooled": pooled}


class Odd(nn.Module):
    """A 0-d parameter, one that is not used, and squeezed outputs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 1))
        self.scale, self.idle = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return (self.scale * self.body(x)).squeeze()


class VisionTransformer(nn.Module):
    """Patches, a token of its own, positions, attention before the norm."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(1, 4, 4, stride=4), nn.LayerNorm(4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 5, 4))
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        z = self.patches(x).flatten(2).transpose(1, 2)
        z = torch.cat([self.token.expand(len(x), -1, -1), z], 1) + self.places
        q = self.norm(z)
        return self.head((z + self.attention(q, q, q, need_weights=False)[0])[:, 0])


class LayerNormResNet(nn.Module):
    """Residual blocks with layer norm before each."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 5), nn.LayerNorm(5)
        self.inner, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + torch.tanh(self.inner(self.norm(x))))


class Packed(nn.Module):
    """A GRU over sequences of different lengths."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(3, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.head(self.gru(packed)[1][-1])


class Experts(nn.Module):
    """Each sample goes to one of two layers, by its own content."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(6, 2), nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])

    def forward(self, x):
        shares = self.gate(x).softmax(1)
        chosen, out = shares.argmax(1), x.new_zeros(len(x), 3)
        for which, expert in enumerate(self.experts):
            rows = chosen == which
            if rows.any():
                out[rows] = shares[rows, which, None] * expert(x[rows])
        return out


class Sorted(nn.Module):
    """Works on the samples in another order, and puts them back."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        order = x[:, 0].argsort()
        return self.outer(self.inner(x[order]).tanh()[order.argsort()])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.outer(checkpoint(lambda z: self.inner(z).tanh(), x, use_reentrant=False))


class Alike(nn.Module):
    """Outputs that are all equal: the gradients of a sample's cross-entropy cancel."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x).norm(dim=1, keepdim=True).expand(-1, 3)


class WeightNormed(nn.Module):
    """g v/|v| by torch's two ways; the second derivative of its own operation is wrong."""

    def __init__(self):
        super().__init__()
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.outer = nn.Linear(4, 3)

    def forward(self, x):
        return self.outer(self.inner(x).tanh())


class PlainNormed(WeightNormed):
    """The same from operations whose second derivatives are right."""

    def forward(self, x):
        g, v = self.inner.parametrizations.weight.original0, self.inner.parametrizations.weight.original1
        weight = g * v / (v * v).sum(1, keepdim=True) ** 0.5
        return self.outer(nn.functional.linear(x, weight, self.inner.bias).tanh())


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(7, 4, mode="mean"), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.bag(tokens).tanh())


class PlainBag(Bag):
    """The same from operations that have a second derivative."""

    def forward(self, tokens):
        return self.head(self.bag.weight[tokens].mean(1).tanh())


def mlp(*activations):
    parts, width = [], 6
    for activation in activations:
        parts += [nn.Linear(width, 5), activation]
        width = 5
    return nn.Sequential(*parts, nn.Linear(width, 3))


def in_two_places():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 3))


def pruned():
    model = mlp(nn.ReLU())
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def frozen():
    model = mlp(nn.ReLU(), nn.Tanh())
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


N = 12


def _vectors(generator):
    return torch.randn(N, 6, generator=generator, dtype=torch.float64)


def _images(generator):
    return torch.randn(N, 1, 8, 8, generator=generator, dtype=torch.float64)


def _tokens(generator):
    return torch.randint(7, (N, 5), generator=generator)


def _sequences(generator):
    return torch.randn(N, 4, 3, generator=generator, dtype=torch.float64)


def _marked(generator):
    mask = torch.ones(N, 5, dtype=torch.long)
    mask[::2, 3:] = 0
    return {"input_ids": _tokens(generator), "attention_mask": mask}


def _with_lengths(generator):
    return {"x": _sequences(generator), "lengths": torch.randint(1, 5, (N,), generator=generator)}


def _maps(generator):
    labels = torch.randint(3, (N, 3, 3), generator=generator)
    labels[:, 0] = labels[3] = -100
    return labels


def _several(generator):
    return torch.randint(2, (N, 3), generator=generator).double()


def _labels(generator):
    return torch.randint(3, (N,), generator=generator)


def _values(generator):
    return torch.randn(N, 3, generator=generator, dtype=torch.float64)


def _numbers(generator):
    return torch.randn(N, generator=generator, dtype=torch.float64)


def _token_labels(generator):
    labels = torch.randint(3, (N, 5), generator=generator)
    labels[0, 2:] = labels[3, 0] = -100
    return labels


def _itself(generator):
    return _vectors(torch.Generator().manual_seed(5))


def _square(outputs, targets):
    return 0.5 * (outputs.reshape(targets.shape) - targets).square().sum() / len(targets)


XENT = nn.CrossEntropyLoss()
#: name: (model, inputs, targets, loss as fm.at takes it, the same by torch)
NETWORKS = {
    "mlp": (lambda: mlp(nn.ReLU(), nn.ReLU()), _vectors, _labels, "cross-entropy", XENT),
    "mlp, smooth": (lambda: mlp(nn.GELU(), nn.SiLU()), _vectors, _values, "square", _square),
    "tanh regression": (lambda: mlp(nn.Tanh(), nn.Tanh()), _vectors, _values, "square", _square),
    "layernorm resnet": (LayerNormResNet, _vectors, _labels, "cross-entropy", XENT),
    "softplus, Huber": (lambda: mlp(nn.Softplus()), _vectors, _values, nn.HuberLoss(), nn.HuberLoss()),
    "lenet": (LeNet, _images, _labels, "cross-entropy", XENT),
    "groupnorm resnet": (GroupNormResNet, _images, _labels, XENT, XENT),
    "batchnorm in eval": (BatchNormNet, _vectors, _labels, "cross-entropy", XENT),
    "transformer": (Transformer, _tokens, _labels, "cross-entropy", XENT),
    "language model": (LanguageModel, _tokens, _token_labels, XENT, XENT),
    "lstm": (LSTMClassifier, _sequences, _labels, "cross-entropy", XENT),
    "tied autoencoder": (TiedAutoencoder, _itself, _vectors, nn.MSELoss(), nn.MSELoss()),
    "residual in a sequential": (
        lambda: nn.Sequential(nn.Linear(6, 4), Residual(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 3)),
        _vectors, _labels, "cross-entropy", XENT,
    ),
    "module used twice": (Twice, _vectors, _values, "square", _square),
    "module in two places": (in_two_places, _vectors, _labels, "cross-entropy", XENT),
    "pruned": (pruned, _vectors, _labels, "cross-entropy", XENT),
    "frozen": (frozen, _vectors, _labels, "cross-entropy", XENT),
    "dict inputs": (DictModel, _marked, _labels, "cross-entropy", XENT),
    "odd parameters": (Odd, _vectors, _numbers, "square", _square),
    "embedding bag": (Bag, _tokens, _labels, "cross-entropy", XENT),
    "vision transformer": (VisionTransformer, _images, _labels, "cross-entropy", XENT),
    "packed gru": (Packed, _with_lengths, _labels, "cross-entropy", XENT),
    "experts": (Experts, _vectors, _labels, "cross-entropy", XENT),
    "sorted rows": (Sorted, _vectors, _labels, "cross-entropy", XENT),
    "checkpointed": (Checkpointed, _vectors, _labels, "cross-entropy", XENT),
    "weight norm": (WeightNormed, _vectors, _labels, "cross-entropy", XENT),
    "padding": (
        lambda: nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3)),
        _tokens, _labels, "cross-entropy", XENT,
    ),
    "segmentation": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 4, stride=2), nn.Tanh(), nn.Conv2d(3, 3, 1)),
        _images, _maps, XENT, XENT,
    ),
    "several labels": (
        lambda: mlp(nn.Tanh()), _vectors, _several, nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss()
    ),
    "discriminator": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(0.2), nn.Linear(4, 3), nn.Sigmoid()),
        _vectors, _several, nn.BCELoss(), nn.BCELoss(),
    ),
}  # fmt: skip


def problem(name):
    """Model (in training mode, as a reader has it), inputs, targets, loss, loss by torch; float64."""
    make, inputs, targets, loss, plain = NETWORKS[name]
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
        if name == "batchnorm in eval":
            model.train()
    return model, inputs(generator), targets(generator), loss, plain


def call(model, inputs):
    outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def reference(model, inputs, targets, plain):
    """Loss, gradient, per-sample gradients (n, P) and Hessian (P, P) by plain backward passes."""
    twin = _twin(model).eval()
    tensors = [p for p in twin.parameters() if p.requires_grad]

    def flat(parts):
        return torch.cat([p.reshape(-1) for p in parts])

    def at(rows):
        some = {k: v[rows] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[rows]
        outputs = call(twin, some)
        return plain(outputs, targets[rows])

    def share(i):
        """n times sample i's share of the mean: torch divides by the number of labels that count."""
        if targets.ndim > 1 and not targets.is_floating_point():
            counted = (targets != -100).flatten(1).sum(1)
            return at(slice(i, i + 1)) * counted[i] / counted.sum() * len(targets)
        return at(slice(i, i + 1))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        mean = at(slice(None))
        grads = torch.autograd.grad(mean, tensors, create_graph=True, materialize_grads=True)
        gradient = flat(grads)
        rows = []
        for i in range(len(gradient)):
            if gradient[i].requires_grad:
                rows.append(
                    flat(torch.autograd.grad(gradient[i], tensors, retain_graph=True, materialize_grads=True))
                )
            else:
                rows.append(torch.zeros_like(gradient))
        samples = [
            flat(torch.autograd.grad(share(i), tensors, materialize_grads=True)) for i in range(len(targets))
        ]
    return mean.detach(), gradient.detach(), torch.stack(samples), torch.stack(rows)


def output_rows(model, inputs, targets, plain, samples):
    """Rows R_i of the first samples, R_iᵀR_i = J_iᵀ(∂²ℓ_i/∂f²)J_i, by plain backward passes."""
    twin = _twin(model).eval()
    tensors = [p for p in twin.parameters() if p.requires_grad]

    def flat(parts):
        return torch.cat([p.reshape(-1) for p in parts])

    def pulled(number, sources):
        return torch.autograd.grad(number, sources, retain_graph=True, materialize_grads=True)

    some = {k: v[:samples] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:samples]
    rows = []
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        outputs = call(twin, some)
        f = outputs.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(plain(f, targets[:samples]) * samples, f, create_graph=True)
        for i in range(samples):
            jacobian = torch.stack([flat(pulled(one, tensors)) for one in outputs[i].reshape(-1)])
            bent = torch.stack([pulled(one, f)[0][i].reshape(-1) for one in slope[i].reshape(-1)])
            values, basis = torch.linalg.eigh((bent + bent.T) / 2)
            rows.append(values.clamp(min=0).sqrt()[:, None] * (basis.T @ jacobian))
    return torch.stack(rows).detach()


def _twin(model):
    if isinstance(model, Bag):
        rebuilt = PlainBag().double()
        rebuilt.load_state_dict(model.state_dict())
        return rebuilt
    if isinstance(model, WeightNormed):
        rebuilt = PlainNormed().double()
        rebuilt.load_state_dict(model.state_dict())
        return rebuilt
    if any(prune.is_pruned(m) for m in model.modules()):
        rebuilt = pruned().double()
        rebuilt.load_state_dict(model.state_dict())
        return rebuilt
    return copy.deepcopy(model)


def forms(inputs, targets):
    """The same samples in every form a reader may have."""
    found = {"pair": (inputs, targets)}
    if isinstance(inputs, torch.Tensor):
        whole = TensorDataset(inputs, targets)
        found |= {
            "arrays": (inputs.numpy(), targets.numpy()),
            "data set": whole,
            "loader": DataLoader(whole, batch_size=5),
            "list of pairs in a data set": _Listed(inputs, targets),
        }
    else:
        found["dict"] = {**inputs, "labels": targets}
        found["numpy dict"] = ({k: np.asarray(v) for k, v in inputs.items()}, targets)
    return found


class _Listed(torch.utils.data.Dataset):
    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.inputs[i], self.targets[i]
