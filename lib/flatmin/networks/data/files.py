"""Where the files of the image sets come from: a folder that holds them, a cache, or a download.

The checksums are the SHA-256 of the files that the authors published (found on files whose md5 is the
published one). Nothing here unpickles anything.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import sys
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["CIFAR10", "FASHION_MNIST", "MNIST", "DataUnavailableError", "Source", "fetch", "read_idx"]

#: names a folder that already holds the files, either directly or in ``mnist``, ``fashion-mnist``,
#: ``cifar-10``
FOLDER_VARIABLE = "FLATMIN_DATA"
_TIMEOUT = 30  # seconds without an answer before the next mirror is tried


class DataUnavailableError(OSError):
    """A file of a data set could be had from nowhere; the message names every way that is left."""


@dataclass(frozen=True)
class Source:
    """A data set's files: ``files`` maps names to SHA-256, ``mirrors`` are https addresses up to the name."""

    folder: str
    mirrors: tuple[str, ...]
    files: dict[str, str]


MNIST = Source(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)
FASHION_MNIST = Source(
    "fashion-mnist",
    (
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)
CIFAR10 = Source(
    "cifar-10",
    ("https://www.cs.toronto.edu/~kriz/",),
    {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
)
#: SHA-256 of the batches inside the archive, in file order; a folder may hold them bare or as .xz
CIFAR10_BATCHES = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}


def _places(source: Source) -> list[Path]:
    """Folders that may hold the files of a set."""
    named = os.environ.get(FOLDER_VARIABLE)
    given = [Path(named) / source.folder, Path(named)] if named else []
    try:
        return [*given, _cache(source)]
    except ModuleNotFoundError:  # no pooch: nothing is downloaded, so there is no cache
        return given


def _cache(source):
    import pooch  # only what may be downloaded needs it

    return Path(pooch.os_cache("flatmin")) / source.folder


def fetch(source: Source, name: str) -> Path:
    """Return the path of one file of a set: from the folder of FLATMIN_DATA, the cache, or downloaded into
    it.

    Every file is checked against its SHA-256; an interrupted or wrong download leaves nothing behind,
    and the mirrors are tried in turn. Raises DataUnavailableError where none of them answers with the right
    file, where FLATMIN_DATA holds a file of that name with another content, or where pooch, which only
    downloads need, is not installed.
    """
    digest = source.files[name]
    for place in _places(source):
        path = place / name
        if path.is_file():
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                    return path
            named = os.environ.get(FOLDER_VARIABLE)
            if named and Path(named) in (place, place.parent):
                raise DataUnavailableError(
                    f"{name} in the folder of {FOLDER_VARIABLE} is not the published file: "
                    f"its SHA-256 is not {digest}"
                )
    return _download(source, name, f"sha256:{digest}")


def _download(source, name, known_hash):
    try:
        import pooch
    except ModuleNotFoundError:
        raise DataUnavailableError(
            f"{name} is in no folder that {FOLDER_VARIABLE} names, and to download it takes pooch, which is "
            "not installed"
        ) from None
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=2**16, timeout=_TIMEOUT)
    reasons = []
    for mirror in source.mirrors:
        try:
            found = pooch.retrieve(mirror + name, known_hash, name, _cache(source), downloader=downloader)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong hash a ValueError
            reasons.append(f"{mirror}: {type(error).__name__}: {str(error).splitlines()[0][:160]}")
        else:
            return Path(found)
    raise DataUnavailableError(
        f"{name} could not be downloaded:\n  "
        + "\n  ".join(reasons)
        + f"\nWithout a network: put it into a folder and name that folder in {FOLDER_VARIABLE} "
        f"(or its parent, with the subfolder {source.folder!r}), or use datasets.digits(), "
        "which needs no download."
    )


def read_idx(path: Path) -> np.ndarray:
    """Return the array of a gzipped idx file of unsigned bytes; ValueError for another format."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path.name} is no whole gzip file: {error}") from None
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name} is not an idx file of unsigned bytes")
    axes = content[3]
    if len(content) < 4 + 4 * axes:
        raise ValueError(f"{path.name} ends within its header")
    shape = np.frombuffer(content, ">u4", axes, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if values.size != shape.prod():
        raise ValueError(f"{path.name} holds {values.size} values, its header says {shape.prod()}")
    return values.reshape(shape)


def read_cifar10(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 3, 32, 32) and labels (n,) of the named batches, unsigned bytes, in file order."""
    content = b"".join(_cifar10_batch(name) for name in names)
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _cifar10_batch(name: str) -> bytes:
    for place in _places(CIFAR10):
        for path, opened in ((place / name, open), (place / f"{name}.xz", lzma.open)):
            if path.is_file():
                try:
                    with opened(path, "rb") as file:
                        return _checked(name, file.read())
                except (EOFError, lzma.LZMAError) as error:
                    raise DataUnavailableError(f"{path} is no whole xz file: {error}") from None
    with tarfile.open(fetch(CIFAR10, "cifar-10-binary.tar.gz"), "r:gz") as archive:
        member = next(m for m in archive if m.name.rsplit("/", 1)[-1] == name)
        return _checked(name, archive.extractfile(member).read())


def _checked(name, content):
    if hashlib.sha256(content).hexdigest() != CIFAR10_BATCHES[name]:
        raise DataUnavailableError(f"{name} is not the published file: its SHA-256 differs")
    return content
