"""Data files from a folder, a cache or a server on this machine: good, corrupt, interrupted, absent."""

import gzip
import hashlib
import http.server
import io
import lzma
import tarfile
import threading

import numpy as np
import pytest
import torch

from flatmin.networks.data import files
from flatmin.networks.data import sets as datasets


def idx(array):
    """The gzipped idx bytes of an array of unsigned bytes."""
    header = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(7, 28, 28), dtype=np.uint8)
LABELS = RNG.integers(10, size=7, dtype=np.uint8)
CONTENT = {
    "train-images-idx3-ubyte.gz": idx(IMAGES),
    "train-labels-idx1-ubyte.gz": idx(LABELS),
    "t10k-images-idx3-ubyte.gz": idx(IMAGES[:3]),
    "t10k-labels-idx1-ubyte.gz": idx(LABELS[:3]),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        behaviour, name = self.path.strip("/").split("/")
        self.server.asked.append(self.path)
        content = self.server.content.get(name)
        if content is None or behaviour == "absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if behaviour == "corrupt":
            content = content[:-1] + b"?"
        if behaviour == "interrupted":
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.content = [], dict(CONTENT)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test, no FLATMIN_DATA, no proxy."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("pooch.os_cache", lambda name: folder / name)
    monkeypatch.delenv("FLATMIN_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder / "flatmin" / "mnist"


@pytest.fixture
def mnist(server, monkeypatch, cache):
    """Make MNIST come from the server, through mirrors that behave as told."""

    def use(*behaviours):
        mirrors = tuple(f"http://127.0.0.1:{server.server_port}/{b}/" for b in behaviours)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
        source = files.Source("mnist", mirrors, sums)
        monkeypatch.setattr(files, "MNIST", source)
        return source

    return use


def test_a_download_is_read_and_kept(mnist, server):
    mnist("good")
    train, test = datasets.mnist("unit")
    assert train.inputs.shape == (7, 1, 28, 28)
    assert torch.equal((train.inputs[:, 0] * 255).round().to(torch.uint8), torch.from_numpy(IMAGES))
    assert train.targets.tolist() == LABELS.tolist()
    assert len(test) == 3
    asked = len(server.asked)
    datasets.mnist()
    assert len(server.asked) == asked == 4


@pytest.mark.parametrize("bad", ["corrupt", "interrupted", "absent"])
def test_a_bad_mirror_is_passed_over(mnist, server, bad):
    mnist(bad, "good")
    assert len(datasets.mnist().train) == 7
    assert len(server.asked) == 8


@pytest.mark.parametrize("bad", ["corrupt", "interrupted", "absent"])
def test_a_failed_download_leaves_nothing_and_says_what_to_do(mnist, cache, bad):
    source = mnist(bad)
    with pytest.raises(files.DataUnavailableError) as caught:
        files.fetch(source, "train-labels-idx1-ubyte.gz")
    message = str(caught.value)
    for word in ("train-labels-idx1-ubyte.gz", "127.0.0.1", "FLATMIN_DATA", "mnist", "datasets.digits()"):
        assert word in message
    assert not cache.exists() or not list(cache.iterdir())


def test_without_a_network_the_message_names_the_ways_left(mnist, server):
    source = mnist("good")
    server.shutdown()
    server.server_close()
    with pytest.raises(files.DataUnavailableError, match="FLATMIN_DATA"):
        files.fetch(source, "train-labels-idx1-ubyte.gz")


@pytest.mark.parametrize("folder", ["", "mnist"])
def test_a_named_folder_is_used_without_a_network(mnist, server, tmp_path, monkeypatch, folder):
    mnist("good")
    place = tmp_path / "own" / folder
    place.mkdir(parents=True)
    for name, content in CONTENT.items():
        (place / name).write_bytes(content)
    monkeypatch.setenv("FLATMIN_DATA", str(tmp_path / "own"))
    assert len(datasets.mnist().train) == 7
    assert server.asked == []


def test_a_wrong_file_in_the_named_folder_is_refused(mnist, tmp_path, monkeypatch):
    source = mnist("good")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(LABELS[::-1]))
    monkeypatch.setenv("FLATMIN_DATA", str(tmp_path))
    with pytest.raises(files.DataUnavailableError, match="not the published file"):
        files.fetch(source, "train-labels-idx1-ubyte.gz")


def test_a_damaged_cache_is_downloaded_again(mnist, cache):
    source = mnist("good")
    path = files.fetch(source, "train-labels-idx1-ubyte.gz")
    path.write_bytes(b"half a file")
    assert files.fetch(source, "train-labels-idx1-ubyte.gz").read_bytes() == CONTENT[path.name]


RECORDS = RNG.integers(256, size=(20, 3073), dtype=np.uint8)


@pytest.fixture
def cifar(server, monkeypatch, cache):
    """CIFAR-10 of 2 records a batch from the server, as the archive."""
    RECORDS[:, 0] %= 10
    names = list(files.CIFAR10_BATCHES)
    batches = {name: RECORDS[2 * i : 2 * i + 2].tobytes() for i, name in enumerate(names)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in batches.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    server.content["cifar-10-binary.tar.gz"] = buffer.getvalue()
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    mirror = (f"http://127.0.0.1:{server.server_port}/good/",)
    source = files.Source("cifar-10", mirror, {"cifar-10-binary.tar.gz": digest})
    monkeypatch.setattr(files, "CIFAR10", source)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in batches.items()}
    monkeypatch.setattr(files, "CIFAR10_BATCHES", sums)
    return batches


def check_cifar():
    train, test = datasets.cifar10("unit")
    assert train.inputs.shape == (10, 3, 32, 32)
    assert train.targets.tolist() == RECORDS[:10, 0].tolist()
    assert test.targets.tolist() == RECORDS[10:12, 0].tolist()
    pixels = (train.inputs * 255).round().to(torch.uint8).flatten(1)
    assert torch.equal(pixels, torch.from_numpy(RECORDS[:10, 1:]))


def test_cifar_is_read_from_the_archive(cifar):
    check_cifar()


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_cifar_is_read_from_batches_in_a_folder(cifar, server, tmp_path, monkeypatch, suffix):
    for name, content in cifar.items():
        packed = lzma.compress(content) if suffix else content
        (tmp_path / (name + suffix)).write_bytes(packed)
    monkeypatch.setenv("FLATMIN_DATA", str(tmp_path))
    check_cifar()
    assert server.asked == []
    (tmp_path / ("data_batch_1.bin" + suffix)).write_bytes(lzma.compress(b"no") if suffix else b"no")
    with pytest.raises(files.DataUnavailableError, match=r"data_batch_1\.bin is not the published file"):
        datasets.cifar10()


def test_what_is_no_idx_file_is_refused(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01" + bytes(8)))
    with pytest.raises(ValueError, match="not an idx file"):
        files.read_idx(path)
    path.write_bytes(gzip.compress(gzip.decompress(idx(LABELS))[:-1]))
    with pytest.raises(ValueError, match="holds 6 values, its header says 7"):
        files.read_idx(path)


@pytest.mark.parametrize(
    "content", [b"", b"no", idx(LABELS)[:15], gzip.compress(b"\x00\x00\x08\x03" + bytes(8))]
)
def test_a_truncated_idx_file_is_named(tmp_path, content):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"^x\.gz "):
        files.read_idx(tmp_path / "x.gz")


@pytest.mark.parametrize("content", [b"", b"no", lzma.compress(bytes(99))[:40]])
def test_a_truncated_batch_is_named(cifar, tmp_path, monkeypatch, content):
    (tmp_path / "data_batch_1.bin.xz").write_bytes(content)
    monkeypatch.setenv("FLATMIN_DATA", str(tmp_path))
    with pytest.raises(
        files.DataUnavailableError, match=r"data_batch_1\.bin(\.xz)? is (no whole xz|not the pub)"
    ):
        datasets.cifar10()


def test_parts_of_a_set(mnist):
    mnist("good")
    train, test = datasets.mnist(train=4, test=2, dtype=torch.float64)
    assert (len(train), len(test)) == (4, 2)
    assert train.inputs.dtype == torch.float64
    with pytest.raises(ValueError, match="train=8: must be an integer at least 1 and at most 7"):
        datasets.mnist(train=8)


def test_random_inputs():
    data = datasets.gaussian(4000, 3, seed=1)
    assert torch.cov(data.inputs.T).sub(torch.eye(3)).abs().max() < 4 * (2 / 4000) ** 0.5
    fit = torch.linalg.lstsq(data.inputs, data.targets)
    assert float((data.inputs @ fit.solution - data.targets).abs().max()) < 1e-12
    assert float(fit.solution.norm()) == pytest.approx(1)
    noise = datasets.gaussian(4000, 3, seed=1, targets="noise")
    assert torch.equal(noise.inputs, data.inputs)
    assert float((noise.inputs * noise.targets).mean(0).abs().max()) < 4 / 4000**0.5
    on_sphere = datasets.sphere(50, 4, seed=2)
    assert torch.allclose(on_sphere.inputs.norm(dim=1), torch.ones(50, dtype=torch.float64))
    with pytest.raises(ValueError, match="samples=0: must be an integer at least 1"):
        datasets.gaussian(0, 3)
    with pytest.raises(ValueError, match="targets='labels': must be one of"):
        datasets.sphere(5, 3, targets="labels")


@pytest.mark.parametrize("source", [files.MNIST, files.FASHION_MNIST, files.CIFAR10], ids=lambda s: s.folder)
def test_every_file_is_known_by_its_sha256_and_comes_encrypted(source):
    assert all(len(digest) == 64 for digest in [*source.files.values(), *files.CIFAR10_BATCHES.values()])
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in source.mirrors)
