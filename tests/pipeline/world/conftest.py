from __future__ import annotations

import pytest

from pipeline.world import World


@pytest.fixture(scope="session")
def world() -> World:
    return World(0)
