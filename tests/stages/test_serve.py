from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from stages.cli import main

SECONDS = 60


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the configuration of a run whose store has a lead."""
    monkeypatch.setattr("pipeline.store.passwords.COST", 2**5)
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: {tmp_path}\nbase: a-model\n", encoding="utf-8")
    with LabelStore.open(tmp_path / "labels.db") as store:
        Accounts(store).add("ada", "lead")
    return path


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def refusal(capsys: pytest.CaptureFixture[str], config: Path, *more: object) -> str:
    assert main(["serve", str(config), *map(str, more)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("steerline: ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_another_host_needs_https_or_a_proxy(
    host: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, config, "--host", host)
    assert message.startswith("--host must be of this machine (127.0.0.1) without HTTPS")
    assert "--insecure" in message
    url = refusal(capsys, config, "--host", host, "--public-url", "https://label.example.org")
    assert url == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "x"], "--port must be a number from 0 to 65535, got 'x'."),
        (["--port", "70000"], "--port must be a number from 0 to 65535"),
        (["--proxy", "all"], "--proxy must be an address or a network (10.0.0.0/8), got 'all'."),
        (["--public-url", "label"], "--public-url must be scheme, host and port alone"),
        (["--key", "a.pem"], "--key must come with --certificate."),
        (["--certificate", "absent.pem"], "--certificate and --key must be readable PEM files"),
        (["--host", "nowhere.invalid", "--insecure"], "--host and --port must be free to listen"),
        (["--host", "a..b", "--insecure"], "--host and --port must be free to listen on"),
        (["--prot", "1"], "unrecognized arguments: --prot 1."),
    ],
)
def test_a_wrong_option_is_one_line(
    options: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, config, *options).startswith(message)


def test_a_certificate_that_is_none_is_one_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("no certificate", encoding="utf-8")
    message = refusal(capsys, config, "--certificate", file)
    assert message.startswith("--certificate and --key must be readable PEM files")
    assert str(file) in message


def test_a_port_in_use_is_one_line(
    config: Path, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, config, "--port", taken)
    assert message.startswith(f"--host and --port must be free to listen on, got 127.0.0.1:{taken}")


def test_without_a_lead_nobody_is_served(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.db"
    LabelStore.open(other).close()
    message = refusal(capsys, config, f"label.store=sqlite:///{other}", "--port", 0)
    assert message.startswith("No lead can sign in. Run 'steerline user add ")


def test_without_a_store_nobody_is_served(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = f"label.store=sqlite:///{tmp_path}/absent.db"
    assert refusal(capsys, config, absent).startswith("No label store in ")
    assert not (tmp_path / "absent.db").exists()


def test_a_store_of_a_newer_version_is_one_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    with sqlite3.connect(tmp_path / "labels.db") as other:
        other.execute("UPDATE label_store_version SET version_num = '9999'")
    assert "has schema '9999' of a newer version" in refusal(capsys, config)


class Served:
    """A server in a process of its own, until the test ends."""

    def __init__(self, config: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stages.cli", "serve", str(config), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r"(https?://[^/]+)/label, for leads .*/lab", self.line)
        assert found is not None, self.process.communicate(timeout=SECONDS)
        self.url = found.group(1)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", headers=headers, verify=False, timeout=SECONDS)

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err


@pytest.fixture
def serve(config: Path) -> Iterator:
    """Return a function that serves the run; whatever still runs at the end is killed."""
    started: list[Served] = []

    def start(*options: str) -> Served:
        started.append(Served(config, *options))
        return started[-1]

    yield start
    for served in started:
        served.process.kill()
        served.process.communicate()


def test_it_serves_until_it_is_interrupted_and_ends_quietly(serve) -> None:
    served = serve()
    answer = served.get("/signin")
    assert answer.status_code == 200
    assert "<h1>Sign in</h1>" in answer.text
    assert "server" not in answer.headers
    page = served.get("/lab/", accept="text/html")
    assert page.headers["location"] == "/signin?next=%2Flab%2F"
    assert served.get("/signin", host="evil.example").status_code == 400
    assert served.stop() == (0, "", "")


def test_it_speaks_https(serve, tmp_path: Path) -> None:
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
    assert served.stop()[0] == 0


def test_serving_loads_no_torch(config: Path) -> None:
    code = (
        "import json, sys, uvicorn\n"
        "from stages.cli import main\n"
        "heavy = ('torch', 'transformers', 'datasets', 'accelerate', 'trl', 'scipy')\n"
        "def look(server, sockets):\n"
        "    print(json.dumps([name for name in heavy if name in sys.modules]))\n"
        "uvicorn.Server.run = look\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(config), "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1]) == []
