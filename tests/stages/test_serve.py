from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.label import AppSection
from pipeline.serving_messages import ServingSettings
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from pipeline.store.connect import PATIENCE
from stages.cli import main
from stages.serve import _serving


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
    with sqlite3.connect(tmp_path / "labels.db") as other:
        assert other.execute("SELECT version_num FROM label_store_version").fetchall() == [
            ("9999",)
        ]


def test_a_postgresql_out_of_reach_is_one_line_without_its_password(
    config: Path, taken: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    # Nobody answers at the other one: as with a machine that is gone, only patience ends.
    monkeypatch.setitem(PATIENCE, "psycopg", {"connect_timeout": 2})
    for port, reason in ((closed, "refused"), (taken, "timeout")):
        url = f"postgresql+psycopg://ada:secret@127.0.0.1:{port}/labels"
        message = refusal(capsys, config, f"label.store={url}")
        assert message.startswith(f"Label store {url.replace('secret', '***')} cannot be opened (")
        assert reason in message
        assert "secret" not in message


@pytest.mark.parametrize("command", [["serve"], ["user", "add"]], ids=" ".join)
def test_a_store_on_a_read_only_disk_is_one_line(
    command: list[str], config: Path, tmp_path: Path
) -> None:
    """A process of its own gives up the privilege of passing over permissions, if it has it."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() == 0 and setpriv is None:
        pytest.skip("gives up root's privileges with setpriv")
    drop = [str(setpriv), "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    store = tmp_path / "labels.db"
    before = store.read_bytes()
    store.chmod(0o444)
    tmp_path.chmod(0o555)
    words = [*command, str(config), *(["eve"] if "add" in command else ["--port", "0"])]
    done = subprocess.run(
        [*drop, sys.executable, "-m", "stages.cli", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    tmp_path.chmod(0o755)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"steerline: Label store {store} cannot be opened (")
    assert done.stderr.count("\n") == 1
    assert store.read_bytes() == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("label.app.models_memory_gb=0", "label.app.models_memory_gb must be positive, or null"),
        ("label.app.model_threads=0", "label.app.model_threads must be 1 or more"),
    ],
)
def test_what_the_models_may_take_is_checked(
    override: str, message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, config, override).startswith(message)


def test_what_the_models_may_take_is_passed_on() -> None:
    assert _serving(AppSection()) == ServingSettings(threads=1)
    section = AppSection(models_memory_gb=0.5, model_threads=2)
    assert _serving(section) == ServingSettings(memory_bytes=500_000_000, threads=2)
