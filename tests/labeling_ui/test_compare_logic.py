"""Run the laws of the comparison's modules that need no browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

LAWS = Path(__file__).with_name("compare_logic.mjs")
STATIC = Path(__file__).parents[2] / "labeling_ui" / "static"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_comparison_keeps_its_laws(tmp_path: Path):
    # Browsers are told that these are modules by the page; Node wants to read it here.
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    shutil.copytree(STATIC, tmp_path / "static")
    shutil.copy(LAWS, tmp_path)
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", LAWS.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# pass 0" not in done.stdout
