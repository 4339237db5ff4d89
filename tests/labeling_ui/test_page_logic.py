"""Run the laws of the pages' modules that need no browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "labeling_ui" / "static"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("laws", ["board_logic.mjs", "compare_logic.mjs", "lab_logic.mjs"])
def test_a_page_keeps_its_laws(laws: str, tmp_path: Path):
    # Browsers are told that these are modules by the page; Node wants to read it here.
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    shutil.copytree(STATIC, tmp_path / "static")
    shutil.copy(HERE / laws, tmp_path)
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", laws],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# pass 0" not in done.stdout
