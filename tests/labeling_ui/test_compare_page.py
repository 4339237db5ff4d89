from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from labeling_ui.app import create_app
from labeling_ui.lab_page import LINKS, _header
from labeling_ui.policy import COMPARE, LAB, LABEL
from labeling_ui.settings import AppSettings
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from tests.labeling_ui.browsers import HERE, PAGE, SCRIPT
from tests.run_folders import write_stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def browser(store: LabelStore, accounts: Accounts, tmp_path: Path) -> Iterator[TestClient]:
    """Return a browser on the whole app of a run."""
    del accounts
    write_stage(tmp_path / "runs" / "tiny", "sft")
    app = create_app(store, AppSettings(), run_dir=tmp_path / "runs" / "tiny")
    with TestClient(app, HERE, headers={"origin": HERE}, follow_redirects=False) as client:
        client.portal.call(app.state.pages.opened)
        yield client


def test_the_page_is_a_leads_and_stands_below_the_lab(
    browser: TestClient, sign_in: Callable
) -> None:
    away = browser.get("/lab/compare/", headers=PAGE)
    assert (away.status_code, away.headers["location"]) == (303, "/signin?next=%2Flab%2Fcompare%2F")
    sign_in(browser, "bob")
    for path in ("/lab/compare", "/lab/compare/", "/lab/compare/config", "/api/lab/compare/runs"):
        assert browser.get(path, headers=PAGE).status_code == 403
    sign_in(browser, "ada")
    moved = browser.get("/lab/compare?a=1", headers=PAGE)
    assert (moved.status_code, moved.headers["location"]) == (307, "/lab/compare/?a=1")
    page = browser.get("/lab/compare/", headers=PAGE)
    assert page.status_code == 200
    assert "/static/compare/compare.js" in page.text
    policy = page.headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    titles = {path: browser.get(f"{path}/config").json()["title"] for path in (LABEL, LAB, COMPARE)}
    assert titles == {
        LABEL: "Label · Steerline",
        LAB: "Lab · Steerline",
        COMPARE: "Compare · Steerline",
    }
    runs = browser.get("/api/lab/compare/runs", headers=SCRIPT).json()
    assert [run["name"] for run in runs["runs"]] == ["tiny"]
    assert browser.get("/static/compare/compare.js").status_code == 200


def test_the_lab_links_there_where_there_is_a_run() -> None:
    assert 'href="/lab/compare/"' in _header(Path("runs/tiny"))
    assert "compare" not in _header(None)
    assert all(f'href="{to}"' in _header(Path("runs")) for to, _ in LINKS)


def test_an_app_of_a_run_loads_nothing_heavy_and_starts_no_model(tmp_path: Path) -> None:
    LabelStore.open(tmp_path / "labels.db").close()
    write_stage(tmp_path / "tiny", "sft")
    code = (
        "import json, multiprocessing, sys\n"
        "from pathlib import Path\n"
        "from labeling_ui.app import AppSettings, create_app\n"
        "from pipeline.serving import ModelServer\n"
        "from pipeline.store import LabelStore\n"
        "folder = Path(sys.argv[1])\n"
        "with ModelServer() as models:\n"
        "    store = LabelStore.open(folder / 'labels.db')\n"
        "    create_app(store, AppSettings(), run_dir=folder / 'tiny', models=models)\n"
        "    assert models.loaded() == ()\n"
        "heavy = ('gradio', 'pandas', 'matplotlib', 'scipy', 'torch', 'transformers', 'alembic')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(done.stdout) == []
