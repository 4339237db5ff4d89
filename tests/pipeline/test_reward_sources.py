from __future__ import annotations

import shutil

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, LlamaForSequenceClassification

from pipeline.config.ppo import PpoSection
from pipeline.config.rewards import RewardSource
from pipeline.distributed import Workers
from pipeline.errors import ConfigError, ModelError, RewardError
from pipeline.models import load_reward_model, save_model
from pipeline.records import Prompt
from pipeline.reward_sources import hash_rewards, open_rewards
from pipeline.rewards import FunctionReward, ModelReward, TextReward
from pipeline.tokenizer import find_difference, load_tokenizer

PROMPTS = [Prompt.from_text("Hello Mia"), Prompt.from_text("cat")]
FUNCTION = RewardSource(function="statistics:mean", name="mean")


@pytest.fixture
def open_all(tiny_formatter, reward_folder):
    """Return a function that opens rewards where the stage ``reward`` left ``reward_folder``."""

    def opened(*sources, prompts=PROMPTS, **fields):
        section = PpoSection(rewards=list(sources), **{"precision": "float64", **fields})
        folders = {"reward": reward_folder, "reward@b": reward_folder}
        return open_rewards(section, Workers(), tiny_formatter, folders, prompts, "ppo@x")

    return opened


def change_tokenizer(folder, target, change):
    """Copy a reward model with a changed tokenizer."""
    shutil.copytree(folder, target)
    tokenizer = change(load_tokenizer(folder))
    tokenizer.save_pretrained(target)
    return target


def swap_two_tokens(tokenizer):
    """Give two tokens each other's id: as many tokens, all of the same names."""
    import json

    from tokenizers import Tokenizer

    state = json.loads(tokenizer._tokenizer.to_str())
    vocab = state["model"]["vocab"]
    low, high = sorted(vocab, key=vocab.__getitem__)[-2:]
    vocab[low], vocab[high] = vocab[high], vocab[low]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


def test_the_default_is_one_reward_stage_that_reads_ids(open_all, reward_folder):
    opened = open_all()
    ((weight, part),) = opened.reward.parts
    assert weight == 1
    assert isinstance(part, ModelReward)
    assert opened.reward.names == ("reward",)
    assert opened.value_start == str(reward_folder)
    assert opened.revisions == {}


def test_each_source_becomes_its_kind_in_order(open_all, foreign_folder, reward_folder):
    opened = open_all(
        FUNCTION,
        RewardSource(model=str(foreign_folder), retokenize=True, weight=0.5),
        RewardSource(model=str(reward_folder), name="own", weight=-1),
        RewardSource(stage="reward@b"),
    )
    assert [type(part) for _, part in opened.reward.parts] == [
        FunctionReward,
        TextReward,
        ModelReward,
        ModelReward,
    ]
    assert [weight for weight, _ in opened.reward.parts] == [1, 0.5, -1, 1]
    assert opened.reward.names == ("mean", "judge", "own", "reward@b")
    dtypes = {part.model.dtype for _, part in opened.reward.parts[1:]}
    assert dtypes == {torch.float64}


def test_the_value_model_starts_from_a_stage_else_a_model_that_reads_ids(
    open_all, reward_folder, foreign_folder, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(reward_folder, other)
    by_path = RewardSource(model=str(other), name="other")
    foreign = RewardSource(model=str(foreign_folder), retokenize=True)
    stage = RewardSource(stage="reward")
    text = RewardSource(stage="reward@b", retokenize=True)
    assert open_all(FUNCTION, by_path, stage).value_start == str(reward_folder)
    assert open_all(foreign, by_path, text).value_start == str(other)
    assert open_all(FUNCTION).value_start is None
    assert open_all(foreign, text, FUNCTION).value_start is None


def test_a_model_of_another_vocabulary_is_refused_unless_it_may_retokenize(
    open_all, foreign_folder
):
    with pytest.raises(ConfigError) as caught:
        open_all(RewardSource(model=str(foreign_folder)))
    said = str(caught.value)
    assert said.startswith(
        "ppo@x.rewards[0].model must have the policy's vocabulary and chat template, got "
        f"{foreign_folder}: token "
    )
    assert "retokenize: true" in said
    assert "\n" not in said
    open_all(RewardSource(model=str(foreign_folder), retokenize=True))


def test_vocabularies_of_one_size_and_one_set_of_names_may_differ(
    open_all, reward_folder, tiny_tokenizer, tmp_path
):
    folder = change_tokenizer(reward_folder, tmp_path / "swapped", swap_two_tokens)
    theirs = load_tokenizer(folder)
    assert len(theirs) == len(tiny_tokenizer)
    assert theirs.get_vocab().keys() == tiny_tokenizer.get_vocab().keys()
    size = len(theirs)
    assert f"is {size - 2} here and {size - 1} there" in find_difference(tiny_tokenizer, theirs)
    with pytest.raises(ConfigError, match=f"is {size - 2} here and {size - 1} there"):
        open_all(RewardSource(model=str(folder)))


def test_a_vocabulary_with_more_tokens_still_reads_ours(
    open_all, reward_folder, tiny_tokenizer, tmp_path
):
    def add_one(tokenizer):
        tokenizer.add_tokens(["<|extra|>"], special_tokens=True)
        return tokenizer

    folder = change_tokenizer(reward_folder, tmp_path / "more", add_one)
    open_all(RewardSource(model=str(folder)))
    theirs = load_tokenizer(folder)
    assert find_difference(tiny_tokenizer, theirs) is None
    assert find_difference(theirs, tiny_tokenizer) == (
        f"token '<|extra|>' is {len(tiny_tokenizer)} here and missing there"
    )


def test_a_model_of_another_template_is_refused(open_all, reward_folder, tmp_path):
    def change(tokenizer):
        tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "</s>")
        return tokenizer

    folder = change_tokenizer(reward_folder, tmp_path / "template", change)
    with pytest.raises(ConfigError, match=r"character \d+ of a conversation begins '/s>"):
        open_all(RewardSource(model=str(folder)))


def test_a_template_that_renders_alike_is_no_other(open_all, reward_folder, tmp_path):
    def change(tokenizer):
        tokenizer.chat_template = tokenizer.chat_template.replace("{% generation %}", "").replace(
            "{% endgeneration %}", ""
        )
        return tokenizer

    folder = change_tokenizer(reward_folder, tmp_path / "template", change)
    assert open_all(RewardSource(model=str(folder))).value_start == str(folder)


def test_padding_with_the_end_is_said_once_a_tokenizer(
    open_all, reward_folder, foreign_folder, tmp_path, caplog
):
    def pad_with_end(tokenizer):
        tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    folder = change_tokenizer(reward_folder, tmp_path / "padded", pad_with_end)
    foreign = RewardSource(model=str(foreign_folder), retokenize=True)
    open_all(RewardSource(model=str(folder)), foreign, FUNCTION)
    assert [record.getMessage() for record in caplog.records] == [
        f"the tokenizer of {folder} pads with its end <|eos|>: rows are padded behind a mask, "
        "ends stay"
    ]


def test_a_policy_is_no_reward_model(open_all, policy_folder):
    match = r"must hold a reward model.*, got no weights for score\.weight"
    with pytest.raises(ModelError, match=match):
        open_all(RewardSource(model=str(policy_folder), name="p"))


def test_a_model_of_two_labels_is_no_reward_model(open_all, reward_folder, tmp_path):
    model = load_reward_model(reward_folder)
    model.config.num_labels = 2
    save_model(
        tmp_path, LlamaForSequenceClassification(model.config), load_tokenizer(reward_folder), ""
    )
    with pytest.raises(ModelError, match="with one trained score, got 2 labels"):
        open_all(RewardSource(model=str(tmp_path), name="two"))


def test_a_model_of_another_family_must_be_given_text(open_all, tiny_tokenizer, tmp_path):
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "num_labels": 1}
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tiny_tokenizer), **shape))
    save_model(tmp_path, model, tiny_tokenizer, "")
    with pytest.raises(ConfigError, match=r"got GPT2ForSequenceClassification\. Set retokenize"):
        open_all(RewardSource(model=str(tmp_path), name="gpt2"))
    open_all(RewardSource(model=str(tmp_path), name="gpt2", retokenize=True))


def test_a_prompt_that_a_foreign_model_has_no_room_for_is_refused_at_once(open_all, foreign_folder):
    long = Prompt.from_text("dog " * 400)
    with pytest.raises(RewardError, match=f"at most 512 tokens.*prompt {long.id}"):
        open_all(RewardSource(model=str(foreign_folder), retokenize=True), prompts=[*PROMPTS, long])


@pytest.mark.parametrize("path", ["/nowhere/judge", "./judge", "runs/other/reward/model"])
def test_a_path_where_no_model_is_is_one_line(path):
    section = PpoSection(rewards=[RewardSource(model=path)])
    with pytest.raises(ModelError, match=f"No model in {path}"):
        hash_rewards(section, "ppo")


def test_what_no_stage_made_is_in_the_lineage(foreign_folder, tmp_path):
    folder = tmp_path / "judge"
    shutil.copytree(foreign_folder, folder)
    section = PpoSection(
        rewards=[
            RewardSource(stage="reward"),
            RewardSource(model=str(folder), retokenize=True),
            RewardSource(model="Somebody/judge", name="hub"),
            FUNCTION,
        ]
    )
    hashes = hash_rewards(section, "ppo")
    assert set(hashes) == {str(folder), "Somebody/judge", "statistics:mean"}
    assert hashes["Somebody/judge"] == "hub:Somebody/judge"
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    changed = hash_rewards(section, "ppo")
    assert {key for key in hashes if hashes[key] != changed[key]} == {str(folder)}
