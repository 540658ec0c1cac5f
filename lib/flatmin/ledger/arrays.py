"""Arrays to the bytes of an npz file and back: reproducible, hashed, no pickles."""

import hashlib
import io
import keyword
import os

import numpy as np

_TAKEN = ("file", "allow_pickle")  # names of np.savez's own arguments


def packed(arrays):
    """Return a dict of arrays and numbers as the bytes of an npz file; equal arrays give equal bytes.

    Raises ValueError, naming the array, for a name that is no identifier and for values that are not
    numbers, truth values or text (they would need pickles).
    """
    ready = {}
    for key, value in arrays.items():
        if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key) or key in _TAKEN:
            raise ValueError(f"array name {key!r}: must be an identifier, and none of {', '.join(_TAKEN)}")
        ready[key] = np.asarray(value)
        if ready[key].dtype.hasobject:
            raise ValueError(
                f"array {key!r} of dtype {ready[key].dtype}: must be numbers, truth values or text"
            )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **ready)
    return buffer.getvalue()


def unpacked(content):
    """Return the dict of arrays in the bytes of an npz file; arrays without axes come as NumPy scalars."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {key: file[key][()] for key in file.files}


def sha256(content):
    """Return the SHA-256 of some bytes, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_bytes(path, content):
    """Write a file in one step: a reader, or a kill, finds the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
