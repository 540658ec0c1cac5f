"""Where the files of the image sets come from: a folder that holds them, a cache, or a download.

The checksums are the md5 published with each set. Nothing here unpickles anything.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch

__all__ = ["CIFAR10", "FASHION_MNIST", "MNIST", "DataUnavailableError", "Source", "fetch", "read_idx"]

#: names a folder that already holds the files, either directly or in ``mnist``, ``fashion-mnist``,
#: ``cifar-10``
FOLDER_VARIABLE = "FLATMIN_DATA"
_TIMEOUT = 30  # seconds without an answer before the next mirror is tried


class DataUnavailableError(OSError):
    """A file of a data set could be had from nowhere; the message names every way that is left."""


@dataclass(frozen=True)
class Source:
    """A data set's files: ``files`` maps names to md5, ``mirrors`` are addresses up to the name."""

    folder: str
    mirrors: tuple[str, ...]
    files: dict[str, str]


MNIST = Source(
    "mnist",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)
FASHION_MNIST = Source(
    "fashion-mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)
CIFAR10 = Source(
    "cifar-10",
    ("https://www.cs.toronto.edu/~kriz/",),
    {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
)
#: md5 of the batches inside the archive, in file order; a folder may hold them bare or as .xz
CIFAR10_BATCHES = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def _places(source: Source) -> list[Path]:
    """Folders that may hold the files of a set."""
    named = os.environ.get(FOLDER_VARIABLE)
    given = [Path(named) / source.folder, Path(named)] if named else []
    return [*given, _cache(source)]


def _cache(source):
    return Path(pooch.os_cache("flatmin")) / source.folder


def fetch(source: Source, name: str) -> Path:
    """Return the path of one file of a set: from the folder of FLATMIN_DATA, the cache, or downloaded into
    it.

    Every file is checked against its published md5; an interrupted or wrong download leaves nothing behind,
    and the mirrors are tried in turn. Raises DataUnavailableError where none of them answers with the right
    file, or where FLATMIN_DATA holds a file of that name with another content.
    """
    md5 = source.files[name]
    for place in _places(source):
        path = place / name
        if path.is_file():
            if pooch.file_hash(str(path), "md5") == md5:
                return path
            if place != _cache(source):
                raise DataUnavailableError(
                    f"{name} in the folder of {FOLDER_VARIABLE} is not the published file: "
                    f"its md5 is not {md5}"
                )
    return _download(source, name, f"md5:{md5}")


def _download(source, name, known_hash):
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=2**16, timeout=_TIMEOUT)
    reasons = []
    for mirror in source.mirrors:
        try:
            found = pooch.retrieve(mirror + name, known_hash, name, _cache(source), downloader=downloader)
        except (
            OSError,
            ValueError,
        ) as error:  # requests' errors are OSErrors, pooch's wrong hash a ValueError
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
    with gzip.open(path, "rb") as file:
        content = file.read()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name} is not an idx file of unsigned bytes")
    axes = content[3]
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
                with opened(path, "rb") as file:
                    return _checked(name, file.read())
    with tarfile.open(fetch(CIFAR10, "cifar-10-binary.tar.gz"), "r:gz") as archive:
        member = next(m for m in archive if m.name.rsplit("/", 1)[-1] == name)
        return _checked(name, archive.extractfile(member).read())


def _checked(name, content):
    if hashlib.md5(content).hexdigest() != CIFAR10_BATCHES[name]:
        raise DataUnavailableError(f"{name} is not the published file: its md5 differs")
    return content
