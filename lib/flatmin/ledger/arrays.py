"""Arrays to the bytes of an npz file and back: reproducible, sealed, no pickles.

A *state* is what a computation leaves to be continued from: an npz file whose last bytes (the comment of the
zip archive) name its kind and hold the SHA-256 of all before them.
"""

import hashlib
import io
import keyword
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from flatmin import _check
from flatmin.ledger.files import checked_path, read_bytes, write_bytes

__all__ = ["load_state", "packed", "save_state", "sealed", "sha256", "unpacked", "unsealed"]

_TAKEN = ("file", "allow_pickle")  # names of np.savez's own arguments
_MARK, _DIGITS = b"flatmin:", 64
_KIND = re.compile(r"[a-z0-9][a-z0-9 ._-]*")


def packed(arrays, compress=True):
    """Return a dict of arrays and numbers as the bytes of an npz file; equal arrays give equal bytes.

    Raises ValueError, naming the array, for a name that is no identifier and for values that are not
    numbers, truth values or text (they would need pickles).
    """
    if not isinstance(arrays, Mapping):
        raise _check.refused("arrays", arrays, "a dict of arrays and numbers")
    ready = {}
    for key, value in arrays.items():
        if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key) or key in _TAKEN:
            raise ValueError(f"array name {key!r}: must be an identifier, and none of {', '.join(_TAKEN)}")
        ready[key] = np.asarray(value)
        if ready[key].dtype.hasobject:
            raise ValueError(
                f"array {key!r} of dtype {ready[key].dtype}: must be numbers, truth values or text"
            )
    compress, buffer = _check.flag("compress", compress), io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **ready)
    return buffer.getvalue()


def unpacked(content):
    """Return the dict of arrays in the bytes of an npz file; arrays without axes come as NumPy scalars."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {key: file[key][()] for key in file.files}


def sha256(content):
    """Return the SHA-256 of some bytes, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _checked_kind(kind):
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise _check.refused("kind", kind, "words of lower-case letters, digits, '.', '-' and '_'")
    return kind


def sealed(content, kind):
    """Return an npz file (bytes) with its ``kind`` and the hash of both at its end; NumPy reads it, too."""
    kind = _checked_kind(kind)
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = _MARK + kind.encode() + b":" + b"0" * _DIGITS
    body = buffer.getvalue()[:-_DIGITS]
    return body + sha256(body).encode()


def unsealed(content, kind, name):
    """Return the dict of arrays in sealed bytes.

    Raises ValueError, beginning with ``name`` (of the file), where they are not what was sealed, or of
    another kind.
    """
    body, digest = content[:-_DIGITS], content[-_DIGITS:]
    if sha256(body).encode() != digest:
        what = "is empty" if not content else "is damaged, or was not written by this library"
        raise ValueError(f"{name} {what}: move it away to begin anew")
    found = body.rpartition(_MARK)[2][:-1].decode("ascii", "replace")
    if found != kind:
        raise ValueError(f"{name} holds another kind of state, {found!r} and not {kind!r}: name another file")
    return unpacked(content)


def save_state(path, arrays, kind):
    """Keep the state of a computation in one step, so that a kill leaves the old state or the new one.

    Parameters
    ----------
    path : str or Path
        An npz file.
    arrays : dict
        Arrays, numbers and text by name.
    kind : str
        Words that say whose state it is; :func:`load_state` asks for the same.

    Raises
    ------
    ValueError
        For what npz cannot hold without pickles.
    flatmin.ledger.files.FileError
        Where the file cannot be written, with what to do.
    """
    write_bytes(checked_path("path", path), sealed(packed(arrays, compress=False), kind))


def load_state(path, kind):
    """Return the dict of arrays that :func:`save_state` kept, or None where there is no file.

    Raises ValueError, naming the file, for one that is empty, truncated, damaged, foreign or of another
    kind, FileError (an OSError) for one that cannot be read.
    """
    path, kind = checked_path("path", path), _checked_kind(kind)
    content = read_bytes(path)
    return None if content is None else unsealed(content, kind, path)
