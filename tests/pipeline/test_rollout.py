import torch

from pipeline.records import Prompt
from pipeline.rollout import Episodes, Rollout, lay_out

PROMPTS = [[5, 6, 7], [8]]
COMPLETIONS = [[1, 2], [3, 4, 9, 2]]


def make_episodes():
    ids, attention_mask, completion_mask = lay_out(PROMPTS, COMPLETIONS, pad_id=0)
    prompts = (Prompt.from_text("first"), Prompt.from_text("second"))
    return Episodes(ids, attention_mask, completion_mask, torch.tensor([True, False]), prompts)


def test_completions_begin_in_the_same_column():
    episodes = make_episodes()
    assert episodes.ids.tolist() == [[5, 6, 7, 1, 2, 0, 0], [0, 0, 8, 3, 4, 9, 2]]
    assert episodes.attention_mask.sum(dim=1).tolist() == [5, 5]
    assert episodes.completion_mask.sum(dim=1).tolist() == [2, 4]
    assert episodes.completions.tolist() == [[1, 2, 0, 0], [3, 4, 9, 2]]
    assert episodes.token_count == 6


def test_trimming_drops_only_what_is_padding_in_every_row():
    first = make_episodes().rows(torch.tensor([0])).trimmed()
    assert first.ids.tolist() == [[5, 6, 7, 1, 2]]
    second = make_episodes().rows(torch.tensor([1])).trimmed()
    assert second.ids.tolist() == [[8, 3, 4, 9, 2]]
    both = make_episodes()
    assert torch.equal(both.trimmed().ids, both.ids)


def test_splitting_keeps_every_row_once():
    parts = list(make_episodes().split(1, torch.tensor([1, 0])))
    assert [len(part) for part in parts] == [1, 1]
    assert [part.ended.item() for part in parts] == [False, True]
    asked = [[prompt.messages[0]["content"] for prompt in part.prompts] for part in parts]
    assert asked == [["second"], ["first"]]


def test_trimming_leaves_what_is_no_column_of_time():
    episodes = make_episodes()
    columns = dict.fromkeys(
        ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"),
        torch.zeros(2, 4),
    )
    components = torch.arange(12.0).view(2, 6)
    scores = dict.fromkeys(("scores", "scaled_scores"), torch.ones(2))
    whole = Rollout(**vars(episodes), **columns, **scores, components=components)
    cut = whole.rows(torch.tensor([0])).trimmed()
    assert cut.values.shape == (1, 2)
    assert cut.components.tolist() == [[0, 1, 2, 3, 4, 5]]
