"""The one writer: in one step, in words, and nothing left behind; and states that are what was kept."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flatmin.ledger import files
from flatmin.ledger.arrays import load_state, packed, save_state, sealed
from flatmin.ledger.files import FileError, read_bytes, write_bytes

STATE = {"theta": np.linspace(0, 1, 50), "t": 7, "plan": "abc"}


def test_what_is_written_is_read_and_nothing_is_beside_it(tmp_path):
    path = tmp_path / "new" / "folder" / "x"
    assert read_bytes(path) is None
    for content in (b"one", b"", b"three"):
        write_bytes(path, content)
        assert read_bytes(path) == content
    assert os.listdir(path.parent) == ["x"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_writer_that_is_stopped_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, step):
    write_bytes(tmp_path / "x", b"old")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    if step == "write":
        real = open

        def half(path, mode):
            with real(path, mode) as file:
                file.write(b"ne")
            raise KeyboardInterrupt

        monkeypatch.setattr("builtins.open", half)
    else:
        monkeypatch.setattr(*((files.os, step) if step == "fsync" else (files.Path, step)), stopped)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "x", b"new")
    monkeypatch.undo()
    assert read_bytes(tmp_path / "x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


WRITER = """
import sys
from flatmin.ledger.arrays import save_state
for t in range(10**9):
    save_state(sys.argv[1], {"a": [t] * 200_000, "t": t}, "demo")
    if t == 0:
        print("ready", flush=True)
"""


def test_kills_at_random_moments_leave_a_whole_state_and_no_temporary_file(tmp_path):
    rng, path, last = np.random.default_rng(0), tmp_path / "x.npz", -1
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        state = load_state(path, "demo")
        if state is not None:
            assert np.all(state["a"] == state["t"])
            last = max(last, int(state["t"]))
    assert last >= 0
    files._cleared.clear()
    write_bytes(tmp_path / "x.npz", b"")
    assert os.listdir(tmp_path) == ["x.npz"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "x.npz"
    pair = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) for _ in "ab"]
    for process in pair:
        process.stdout.readline()
    limit, seen = time.monotonic() + 2, 0
    while time.monotonic() < limit:
        state = load_state(path, "demo")
        if state is not None:
            assert np.all(state["a"] == state["t"])
            seen += 1
    running = [process.poll() is None for process in pair]
    for process in pair:
        process.kill()
        process.communicate()
    assert running == [True, True]
    assert seen


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    names = {
        f".x.{files._HOST}-{dead.pid}-abcdef-0.part": False,
        f".x.{files._HOST}-{os.getpid()}-abcdef-0.part": False,  # of another process of that number
        f".x.{files._HOST}-{os.getpid()}-{files._RUN}-0.part": True,
        f".x.{files._HOST}-{os.getppid()}-abcdef-0.part": True,
        ".x.000000-1-abcdef-0.part": True,  # of another machine
        ".somebody-elses.part": True,
        "x.part": True,
    }
    for name in names:
        (tmp_path / name).touch()
    write_bytes(tmp_path / "y", b"")
    left = set(os.listdir(tmp_path)) - {"y"}
    assert left == {name for name, stays in names.items() if stays}


def fails(monkeypatch, number):
    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", full)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full: make room, .* what is finished is kept"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "writing there is not allowed: change its permissions, or name another folder"),
        (errno.EACCES, "writing there is not allowed"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_disk_that_takes_no_more_is_one_sentence_and_keeps_what_was_there(
    tmp_path, monkeypatch, number, words
):
    write_bytes(tmp_path / "x", b"old")
    fails(monkeypatch, number)
    with pytest.raises(FileError, match=rf"^\S*/x cannot be written: {words}") as caught:
        write_bytes(tmp_path / "x", b"new")
    assert "\n" not in str(caught.value)
    assert read_bytes(tmp_path / "x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_larger_than_the_limit_is_refused_by_name(tmp_path):
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    script = (
        f"from flatmin.ledger.files import write_bytes; write_bytes({str(tmp_path / 'x')!r}, bytes(10**4))"
    )
    done = subprocess.run([sys.executable, "-c", script], preexec_fn=limited, capture_output=True, text=True)
    assert done.returncode == 1
    assert "x cannot be written: the file is larger than the system allows" in done.stderr
    assert os.listdir(tmp_path) == []


def a_folder(path):
    path.mkdir()


def a_dangling_link(path):
    path.symlink_to(path.with_name("nowhere"))


def a_loop(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("put", "words"),
    [
        (a_folder, "a folder stands in its place"),
        (a_dangling_link, "it is a link to .*nowhere, which does not exist: remove the link"),
        (a_loop, "it is a link that leads back to itself"),
    ],
)
def test_what_can_hold_no_file_is_refused_before_anything_is_computed(tmp_path, put, words):
    put(tmp_path / "x")
    for action, what in ((lambda: save_state(tmp_path / "x", STATE, "demo"), "written"),
                         (lambda: load_state(tmp_path / "x", "demo"), "read")):  # fmt: skip
        with pytest.raises(FileError, match=rf"/x cannot be {what}: {words}"):
            action()


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "f").touch()
    for path in (tmp_path / "f" / "x", tmp_path / "f" / "g" / "x"):
        with pytest.raises(FileError, match=r"x cannot be written: a file stands where one of its folders"):
            write_bytes(path, b"")


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "there").touch()
    (tmp_path / "x").symlink_to("there")
    write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "there").read_bytes() == b"new"


def test_a_state_comes_back_and_numpy_reads_it_too(tmp_path):
    path = tmp_path / "s.npz"
    assert load_state(path, "demo") is None
    save_state(path, STATE, "demo")
    state = load_state(path, "demo")
    np.testing.assert_array_equal(state["theta"], STATE["theta"])
    assert (int(state["t"]), str(state["plan"])) == (7, "abc")
    np.testing.assert_array_equal(np.load(path)["theta"], STATE["theta"])


def test_every_flipped_bit_and_every_truncation_of_a_state_is_found(tmp_path):
    path = tmp_path / "s.npz"
    save_state(path, {"a": np.arange(3.0)}, "demo")
    content = path.read_bytes()
    flipped = [bytearray(content) for _ in content]
    for position, damaged in enumerate(flipped):
        damaged[position] ^= 1 << position % 8
    damaged = [*map(bytes, flipped), *(content[:end] for end in range(len(content))), content + b"\n"]
    for harm in damaged:
        path.write_bytes(harm)
        with pytest.raises(ValueError, match=r"s\.npz is (empty|damaged)"):
            load_state(path, "demo")


@pytest.mark.parametrize("foreign", [packed({"a": 1}), b"hello", b"x" * 1000])
def test_a_foreign_file_is_no_state(tmp_path, foreign):
    (tmp_path / "s.npz").write_bytes(foreign)
    with pytest.raises(ValueError, match=r"s\.npz is damaged, or was not written by this library"):
        load_state(tmp_path / "s.npz", "demo")


def test_a_state_of_another_kind_is_refused(tmp_path):
    save_state(tmp_path / "s.npz", STATE, "demo")
    with pytest.raises(ValueError, match=r"s\.npz holds another kind of state, 'demo' and not 'other'"):
        load_state(tmp_path / "s.npz", "other")


@pytest.mark.parametrize("kind", ["", "A", "a:b", None, 3])
def test_a_kind_is_plain_words(kind):
    with pytest.raises(ValueError, match="kind="):
        sealed(packed({}), kind)
