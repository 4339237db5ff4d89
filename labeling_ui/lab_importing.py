"""Import an uploaded file, and name it in errors as the lead does."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DataError
from pipeline.store.store import LabelStore
from pipeline.store.values import ImportCount, Split


def import_file(store: LabelStore, path: Path, name: str, split: Split) -> ImportCount:
    """Add the judgments of an uploaded ranking JSONL, all or none.

    Args:
        store: the open store.
        path: where the upload lies.
        name: what the lead calls it.
        split: of prompts that name none.

    Raises:
        DataError: naming the file by its name and the line.
    """
    try:
        return store.import_jsonl(path, split=split, source=Path(name).stem or "import")
    except DataError as error:
        raise DataError(str(error).replace(str(path), name)) from error
