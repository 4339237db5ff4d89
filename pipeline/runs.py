"""Keep a stage's folder: its manifest, configuration, metrics, checkpoints and model.

``open_stage`` decides what a command does with a stage: skip it (complete and unchanged), resume
it (cut, with a checkpoint), start it, or refuse (its inputs changed). The manifest is on disk from
the first moment and says ``running``, ``complete`` or ``failed``; its ``parents`` and ``sources``
are hashes, so the lineage of any checkpoint can be walked back to its labels and data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol, TypeVar

import yaml

from pipeline.artifacts import (
    begin_folder,
    fill_folder,
    hash_file,
    hash_text,
    partial_path,
    seal_folder,
    verify_folder,
    write_json,
    write_text,
)
from pipeline.config.run import RunConfig, stage_of
from pipeline.errors import JudgeError, RunError, SteerlineError

ResultT = TypeVar("ResultT")
STORE = "store:"
"""How the sources of a manifest name the label store; the hash is that of its snapshot."""
PREVIOUS = ".previous"
JUDGMENTS = "judgments"
"""Folder of what a stage has paid for: true whatever its inputs are."""
KEPT = (".lock", PREVIOUS, JUDGMENTS)
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "lm_eval")


class Crew(Protocol):
    """The processes that run a stage together."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    @property
    def device_name(self) -> str:
        """What the stage computes on."""

    def wait(self) -> None:
        """Wait until every process is here."""

    def on_main(self, work: Callable[[], ResultT]) -> ResultT:
        """Do the work on rank 0 alone and give its result, or its error, to every process."""


class Alone:
    """Be the crew of a stage that needs no other process, and no torch."""

    rank = 0
    world_size = 1
    device_name = "cpu"

    def wait(self) -> None:
        """Return at once."""

    def on_main(self, work: Callable[[], ResultT]) -> ResultT:
        """Do the work."""
        return work()


@dataclass(frozen=True)
class Manifest:
    """Say what a stage is, what it was made from, and how far it got.

    Attributes:
        stage: stage or variant name.
        status: ``running``, ``complete`` or ``failed``.
        config_hash: hash of seed, base and the stage's resolved section.
        parents: stage to the hash of its manifest when this stage started.
        sources: data source to the hash of its content.
        additions: optional part to the hashes of what it was made from.
        metrics: final figures.
        model_hash: hash of ``model/``, empty where the stage makes none.
    """

    stage: str
    status: Literal["running", "complete", "failed"]
    seed: int
    config_hash: str
    parents: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    additions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    packages: Mapping[str, str] = field(default_factory=dict)
    git_commit: str = ""
    device: str = "cpu"
    world_size: int = 1
    metrics: Mapping[str, Any] = field(default_factory=dict)
    model_hash: str = ""
    error: str = ""

    def write(self, folder: Path) -> None:
        """Replace ``manifest.json`` in one step."""
        write_json(folder / "manifest.json", dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Return a stage's manifest, or None where there is none yet.

        Raises:
            RunError: if the file is there and cannot be read.
        """
        path = folder / "manifest.json"
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{path} is no manifest of this version ({error}). Run the stage with --force."
            ) from error


class MetricsLog:
    """Append to ``metrics.jsonl``, from rank 0 only, one JSON object a logged step."""

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self._path = path
        self._enabled = enabled

    def rewind(self, step: int) -> None:
        """Drop what was logged after ``step``, all of it at 0: a resumed stage logs it again."""
        if not self._enabled or not self._path.is_file():
            return
        if step == 0:
            self._path.unlink()
            return
        kept = [line for number, line in self._complete_lines() if self._step(number, line) <= step]
        write_text(self._path, "".join(kept))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the figures of one step."""
        if self._enabled:
            with self._path.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"step": step, **values}) + "\n")

    def _complete_lines(self) -> list[tuple[int, str]]:
        with self._path.open(encoding="utf-8", errors="replace") as lines:
            return [(n, line) for n, line in enumerate(lines, start=1) if line.endswith("\n")]

    def _step(self, number: int, line: str) -> int:
        try:
            return int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{self._path}:{number}: must hold a JSON object with its 'step', "
                f"got {line!r:.40}. Remove the line, or run the stage with --force."
            ) from error


@dataclass
class StageRun:
    """Hold one stage's open folder.

    Attributes:
        skip: the stage is complete and its inputs are the same: nothing is to be done.
        resume_step: the step of the checkpoint to go on from; 0 starts afresh.
    """

    name: str
    folder: Path
    crew: Crew
    manifest: Manifest
    skip: bool = False
    resume_step: int = 0

    def __post_init__(self) -> None:
        """Open the logs, and start the clock beside the time of earlier attempts."""
        self._clock = time.monotonic() - self.manifest.seconds
        main = self.crew.rank == 0
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", enabled=main)
        self.samples = MetricsLog(self.folder / "samples.jsonl", enabled=main)

    @property
    def model_dir(self) -> Path:
        """Return where the stage's model stands once it is complete."""
        return self.folder / "model"

    @property
    def resume_from(self) -> Path | None:
        """Return the checkpoint to go on from, verified."""
        return checkpoint_path(self.folder, self.resume_step) if self.resume_step else None

    @contextlib.contextmanager
    def checkpoint(self, step: int, keep: int) -> Iterator[Path]:
        """Yield a folder that every process writes its part in; sealed when all have.

        Older checkpoints beyond ``keep`` are removed afterwards.
        """
        path = checkpoint_path(self.folder, step)
        self.crew.on_main(lambda: begin_folder(path))
        yield partial_path(path)
        self.crew.wait()
        self.crew.on_main(lambda: self._seal(path, keep))

    def _seal(self, path: Path, keep: int) -> None:
        seal_folder(path)
        # What a kill cannot take back: a resumed stage adds its time to that of the checkpoint.
        self.manifest = dataclasses.replace(self.manifest, seconds=self._seconds())
        self.manifest.write(self.folder)
        for old in list_checkpoints(self.folder)[:-keep]:
            shutil.rmtree(checkpoint_path(self.folder, old))

    def save_model(self, write: Callable[[Path], None], name: str = "model") -> None:
        """Let rank 0 write a model's folder, and seal it."""

        def fill() -> None:
            with fill_folder(self.folder / name) as partial:
                write(partial)

        self.crew.on_main(fill)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._clock, 3)

    def note_sources(self, sources: Mapping[str, str]) -> None:
        """Record sources that are known only once they were read (a hub's fingerprint)."""
        self.manifest = dataclasses.replace(
            self.manifest, sources={**self.manifest.sources, **sources}
        )
        if self.crew.rank == 0:
            self.manifest.write(self.folder)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Mark the stage complete with its final figures."""
        model = self.model_dir / "hashes.json"
        self.manifest = dataclasses.replace(
            self.manifest,
            status="complete",
            finished=_now().isoformat(),
            seconds=self._seconds(),
            metrics=dict(metrics),
            model_hash=hash_file(model) if model.is_file() else "",
        )
        if self.crew.rank == 0:
            self.manifest.write(self.folder)
        self.crew.wait()


@contextlib.contextmanager
def open_stage(
    config: RunConfig,
    name: str,
    *,
    parents: Sequence[str] = (),
    sources: Mapping[str, str] | None = None,
    additions: Mapping[str, Mapping[str, str]] | None = None,
    crew: Crew | None = None,
    force: bool = False,
    grows: bool = False,
    again: bool = False,
) -> Iterator[StageRun]:
    """Open a stage's folder, and tell the truth in its manifest whatever happens inside.

    Args:
        config: the run's configuration.
        name: stage or variant.
        parents: stages that must be complete, in this run's folder.
        sources: data source to hash.
        additions: what each optional part that is asked for depends on; a complete stage without
            it goes on instead of being skipped, and one that has more is left as it is.
        crew: the processes at work; one alone by default.
        force: overwrite a folder whose inputs changed.
        grows: the stage looks at whatever parents there are (an evaluation) and knows by their
            models' hashes what it did before: new and changed parents need no force, and what it
            logged stays.
        again: do a complete and unchanged stage once more: what it counts has changed, and counting
            overwrites nothing.

    Raises:
        RunError: if a parent is not complete, another process is at work in the folder, its
            checkpoint is damaged, or its inputs changed and ``force`` is not given.
    """
    crew = crew or Alone()
    folder = config.run_dir / name
    # Before the folder is made: a stage that comes before its parents leaves nothing behind.
    wanted = crew.on_main(lambda: _describe(config, name, parents, sources or {}, crew))
    wanted = dataclasses.replace(wanted, additions=dict(additions or {}))
    with _locked(folder, crew):
        decision = crew.on_main(
            lambda: _decide(config, wanted, force=force, grows=grows, again=again)
        )
        run = StageRun(name, folder, crew, *decision)
        if run.skip:
            yield run
            return
        if not grows:
            run.metrics.rewind(run.resume_step)
            run.samples.rewind(run.resume_step)
        crew.wait()
        try:
            yield run
        except BaseException as error:
            if crew.rank == 0 and run.manifest.status != "complete":
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                dataclasses.replace(run.manifest, status="failed", error=reason).write(folder)
                # A judge that is down is no bad input: what was measured before it stays.
                mistake = isinstance(error, SteerlineError) and not isinstance(error, JudgeError)
                if mistake and not list_checkpoints(folder):
                    _bring_back(folder)
            raise
        if crew.rank == 0:
            shutil.rmtree(folder / PREVIOUS, ignore_errors=True)


class _Decision(NamedTuple):
    """Say what a command does with a stage's folder."""

    manifest: Manifest
    skip: bool
    resume_step: int


def _describe(
    config: RunConfig,
    name: str,
    parents: Sequence[str],
    sources: Mapping[str, str],
    crew: Crew,
) -> Manifest:
    return Manifest(
        stage=name,
        status="running",
        seed=config.seed,
        config_hash=config_hash(config, name),
        parents={parent: hash_parent(config, name, parent) for parent in parents},
        sources=dict(sources),
        started=_now().isoformat(),
        packages=_packages(),
        git_commit=_git_commit(),
        device=crew.device_name,
        world_size=crew.world_size,
    )


def _decide(
    config: RunConfig, wanted: Manifest, *, force: bool, grows: bool, again: bool
) -> _Decision:
    folder = config.run_dir / wanted.stage
    if force:
        _set_aside(folder)
    found = Manifest.read(folder)
    if found is None and list_checkpoints(folder):
        raise RunError(
            f"{folder} has checkpoints and no manifest.json, so what they are is unknown. "
            "Run it with --force to overwrite them, or choose another run_dir."
        )
    if found is not None:
        changed = changes(config, found, wanted, grows=grows)
        if changed and _holds_work(folder, found):
            raise RunError(
                f"{folder} was made from other inputs: {'; '.join(changed)}. "
                "Run it with --force to overwrite it, or choose another run_dir."
            )
        complete = found.status == "complete" and not changed and not again
        has_all = wanted.additions == {key: found.additions.get(key) for key in wanted.additions}
        if complete and has_all and dict(found.parents) == dict(wanted.parents):
            return _Decision(found, skip=True, resume_step=0)
        if changed or again:
            _set_aside(folder)
    step = _latest_checkpoint(folder, wanted.stage)
    if found is not None and step:
        wanted = dataclasses.replace(wanted, started=found.started, seconds=found.seconds)
    write_text(folder / "config.yaml", config.dump(wanted.stage))
    wanted.write(folder)
    return _Decision(wanted, skip=False, resume_step=step)


def changes(config: RunConfig, found: Manifest, wanted: Manifest, *, grows: bool) -> list[str]:
    """Say in words which inputs of a stage differ from those that its folder was made from."""
    said: list[str] = []
    if found.config_hash != wanted.config_hash:
        said.append(_config_change(config, found.stage))
    parents = ("stage", {}, {}) if grows else ("stage", found.parents, wanted.parents)
    for kind, old, new in (parents, ("data", found.sources, wanted.sources)):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key) and key in new:
                said.append(_say_change(kind, key, old.get(key), new[key]))
            elif key not in new and kind == "stage":
                said.append(f"stage {key} is gone")
    return said


def _say_change(kind: str, key: str, old: str | None, new: str) -> str:
    if old is None:
        return f"{kind} {key} is new"
    if key.startswith(STORE):
        return f"the labels have changed (snapshot {old[:12]} then, {new[:12]} now)"
    return f"{kind} {key} has changed"


def _config_change(config: RunConfig, name: str) -> str:
    path = config.run_dir / name / "config.yaml"
    try:
        old = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        old = None
    if not isinstance(old, Mapping):
        return "its configuration"
    later = {f"{name}.{key}": value for key, value in config.stages[name].LATER.items()}
    before = later | _flatten(_without_additions(config, name, old))
    after = later | _flatten(_plain(config, name))
    own = [key for key in before if key in after or key.startswith(f"{name}.")]
    keys = [key for key in {**after, **dict.fromkeys(own)} if before.get(key) != after.get(key)]
    said = [f"{key} {before.get(key)!r} -> {after.get(key)!r}" for key in keys if key != "run_dir"]
    if not said:
        return "its configuration"
    more = f" and {len(said) - 3} more" if len(said) > 3 else ""
    return ", ".join(said[:3]) + more


def _flatten(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping) or not tree:
        return {path: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{path}.{key}" if path else str(key)))
    return flat


def config_hash(config: RunConfig, name: str) -> str:
    """Hash what a stage depends on: seed, base and its own section, not the folder's path."""
    plain = _plain(config, name)
    del plain["run_dir"]
    return hash_text(json.dumps(plain, sort_keys=True))


def _plain(config: RunConfig, name: str) -> dict[str, Any]:
    return _without_additions(config, name, config.to_plain(name))


def _without_additions(config: RunConfig, name: str, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a configuration's plain values what adds to a stage or has no part in it.

    So is a field that came later, where it says what was done before there was one.
    """
    section, kind = plain.get(name), config.stages[name]
    if not isinstance(section, Mapping):
        return dict(plain)
    left_out = {*kind.ADDITIONS, *kind.ASIDE}
    left_out |= {key for key, value in kind.LATER.items() if section.get(key) == value}
    return {**plain, name: {key: section[key] for key in section if key not in left_out}}


def hash_parent(config: RunConfig, name: str, parent: str) -> str:
    """Return the hash of a complete parent's manifest.

    Raises:
        RunError: if the parent is not complete.
    """
    folder = config.run_dir / parent
    manifest = Manifest.read(folder)
    if manifest is None:
        raise RunError(
            f"No model or data in {folder}, which {name} needs. "
            f"Run 'steerline {parent} CONFIG' first."
        )
    if manifest.status != "complete":
        raise RunError(
            f"{folder} is {manifest.status}, and {name} needs it complete. "
            f"Run 'steerline {parent} CONFIG' first."
        )
    return hash_file(folder / "manifest.json")


def finished_stages(config: RunConfig, *kinds: str) -> list[str]:
    """Return the run's stages of these kinds that are complete, in the order of the line."""
    found = []
    for name in config.stages:
        manifest = Manifest.read(config.run_dir / name) if stage_of(name) in kinds else None
        if manifest is not None and manifest.status == "complete":
            found.append(name)
    return found


def model_of(config: RunConfig, name: str) -> Path:
    """Return the folder of a complete stage's model, verified against its hashes.

    Raises:
        RunError: if the stage is not complete or a file of its model is damaged.
    """
    hash_parent(config, "this command", name)
    path = config.run_dir / name / "model"
    verify_folder(path, f"Run 'steerline {name} CONFIG --force' to make it again.")
    return path


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the folder of one checkpoint."""
    return folder / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[int]:
    """Return the steps of the sealed checkpoints, oldest first."""
    names = [path.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def _latest_checkpoint(folder: Path, name: str) -> int:
    steps = list_checkpoints(folder)
    if not steps:
        return 0
    path = checkpoint_path(folder, steps[-1])
    before = f"step {steps[-2]}" if len(steps) > 1 else "the start"
    verify_folder(path, f"Remove {path} to resume {name} from {before}.")
    return steps[-1]


def _holds_work(folder: Path, manifest: Manifest) -> bool:
    return manifest.status == "complete" or bool(list_checkpoints(folder))


def _set_aside(folder: Path) -> None:
    """Clear a folder, and keep what was in it until its successor stands on its own."""
    previous = folder / PREVIOUS
    if not any(entry.name not in KEPT for entry in folder.iterdir()):
        return
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for entry in folder.iterdir():
        if entry.name not in KEPT:
            entry.rename(previous / entry.name)


def _bring_back(folder: Path) -> None:
    """Undo ``_set_aside``: bad input must not cost a finished stage."""
    previous = folder / PREVIOUS
    if not previous.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name not in KEPT:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in previous.iterdir():
        entry.rename(folder / entry.name)
    previous.rmdir()


@contextlib.contextmanager
def _locked(folder: Path, crew: Crew) -> Iterator[None]:
    """Hold the folder for this command; the lock goes with the process, however it ends."""
    with contextlib.ExitStack() as held:
        crew.on_main(lambda: held.enter_context(_lock(folder)))
        yield


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(f"Cannot write in {folder} ({error.strerror}). Change run_dir.") from error
    with lock:
        # A look by ``is_at_work`` holds the lock for an instant, and is no reason to refuse.
        for _ in range(5):
            if _take(lock, fcntl.LOCK_EX):
                break
            time.sleep(0.05)
        else:
            raise RunError(f"Another process is at work in {folder}. Wait for it, or stop it.")
        yield


def _take(lock: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at_work(folder: Path) -> bool:
    """Tell whether a living process holds the stage's folder."""
    path = folder / ".lock"
    if not path.is_file():
        return False
    with path.open() as lock:
        return not _take(lock, fcntl.LOCK_SH)


def _packages() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _git_commit() -> str:
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # no git here: the package's versions must do
        return ""
    return asked.stdout.strip()


def _now() -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
