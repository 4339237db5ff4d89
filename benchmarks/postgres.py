"""Start a PostgreSQL of one's own for a test or a benchmark, and take it away afterwards.

It lives in a temporary folder and listens on a socket in it, so that it needs no port, no password
and no service, and several can run side by side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SYSTEM_USER = "postgres"
"""Who runs the server where we are root: PostgreSQL refuses to run as root."""


class PostgresMissingError(RuntimeError):
    """Report a machine without PostgreSQL's server."""


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises:
        PostgresMissingError: if there is none.
    """
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    # Debian keeps the server's programs out of the path.
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        raise PostgresMissingError("PostgreSQL is not installed. Run 'apt-get install postgresql'.")
    return versions[-1].parent


@contextlib.contextmanager
def cluster(*, durable: bool) -> Iterator[Path]:
    """Run a new cluster and yield the folder of its socket.

    Args:
        durable: whether it syncs to disk before it acknowledges, as a real one does; a test that
            looks at answers alone is faster without.

    Raises:
        PostgresMissingError: if PostgreSQL is not installed.
    """
    programs = find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER)
        prefix = ["runuser", "-u", SYSTEM_USER, "--"]
    data = folder / "data"
    settings = [
        f"-c unix_socket_directories={folder}",
        "-c listen_addresses=''",
        "-c max_connections=100",
        f"-c fsync={'on' if durable else 'off'}",
        f"-c synchronous_commit={'on' if durable else 'off'}",
    ]
    control = [*prefix, str(programs / "pg_ctl"), "--pgdata", str(data)]
    try:
        _run([*prefix, str(programs / "initdb"), "--pgdata", str(data), "--auth=trust",
              "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"])  # fmt: skip
        _run([*control, "--wait", "--log", str(folder / "log"), "--options", " ".join(settings),
              "start"])  # fmt: skip
        try:
            yield folder
        finally:
            _run([*control, "--wait", "--mode=immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def url_of(folder: Path, database: str) -> str:
    """Return the SQLAlchemy URL of a database of the cluster."""
    return f"postgresql+psycopg://postgres@/{database}?host={folder}"


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
