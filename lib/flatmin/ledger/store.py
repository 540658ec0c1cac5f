"""The finished points of a sweep on disk, and which of several processes computes which of the others."""

import errno
import os
import warnings
from pathlib import Path

from flatmin.ledger.arrays import unsealed
from flatmin.ledger.files import clear_leftovers, in_words, read_bytes, write_bytes

try:
    import fcntl
except ImportError:  # Windows: each process for itself, which costs time and nothing else
    fcntl = None


class Store:
    """A folder with a sealed file ``KEY.npz`` for each finished point of one sweep.

    A point being computed is claimed by a lock on one byte of the file ``.claims``, at a position that its
    key gives: the system lets go of it when the process dies, however it dies. The last process to leave
    removes the file. Claims keep work from being done twice; that results are whole is the writer's doing.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._file, self._claims = None, self.folder / ".claims"

    def __enter__(self):
        if self.folder.is_dir():
            clear_leftovers(self.folder)
        if self._claims.exists():  # of a process that was killed: to be removed on leaving
            self._open()
        return self

    def __exit__(self, *_):
        if self.folder.is_dir():
            clear_leftovers(self.folder)  # of a process that was killed beside this one
        if self._file is None:
            return
        if fcntl is not None and self._lock(0, 0):
            self._claims.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    def path(self, key):
        """Return the file of a finished point."""
        return self.folder / f"{key}.npz"

    def read(self, key):
        """Return (arrays, seconds) of a finished point, or None; a damaged file is named and removed."""
        content = read_bytes(self.path(key))
        if content is None:
            return None
        try:
            return self._opened(key, content)
        except ValueError:
            warnings.warn(f"{self.path(key)} is damaged: its point is computed again", stacklevel=4)
            self.forget(key)
            return None

    def keep(self, key, content):
        """Store a finished point at once, from its sealed bytes, and return what :meth:`read` will."""
        found = self._opened(key, content)
        write_bytes(self.path(key), content)
        return found

    def forget(self, key):
        """Remove a finished point."""
        self.path(key).unlink(missing_ok=True)

    def _opened(self, key, content):
        arrays = unsealed(content, key, self.path(key))
        return arrays, float(arrays.pop("seconds_"))

    def claim(self, key):
        """Whether this process is to compute a point: no other one is at it. To be released."""
        if fcntl is None:
            return True
        while True:
            if self._file is None:
                self._open()
            if not self._lock(1, _position(key)):
                return False
            if os.fstat(self._file.fileno()).st_nlink:
                return True
            self._file.close()  # removed by the last process that left, after we had opened it
            self._file = None

    def release(self, key):
        """Give up the claim on a point."""
        if self._file is not None and fcntl is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _position(key))

    def _open(self):
        with in_words(self._claims, "written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._claims, "ab")  # noqa: SIM115 - open as long as anything is claimed

    def _lock(self, length, start):
        """Whether a lock could be had (on the whole file with 0, 0)."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError as error:  # others are a file system without locks: each for itself
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True


def _position(key):
    return int(key[:15], 16)
