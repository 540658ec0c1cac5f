"""The one writer of every file: in one step, on the disk when it returns, and in words when it cannot be.

A kill leaves the old file or the new one, never half of it, and at most a temporary file whose name says
which process it belonged to; the next process that writes there removes it.
"""

import contextlib
import errno
import itertools
import os
import platform
import re
import secrets
from hashlib import sha256
from pathlib import Path

from flatmin import _check

__all__ = ["FileError", "checked_path", "clear_leftovers", "in_words", "read_bytes", "write_bytes"]

# process ids mean something on one machine only, and return: a leftover of our own number is told by _RUN
_HOST, _RUN = sha256(platform.node().encode()).hexdigest()[:6], secrets.token_hex(3)
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{6})-(\d+)-([0-9a-f]{6})-\d+\.part")
_count = itertools.count()  # threads write at the same time
_cleared = set()  # folders looked through by this process

_FULL = "the disk is full: make room, then give the same command again; what is finished is kept"
_CLOSED = "writing there is not allowed: change its permissions, or name another folder"
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the file is larger than the system allows: raise that limit (`ulimit -f`), then go on",
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EROFS: _CLOSED,
    errno.EISDIR: "a folder stands in its place: move it away, or name another file",
    errno.ENOTDIR: "a file stands where one of its folders should be: move it away, or name another folder",
    errno.EEXIST: "a file stands where one of its folders should be: move it away, or name another folder",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter one",
    errno.ELOOP: "it is a link that leads back to itself: remove it",
}


class FileError(OSError):
    """A file that cannot be read or written: one sentence with its name, the reason and what to do."""


def checked_path(name, value):
    """Return the argument ``name`` as a Path; ValueError for what is no path."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value) or "\0" in os.fspath(value):
        raise _check.refused(name, value, "a path")
    return Path(value)


def write_bytes(path, content):
    """Write a file in one step: a reader, or a kill, finds the old file or the new one, never half of it.

    Folders are made as needed. A link is followed. When this returns, the content is on the disk. Raises
    FileError, in one sentence, where the file cannot be written; a file that was there is then as before.
    """
    path = Path(path)
    with in_words(path, "written"):
        path = _place(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in _cleared:
            clear_leftovers(path.parent)
        temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{_RUN}-{next(_count)}.part")
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def read_bytes(path):
    """Return the content of a file, or None where there is none. Raises FileError where it cannot be read."""
    path = Path(path)
    with in_words(path, "read"):
        path = _place(path)
        return path.read_bytes() if path.exists() else None


def clear_leftovers(folder):
    """Remove from a folder the temporary files of processes that have died on this machine."""
    folder = Path(folder)
    for path in folder.glob(".*.part"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and found[1] == _HOST and not _writing(int(found[2]), found[3]):
            with contextlib.suppress(OSError):  # another process was faster, or may and we may not
                path.unlink()
    _cleared.add(folder)


def _writing(pid, run):
    """Whether a process that wrote under that number may still live."""
    if pid == os.getpid():
        return run == _RUN
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it lives, and is somebody else's
        return True
    return True


def _place(path):
    """Return where a path leads, links followed; OSError for what can hold no file."""
    if path.is_symlink():
        target = path.resolve()  # RuntimeError or OSError for a loop, by version
        if not target.exists():
            raise FileError(f"it is a link to {os.readlink(path)}, which does not exist: remove the link")
        path = target
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "")
    return path


@contextlib.contextmanager
def in_words(path, what):
    """Turn what goes wrong with a file that is being ``what`` ("written", "read") into a FileError."""
    try:
        yield
    except RuntimeError:
        raise FileError(f"{path} cannot be {what}: {_REASONS[errno.ELOOP]}") from None
    except FileError as error:
        raise FileError(f"{path} cannot be {what}: {error}") from None
    except OSError as error:
        reason = _REASONS.get(error.errno) or error.strerror or str(error)
        raise FileError(f"{path} cannot be {what}: {reason}") from error


def _sync_folder(folder):
    """Put a folder's entries on the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
