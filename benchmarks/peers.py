"""Install a peer into a folder of its own under ``build/``, out of this project's environment.

Only the peer itself: torch, transformers and accelerate are those that our side runs on, so that
the two sides differ in nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.side_by_side import ROOT
from pipeline.errors import SteerlineError

PEERS = ROOT / "build" / "peers"
TRL_WITH_PPO = "trl==1.12.0"
"""The last release of TRL with a PPO trainer."""


class PeerError(SteerlineError):
    """Report a peer that cannot be installed."""


def make_once(path: Path, fill: Callable[[Path], None]) -> Path:
    """Return a folder under ``build/``, filled unless it is there already.

    It gets its name when it is whole; of two processes that fill it at once, one is kept.
    """
    if path.is_dir():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        fill(partial)
        partial.chmod(0o755)
        partial.rename(path)
    except OSError:
        # The other process was first.
        if not path.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def install(requirement: str, folder: Path = PEERS) -> Path:
    """Return the folder of an installed peer, for ``PYTHONPATH``; a second call installs nothing.

    Raises:
        PeerError: if pip cannot.
    """
    return make_once(
        folder / requirement.replace("==", "-"), lambda partial: _install(requirement, partial)
    )


def _install(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run([*command, str(folder), requirement], capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or "no reason given").splitlines()
        raise PeerError(
            f"The peer {requirement} must be installable by pip, got: {said[-1]}. "
            "Run it where pip reaches the package index."
        )
