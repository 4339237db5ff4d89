"""Hash what a stage reads, so that a manifest leads back to it and a change is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.artifacts import hash_file, hash_text
from pipeline.config.source import Source
from pipeline.data.rows import STORE, file_of, load_dataset
from pipeline.data.tiny import hash_world, is_tiny

FINGERPRINT = "fingerprint of "


def hash_sources(
    sources: Iterable[Source], seed: int, config_dir: Path | str | None = None
) -> dict[str, str]:
    """Map each source's path to a hash of what it holds.

    A file's is the SHA-256 of its bytes, and a folder's that of its files' names and bytes. The
    tiny world's covers the name, the seed and the source code that draws. A data set of the hub
    gives its own name and subset, for its content is known only once it is loaded
    (``fingerprint_sources``). The label store is left out: the stage that reads it has the hash of
    its judgments. Split, limit and weight are no content; they stand in the stage's configuration.

    Args:
        sources: what to hash.
        seed: the run's seed.
        config_dir: folder that relative paths start at, where it is not the working folder.

    Raises:
        DataError: if a file is missing or of no known kind.
    """
    world = ""
    hashes: dict[str, str] = {}
    for source in sources:
        if source.path.startswith(STORE):
            continue
        if is_tiny(source):
            world = world or hash_world()
            hashes[source.path] = hash_text(f"{source.path}\0{seed}\0{world}")
        else:
            hashes[source.path] = _hash_path(source, config_dir)
    return hashes


def fingerprint_sources(sources: Iterable[Source]) -> dict[str, str]:
    """Load the data sets among the sources and map ``fingerprint of NAME`` to their fingerprints.

    The name differs from ``hash_sources``'s, so that a manifest which notes it afterwards still has
    the hashes that it began with.

    Raises:
        DataError: if a data set cannot be loaded.
    """
    return {
        f"{FINGERPRINT}{source.path} ({source.split})": str(load_dataset(source)._fingerprint)
        for source in sources
        if not (is_tiny(source) or source.path.startswith(STORE)) and file_of(source) is None
    }


def _hash_path(source: Source, config_dir: Path | str | None) -> str:
    path = file_of(source, config_dir)
    if path is not None:
        return hash_file(path)
    folder = Path(config_dir or "", source.path).expanduser()
    if not folder.is_dir():
        return f"hub:{source.path}" + (f"/{source.subset}" if source.subset else "")
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(folder)}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()
