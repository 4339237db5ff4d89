import pytest
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


def make_rows(*lengths: tuple[int, int]) -> Episodes:
    """Return episodes by the lengths of prompt and completion; ids count up from 1."""
    prompts = [list(range(1, prompt + 1)) for prompt, _ in lengths]
    completions = [list(range(101, 101 + time)) for _, time in lengths]
    ids, attention_mask, completion_mask = lay_out(prompts, completions, pad_id=0)
    asked = tuple(Prompt.from_text(str(row)) for row in range(len(lengths)))
    ended = torch.ones(len(lengths), dtype=torch.bool)
    return Episodes(ids, attention_mask, completion_mask, ended, asked)


@pytest.mark.parametrize(
    ("prompt", "time", "columns"),
    [
        (1, 1, (8, 8)),
        (8, 8, (8, 8)),
        (9, 15, (16, 16)),
        (9, 17, (16, 20)),
        (17, 18, (20, 20)),
        (20, 3, (20, 8)),
    ],
)
def test_trimming_drops_padding_of_every_row_down_to_multiples_of_eight(prompt, time, columns):
    cut = make_rows((prompt, time), (20, 20)).rows(torch.tensor([0])).trimmed()
    assert (cut.ids.shape[1] - cut.completion_mask.shape[1], cut.completion_mask.shape[1]) == (
        columns
    )
    assert cut.attention_mask.shape == cut.ids.shape
    real = [*range(1, prompt + 1), *range(101, 101 + time)]
    assert cut.ids[cut.attention_mask].tolist() == real
    assert cut.completions[cut.completion_mask].tolist() == real[prompt:]


def test_trimming_leaves_rows_without_common_padding():
    both = make_rows((3, 2), (1, 4))
    assert torch.equal(both.trimmed().ids, both.ids)


def test_rows_are_sorted_by_length():
    episodes = make_rows((2, 1), (2, 9), (5, 4), (7, 2))
    assert episodes.by_length(torch.arange(4)).tolist() == [1, 2, 3, 0]
    assert episodes.by_length(torch.tensor([3, 0, 2])).tolist() == [3, 2, 0]


def test_batches_hold_rows_of_like_length():
    episodes = make_rows((10, 10), (10, 2), (10, 9), (10, 1), (4, 2), (10, 5))
    batches = [batch.tolist() for batch in episodes.alike(torch.arange(6), 8)]
    assert batches == [[0, 2, 5], [1, 3], [4]]
    assert [len(batch) for batch in episodes.alike(torch.arange(6), 2)] == [2, 2, 1, 1]
    assert list(episodes.alike(torch.arange(0), 2)) == []


def test_splitting_keeps_every_row_once():
    parts = list(make_episodes().split(1, torch.tensor([1, 0])))
    assert [len(part) for part in parts] == [1, 1]
    assert [part.ended.item() for part in parts] == [False, True]
    asked = [[prompt.messages[0]["content"] for prompt in part.prompts] for part in parts]
    assert asked == [["second"], ["first"]]


def test_trimming_leaves_what_is_no_column_of_time():
    episodes = make_rows((3, 2), (3, 20))
    columns = dict.fromkeys(
        ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"),
        torch.zeros(2, 20),
    )
    components = torch.arange(12.0).view(2, 6)
    scores = dict.fromkeys(("scores", "scaled_scores"), torch.ones(2))
    whole = Rollout(**vars(episodes), **columns, **scores, components=components)
    cut = whole.rows(torch.tensor([0])).trimmed()
    assert cut.values.shape == (1, 8)
    assert cut.components.tolist() == [[0, 1, 2, 3, 4, 5]]
