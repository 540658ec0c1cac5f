"""`python -m flatmin diagnose`: what it prints and writes, and one exit status for each kind of end."""

import functools
import json
import subprocess
import sys

import pytest

from flatmin.__main__ import main
from flatmin.diagnosis import measure
from flatmin.diagnosis.report import Report

NETWORK = """
import torch, flatmin as fm
train, test = fm.datasets.digits(60)
def make():
    return fm.models.mlp((64, 4, 10)), "cross-entropy", train
def more():
    return {"model": make()[0], "loss": "square", "data": train, "samples": 40, "k": 2}
def wrong():
    return 3
def odd():
    return more() | {"depth": 3}
def broken():
    raise ValueError("data: the file is empty")
def spoiled():
    model = make()[0]
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    return model, "cross-entropy", train
number = 3
"""
QUICK = ("--eta", "0.1", "--batch-size", "20", "--what", "lambda_1, descent", "--budget", "5m")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    return tmp_path


def test_from_the_shell_it_prints_the_report_and_writes_it(folder):
    command = [sys.executable, "-m", "flatmin", "diagnose", "my_network:make", *QUICK]
    done = subprocess.run(
        [*command, "--json", "out.json", "--html", "out.html"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    report = Report.from_json((folder / "out.json").read_text("utf8"))
    assert str(report) in done.stdout
    assert report.facts["parameters"] == 310
    assert report["descent"].estimate.value == pytest.approx(0.05 * report["lambda_1"].estimate.value, abs=0)
    assert (folder / "out.html").read_text("utf8").startswith("<!doctype html>")


def test_a_file_and_further_arguments(folder, capsys):
    assert main(["diagnose", "my_network.py:more", *QUICK, "--json", "out.json", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    facts = json.loads((folder / "out.json").read_text("utf8"))["facts"]
    assert (facts["samples"], facts["of_samples"], facts["loss"]) == (40, 60, "square")
    assert main(["diagnose", "my_network.py:more", *QUICK, "--samples", "30", "--json", "out.json"]) == 0
    assert json.loads((folder / "out.json").read_text("utf8"))["facts"]["samples"] == 30


def test_without_eta_where_nothing_hangs_on_it(capsys):
    assert main(["diagnose", "my_network:make", "--what", "loss, lambda_1", "--k", "1"]) == 0
    assert "η =" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["my_network:make"], "eta=None: must be given for the line 'descent_step'"),
        (["my_network:make", *QUICK, "--eta", "-1"], "eta=-1.0: must be"),
        (["my_network:make", *QUICK, "--batch-size", "61"], "batch_size=61: must be"),
        (["my_network:make", *QUICK, "--budget", "soon"], "budget='soon': must be"),
        (["my_network:make", *QUICK, "--what", "sharpnes"], "did you mean 'sharpness'"),
        (["my_network:spoiled", *QUICK], "finite"),
        (["my_network:broken", *QUICK], "data: the file is empty"),
        (["my_network:wrong", *QUICK], "wrong()=3: must be (model, loss, data)"),
        (["my_network:odd", *QUICK], "make()='depth': must be one of"),
    ],
)
def test_what_is_refused_ends_with_1_and_a_sentence(arguments, sentence, capsys):
    assert main(["diagnose", *arguments]) == 1
    heard = capsys.readouterr()
    assert sentence in heard.err
    assert len(heard.err.strip().splitlines()) == 1
    assert heard.out == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "required: MODULE:FUNCTION"),
        (["my_network", *QUICK], "must be MODULE:FUNCTION"),
        (["no_such_module:make", *QUICK], "'no_such_module' cannot be imported"),
        (["none.py:make", *QUICK], "'none.py' cannot be imported"),
        (["my_network:nothing", *QUICK], "has no function 'nothing'"),
        (["my_network:number", *QUICK], "has no function 'number'"),
        (["my_network:make", *QUICK, "--html", "none/out.html"], "in a folder that exists"),
        (["my_network:make", *QUICK, "--k", "many"], "invalid int value"),
    ],
)
def test_what_cannot_be_meant_ends_with_2(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        main(["diagnose", *arguments])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_interrupted_it_writes_what_there_is(folder, monkeypatch, capsys):
    from flatmin.diagnosis.steps import Steps

    @functools.wraps(measure.diagnose)
    def stop(*_, **__):
        raise KeyboardInterrupt

    arguments = ["diagnose", "my_network:make", *QUICK, "--what", "all", "--json", "out.json"]
    monkeypatch.setattr(Steps, "_noise", stop)
    assert main(arguments) == 130
    report = Report.from_json((folder / "out.json").read_text("utf8"))
    assert report.plan.interrupted
    assert "noise" in report.plan.dropped
    monkeypatch.setattr(measure, "diagnose", stop)
    assert main(arguments) == 130
    assert "interrupted before the first number" in capsys.readouterr().err
