# On Colab, fetch the library and what it lacks, and change nothing that is there. Safe to run twice.
import os
import sys
from importlib.metadata import distributions
from subprocess import run

if "google.colab" in sys.modules:
    there = {d.name: f"{d.name}=={d.version}\n" for d in reversed([*distributions()]) if d.name}
    if "flatmin" not in there:
        address, home = os.environ.get("FLATMIN_REPOSITORY", "{{ repository }}"), os.path.abspath("flatmin")
        if not os.path.isdir(home):
            run(["git", "clone", "--quiet", "--depth=1", address, home], check=True)
        with open(f"{home}/.installed.txt", "w") as file:
            file.writelines(there.values())
        run([sys.executable, "-m", "pip", "install", "-q", "-c", file.name, "-e", home], check=True)
        sys.path.insert(0, f"{home}/lib")
