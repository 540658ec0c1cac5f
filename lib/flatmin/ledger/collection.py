"""From the verdicts kept in executed notebooks to ``data/verdicts.json``."""

import json
from pathlib import Path

from flatmin.ledger import paths
from flatmin.ledger.files import read_bytes, write_bytes
from flatmin.ledger.verdicts import MIME, Verdict, overall, seal

_NUMBERS = ("measured", "error", "printed", "expected")


def collect(notebooks):
    """Return the verdicts stored in executed notebooks, as a dict from claim id to its entry, sorted.

    An entry holds ``verdict`` (the overall one), the ``chapter`` (file stem) and the numbers ``measured``,
    ``error``, ``printed``, ``expected`` of the part that decides it, and ``parts``: every check, with its
    ``chapter``, its HTML ``anchor`` and the fields of :class:`~flatmin.ledger.verdicts.Verdict`.
    Raises ValueError, naming the notebook, when it makes the same check twice, and where a stored verdict was
    changed or is not what its numbers give: the word is derived again from what was compared.
    """
    found = {}
    for path in sorted(Path(path) for path in notebooks):
        anchors = set()
        for verdict in stored_verdicts(path):
            if verdict.anchor in anchors:
                raise ValueError(
                    f"{path.name} checks {verdict.name} twice: give each check of a claim its own part="
                )
            anchors.add(verdict.anchor)
            part = verdict.as_dict() | {"chapter": path.stem, "anchor": verdict.anchor}
            found.setdefault(part.pop("id"), []).append(part)
    return {id: _entry(found[id]) for id in sorted(found)}


def stored_verdicts(path):
    """Return the verdicts in the outputs of one notebook, in order.

    Raises ValueError, naming the notebook, for one that cannot be read and for a verdict that was changed
    after it was made or is not what its numbers give.
    """
    path = Path(path)
    try:
        content = read_bytes(path)
        if content is None:
            raise ValueError("there is no such notebook")
        cells = json.loads(content.decode("utf8"))["cells"]
        bundles = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        return [Verdict.stored(bundle[MIME]) for bundle in bundles if MIME in bundle]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} is no notebook: {error!r}") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _entry(parts):
    """Return the entry of one claim from its parts; a part with a number in it decides before others."""
    verdict = overall(part["verdict"] for part in parts)
    deciding = [part for part in parts if part["verdict"] == verdict]
    decisive = next((part for part in deciding if part["measured"] is not None), deciding[0])
    numbers = {name: decisive[name] for name in _NUMBERS}
    return {"verdict": verdict, "chapter": decisive["chapter"], **numbers, "parts": parts}


def write_verdicts(verdicts=None, path=None):
    """Write the verdicts to ``data/verdicts.json`` (or ``path``) and return the path.

    ``verdicts`` is what :func:`collect` returns; by default that of all notebooks in ``chapters/``. The
    same verdicts always give the same file.
    """
    if verdicts is None:
        verdicts = collect(paths.chapters().glob("*.ipynb"))
    path = paths.data() / "verdicts.json" if path is None else Path(path)
    content = {"seal": seal(verdicts), "verdicts": verdicts}
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode())
    return path


def load_verdicts(path=None):
    """Return the verdicts in ``data/verdicts.json`` (or ``path``): a dict, empty if there is no such file.

    Raises ValueError, naming the file, for one that was not written by :func:`write_verdicts` or changed
    since, for a verdict that is not what its numbers give, and for a claim's that its parts do not give.
    """
    path = paths.data() / "verdicts.json" if path is None else Path(path)
    content = read_bytes(path)
    if content is None:
        return {}
    try:
        found = json.loads(content.decode("utf8"))
        if set(found) != {"seal", "verdicts"} or found["seal"] != seal(found["verdicts"]):
            raise ValueError("it was changed after it was made")
        for id, entry in found["verdicts"].items():
            _confirm(id, entry)
        return found["verdicts"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be trusted: {error}; `make notebooks` makes it anew") from None


def _confirm(id, entry):
    """Raise ValueError unless the entry of a claim is what its parts give, and they what they compared."""
    for part in entry["parts"]:
        verdict = Verdict.from_dict(part | {"id": id})
        verdict.confirm()
        if part["anchor"] != verdict.anchor:
            raise ValueError(f"{verdict.name}: anchor={part['anchor']!r}: must be {verdict.anchor!r}")
    if entry != _entry(entry["parts"]):
        raise ValueError(f"{id}: the verdict reads {entry['verdict']!r}, and its parts say otherwise")
