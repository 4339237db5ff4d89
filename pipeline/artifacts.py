"""Write files and folders so that a crash never leaves half of one under its final name.

A folder is filled under a temporary name, its files are hashed into ``hashes.json``, and it is
renamed. Whoever reads it checks the hashes first, so a truncated file is a clear message rather
than a strange number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RunError

HASHES = "hashes.json"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a file's text in one step: a reader sees the old or the new, never a mixture."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: object) -> None:
    """Replace a file with a JSON value in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def as_json(value: Any) -> Any:
    """Return a value as JSON has it: NaN and infinities are null, records are mappings.

    Args:
        value: a tree of mappings, sequences, dataclasses, named tuples and plain values.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def partial_path(path: Path) -> Path:
    """Return the temporary name that a folder has until it is whole."""
    return path.with_name(f".{path.name}.partial")


@contextlib.contextmanager
def fill_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write in, and give it its final name when the block ends well."""
    partial = begin_folder(path)
    yield partial
    seal_folder(path)


def begin_folder(path: Path) -> Path:
    """Make the empty temporary folder that becomes ``path``."""
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def seal_folder(path: Path) -> None:
    """Hash the files of the temporary folder and give it its final name.

    An older folder of that name is removed only once the new one is whole on disk.
    """
    partial = partial_path(path)
    files = sorted(file for file in partial.rglob("*") if file.is_file())
    hashes = {
        file.relative_to(partial).as_posix(): {
            "sha256": hash_file(file),
            "bytes": file.stat().st_size,
        }
        for file in files
    }
    for file in files:
        _sync(file)
    write_json(partial / HASHES, hashes)
    _sync(partial)
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def verify_folder(path: Path, advice: str) -> str:
    """Check a sealed folder against its hashes and return one hash for the whole of it.

    Raises:
        RunError: if a file is missing, truncated or changed; ends with ``advice``.
    """
    listing = path / HASHES
    if not listing.is_file():
        raise RunError(f"{path} is damaged: it has no {HASHES}. {advice}")
    try:
        hashes = json.loads(listing.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged: {HASHES} is not JSON. {advice}") from error
    for name, expected in hashes.items():
        file = path / name
        if not file.is_file():
            raise RunError(f"{path} is damaged: {name} is missing. {advice}")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise RunError(
                f"{path} is damaged: {name} has {size} bytes, {expected['bytes']} were written. "
                f"{advice}"
            )
        if hash_file(file) != expected["sha256"]:
            raise RunError(f"{path} is damaged: {name} was changed after it was written. {advice}")
    return folder_hash(path)


def folder_hash(path: Path) -> str:
    """Return one hash for a sealed folder: that of its list of hashes."""
    return hash_file(path / HASHES)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
