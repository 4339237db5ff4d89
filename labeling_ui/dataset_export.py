"""Write labels as a folder that ``datasets.load_dataset`` opens, zipped.

Apart from the other exports, for it alone needs PyArrow, whose import takes time.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import pyarrow as pa
from pyarrow import parquet

from labeling_ui.exports import preference_rows
from pipeline.records import Ranking
from pipeline.store.store import LabelStore
from pipeline.store.values import SPLITS, Split

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMAS = {
    "preferences": pa.schema(
        [
            ("prompt", MESSAGES),
            ("chosen", MESSAGES),
            ("rejected", MESSAGES),
            ("margin", pa.float64()),
            ("labeler", pa.string()),
        ]
    ),
    "rankings": pa.schema(
        [
            ("prompt", MESSAGES),
            ("completions", pa.list_(pa.string())),
            ("ranks", pa.list_(pa.int64())),
            ("ratings", pa.list_(pa.int64())),
            ("labeler", pa.string()),
            ("group", pa.string()),
        ]
    ),
}
ABOUT = """\
# Labels

Human preferences out of a Steerline label store, snapshot `{snapshot}`.

* `preferences`: `prompt`, `chosen`, `rejected` as messages, as TRL's `RewardTrainer` and
  `DPOTrainer` take them: the pairs that labelers of the train group decided. `margin` comes of the
  gap between the two ratings: 0, 1/3, 2/3 and 1 for 0, 1, 2 and 3 or more; 0 without ratings.
* `rankings`: whole rankings, `ranks` with ties, 1 the best. Those whose `group` is `held_out` are
  for evaluation.
"""


def dataset_files(store: LabelStore) -> dict[str, bytes]:
    """Return the folder's files by path: Parquet by configuration and split, and a card."""
    files: dict[str, bytes] = {}
    for split in SPLITS:
        everybody = store.rankings(cast("Split", split))
        trained = [ranking for ranking in everybody if ranking.group == "train"]
        rows = {
            "preferences": list(preference_rows(trained)),
            "rankings": list(_ranking_rows(everybody)),
        }
        for name, found in rows.items():
            if found:
                files[f"{name}/{split}.parquet"] = _parquet(SCHEMAS[name], found)
    about = ABOUT.format(snapshot=store.snapshot_hash())
    return {"README.md": (_configurations(files) + about).encode(), **files}


def zip_files(files: Mapping[str, bytes]) -> bytes:
    """Return files as one archive; the same files give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def folder_hash(files: Mapping[str, bytes]) -> str:
    """Return the hash by which a manifest names the folder, as ``hash_sources`` makes it."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def _ranking_rows(rankings: Iterable[Ranking]) -> Iterator[dict[str, Any]]:
    for ranking in rankings:
        yield {
            "prompt": [dict(turn) for turn in ranking.prompt.messages],
            "completions": list(ranking.completions),
            "ranks": list(ranking.ranks),
            "ratings": None if ranking.ratings is None else list(ranking.ratings),
            "labeler": ranking.labeler,
            "group": ranking.group,
        }


def _configurations(files: Mapping[str, bytes]) -> str:
    """Return the head of the card that tells ``datasets`` which file is what."""
    lines = ["---"]
    names = [name for name in SCHEMAS if any(path.startswith(f"{name}/") for path in files)]
    lines += ["configs:"] if names else []
    for name in names:
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in SPLITS:
            path = f"{name}/{split}.parquet"
            if path in files:
                lines += [f"  - split: {split}", f"    path: {path}"]
    return "\n".join([*lines, "---", ""])


def _parquet(schema: pa.Schema, rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), out)
    return out.getvalue()
