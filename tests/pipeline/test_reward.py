from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl.trainer.reward_trainer import DataCollatorForPreference

from pipeline.config.pretrain import ModelSection
from pipeline.config.reward import RewardSection
from pipeline.config.run import RunConfig, resolve
from pipeline.distributed import Workers
from pipeline.errors import ConfigError, DataError, RunError, StoreError
from pipeline.formatting import Formatter
from pipeline.hydra import Backbone, add_reward
from pipeline.judges import RewardJudge, score_rows
from pipeline.models import (
    load_policy,
    load_reward_model,
    new_llama,
    new_reward_model,
    save_model,
    score_offset,
    score_sequences,
)
from pipeline.ranking_data import (
    RankingCollator,
    check_disjoint,
    check_rankings,
    encode_rankings,
)
from pipeline.records import Prompt, Ranking, write_jsonl
from pipeline.reward import RewardTrainer, add_adapters, score_rankings
from pipeline.runs import Manifest, open_stage
from pipeline.store import LabelStore
from pipeline.tokenizer import load_tokenizer, train_tokenizer
from stages import reward as stage

GOOD = ("red", "green", "blue", "white", "black")
BAD = ("one", "two", "three", "four", "five")
SHAPE = ModelSection(
    hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=128
)
CONTEXT = 64
SMALL = {
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_size": 4,
    "learning_rate": 3e-3,
    "max_length": CONTEXT,
    "log_every": 1,
    "checkpoint_every": 3,
    "precision": "float64",
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_rankings(count: int, start: int = 0) -> list[Ranking]:
    """Draw rankings in which colours are better than numbers, whatever their length."""
    rankings = []
    for i in range(start, start + count):
        prompt = Prompt.from_text(f"say a word for case {i}")
        good, better = GOOD[i % 5], f"{GOOD[i % 5]} {GOOD[(i + 1 + i // 5) % 5]}"
        bad, worse = BAD[i % 5], f"{BAD[i % 5]} {BAD[(i + 2) % 5]}"
        if i % 3 == 0:
            rankings.append(Ranking(prompt, (bad, better), (2, 1), (3, 6), f"rater-{i % 2}"))
        elif i % 3 == 1:
            ranks, ratings = (1, 3, 2), (7, 1, 4)
            rankings.append(
                Ranking(prompt, (better, worse, good), ranks, ratings, f"rater-{i % 2}")
            )
        else:
            rankings.append(Ranking(prompt, (worse, good, bad, better), (2, 1, 2, 1)))
    return rankings


def to_rows(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    rows = []
    for one in rankings:
        row: dict[str, Any] = {
            "prompt": list(one.prompt.messages),
            "completions": list(one.completions),
            "ranks": list(one.ranks),
        }
        if one.ratings is not None:
            row["ratings"] = list(one.ratings)
        if one.labeler is not None:
            row["labeler"] = one.labeler
        rows.append(row)
    return rows


HELD_OUT = draw_rankings(30, start=48)
# Of unlike lengths, so that a batch of them is padded.
DEMONSTRATIONS = [
    (f"say a word for case {i}", " ".join(GOOD[: 1 + i % 3])) for i in range(100, 120)
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny policy, as the SFT stage does."""
    words = [*GOOD, *BAD, "say a word for case 1 2 3 4 5 6 7 8 9 0"]
    tokenizer = train_tokenizer(words * 4, 400)
    set_seed(0)
    folder = tmp_path_factory.mktemp("policy")
    save_model(folder, new_llama(SHAPE, tokenizer, CONTEXT, torch.float64), tokenizer, "")
    return folder


@pytest.fixture
def formatter(policy: Path) -> Formatter:
    return Formatter(load_tokenizer(policy))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write rankings and demonstrations."""
    write_jsonl(tmp_path / "train.jsonl", to_rows(draw_rankings(48)))
    write_jsonl(tmp_path / "held_out.jsonl", to_rows(HELD_OUT))
    demonstrations = [{"prompt": prompt, "completion": text} for prompt, text in DEMONSTRATIONS]
    write_jsonl(tmp_path / "demonstrations.jsonl", demonstrations)
    return tmp_path


@pytest.fixture
def config(data: Path, policy: Path) -> RunConfig:
    """Lay out a run whose SFT is done."""
    return make_config(data, data / "run", policy)


def make_config(folder: Path, run_dir: Path, policy: Path, **reward: Any) -> RunConfig:
    tree = {
        "run_dir": str(run_dir),
        "seed": 3,
        "base": str(policy),
        "sft": {
            "data": [str(folder / "demonstrations.jsonl")],
            "select_by": "last",
            "max_length": CONTEXT,
        },
        "reward": {
            "data": [str(folder / "train.jsonl")],
            "validation": [str(folder / "held_out.jsonl")],
            **SMALL,
            **reward,
        },
    }
    config = resolve(tree)
    if not (run_dir / "sft").exists():
        with open_stage(config, "sft") as done:
            tokenizer = load_tokenizer(policy)
            done.save_model(
                lambda to: save_model(to, load_policy(policy, torch.float64), tokenizer, "")
            )
            done.finish({})
    return config


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a stage's metrics, times left out."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]


def train(
    folder: Path, policy: Path, rankings: Sequence[Ranking], **settings: Any
) -> tuple[RewardTrainer, list[dict[str, Any]]]:
    """Train on rankings in a run folder of their own."""
    config = resolve(
        {"run_dir": str(folder), "base": "x", "reward": {**SMALL, "ties": "half", **settings}}
    )
    section = config.section("reward", RewardSection)
    formatter = Formatter(load_tokenizer(policy))
    with open_stage(config, "reward", crew=Workers(section.precision)) as run:
        elements, _ = encode_rankings(
            rankings, formatter, CONTEXT, ties=section.ties, where="reward.data"
        )
        model: Any = new_reward_model(policy, formatter, 0, torch.float64)
        if section.lora is not None:
            model = add_adapters(model, section.lora, 0)
        trainer = RewardTrainer(run, model, elements, formatter.pad_id, section, 0)
        trainer.fit()
    return trainer, read_lines(folder / "reward" / "metrics.jsonl")


# The data


def test_a_prompts_judgments_become_one_element(formatter: Formatter) -> None:
    prompt, other = Prompt.from_text("say"), Prompt.from_text("word")
    rankings = [
        Ranking(prompt, ("red", "one"), (1, 2), labeler="a"),
        Ranking(other, ("red", "two"), (1, 2)),
        Ranking(prompt, ("two", "red"), (2, 1), labeler="b"),
    ]
    elements, left_out = encode_rankings(rankings, formatter, 99, ties="drop", where="x")
    assert [element.prompt for element in elements] == [prompt.id, other.id]
    assert elements[0].texts == ("red", "one", "two")
    assert [judgment.rows for judgment in elements[0].judgments] == [(0, 1), (2, 0)]
    assert left_out == 0
    expected = formatter.conversation(
        [*prompt.messages, {"role": "assistant", "content": "one"}]
    ).ids
    assert elements[0].ids[1] == expected


def test_rankings_of_ties_alone_are_left_out_unless_ties_count(formatter: Formatter) -> None:
    rankings = [Ranking(Prompt.from_text("say"), ("red", "one"), (1, 1)), *draw_rankings(2)]
    dropped = encode_rankings(rankings, formatter, 99, ties="drop", where="x")
    assert (len(dropped.elements), dropped.left_out) == (2, 1)
    halves = encode_rankings(rankings, formatter, 99, ties="half", where="x")
    assert (len(halves.elements), halves.left_out) == (3, 0)


def test_overlong_completions_are_counted_and_named(formatter: Formatter) -> None:
    long = Ranking(Prompt.from_text("say"), ("red " * 60, "red", "blue " * 80), (1, 2, 3))
    with pytest.raises(DataError, match=r"at most 40 tokens.*got 2 beyond that.*'say'"):
        encode_rankings([*draw_rankings(2), long], formatter, 40, ties="drop", where="reward.data")


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (Ranking(Prompt.from_text("p"), ("a",), (1,)), "at least 2 completions, got 1"),
        (Ranking(Prompt.from_text("p"), ("a", "b"), (1,)), "2 ranks, one a completion, got 1"),
        (Ranking(Prompt.from_text("p"), ("a", "b"), (1, 2), (3,)), "2 ratings or none, got 1"),
        (Ranking(Prompt.from_text("p"), ("a", " \n"), (1, 2)), "got an empty one"),
        (Ranking(Prompt.from_text("p"), ("a", "a"), (1, 2)), "got 'a' twice"),
    ],
)
def test_malformed_rankings_are_refused(ranking: Ranking, message: str) -> None:
    with pytest.raises(DataError, match=f"reward.data: the ranking of 'p' .*{message}"):
        check_rankings([*draw_rankings(3), ranking], "reward.data")


def test_a_prompt_on_both_sides_is_refused() -> None:
    held_out = draw_rankings(6, start=4)
    check_disjoint(draw_rankings(4), held_out, "reward")
    with pytest.raises(DataError, match=r"got 2 on both sides \('say a word for case 4'\)"):
        check_disjoint(draw_rankings(6), held_out, "reward")


def test_each_completion_is_forwarded_once(formatter: Formatter) -> None:
    elements, _ = encode_rankings(draw_rankings(6), formatter, 99, ties="drop", where="x")
    batch = RankingCollator(formatter.pad_id)(elements)
    assert batch["input_ids"].shape[0] == sum(len(element.ids) for element in elements)
    assert batch["rows"][batch["mask"]].tolist() == list(range(batch["input_ids"].shape[0]))
    for row, ids in enumerate(row for element in elements for row in element.ids):
        real = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][real].tolist() == ids
        assert real[: len(ids)].all()
    assert batch["mask"].sum(dim=1).tolist() == [len(one.texts) for one in elements]


def test_ratings_are_used_only_where_the_margin_asks(formatter: Formatter) -> None:
    elements, _ = encode_rankings(draw_rankings(3), formatter, 99, ties="drop", where="x")
    assert not RankingCollator(formatter.pad_id)(elements)["ratings"].any()
    rated = RankingCollator(formatter.pad_id, "rating")(elements)["ratings"]
    assert rated[1, :3].tolist() == [7, 1, 4]
    assert not rated[2].any()


# The loss


def step_losses(lines: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(line["loss"], line["grad_norm"]) for line in lines]


def test_micro_batches_change_neither_loss_nor_gradient(tmp_path: Path, policy: Path) -> None:
    rankings = [*draw_rankings(18), Ranking(draw_rankings(1)[0].prompt, ("red", "two"), (1, 2))]
    runs = [
        step_losses(train(tmp_path / str(size), policy, rankings, micro_batch_size=size)[1])
        for size in (8, 4, 1)
    ]
    assert len(runs[0]) == 5
    for other in runs[1:]:
        for (loss, norm), (loss_, norm_) in zip(runs[0], other, strict=True):
            assert loss == pytest.approx(loss_, abs=1e-6)
            assert norm == pytest.approx(norm_, abs=1e-6)


def test_the_last_batch_counts_only_its_own_prompts(tmp_path: Path, policy: Path) -> None:
    rankings = draw_rankings(5)
    settings = {"batch_size": 4, "micro_batch_size": 2, "epochs": 1, "learning_rate": 1e-12}
    trainer, lines = train(tmp_path / "five", policy, rankings, **settings)
    assert [line["step"] for line in lines] == [1, 2]
    elements = trainer.train_dataset._rows[:-1]
    alone = [trainer.mean_measures([element])["loss"] for element in elements]
    assert lines[0]["loss"] * 4 + lines[1]["loss"] == pytest.approx(sum(alone), abs=1e-6)
    assert any(lines[1]["loss"] == pytest.approx(loss, abs=1e-6) for loss in alone)
    assert lines[1]["epoch"] >= 1


def test_judgments_of_one_prompt_share_its_weight(tmp_path: Path, policy: Path) -> None:
    prompt = Prompt.from_text("say a word")
    agree = Ranking(prompt, ("red", "one"), (1, 2))
    differ = Ranking(prompt, ("one", "red"), (1, 2))
    trainer, _ = train(tmp_path / "run", policy, draw_rankings(1), epochs=1)

    def loss(*rankings: Ranking) -> float:
        elements, _ = encode_rankings(
            rankings, Formatter(load_tokenizer(policy)), CONTEXT, ties="drop", where="x"
        )
        return trainer.mean_measures(elements)["loss"]

    assert loss(agree, differ) == pytest.approx((loss(agree) + loss(differ)) / 2, abs=1e-12)
    assert abs(loss(agree) - loss(differ)) > 1e-6


def test_pairs_give_trls_loss_through_its_own_collator(tmp_path: Path, policy: Path) -> None:
    rankings = [
        Ranking.from_pair(Prompt.from_text(f"say {i}"), f"{GOOD[i]} {BAD[i]}", BAD[-i])
        for i in range(1, 5)
    ]
    trainer, _ = train(tmp_path / "run", policy, rankings, epochs=1)
    elements = trainer.train_dataset._rows[:-1]
    pairs = [{"chosen_ids": one.ids[0], "rejected_ids": one.ids[1]} for one in elements]
    formatter = Formatter(load_tokenizer(policy))
    batch = DataCollatorForPreference(formatter.pad_id)(pairs)
    with torch.no_grad():
        chosen, rejected = trainer.model(**batch).logits.squeeze(-1).chunk(2)
    theirs = -torch.nn.functional.logsigmoid(chosen - rejected).mean().item()
    assert trainer.mean_measures(elements)["loss"] == pytest.approx(theirs, abs=1e-9)


def test_a_batch_of_nothing_costs_nothing(tmp_path: Path, policy: Path) -> None:
    trainer, _ = train(tmp_path / "run", policy, draw_rankings(3), epochs=1)
    trainer.model.zero_grad()
    batch = trainer.data_collator([None, None])
    share = trainer.measure(trainer.model, batch)["loss"]
    share.total.backward()
    assert (share.total.item(), int(share.items), trainer.count_items(batch)) == (0.0, 0, 0)
    assert all(not weight.grad.any() for weight in trainer.model.parameters())


def test_a_wider_margin_costs_more(tmp_path: Path, policy: Path) -> None:
    rankings = [one for one in draw_rankings(12) if one.ratings]
    settings = {"epochs": 1, "learning_rate": 1e-12}
    _, plain = train(tmp_path / "plain", policy, rankings, **settings)
    _, asked = train(tmp_path / "asked", policy, rankings, margin="rating", **settings)
    assert asked[0]["loss"] > plain[0]["loss"] + 0.1


# Scores


def test_scores_do_not_depend_on_the_batch(policy: Path, formatter: Formatter) -> None:
    model = new_reward_model(policy, formatter, 0, torch.float64)
    elements, _ = encode_rankings(draw_rankings(9), formatter, 99, ties="half", where="x")
    rows = [row for element in elements for row in element.ids]
    together = score_rows(model, rows, formatter.pad_id, 64, Workers())
    alone = score_rows(model, rows, formatter.pad_id, 1, Workers())
    assert together == pytest.approx(alone, abs=1e-9)
    plain = [model(torch.tensor([row])).logits.item() for row in rows]
    assert together == pytest.approx(plain, abs=1e-9)


def test_adapters_start_as_the_base_and_merge_without_a_change(
    tmp_path: Path, policy: Path, formatter: Formatter
) -> None:
    rankings = draw_rankings(8)
    section = RewardSection(max_length=CONTEXT)

    def score(model: Any) -> Tensor:
        rows = score_rankings(model, rankings, formatter, section, Workers(), "x")
        return torch.tensor([score for row in rows for score in row])

    base = new_reward_model(policy, formatter, 0, torch.float64)
    before = score(base)
    lora = {"rank": 4, "alpha": 8.0}
    start, _ = train(tmp_path / "a", policy, rankings, lora=lora, epochs=1, learning_rate=1e-12)
    torch.testing.assert_close(score(start.merged_model()), before, rtol=0, atol=1e-6)
    trainer, _ = train(tmp_path / "b", policy, rankings, lora=lora)
    unmerged = score(trainer.model.base_model.model)
    merged = score(trainer.merged_model())
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-6)
    assert (merged - before).abs().max() > 1e-3


# The stage


def test_the_adapter_saved_alone_scores_on_its_backbone_as_the_merged_model(
    data: Path, policy: Path, formatter: Formatter
) -> None:
    config = make_config(data, data / "run", policy, lora={"rank": 4})
    stage.run(config, "reward")
    folder = config.run_dir / "reward"
    merged = load_reward_model(folder / "model", torch.float64).eval()
    backbone = Backbone(load_policy(policy, torch.float64).eval())
    branch = add_reward(backbone, folder / "adapter", score_offset(merged))
    ids = torch.tensor([formatter.prompt_ids(Prompt.from_text("say a word").messages)])
    mask = torch.ones_like(ids, dtype=torch.bool)
    expected = score_sequences(merged, ids, mask)
    torch.testing.assert_close(score_sequences(branch, ids, mask), expected, rtol=0, atol=1e-6)
    assert score_offset(branch) == score_offset(merged) != 0
    started = new_reward_model(policy, formatter, config.seed, torch.float64)
    assert (score_sequences(started, ids, mask) - expected).abs() > 1e-3


def test_the_stage_learns_and_says_how_well(config: RunConfig) -> None:
    stage.run(config, "reward")
    folder = config.run_dir / "reward"
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.status == "complete"
    assert set(manifest.parents) == {"sft"}
    assert any(path.endswith("train.jsonl") for path in manifest.sources)
    losses = [line["loss"] for line in read_lines(folder / "metrics.jsonl") if "loss" in line]
    assert len(losses) == 12
    assert losses[-1] < 0.3 < losses[0]

    found = json.loads((folder / "accuracy.json").read_text())
    ours, floors = found["reward_model"], found["floors"]
    # A coin is at 0.5, and every colour beats every number.
    assert ours["accuracy"] >= 0.9
    assert ours["low"] <= ours["accuracy"] <= ours["high"]
    # Ten prompts each of one pair, of three, and of six less the two that are tied.
    assert (ours["n"], ours["tied"], ours["prompts"]) == (80, 20, 30)
    assert set(ours["by_labeler"]) == {"rater-0", "rater-1", "unnamed"}
    assert sum(part["n"] for part in ours["by_labeler"].values()) == 80
    assert ours["by_group"]["train"]["n"] == 80
    assert ours["by_rating_gap"]["+3"]["n"] == 30
    assert ours["log_loss"] < math.log(2)
    assert 0 <= ours["ece"] <= 0.5
    assert floors["bag_of_words"]["accuracy"] > 0.9 > floors["length"]["accuracy"]
    assert floors["bag_of_words"]["n"] == floors["length"]["n"] == 80
    ahead = floors["length"]["ahead"]
    assert ahead["difference"] == pytest.approx(ours["accuracy"] - floors["length"]["accuracy"])
    assert ahead["low"] <= ahead["difference"] <= ahead["high"]
    assert manifest.metrics["accuracy"] == ours["accuracy"]
    judge = RewardJudge(folder / "model")
    held_out = {(one.prompt.id, text): one.prompt for one in HELD_OUT for text in one.completions}
    scores = judge(list(held_out.values()), [text for _, text in held_out])
    # The judge computes in float32.
    assert ours["score_mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    assert abs(manifest.metrics["score_offset"]) > 0.05
    assert manifest.metrics["floor_length"] == floors["length"]["accuracy"]


@pytest.mark.parametrize("padded_with_end", [False, True])
def test_demonstrations_score_zero_with_the_offset_and_plain_transformers_keep_the_ranking(
    config: RunConfig, tmp_path: Path, policy: Path, padded_with_end: bool
) -> None:
    if padded_with_end:
        # As many published tokenizers are: padding that ends a turn would hide the last token.
        tokenizer = load_tokenizer(policy)
        tokenizer.pad_token = tokenizer.eos_token
        other = tmp_path / "other"
        save_model(other, load_policy(policy, torch.float64), tokenizer, "")
        config = make_config(tmp_path, tmp_path / "run-2", other)
    stage.run(config, "reward")
    folder = config.run_dir / "reward" / "model"
    model = load_reward_model(folder, torch.float64)
    formatter = Formatter(load_tokenizer(folder))
    offset = model.config.score_offset
    assert abs(offset) > 0.05
    assert repr(offset) in (folder / "README.md").read_text()

    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "right"
    texts = [
        tokenizer.apply_chat_template(
            [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": text},
            ],
            tokenize=False,
        )
        for prompt, text in DEMONSTRATIONS
    ]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    assert not batch["attention_mask"].all()
    with torch.no_grad():
        raw = plain(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits.squeeze(-1)
    assert raw.mean().item() == pytest.approx(offset, abs=1e-6)
    rows = [
        formatter.prompt_ids([{"role": "user", "content": prompt}]) + formatter.completion_ids(text)
        for prompt, text in DEMONSTRATIONS
    ]
    ours = torch.tensor(score_rows(model, rows, formatter.pad_id, 8, Workers()))
    assert (ours - offset).mean().item() == pytest.approx(0.0, abs=1e-6)
    assert (ours.argsort() == raw.argsort()).all()


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_cut_stage_resumes_to_the_same_bits(
    data: Path,
    policy: Path,
    monkeypatch: pytest.MonkeyPatch,
    lora: dict[str, Any] | None,
) -> None:
    whole = make_config(data, data / "whole", policy, lora=lora)
    stage.run(whole, "reward")
    folder = whole.run_dir / "reward"
    expected = {
        "weights": (folder / "model" / "model.safetensors").read_bytes(),
        "metrics": read_lines(folder / "metrics.jsonl"),
        "accuracy": (folder / "accuracy.json").read_text(),
    }
    cut = make_config(data, data / "cut", policy, lora=lora)
    measure = RewardTrainer.measure
    calls = iter(range(10_000))

    def fail(self: RewardTrainer, *args: Any) -> Any:
        # Two micro-batches a step: in the middle of step 8, after the checkpoint of step 6.
        if next(calls) == 15:
            raise KeyboardInterrupt
        return measure(self, *args)

    monkeypatch.setattr(RewardTrainer, "measure", fail)
    with pytest.raises(KeyboardInterrupt):
        stage.run(cut, "reward")
    folder = cut.run_dir / "reward"
    assert Manifest.read(folder).status == "failed"
    monkeypatch.setattr(RewardTrainer, "measure", measure)
    steps: list[int] = []
    training_step = RewardTrainer.training_step

    def watch(self: RewardTrainer, *args: Any, **options: Any) -> Tensor:
        steps.append(self.state.global_step)
        return training_step(self, *args, **options)

    monkeypatch.setattr(RewardTrainer, "training_step", watch)
    stage.run(cut, "reward")
    assert steps[0] == 6
    assert (folder / "model" / "model.safetensors").read_bytes() == expected["weights"]
    assert read_lines(folder / "metrics.jsonl") == expected["metrics"]
    assert (folder / "accuracy.json").read_text() == expected["accuracy"]


def test_a_finished_stage_is_skipped(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(config, "reward")
    monkeypatch.setattr(RewardTrainer, "fit", lambda _: pytest.fail("trained again"))
    stage.run(config, "reward")


def test_the_label_store_is_read_by_split_and_group(data: Path, policy: Path) -> None:
    made = make_config(
        data,
        data / "run",
        policy,
        data=["store:"],
        validation=[{"path": "store:", "split": "validation"}],
        epochs=1,
    )
    with pytest.raises(RunError, match="Run 'steerline label CONFIG' first"):
        stage.run(made, "reward")
    with open_stage(made, "label") as done:
        done.finish({})
    with pytest.raises(StoreError, match=r"No label store in .* Run 'steerline sample'"):
        stage.run(made, "reward")
    LabelStore.open(made.run_dir / "labels.db").close()
    with pytest.raises(DataError, match=r"reward.data must hold at least one ranking, got none"):
        stage.run(made, "reward")
    with LabelStore.open(made.run_dir / "labels.db") as store:
        import_judgments(store, draw_rankings(9), "train", "train", "ann")
        import_judgments(store, draw_rankings(3, start=9), "train", "held_out", "bea")
        import_judgments(store, draw_rankings(6, start=20), "validation", "train", "ann")
        import_judgments(store, draw_rankings(6, start=26), "validation", "held_out", "bea")
        snapshot = store.snapshot_hash()
    stage.run(made, "reward")
    manifest = Manifest.read(made.run_dir / "reward")
    assert manifest is not None
    assert manifest.sources["store:"] == snapshot
    assert set(manifest.parents) == {"sft", "label"}
    assert manifest.metrics["prompts"] == 9
    found = json.loads((made.run_dir / "reward" / "accuracy.json").read_text())["reward_model"]
    assert set(found["by_group"]) == {"train", "held_out"}
    assert found["prompts"] == 6
    assert found["n"] == found["by_group"]["train"]["n"]
    assert set(found["by_labeler"]) == {"ann", "bea"}


def import_judgments(
    store: LabelStore, rankings: Sequence[Ranking], split: Any, group: Any, labeler: str
) -> None:
    store.import_rankings(
        [
            Ranking(one.prompt, one.completions, one.ranks, one.ratings, labeler, group)
            for one in rankings
        ],
        split=split,
        source="test",
    )


def test_a_leak_is_refused_before_anything_is_trained(tmp_path: Path, config: RunConfig) -> None:
    write_jsonl(tmp_path / "held_out.jsonl", to_rows(draw_rankings(10, start=40)))
    with pytest.raises(DataError, match=r"reward.validation must hold no prompt .* got 8 on both"):
        stage.run(config, "reward")
    assert not (config.run_dir / "reward" / "checkpoints").exists()


def test_empty_rankings_are_refused(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"train.jsonl must hold rankings, got none"):
        stage.run(config, "reward")


def test_ties_alone_are_refused(tmp_path: Path, config: RunConfig) -> None:
    tied = [Ranking(one.prompt, one.completions[:2], (1, 1)) for one in draw_rankings(4)]
    write_jsonl(tmp_path / "train.jsonl", to_rows(tied))
    with pytest.raises(DataError, match="not tied"):
        stage.run(config, "reward")


def test_a_margin_without_ratings_is_refused(data: Path, policy: Path) -> None:
    plain = [Ranking(one.prompt, one.completions, one.ranks) for one in draw_rankings(4)]
    write_jsonl(data / "train.jsonl", to_rows(plain))
    with pytest.raises(DataError, match=r"hold ratings where reward.margin"):
        stage.run(make_config(data, data / "run", policy, margin="rating"), "reward")


def test_demonstrations_must_be_named_somewhere(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"reward.demonstrations must list a source"):
        stage.run(config.with_stage("sft", data=()), "reward")


def test_a_length_beyond_the_context_is_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"at most the model's context \(64\), got 65"):
        stage.run(config.with_stage("reward", max_length=65), "reward")


@pytest.mark.distributed
def test_two_processes_train_and_measure_as_one(data: Path, policy: Path) -> None:
    # 22 prompts in batches of 8: the second process runs out of prompts in the last step.
    write_jsonl(data / "train.jsonl", to_rows(draw_rankings(22)))
    settings = {"epochs": 1, "micro_batch_size": 2, "max_length": CONTEXT}
    alone = make_config(data, data / "alone", policy, **settings)
    stage.run(alone, "reward")
    both = make_config(data, data / "both", policy, **settings)
    (data / "both.yaml").write_text(both.dump())
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(root / "configs" / "accelerate" / "cpu-2.yaml")]
    launch += ["--main_process_port", "0", "-m", "stages.reward", str(data / "both.yaml")]
    done = subprocess.run(launch, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = (Manifest.read(run.run_dir / "reward") for run in (alone, both))
    assert one is not None
    assert two is not None
    assert (one.world_size, two.world_size) == (1, 2)
    for figure in ("accuracy", "score_offset", "train_loss", "log_loss", "score_mean"):
        assert two.metrics[figure] == pytest.approx(one.metrics[figure], abs=1e-6)
    ours = read_lines(alone.run_dir / "reward" / "metrics.jsonl")
    theirs = read_lines(both.run_dir / "reward" / "metrics.jsonl")
    assert len(ours) == len(theirs) == 3
    for line, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(line, abs=1e-6)
