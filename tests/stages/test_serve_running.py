from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.records import Prompt
from pipeline.store import LabelStore, Provenance, SampledCompletion
from pipeline.store.accounts import Accounts
from tests.stages.serving import GOOD, Served

ALLOWED = 1.5
"""Seconds that the first page may take beyond importing Gradio."""
ROUNDS = 3
HEAVY = ("torch", "transformers", "datasets", "accelerate", "trl", "scipy", "alembic")
TELL = (
    "import atexit, json, sys\n"
    "from stages.cli import main\n"
    f"heavy = {HEAVY}\n"
    "atexit.register(lambda: print(json.dumps([n for n in heavy if n in sys.modules])))\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the configuration of a run whose store has a lead."""
    monkeypatch.setattr("pipeline.store.passwords.COST", 2**5)
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: {tmp_path}\nbase: a-model\n", encoding="utf-8")
    with LabelStore.open(tmp_path / "labels.db") as store:
        accounts = Accounts(store)
        once = accounts.add("ada", "lead")
        accounts.change_password(accounts.sign_in("ada", once, "").account.id, once, GOOD)
    return path


@pytest.fixture
def serve(config: Path) -> Iterator[Callable[..., Served]]:
    """Return a function that serves the run; whatever still runs at the end is killed."""
    started: list[Served] = []

    def start(*options: str, **more: object) -> Served:
        started.append(Served(config, *options, **more))
        return started[-1]

    yield start
    for served in started:
        served.process.kill()
        served.process.communicate()


def test_it_serves_until_it_is_interrupted_and_ends_quietly(serve: Callable[..., Served]) -> None:
    served = serve()
    answer = served.get("/signin")
    assert answer.status_code == 200
    assert "<h1>Sign in</h1>" in answer.text
    assert "server" not in answer.headers
    page = served.get("/lab/", accept="text/html")
    assert page.headers["location"] == "/signin?next=%2Flab%2F"
    assert served.get("/signin", host="evil.example").status_code == 400
    assert served.stop() == (0, "", "")


def test_it_speaks_https(serve: Callable[..., Served], tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificate with openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    served = serve("--certificate", str(certificate), "--key", str(key), "--host", "0.0.0.0")
    assert served.url.startswith("https://")
    assert served.get("/signin").status_code == 200


def seconds_of_gradio() -> float:
    """Return the processor's seconds that importing Gradio takes."""
    imports = subprocess.Popen([sys.executable, "-c", "import gradio"])
    _, status, used = os.wait4(imports.pid, 0)
    imports.returncode = os.waitstatus_to_exitcode(status)
    assert imports.returncode == 0
    return used.ru_utime + used.ru_stime


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_first_page_is_there_soon_after_gradio_and_nothing_heavy_is_loaded(
    serve: Callable[..., Served],
) -> None:
    """Compare processor time, which a busy machine stretches less than the clock's."""
    told = []
    for _ in range(ROUNDS):
        gradio = seconds_of_gradio()
        served = serve(code=TELL)
        assert served.get("/signin").status_code == 200
        sign_in = served.cpu
        with served.sign_in("ada") as browser:
            assert browser.get("/label/").status_code == 200
            label = served.cpu
            assert browser.get("/lab/").status_code == 200
        code, out, err = served.stop()
        assert (code, json.loads(out), err) == (0, [], "")
        told.append(f"Gradio {gradio:.2f} s, sign-in {sign_in:.2f} s, /label/ {label:.2f} s")
        if sign_in < gradio / 2 and label < gradio + ALLOWED:
            return
    pytest.fail("; ".join(told))


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (
            "raise ImportError('no such library\\nat all')",
            2,
            "steerline: Gradio cannot make its pages (no such library at all). See that it is "
            "installed, all of it, and can write to the temporary folder.\n",
        ),
        (
            "import os, tempfile; tempfile.mkdtemp(dir=os.devnull)",
            2,
            "can write to the temporary folder.\n",
        ),
        ("raise RuntimeError('broken')", 1, "RuntimeError: broken\n"),
    ],
)
def test_an_app_without_its_pages_ends(
    fault: str, code: int, said: str, serve: Callable[..., Served], tmp_path: Path
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "gradio.py").write_text(f"{fault}\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "lib"), os.environ.get("PYTHONPATH", "")])
    served = serve(env={"PYTHONPATH": path})
    left, out, err = served.wait()
    assert (left, out) == (code, "")
    assert err.endswith(said)
    assert err.count("\n") == 1 or code == 1


def limit_files(served: Served, size: int) -> None:
    """Let no file of a process grow beyond a size, in bytes, as on a disk that is full."""
    hard = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process")
def test_what_finds_no_room_is_not_saved_and_is_stored_once_when_there_is(
    config: Path, serve: Callable[..., Served]
) -> None:
    with LabelStore.open(config.with_name("labels.db")) as store:
        prompt = Prompt.from_text("Name a tree.")
        store.add_prompts([prompt])
        texts = [SampledCompletion(text, Provenance("sft")) for text in ("Oak.", "Salmon.")]
        store.add_completions(prompt.id, texts)
        store.create_ranking_tasks(1)
    served = serve()
    with served.sign_in("ada") as browser:
        # Gradio needs room of its own as it begins.
        assert browser.get("/lab/").status_code == 200
        task = browser.post("/api/desk/lease", json={}).json()["task"]
        ranks = {choice["id"]: rank for rank, choice in enumerate(task["completions"], start=1)}
        token = task["token"]
        draft = {"token": token, "version": 0, "content": {"note": "mine"}}
        work = {"token": token, "key": "once", "judgment": {"ranks": ranks}}
        requests = (("/api/desk/draft", draft), ("/api/desk/submit", work))
        limit_files(served, 0)
        for path, body in requests:
            answer = browser.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "not_saved")
        limit_files(served, resource.RLIM_INFINITY)
        for path, body in (*requests, requests[1]):
            assert browser.post(path, json=body).status_code == 200
    served.process.kill()
    with LabelStore.open(config.with_name("labels.db")) as store:
        assert store.counts()["judgments_human"] == 1
