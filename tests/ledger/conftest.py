import pytest

from flatmin.ledger import claims


@pytest.fixture(autouse=True)
def no_checks(monkeypatch):
    """Let each test begin without checks made."""
    monkeypatch.setattr(claims, "_made", {})
