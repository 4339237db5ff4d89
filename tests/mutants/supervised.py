"""Mutants of what is learned from people: rankings, and the assistant's tokens."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

RANKING_LOSS = "pipeline/ranking_loss.py"
FORMATTING = "pipeline/formatting.py"
SFT = "pipeline/sft.py"
TRAINER = "pipeline/checkpointing.py"

THREE = "test_ranking_loss.py::test_three_completions_by_hand"
COLLATED = "test_sft.py::test_a_collated_row_starts_again_at_each_example"
GRADIENT = "test_checkpointing.py::test_a_step_takes_the_mean_gradient_over_labelled_tokens"

SUPERVISED = (
    Mutant(
        "ranking loss: sign",
        RANKING_LOSS,
        "total = -(logsigmoid(asked)",
        "total = (logsigmoid(asked)",
        "The reward model prefers what people do not.",
        (THREE,),
    ),
    Mutant(
        "ranking loss: chosen and rejected swapped",
        RANKING_LOSS,
        "wins=both & (first < second)",
        "wins=both & (first > second)",
        "The reward model prefers what people do not.",
        (THREE,),
    ),
    Mutant(
        "ranking loss: sum over pairs",
        RANKING_LOSS,
        "return total / count_pairs(pairs, ties).clamp(min=1)",
        "return total",
        "Prompts with nine completions weigh 36 times as much as those with two.",
        (THREE,),
    ),
    Mutant(
        "ranking loss: padding loses to all",
        RANKING_LOSS,
        "both = mask[:, :, None] & mask[:, None, :]",
        "both = mask[:, :, None] & torch.ones_like(mask)[:, None, :]",
        "Prompts with few completions learn that their scores be high.",
        ("test_ranking_loss.py::test_padding_completions_changes_neither_loss_nor_gradient",),
    ),
    Mutant(
        "ranking loss: tied pairs twice",
        RANKING_LOSS,
        "both & (first == second) & upper",
        "both & (first == second)",
        "A completion ties with itself, and every tie counts twice.",
        ("test_ranking_loss.py::test_pairs_are_counted_once",),
    ),
    Mutant(
        "ranking loss: margin's sign",
        RANKING_LOSS,
        "gap - margin.to(gap)",
        "gap + margin.to(gap)",
        "Where people saw the larger difference, a smaller one will do.",
        ("test_ranking_loss.py::test_two_completions_give_trls_pairwise_loss",),
    ),
    Mutant(
        "labels: the prompt too",
        SFT,
        "[token if written else IGNORED for token, written in zip(*encoded, strict=True)]",
        "list(encoded.ids)",
        "The model learns to ask as well as to answer.",
        ("test_sft.py::test_labels_are_the_assistants_tokens_of_the_rendered_chat",),
    ),
    Mutant(
        "labels: a neighbour's first token",
        SFT,
        "        labels[positions == 0] = IGNORED\n",
        "",
        "The last token of a packed example predicts the next example.",
        (COLLATED,),
    ),
    Mutant(
        "positions: on through a packed row",
        SFT,
        "torch.cat([torch.arange(part) for part in parts])",
        "torch.arange(longest)",
        "Packed examples see their neighbours.",
        (COLLATED,),
    ),
    Mutant(
        "end: not taught",
        FORMATTING,
        "return [*self._encode(text), self.end_id]",
        "return self._encode(text)",
        "Demonstrations have no end: the model never learns to stop.",
        ("test_formatting.py::test_the_mask_is_what_the_assistant_wrote",),
    ),
    Mutant(
        "language model's loss: mean over ignored tokens too",
        TRAINER,
        'return int((batch["labels"][:, 1:] != IGNORED).sum())',
        'return batch["labels"][:, 1:].numel()',
        "Long prompts shrink the gradient.",
        (GRADIENT,),
    ),
    Mutant(
        "language model's loss: mean over a micro-batch",
        TRAINER,
        "loss * self._crew.world_size / num_items_in_batch",
        "loss * self._crew.world_size / self.count_items(inputs)",
        "Accumulating more micro-batches raises the learning rate.",
        (GRADIENT,),
    ),
)
