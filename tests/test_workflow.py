"""What runs on GitHub: the tests as everywhere, pages and releases, nothing unpinned and no bots."""

import re

import pytest
import yaml


@pytest.fixture(scope="module")
def workflows(root):
    return {path.name: path.read_text("utf8") for path in (root / ".github/workflows").glob("*.yml")}


def steps(job):
    return "\n".join(step.get("run", "") for step in job["steps"])


def test_a_change_is_tested_as_ci_does_and_what_is_built_is_published(workflows):
    jobs = yaml.safe_load(workflows["book.yml"])["jobs"]
    assert ".ci/run\n" in steps(jobs["test"])
    assert "make book pdf" in steps(jobs["test"])
    assert "pip wheel" in steps(jobs["test"])
    assert {jobs[name]["needs"] for name in ("pages", "release")} == {"test"}
    assert "refs/heads/main" in jobs["pages"]["if"]
    assert "refs/tags/v" in jobs["release"]["if"]


def test_every_action_is_a_commit_and_no_job_may_write_more_than_it_must(workflows):
    for name, text in workflows.items():
        used = re.findall(r"uses: (\S+)", text)
        assert used
        assert [each for each in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", each)] == [], name
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}, name
        assert "secrets." not in text


def test_the_targets_that_a_workflow_names_exist(root, workflows):
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text("utf8"), re.M))
    called = {
        word
        for text in workflows.values()
        for line in re.findall(r"^\s+make (.*)", text, re.M)
        for word in line.split()
    }
    assert called <= targets


def test_no_bot_moves_the_pins(root):
    assert not [path for name in ("dependabot", "renovate") for path in (root / ".github").glob(f"{name}*")]
