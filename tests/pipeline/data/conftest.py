from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.source import Source

WriteRows = Callable[..., Source]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Write rows to a JSONL and return its source; the keywords are the source's other fields."""

    def write(*rows: dict[str, Any], name: str = "rows.jsonl", **fields: Any) -> Source:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Source(str(path), **fields)

    return write
