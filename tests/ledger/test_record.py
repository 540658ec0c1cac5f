import json

import numpy as np
import pytest

import flatmin
from flatmin.experiments import status
from flatmin.ledger import paths, record
from flatmin.ledger.record import RecordError, load, provenance_table, save

ORIGIN = {"seed": 3, "scale": "the paper's: 10 runs", "command": "python -m flatmin experiments run demo"}
ARRAYS = {"eta": np.array([0.01, 0.1]), "flatness": np.ones((2, 3)), "runs": 10, "noise": ["sgd", "gld"]}


def test_what_is_saved_is_loaded(tmp_path):
    saved = save("demo", ARRAYS, data_set="digits", wall_time=95.0, folder=tmp_path, **ORIGIN)
    result = load("demo", tmp_path)
    np.testing.assert_array_equal(result.eta, ARRAYS["eta"])
    assert result.flatness.shape == (2, 3)
    assert result.runs == 10
    assert result.noise.tolist() == ["sgd", "gld"]
    assert result.provenance == saved.provenance
    assert result.provenance["seed"] == 3
    assert repr(result) == "<Result demo: eta (2,), flatness (2, 3), runs (), noise (2,)>"
    with pytest.raises(AttributeError, match="no array 'sigma', but eta, flatness"):
        _ = result.sigma
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "demo.npz"]


def test_the_same_arrays_make_the_same_file(tmp_path):
    save("one", ARRAYS, folder=tmp_path, **ORIGIN)
    save("two", ARRAYS, folder=tmp_path, **ORIGIN)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_provenance_says_what_computed_it(tmp_path):
    origin = save("demo", ARRAYS, folder=tmp_path, sweeps=2, **ORIGIN).provenance
    assert origin["numpy"] == np.__version__
    assert origin["flatmin"] == flatmin.__version__
    assert origin["sweeps"] == 2
    assert origin["device"].endswith(("cores", "core"))
    assert len(origin["commit"].rstrip("+")) == 40
    assert set(origin) >= {"python", "torch", "date", "scale", "command", "data_set", "wall_time"}


def test_outside_of_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert save("demo", ARRAYS, folder=tmp_path, **ORIGIN).provenance["commit"] is None
    monkeypatch.setenv("FLATMIN_COMMIT", "abc+")
    assert save("demo", ARRAYS, folder=tmp_path, **ORIGIN).provenance["commit"] == "abc+"


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: corrupt(folder / "demo.npz"), r"demo\.npz is not the file that demo\.json describes"),
        (lambda folder: (folder / "demo.npz").write_bytes(b""), r"demo\.npz is not the file"),
        (lambda folder: (folder / "demo.npz").unlink(), r"demo\.npz does not exist"),
        (lambda folder: (folder / "demo.json").unlink(), r"demo\.json does not exist"),
        (lambda folder: (folder / "demo.json").write_text("{"), r"demo\.json is no record"),
        (lambda folder: (folder / "demo.json").write_text("[]"), r"demo\.json is no record"),
        (lambda folder: (folder / "demo.json").write_bytes(b"\xff\xfe"), r"demo\.json is no record"),
        (lambda folder: set_format(folder, 99), r"demo\.json has format 99"),
    ],
)
def test_a_result_that_does_not_fit_together_is_refused_by_name(tmp_path, harm, words):
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    harm(tmp_path)
    with pytest.raises(RecordError, match=words):
        load("demo", tmp_path)


def set_format(folder, number):
    entry = json.loads((folder / "demo.json").read_text("utf8"))
    (folder / "demo.json").write_text(json.dumps(entry | {"format": number}), "utf8")


def edited(change):
    def edit(folder):
        entry = json.loads((folder / "demo.json").read_text("utf8"))
        change(entry)
        (folder / "demo.json").write_text(json.dumps(entry), "utf8")

    return edit


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["provenance"].update(seed=4),
        lambda entry: entry["provenance"].update(scale="the paper's: 1000 runs"),
        lambda entry: entry["provenance"].update(wall_time=float("nan")),
        lambda entry: entry["provenance"].update(more=1),
        lambda entry: entry["provenance"].pop("date"),
        lambda entry: entry.update(provenance={}),
        lambda entry: entry.update(name="other"),
        lambda entry: entry.update(more=1),
        lambda entry: entry.update(seal="0" * 64),
        lambda entry: entry.pop("seal"),
        lambda entry: entry.update(provenance=[["date", "2026-01-01"]]),
    ],
)
def test_an_edited_record_is_refused_whatever_was_edited(tmp_path, change):
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    load("demo", tmp_path)
    edited(change)(tmp_path)
    with pytest.raises(RecordError, match=r"demo\.json was changed after it was made"):
        load("demo", tmp_path)


def test_a_seal_does_not_stand_in_for_an_origin(tmp_path):
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    edited(lambda entry: entry.update(provenance={}))(tmp_path)
    edited(lambda entry: entry.update(seal=record.seal(entry)))(tmp_path)
    with pytest.raises(RecordError, match=r"does not say where the result comes from: no date, device"):
        load("demo", tmp_path)


@pytest.mark.parametrize("suffixes", [(".npz",), (".json",), (".npz", ".json")])
def test_another_results_files_are_not_taken_for_this_ones(tmp_path, suffixes):
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    save("other", ARRAYS | {"runs": 11}, folder=tmp_path, **ORIGIN)
    for suffix in suffixes:
        (tmp_path / f"demo{suffix}").write_bytes((tmp_path / f"other{suffix}").read_bytes())
    with pytest.raises(
        RecordError, match=r"demo\.(npz is not the file|json is the record of 'other', not of)"
    ):
        load("demo", tmp_path)


@pytest.mark.parametrize("harm", [None, {}, [], "x", 3, {"format": 2}, {"provenance": {}}])
def test_what_is_no_record_is_reported_by_status_and_never_a_crash(tmp_path, harm):
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    (tmp_path / "demo.json").write_text(json.dumps(harm), "utf8")
    state = status({"demo": None}, tmp_path)["demo"]
    assert state.startswith("damaged: ")
    assert "demo.json is no record of a result" in state


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_folder_or_a_dangling_link_in_place_of_a_file_is_named(tmp_path, suffix):
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    path = tmp_path / f"demo{suffix}"
    path.unlink()
    for put, words in (
        (lambda: path.mkdir(), "a folder stands in its place"),
        (lambda: path.symlink_to("nowhere"), "a link to nowhere"),
    ):
        put()
        (tmp_path / ".demo.next").unlink(missing_ok=True)
        with pytest.raises(RecordError, match=rf"demo\{suffix} cannot be read: .*{words}"):
            load("demo", tmp_path)
        with pytest.raises(OSError, match=rf"demo\{suffix} cannot be written: .*{words}"):
            save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "3", True])
def test_a_wall_time_is_a_number_of_seconds(tmp_path, seconds):
    with pytest.raises(ValueError, match=r"wall_time=.*must be a finite real number at least 0"):
        save("demo", ARRAYS, wall_time=seconds, folder=tmp_path, **ORIGIN)


def test_a_result_in_a_folder_needs_no_book_around_the_library(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATMIN_HOME", str(tmp_path / "nowhere"))
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    assert load("demo", tmp_path).runs == 10
    corrupt(tmp_path / "demo.npz")
    with pytest.raises(RecordError, match=r"demo\.npz is not the file"):
        load("demo", tmp_path)


def test_the_recorded_results_of_the_book_are_as_they_were_sealed():
    names = sorted(path.stem for path in paths.results().glob("*.json"))
    assert names == sorted(path.stem for path in paths.results().glob("*.npz"))
    assert len(names) >= 16
    for name in names:
        assert load(name).name == name


def test_a_missing_result_is_named_from_the_root(monkeypatch):
    with pytest.raises(
        RecordError, match=r"^data/results/no-such-result\.json does not exist: `python -m flatmin"
    ):
        load("no-such-result")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": " "}, "scale="),
        ({"command": ""}, "command="),
        ({"command": "python /home/me/run.py"}, "command=.*absolute path"),
        ({"data_set": "~/mnist"}, "data_set=.*absolute path"),
        ({"files": ["/tmp/x"]}, "files=.*absolute path"),
        ({"device": "C:\\gpu"}, "device=.*absolute path"),
        ({"seed": float("nan")}, "cannot be kept as JSON"),
        ({"more": object()}, "cannot be kept as JSON"),
    ],
)
def test_provenance_must_mean_something_elsewhere(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        save("demo", ARRAYS, folder=tmp_path, **(ORIGIN | change))
    assert list(tmp_path.iterdir()) == []


def test_slashes_that_are_no_paths_are_fine(tmp_path):
    scale = "1/10 of the paper's steps, η/B as there; see https://example.org/x and data/results"
    assert save("demo", ARRAYS, folder=tmp_path, **(ORIGIN | {"scale": scale})).provenance["scale"] == scale


@pytest.mark.parametrize("name", ["../up", "Demo", "", "a b", None])
def test_names_are_plain(tmp_path, name):
    with pytest.raises(ValueError, match="name="):
        save(name, ARRAYS, folder=tmp_path, **ORIGIN)
    with pytest.raises(ValueError, match="name="):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.array([None])}, "array 'a' of dtype object"),
        ({"not an id": 1}, "'not an id'"),
        ({"file": 1}, "'file'"),
        ({"class": 1}, "'class'"),
        ({"provenance": 1}, "'provenance'"),
    ],
)
def test_arrays_need_names_and_numbers(tmp_path, arrays, words):
    with pytest.raises(ValueError, match=words):
        save("demo", arrays, folder=tmp_path, **ORIGIN)


def test_nothing_is_ever_unpickled(tmp_path):
    np.savez(tmp_path / "demo.npz", a=np.array([{}], dtype=object))
    digest = record.sha256((tmp_path / "demo.npz").read_bytes())
    origin = save("other", ARRAYS, folder=tmp_path, **ORIGIN).provenance
    entry = {"format": record.FORMAT, "name": "demo", "sha256": digest, "provenance": origin}
    (tmp_path / "demo.json").write_text(json.dumps(entry | {"seal": record.seal(entry)}), "utf8")
    with pytest.raises(RecordError, match=r"demo\.npz holds something else than arrays"):
        load("demo", tmp_path)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("suffix", "runs"), [(".next", 10), (".npz", 10), (".json", 11), (None, 11)])
def test_a_kill_at_any_step_of_saving_leaves_the_old_result_or_the_new_one(
    tmp_path, monkeypatch, suffix, runs, first
):
    if not first:
        save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    write = record.write_bytes

    def killed(path, content):
        if path.suffix == suffix:
            raise KeyboardInterrupt
        write(path, content)

    unlink = record.Path.unlink

    def killed_last(path, **options):
        if path.suffix == ".next" and suffix is None:
            raise KeyboardInterrupt
        unlink(path, **options)

    monkeypatch.setattr(record, "write_bytes", killed)
    monkeypatch.setattr(record.Path, "unlink", killed_last)
    with pytest.raises(KeyboardInterrupt):
        save("demo", ARRAYS | {"runs": 11}, folder=tmp_path, **ORIGIN)
    monkeypatch.undo()
    if first and runs == 10:
        with pytest.raises(RecordError, match="does not exist"):
            load("demo", tmp_path)
    else:
        assert load("demo", tmp_path).runs == runs
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    assert load("demo", tmp_path).runs == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "demo.npz"]


def test_a_record_left_by_a_kill_is_no_way_around_the_seal(tmp_path):
    save("demo", ARRAYS, folder=tmp_path, **ORIGIN)
    (tmp_path / ".demo.next").write_bytes((tmp_path / "demo.json").read_bytes())
    save("other", ARRAYS | {"runs": 11}, folder=tmp_path, **ORIGIN)
    (tmp_path / "demo.npz").write_bytes((tmp_path / "other.npz").read_bytes())
    with pytest.raises(RecordError, match=r"demo\.npz is not the file that demo\.json describes"):
        load("demo", tmp_path)


def test_the_table_shows_where_a_result_comes_from(tmp_path):
    save("demo", ARRAYS, data_set="digits", wall_time=95.0, device="one <GPU>", folder=tmp_path, **ORIGIN)
    result = load("demo", tmp_path)
    table = provenance_table(result)
    text = repr(table)
    for piece in (
        "demo, 20",
        "the paper's: 10 runs",
        "digits",
        "one <GPU>",
        "1.6 min",
        "experiments run demo",
    ):
        assert piece in text
    assert "one &lt;GPU&gt;" in table._repr_html_()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (12, "12 s"), (59.6, "60 s"), (90, "1.5 min"), (7200, "2.0 h")]
)
def test_durations_are_readable(tmp_path, seconds, text):
    result = save("demo", ARRAYS, wall_time=seconds, folder=tmp_path, **ORIGIN)
    assert dict(provenance_table(result).rows)["time"] == text
