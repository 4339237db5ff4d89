from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a command sets in the environment from the other tests."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
