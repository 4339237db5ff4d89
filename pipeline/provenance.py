"""Find what a run made from one labeler's work: from labels to reward model to policies.

A stage's manifest names the labels that it read by their hash (the store's snapshot, or the hash of
an exported file), and its parents by the hashes of their manifests. Both are followed; where a
parent was made again since, what the stage was made from is no longer there to look at, and the
answer is that it may be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import hash_file
from pipeline.runs import STORE, Manifest, list_checkpoints


@dataclass(frozen=True)
class Affected:
    """A stage that was made from a labeler's work, or may have been.

    Attributes:
        stage: stage or variant.
        status: of its manifest.
        certain: whether its manifests prove it.
        reason: how the work came into it, in words.
        model_hash: names its model; empty where it has none.
        checkpoints: steps of the checkpoints that it holds.
        finished: when it was finished; empty where it is not.
    """

    stage: str
    status: str
    certain: bool
    reason: str
    model_hash: str
    checkpoints: tuple[int, ...]
    finished: str


def find_affected(
    run_dir: Path, labeler: str, snapshots: Mapping[str, Collection[str]]
) -> list[Affected]:
    """Return the stages of a run that a labeler's work went into, parents before children.

    Args:
        run_dir: the run's folder.
        labeler: pseudonym.
        snapshots: the labelers behind each set of labels that was used, by its hash.

    Raises:
        RunError: if a manifest cannot be read.
    """
    manifests = {
        path.parent.name: manifest
        for path in sorted(run_dir.glob("*/manifest.json"))
        if (manifest := Manifest.read(path.parent)) is not None
    }
    hashes = {name: hash_file(run_dir / name / "manifest.json") for name in manifests}
    walk = _Walk(manifests, hashes, labeler, snapshots)
    reasons = {name: walk.reason(name) for name in manifests}
    found = [
        Affected(
            stage=name,
            status=manifests[name].status,
            certain=reason.certain,
            reason=reason.text,
            model_hash=manifests[name].model_hash,
            checkpoints=tuple(list_checkpoints(run_dir / name)),
            finished=manifests[name].finished,
        )
        for name, reason in reasons.items()
        if reason is not None
    ]
    return sorted(found, key=lambda one: (walk.depth(one.stage), one.stage))


@dataclass(frozen=True)
class _Reason:
    certain: bool
    text: str


class _Walk:
    """Walk the manifests of a run, each stage once."""

    def __init__(
        self,
        manifests: Mapping[str, Manifest],
        hashes: Mapping[str, str],
        labeler: str,
        snapshots: Mapping[str, Collection[str]],
    ) -> None:
        self._manifests, self._hashes = manifests, hashes
        self._labeler, self._snapshots = labeler, snapshots
        self._known: dict[str, _Reason | None] = {}

    def reason(self, stage: str) -> _Reason | None:
        """Return how the labeler's work came into a stage, or None if it did not."""
        if stage not in self._known:
            self._known[stage] = None  # a stage that names itself by way of others ends here
            self._known[stage] = self._read_labels(stage) or self._inherit(stage)
        return self._known[stage]

    def depth(self, stage: str) -> int:
        """Return how many stages lie before one."""
        parents = [name for name in self._manifests[stage].parents if name in self._manifests]
        return 1 + max(map(self.depth, parents), default=0)

    def _read_labels(self, stage: str) -> _Reason | None:
        manifest = self._manifests[stage]
        used = {key: value for key, value in manifest.sources.items() if key.startswith(STORE)}
        if "snapshot" in manifest.metrics:
            used[STORE] = str(manifest.metrics["snapshot"])
        unknown = [value for value in used.values() if value not in self._snapshots]
        used |= {key: value for key, value in manifest.sources.items() if value in self._snapshots}
        for key, value in sorted(used.items()):
            if self._labeler in self._snapshots.get(value, ()):
                where = "the label store" if key.startswith(STORE) else key
                return _Reason(certain=True, text=f"reads {where}, labels {value[:12]}")
        if unknown:
            text = f"reads labels {unknown[0][:12]}, of which nobody noted whose they are"
            return _Reason(certain=False, text=text)
        return None

    def _inherit(self, stage: str) -> _Reason | None:
        """Follow the parents whose models a stage was made from."""
        found = []
        for parent, wanted in self._manifests[stage].parents.items():
            manifest = self._manifests.get(parent)
            if manifest is None or _makes_labels(parent):
                continue
            reason = self.reason(parent)
            if self._hashes[parent] != wanted:
                if self._rests_on_labels(parent):
                    text = f"made from an earlier {parent}, which is no longer there"
                    found.append(_Reason(certain=False, text=text))
            elif reason is not None:
                found.append(_Reason(certain=reason.certain, text=f"made from {parent}"))
        return max(found, key=lambda one: one.certain, default=None)

    def _rests_on_labels(self, stage: str) -> bool:
        """Tell whether a stage reads labels, or is made from one that does."""
        manifest = self._manifests[stage]
        reads = any(
            key.startswith(STORE) or value in self._snapshots
            for key, value in manifest.sources.items()
        )
        return reads or any(
            self._rests_on_labels(parent)
            for parent in manifest.parents
            if parent in self._manifests and not _makes_labels(parent)
        )


def _makes_labels(stage: str) -> bool:
    """Tell whether a stage leads up to labels; what reads them names them by their hash itself."""
    return stage.partition("@")[0] in ("label", "sample")
