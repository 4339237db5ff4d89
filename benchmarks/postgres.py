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
    find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER)
    settings = {
        "unix_socket_directories": f"'{folder}'",
        "listen_addresses": "''",
        "max_connections": "100",
        "fsync": "on" if durable else "off",
        "synchronous_commit": "on" if durable else "off",
    }
    try:
        _run(folder, "initdb", "--auth=trust", "--username=postgres", "--no-sync",
             "--encoding=UTF8", "--locale=C")  # fmt: skip
        with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        start(folder)
        try:
            yield folder
        finally:
            stop(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path) -> None:
    """Start a cluster that was stopped."""
    _run(folder, "pg_ctl", "--wait", "--log", str(folder / "log"), "start")


def stop(folder: Path) -> None:
    """Stop a cluster at once: connections are cut, and what was committed is kept."""
    _run(folder, "pg_ctl", "--wait", "--mode=immediate", "stop")


def url_of(folder: Path, database: str) -> str:
    """Return the SQLAlchemy URL of a database of the cluster."""
    return f"postgresql+psycopg://postgres@/{database}?host={folder}"


def _run(folder: Path, program: str, *options: str) -> None:
    command = [str(find_binaries() / program), "--pgdata", str(folder / "data"), *options]
    runner = SYSTEM_USER if os.geteuid() == 0 else None
    groups = None if runner is None else ()
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        user=runner,
        group=runner,
        extra_groups=groups,
    )
