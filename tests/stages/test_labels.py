from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import select

from pipeline.artifacts import HASHES, fill_folder, hash_file
from pipeline.config.source import Source
from pipeline.data import read_demonstrations
from pipeline.records import Prompt, Ranking
from pipeline.runs import Manifest
from pipeline.store import LabelStore, Provenance, SampledCompletion
from pipeline.store.oversight import Oversight
from pipeline.store.schema import TaskRow
from pipeline.store.values import Written
from stages.cli import main
from tests.pipeline.store.people import add_account


def make_config(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "run.yaml"
    path.write_text(f"run_dir: {folder}\nbase: a-model\n", encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the configuration of a run in which two labelers judged two prompts."""
    path = make_config(tmp_path / "one")
    rankings = [
        Ranking(Prompt.from_text(text), ("a", "b", "c"), ranks, ratings, labeler)
        for text, ranks, ratings, labeler in (
            ("first", (1, 2, 3), (7, 4, 1), "ada"),
            ("first", (1, 2, 3), (6, 4, 1), "bob"),
            ("second", (1, 2, 3), (7, 4, 1), "ada"),
            ("second", (3, 2, 1), (1, 4, 7), "bob"),
        )
    ]
    with LabelStore.open(tmp_path / "one" / "labels.db") as store:
        store.import_rankings(rankings, split="train", source="people")
    return path


def test_what_is_exported_and_imported_elsewhere_is_the_same_set_of_labels(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "judgments.jsonl"
    assert main(["labels", "export", str(config), "--file", str(file)]) == 0
    assert capsys.readouterr().out == f"4 judgments written to {file}\n"
    assert len(file.read_text().splitlines()) == 4
    other = make_config(tmp_path / "two")
    assert main(["labels", "import", str(other), "--file", str(file)]) == 0
    assert main(["labels", "import", str(other), "--file", str(file)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("4 judgments added")
    assert out[0].endswith("0 were here already")
    assert out[1].startswith("0 judgments added")
    assert out[1].endswith("4 were here already")
    hashes = []
    for run in ("one", "two"):
        with LabelStore.open(tmp_path / run / "labels.db", create=False) as store:
            hashes.append(store.snapshot_hash())
    assert hashes[0] == hashes[1]


def test_export_writes_beside_the_store_by_default(config: Path):
    assert main(["labels", "export", str(config)]) == 0
    assert (config.parent / "labels.jsonl").is_file()


def test_agreement_is_measured_over_shared_comparisons(
    config: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["labels", "agreement", str(config)]) == 0
    rows = {
        cells[0].strip(): cells[1].strip()
        for line in capsys.readouterr().out.splitlines()
        if len(cells := line.strip("│").split("│")) > 1
    }
    # Three comparisons alike on the first prompt, three opposed on the second.
    assert rows["pairwise agreement, a tie is half"] == "0.500"
    assert rows["Kendall's tau-b"] == "0.000"
    assert rows["ada with the others"] == "0.500"


def test_agreement_of_a_split_without_judgments_is_undefined(
    config: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["labels", "agreement", str(config), "--split", "test"]) == 0
    out = capsys.readouterr().out
    assert "0 judgments, 0 of them by simulated labelers" in out
    assert out.count("undefined") == 4


def test_a_malformed_file_is_one_line_and_nothing_is_imported(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "bad.jsonl"
    assert main(["labels", "export", str(config), "--file", str(file)]) == 0
    rows = file.read_text().splitlines()
    broken = {**json.loads(rows[1]), "ranks": ["x"]}
    file.write_text("\n".join([rows[0], json.dumps(broken)]))
    other = make_config(tmp_path / "two")
    assert main(["labels", "import", str(other), "--file", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"steerline: {file}:2: ")
    with LabelStore.open(tmp_path / "two" / "labels.db", create=False) as store:
        assert store.rankings() == []


@pytest.mark.parametrize("action", ["export", "agreement"])
def test_a_run_without_labels_is_one_line(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = make_config(tmp_path / "empty")
    assert main(["labels", action, str(path)]) == 2
    assert capsys.readouterr().err.startswith("steerline: No label store in ")
    assert not (tmp_path / "empty" / "labels.db").exists()


@pytest.mark.parametrize(("action", "file"), [("import", "absent.jsonl"), ("export", "no/x.jsonl")])
def test_a_file_that_cannot_be_is_one_line(
    action: str, file: str, config: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["labels", action, str(config), "--file", str(config.parent / file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def scored_run(tmp_path: Path, reward_folder: Path) -> Path:
    """Return the configuration of a run with a reward model and twelve prompts without tasks."""
    path = make_config(tmp_path / "run")
    stage = tmp_path / "run" / "reward"
    stage.mkdir()
    with fill_folder(stage / "model") as folder:
        shutil.copytree(reward_folder, folder, dirs_exist_ok=True)
    made = hash_file(stage / "model" / HASHES)
    Manifest("reward", "complete", 0, "c0", model_hash=made).write(stage)
    with LabelStore.open(tmp_path / "run" / "labels.db") as store:
        prompts = [Prompt.from_text(f"Where does {name} live?") for name in "abcdefghijkl"]
        store.add_prompts(prompts)
        for prompt in prompts:
            samples = [
                SampledCompletion(text, Provenance("sft"))
                for text in ("In the town.", "Mia lives in the forest.", "a cat")
            ]
            store.add_completions(prompt.id, samples)
    return path


def test_a_reward_model_scores_once_and_chooses_what_to_rank(
    scored_run: Path, reward_folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["labels", "score", str(scored_run)]) == 0
    assert main(["labels", "score", str(scored_run)]) == 0
    assert capsys.readouterr().out == (
        "reward: 36 completions scored\nreward: 0 completions scored\n"
    )
    assert main(["labels", "select", str(scored_run), "--tasks", "5", "--random", "0.4"]) == 0
    assert capsys.readouterr().out.startswith("5 tasks of 12 scored prompts, ")
    from pipeline.judges import RewardJudge

    judge = RewardJudge(reward_folder)
    with LabelStore.open(scored_run.parent / "labels.db") as store:
        checkpoint = Manifest.read(scored_run.parent / "reward").model_hash
        waiting = store.candidates([checkpoint])
        assert len(waiting) == 7
        texts = {item.id: item.text for item in store.completions(waiting[0].prompt_id)}
        (prompt,) = (item for item in store.prompts() if item.id == waiting[0].prompt_id)
        scores = judge([prompt] * 3, [texts[id_] for id_ in waiting[0].completions])
        assert waiting[0].scores[checkpoint] == pytest.approx(scores, abs=1e-5)
        with store.reading() as session:
            chosen = [row.selection for row in session.scalars(select(TaskRow))]
    assert len(chosen) == 5
    assert {item["policy"] for item in chosen} <= {"random", "disagreement"}
    assert all(0 < item["propensity"] <= 1 for item in chosen)
    assert {tuple(item["checkpoints"]) for item in chosen} == {(checkpoint,)}


def test_a_completion_too_long_for_the_reward_model_is_counted_and_has_no_score(
    scored_run: Path, capsys: pytest.CaptureFixture[str]
):
    with LabelStore.open(scored_run.parent / "labels.db") as store:
        prompt = store.prompts()[0]
        long = SampledCompletion("Mia lives in the forest. " * 20, Provenance("sft"))
        store.add_completions(prompt.id, [long])
    assert main(["labels", "score", str(scored_run)]) == 0
    said = "reward: 36 completions scored, 1 too long for its context\n"
    assert capsys.readouterr().out == said
    checkpoint = Manifest.read(scored_run.parent / "reward").model_hash
    with LabelStore.open(scored_run.parent / "labels.db") as store:
        (left,) = store.unscored(checkpoint)
    assert left[1].text == long.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["select"], "No scored prompt waits to become a task (12 unscored)"),
        (["select", "--tasks", "0"], "--tasks must be 1 or more, got 0"),
        (["select", "--random", "1.5"], "--random must lie in [0, 1], got 1.5"),
        (["score", "--models", "sft"], "Stage 'sft' is a sft"),
        (["score", "--models", "rewrd"], "This run has no stage 'rewrd'. Did you mean 'reward'?"),
    ],
)
def test_a_choice_that_cannot_be_made_is_one_line(
    scored_run: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    action, *rest = arguments
    assert main(["labels", action, str(scored_run), *rest]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"steerline: {said}")
    assert err.count("\n") == 1


def test_models_that_are_not_trained_choose_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["labels", "score", str(config)]) == 2
    assert "Run 'steerline reward CONFIG' first" in capsys.readouterr().err


def accept_an_answer(folder: Path) -> None:
    """Let ada write an answer in the run's store, and a lead accept it."""
    with LabelStore.open(folder / "labels.db") as store:
        store.add_prompts([Prompt.from_text("Write.")])
        store.create_demonstration_tasks(1)
        task = store.lease_task(store.add_labeler("ada"))
        store.submit(task.token, Written("An answer."), "key")
        oversight = Oversight(store)
        (answer,) = oversight.answers()
        oversight.review(answer.id, add_account(store, "lena"), "accepted")


def test_accepted_demonstrations_go_to_a_file_of_their_own_and_to_sft(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    accept_an_answer(config.parent)
    file = tmp_path / "demonstrations.jsonl"
    assert main(["labels", "export", str(config), "--demonstrations", str(file)]) == 0
    assert capsys.readouterr().out == f"1 demonstrations written to {file}\n"
    assert not (config.parent / "labels.jsonl").exists()
    (demonstration,) = read_demonstrations([Source(str(file))], 0)
    assert demonstration.completion == "An answer."
    both = ["--demonstrations", str(file), "--file", str(tmp_path / "all.jsonl")]
    assert main(["labels", "export", str(config), *both]) == 0
    assert capsys.readouterr().out.startswith("4 judgments written to")


def test_exported_files_are_known_by_the_labelers_behind_them(config: Path, tmp_path: Path):
    accept_an_answer(config.parent)
    files = [tmp_path / "judgments.jsonl", tmp_path / "demonstrations.jsonl"]
    words = ["--file", str(files[0]), "--demonstrations", str(files[1])]
    assert main(["labels", "export", str(config), *words]) == 0
    with LabelStore.open(config.parent / "labels.db", create=False) as store:
        assert Oversight(store).snapshots() == {
            hash_file(files[0]): {"ada", "bob"},
            hash_file(files[1]): {"ada"},
        }


@pytest.mark.parametrize(
    "words",
    [
        ["import", "{config}", "--demonstrations", "{folder}/x.jsonl"],
        ["export", "{config}", "--demonstrations", "{folder}/no/x.jsonl"],
    ],
)
def test_demonstrations_only_go_out_and_into_a_folder_that_exists(
    words: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = [word.format(config=config, folder=tmp_path) for word in words]
    assert main(["labels", *given]) == 2
    assert capsys.readouterr().err.startswith("steerline: --demonstrations must")


def test_agreement_is_the_labelers_own_whatever_a_lead_decided(
    config: Path, capsys: pytest.CaptureFixture[str]
):
    with LabelStore.open(config.parent / "labels.db") as store:
        lead = add_account(store, "lena")
        for item in Oversight(store).judged():
            Oversight(store).adjudicate(item.task, lead, "dropped")
        assert store.rankings() == []
    assert main(["labels", "agreement", str(config)]) == 0
    assert "4 judgments" in capsys.readouterr().out


def test_a_labelers_work_is_traced_to_what_was_made_from_it(
    config: Path, capsys: pytest.CaptureFixture[str]
):
    with LabelStore.open(config.parent / "labels.db") as store:
        snapshot = Oversight(store).record_snapshot()
        store.add_labeler("cyd")
    reward = config.parent / "reward"
    (reward / "checkpoints" / "step-00000020").mkdir(parents=True)
    sources = {"store:": snapshot}
    Manifest("reward", "complete", 0, "c", sources=sources, model_hash="5" * 64).write(reward)
    assert main(["labels", "trace", str(config), "--labeler", "ada"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    why = f"reads the label store, labels {snapshot[:12]}"
    assert rows == [["reward", "complete", "yes", why, "5" * 12, "20"]]
    assert main(["labels", "trace", str(config), "--labeler", "cyd"]) == 0
    said = capsys.readouterr().out
    assert said == f"Nothing in {config.parent} was made from cyd's work\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "trace must come with --labeler. Name whose work to follow."),
        (["--labeler", "zoe"], "No labeler 'zoe' in the label store. Check the name."),
    ],
)
def test_a_trace_of_nobody_is_one_line(
    words: list[str], said: str, config: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["labels", "trace", str(config), *words]) == 2
    assert capsys.readouterr().err == f"steerline: {said}\n"
