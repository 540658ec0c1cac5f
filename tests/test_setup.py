"""What installs the book: its pins, torch's build, Binder, Colab, make and CI."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import environment
import flatmin
import install_torch
import notebooks
import rules
from install_torch import Build

# Pins


def pins(path):
    """Return the exact versions a requirements file names, by canonical name; anything looser fails."""
    lines = [line.split("#")[0].strip() for line in path.read_text("utf8").splitlines()]
    needed = [Requirement(line) for line in lines if line and not line.startswith("-")]
    for each in needed:
        assert [part.operator for part in each.specifier] == ["=="], f"{path.name}: {each} is not pinned"
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in needed}


def brought_along(names):
    """Return the installed packages that ``names`` need on this machine, themselves included."""
    found, waiting = set(), list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return found


def test_all_that_is_installed_is_pinned_once(root):
    required, rest = pins(root / "requirements.txt"), pins(root / "constraints.txt")
    assert not required.keys() & rest.keys()
    pinned = required | rest
    for name in sorted(brought_along(required)):
        installed = importlib.metadata.version(name).split("+")[0]
        assert pinned.get(name) == installed, f"{name}: installed {installed}, pinned {pinned.get(name)}"


def test_every_pin_can_be_had_for_the_oldest_python_that_the_book_takes(root):
    """Debian 12, where integration runs, has 3.11.2: a pin that asks for 3.11.5 ends the set-up."""
    oldest = ".".join(map(str, environment.LEAST)) + ".0"
    for name in sorted(brought_along(pins(root / "requirements.txt"))):
        allowed = importlib.metadata.metadata(name).get("Requires-Python") or ""
        assert SpecifierSet(allowed).contains(oldest), f"{name} asks for Python {allowed}"


def needs():
    """What the library needs, and its networks; not what the callbacks of other trainers need."""
    found = [Requirement(line) for line in importlib.metadata.requires("flatmin")]
    return [each for each in found if not each.marker or each.marker.evaluate({"extra": "networks"})]


def test_the_library_needs_nothing_that_is_not_pinned(root):
    required, needed = pins(root / "requirements.txt"), needs()
    assert len(needed) > 10
    for each in needed:
        assert each.specifier.contains(required[canonicalize_name(each.name)]), each


def test_binder_installs_the_same_versions_and_no_tools(root):
    required, binder = pins(root / "requirements.txt"), pins(root / "binder" / "requirements.txt")
    assert binder.items() <= required.items()
    own = {canonicalize_name(each.name) for each in needs()}
    assert own - {"torch"} <= binder.keys()
    assert not {"torch", "jupyter-book", "pytest", "nbval", "jupytext", "ruff"} & binder.keys()
    assert (root / "binder" / "runtime.txt").read_text() == (root / "runtime.txt").read_text()


def test_the_address_of_the_repository_stands_in_one_place(root, tracked):
    address = notebooks.placeholders()["repository"].split("://")[1].encode()
    holders = [path.relative_to(root).as_posix() for path in tracked if address in path.read_bytes()]
    made = [f"chapters/{name}.ipynb" for name in notebooks.chapter_names()]
    assert sorted(holders) == sorted(["_config.yml", *made])


def test_no_file_names_a_package_host_or_a_folder_of_one_machine(tracked):
    hosts = ["py" + "pi.org", "python" + "hosted", "download." + "pytorch", "conda" + ".anaconda"]
    folders = ["/wo" + "rk/", "/ro" + "ot/"]
    for path in tracked:
        content = path.read_bytes()
        found = [word for word in hosts + folders if word.encode() in content]
        assert not found, f"{path.name} holds {found}"


def test_the_citation_file_names_the_five_papers(root):
    assert len(yaml.safe_load((root / "CITATION.cff").read_text("utf8"))["references"]) == 5


def test_the_version_stands_in_one_place_and_the_citation_follows(root, tracked):
    assert importlib.metadata.version("flatmin") == flatmin.__version__
    assert yaml.safe_load((root / "CITATION.cff").read_text("utf8"))["version"] == flatmin.__version__
    stated = re.compile(rf"version_*\W{{1,8}}{re.escape(flatmin.__version__)}\b", re.IGNORECASE)
    texts = [path for path in tracked if path.suffix in (".py", ".md", ".toml", ".cff", ".yml")]
    holding = [path.name for path in texts if stated.search(path.read_text("utf8"))]
    assert sorted(holding) == ["CITATION.cff", "__init__.py"]


# Torch


LIGHT, HEAVY = Build("2.13.0+cpu", True), Build("2.13.0", False)
CUDA = ["filelock", "nvidia-cublas==13; platform_system == 'Linux'", "triton; platform_system == 'Linux'"]


@pytest.mark.parametrize(
    ("wanted", "installed", "offered", "way"),
    [
        ("cpu", None, LIGHT, "pip"),
        ("cpu", None, HEAVY, "uv"),
        ("cpu", None, None, "uv"),
        ("cpu", LIGHT, HEAVY, "keep"),
        ("cpu", HEAVY, LIGHT, "pip"),
        ("cpu", Build("2.12.0+cpu", True), LIGHT, "pip"),
        ("cuda", None, LIGHT, "pip"),
        ("cuda", HEAVY, LIGHT, "keep"),
        ("cuda", LIGHT, HEAVY, "pip"),
    ],
)
def test_the_light_build_is_taken_wherever_it_can_be_had(wanted, installed, offered, way):
    assert install_torch.choose(wanted, "2.13.0", installed, lambda: offered) == way


def test_an_unknown_build_is_refused():
    with pytest.raises(ValueError, match="TORCH='rocm': allowed are cpu and cuda"):
        install_torch.choose("rocm", "2.13.0", None, lambda: None)


@pytest.mark.parametrize(
    ("version", "requires", "system", "light"),
    [
        ("2.13.0+cpu", ["filelock", "sympy>=1.13"], "Linux", True),
        ("2.13.0", CUDA, "Linux", False),
        ("2.13.0+cu130", [], "Linux", False),
        ("2.13.0", ["nvidia-cublas; platform_machine == 'no-such-machine'"], "Linux", True),
        ("2.13.0", ["cuda-bindings; extra == 'gpu'"], "Linux", True),
        ("2.13.0", CUDA, "Darwin", True),
        ("2.13.0", None, "Windows", True),
    ],
)
def test_a_build_is_heavy_when_it_brings_cuda(version, requires, system, light):
    assert install_torch.is_light(version, requires, system) is light


def test_the_offered_build_is_read_from_pips_report():
    item = {"metadata": {"name": "torch", "version": "2.13.0+cpu", "requires_dist": ["filelock"]}}
    assert install_torch.build_in_report(json.dumps({"install": [item]})) == LIGHT
    assert install_torch.build_in_report(json.dumps({"install": []})) is None


def test_the_pin_is_read_from_the_requirements(root):
    text = (root / "requirements.txt").read_text("utf8")
    assert install_torch.pinned_version(text) == pins(root / "requirements.txt")["torch"]
    with pytest.raises(ValueError, match="torch==VERSION"):
        install_torch.pinned_version("numpy==2\ntorch>=2\n")


@pytest.fixture
def commands(monkeypatch):
    """The commands install_torch would run; those with a word of ``failing`` in them fail."""
    ran, failing = [], set()

    def run(command, check=False, **_):
        ran.append(" ".join(command).replace(sys.executable, "python"))
        status = int(any(word in command for word in failing))
        if check and status:
            raise subprocess.CalledProcessError(status, command)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(install_torch.subprocess, "run", run)
    monkeypatch.setattr(install_torch, "offered_build", lambda pin: HEAVY)
    return ran, failing


def test_uv_finds_the_light_build_where_pip_does_not(commands, monkeypatch, capsys):
    ran, failing = commands
    monkeypatch.setattr(install_torch, "installed_build", lambda: None)
    install_torch.install("cpu")
    assert re.fullmatch(r"python -m pip install --quiet --constraint \S+ uv", ran[0])
    assert re.search(r"-m uv pip install .*--torch-backend cpu torch==2\.13\.0", ran[1])
    assert len(ran) == 2

    failing.add("uv")
    install_torch.install("cpu")
    assert re.search(r"-m pip install .*torch==2\.13\.0", ran[-1])
    assert "CUDA build, several GB" in capsys.readouterr().out


def test_the_other_build_goes_before_the_wanted_one_comes(commands, monkeypatch):
    ran, _ = commands
    monkeypatch.setattr(install_torch, "installed_build", lambda: LIGHT)
    install_torch.install("cuda")
    assert re.search(r"-m pip uninstall .*torch", ran[0])
    assert re.search(r"-m pip install .*torch==2\.13\.0", ran[1])


# make


def test_an_old_python_is_refused_with_what_to_do():
    assert environment.too_old((3, 11, 0)) is None
    assert environment.too_old((4, 0, 0)) is None
    assert environment.too_old((3, 9, 18)) == (
        "The book needs Python 3.11 or newer, this is 3.9.18. Name another: make PYTHON=python3.11"
    )


@pytest.fixture
def checkout(root, tmp_path, monkeypatch):
    """A checkout whose set-up commands are noted and not run."""
    for name in environment.FILES:
        shutil.copy(root / name, tmp_path)
    ran = []

    def run(command, **_):
        ran.append([str(word) for word in command])
        if "venv" in ran[-1]:
            (tmp_path / ".venv" / "bin").mkdir(parents=True)
            environment.venv_python(tmp_path / ".venv").touch()

    monkeypatch.setattr(environment.subprocess, "run", run)
    return tmp_path, ran


@pytest.mark.skipif(os.name == "nt", reason="a virtual environment looks different there")
def test_set_up_runs_once_and_again_when_the_pins_or_the_build_change(checkout):
    folder, ran = checkout
    environment.set_up("", folder)
    assert len(ran) == 5
    assert ran[1][1:] == ["tools/install_torch.py", "cpu"]
    environment.set_up("", folder)
    environment.set_up("cpu", folder)
    assert len(ran) == 5
    environment.set_up("cuda", folder)
    assert ran[5][1:] == ["tools/install_torch.py", "cuda"]
    environment.set_up("", folder)  # the choice is kept
    assert len(ran) == 9
    (folder / "constraints.txt").write_text("numpy==1\n")
    environment.set_up("", folder)
    assert ran[9][1:] == ["tools/install_torch.py", "cuda"]


@pytest.mark.skipif(os.name == "nt", reason="a virtual environment looks different there")
def test_an_interrupted_set_up_is_done_again(checkout, monkeypatch):
    folder, ran = checkout
    environment.set_up("", folder)
    noted = environment.subprocess.run

    def interrupted(command, **_):
        raise subprocess.CalledProcessError(1, command)

    (folder / "requirements.txt").write_text("numpy==1\n")
    monkeypatch.setattr(environment.subprocess, "run", interrupted)
    with pytest.raises(subprocess.CalledProcessError):
        environment.set_up("", folder)
    monkeypatch.setattr(environment.subprocess, "run", noted)
    before = len(ran)
    environment.set_up("", folder)
    assert len(ran) == before + 4


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_names_its_targets(root):
    told = subprocess.run(["make"], cwd=root, capture_output=True, text=True, check=True).stdout
    for target in [
        "setup",
        "book",
        "test",
        "page",
        "check",
        "test-clean",
        "serve",
        "bench",
        "notebooks",
        "experiments",
        "gpu",
        "clean",
    ]:
        assert re.search(rf"^  {target} ", told, re.MULTILINE), target
    plan = subprocess.run(
        ["make", "-n", "clean"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert not re.search(r"rm -rf[^\n]*(data|\.venv)", plan)


def test_scripts_can_be_run(root):
    for name in (".ci/run", "binder/postBuild"):
        assert os.access(root / name, os.X_OK), name
        subprocess.run(["bash", "-n", str(root / name)], check=True)


def test_installing_takes_a_target_of_its_own(root):
    def collected(*options):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
        told = subprocess.run([*command, "tests/test_setup.py"], cwd=root, capture_output=True, text=True)
        assert told.returncode == 0, told.stdout
        return {line.partition("::")[2] for line in told.stdout.splitlines() if "::" in line}

    clean = collected("-m", "clean")
    assert len(clean) == 2
    assert not clean & collected()
    plan = subprocess.run(["make", "-n", "test-clean"], cwd=root, capture_output=True, text=True, check=True)
    assert "-m pytest -m clean tests/test_setup.py" in plan.stdout


# A wheel

INSTALLED = """
import sys
from pathlib import Path
import flatmin
from flatmin.explorers import bundle
from flatmin.ledger import claims, paths, record, scoreboard
home = Path(flatmin.__file__).parent
assert home.parent == Path(sys.argv[1]), home
assert "export default" in bundle.module("valley") and bundle.styles()
assert len(claims.load_claims()) > 40 and claims.load_verdicts()
assert claims.check("y22-flux", measured=1.0, error=0.1, printed=1.0).verdict == "reproduced"
for path in paths.results().glob("*.json"):
    assert record.load(path.stem).arrays
assert record.load("noise-alignment").provenance["scale"]
try:
    record.save("mine", {"a": 1}, seed=0, scale="s", command="c")
except FileNotFoundError as error:
    print(error)
record.save("mine", {"a": 1}, seed=0, scale="s", command="c", folder="here")
assert record.load("mine", "here").a == 1 and record.load("mine", "here").provenance["commit"] is None
"""


@pytest.mark.slow
def test_an_installed_wheel_holds_claims_verdicts_and_results(clone, tmp_path):
    """``pip install .`` without a checkout, into a folder of its own before this environment's packages."""
    folder = tmp_path / "site"
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(clone)]
    subprocess.run(command, check=True)
    shutil.rmtree(clone / "build", ignore_errors=True)
    settings = {key: value for key, value in os.environ.items() if key != "FLATMIN_HOME"}

    def python(*words):
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=settings | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )

    told = python("-c", INSTALLED, str(folder))
    assert told.returncode == 0, told.stderr
    assert "name a folder for new ones" in told.stdout
    for action in ("list", "status"):
        told = python("-m", "flatmin", "experiments", action)
        assert told.returncode == 0, told.stderr
        assert "noise-alignment" in told.stdout
    assert "noise-alignment: recorded 20" in told.stdout
    told = python("-m", "flatmin", "experiments", "run", "two_valleys")
    assert told.returncode == 1
    assert "name a folder for new ones (`--folder FOLDER`" in told.stderr
    assert "Traceback" not in told.stderr


# Colab and Binder


def test_the_bootstrap_cell_is_short_and_idle_elsewhere(tmp_path):
    text = notebooks.placeholders()["bootstrap"]
    assert len([line for line in text.splitlines() if line]) <= 15
    names = {}
    exec(text, names)  # here, where no google.colab is
    assert set(names) == {"__builtins__", "os", "sys", "distributions", "run"}


@pytest.fixture(scope="module")
def light_python(root, tmp_path_factory):
    """The Python of a new environment that holds what Binder installs, without torch and flatmin."""
    venv = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = environment.venv_python(venv)
    pip_install(python, "-r", root / "binder" / "requirements.txt")
    return python


def pip_install(python, *arguments):
    """Install into the environment of that Python."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(list(map(str, command)), check=True)


def installed(python):
    """Return the packages of that Python's environment, as lines name==version."""
    command = [str(python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.clean
def test_colab_gets_the_library_and_keeps_its_own_packages(light_python, clone, tmp_path):
    """The bootstrap cell against a local clone, in an environment with another NumPy and without pooch."""
    subprocess.run([str(light_python), "-m", "pip", "uninstall", "-q", "-y", "pooch"], check=True)
    pip_install(light_python, "numpy==2.4.5")
    before = installed(light_python)
    assert "numpy==2.4.5" in before
    (tmp_path / "cell.py").write_text(notebooks.placeholders()["bootstrap"])
    script = """
import sys, types
sys.modules["google"] = sys.modules["google.colab"] = types.ModuleType("google")
for time in range(2):
    exec(compile(open("cell.py").read(), "cell", "exec"))
import flatmin, pooch
print(flatmin.__file__)
"""
    settings = {**os.environ, "FLATMIN_REPOSITORY": clone.as_uri(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for _ in range(2):  # a second kernel finds all in place
        run = subprocess.run(
            [str(light_python), "-c", script], cwd=tmp_path, env=settings, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        assert Path(run.stdout.strip()) == tmp_path / "flatmin/lib/flatmin/__init__.py"
    assert before <= installed(light_python)
    assert {line.split("==")[0] for line in installed(light_python) - before} == {"flatmin", "pooch"}


def kernels_of(python):
    """Return a manager that starts kernels of another Python than the one that runs the tests."""

    class Kernels(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=[str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"])

    return Kernels()


@pytest.mark.clean
def test_a_clean_environment_from_the_binder_files_runs_the_first_chapter(light_python, clone):
    """What Binder does: requirements.txt, postBuild, then a reader runs the chapter."""
    pip_install(light_python, "-r", clone / "binder" / "requirements.txt")
    path = f"{light_python.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["binder/postBuild"], cwd=clone, env={**os.environ, "PATH": path}, check=True)
    size = sum(file.lstat().st_size for file in light_python.parent.parent.rglob("*"))
    assert size < 2e9

    assert notebooks.chapter_names(), "there is no chapter to run"
    name = notebooks.chapter_names()[0]
    notebook = nbformat.read(clone / "chapters" / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(clone / "chapters")}}
    client = NotebookClient(notebook, km=kernels_of(light_python), timeout=600, resources=resources)
    client.execute(env=os.environ | rules.ENVIRONMENT)
    assert notebooks.execution_problems(notebook) == []
