"""Name sets of tasks: how the papers measured theirs, in lm_eval's format.

A preset's task departs from one that lm_eval ships in the prompt, in how many examples stand before
a question, or in the rule that picks an answer; it has a name of its own, because its figures are
not those of lm_eval's task.

* ``llama``: zero-shot common sense reasoning (Touvron et al. 2023, section 3.1).
* ``instructgpt``: the automatic evaluations of Ouyang et al. 2022, appendix D, each with no
  examples and with the paper's number of them. Multiple choice goes by the average log-probability
  a token, sampling is greedy and stops at the first newline.
* ``bias``: CrowS-Pairs and Winogender with three instructions, and TruthfulQA; part of
  ``instructgpt``. What is not at hand is left out.

Prompts are those of the paper's figures and of the samples that its authors published.

Departures of ``instructgpt`` from the paper:
1. SQuADv2 and DROP show as many single questions as the paper shows paragraphs with all of theirs;
   nor do the earlier questions of its paragraph stand before one of SQuADv2.
2. An answer has at most 64 tokens (128 where a text is translated or summarised); the paper prints
   no limit.
3. RealToxicityPrompts is scored greedily with no instruction only; ``evaluate.toxicity`` has all
   three instructions and a scorer of the user's own.
4. TruthfulQA is scored by choice and by likeness to true answers, not by judges tuned for it.
5. CrowS-Pairs is lm_eval's copy, revised by Neveol et al. 2022, and not the paper's 1,508 pairs.
6. QuAC's F1 is that of Choi et al. 2018, which weighs several people's answers, over all questions;
   the paper says F1 only.
7. Reddit posts are read from a file: the paper does not print which 2,500 of them it took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.bias import INSTRUCTIONS, pair_config, pair_crows, pair_winogender
from pipeline.evaluation.paper_tasks import (
    answer_squad,
    ask_wsc,
    keep_dialogs,
    keep_positive,
    score_quac,
    score_squad,
    score_summary,
    score_tldr,
    score_wsc,
    split_dialogs,
)
from pipeline.evaluation.prior import AnswerPriorTask

TINY = "tiny"
OFFLINE = "offline"


@dataclass(frozen=True)
class PresetTask:
    """One task of a preset.

    Attributes:
        name: its key in the results.
        source: the task that it departs from, as FOLDER/TASK of what lm_eval ships; empty where
            ``changes`` is all of it.
        changes: keys of lm_eval's YAML that are replaced.
        shots: numbers of examples, in place of ``evaluate.shots``.
        headline: the metric that ``acc`` stands for.
        file: JSONL file in ``evaluate.data``, rows as in the data set, read where it is there.
        variable: environment variable without which it cannot run.
        optional: left out with a line where its data cannot be had.
    """

    name: str
    source: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    shots: tuple[int, ...] = (0,)
    headline: str = "acc"
    file: str = ""
    variable: str = ""
    optional: bool = False

    @property
    def local(self) -> bool:
        """Tell whether its rows come from its file alone: there is no data set to ask for."""
        return not self.source and "dataset_path" not in self.changes


def _metrics(*names: str) -> list[dict[str, Any]]:
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]


def _greedy(tokens: int) -> dict[str, Any]:
    return {"until": ["\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": tokens}


# The completion's likelihood over its likelihood after "Answer:" alone (Brown et al. 2020).
_BY_PRIOR: Mapping[str, Any] = {
    "class": AnswerPriorTask,
    "metric_list": _metrics("acc", "acc_norm", "acc_mutual_info"),
}
LLAMA = (
    PresetTask("llama_boolq", "super_glue/boolq", _BY_PRIOR, headline="acc_mutual_info"),
    PresetTask("llama_piqa", "piqa/piqa", headline="acc_norm"),
    PresetTask("llama_siqa", "siqa/social_iqa", headline="acc_norm"),
    PresetTask("llama_hellaswag", "hellaswag/hellaswag", headline="acc_norm"),
    # One continuation after either name: nothing to normalise.
    PresetTask("llama_winogrande", "winogrande/winogrande"),
    PresetTask("llama_arc_easy", "arc/arc_easy", headline="acc_norm"),
    PresetTask("llama_arc_challenge", "arc/arc_challenge", headline="acc_norm"),
    PresetTask("llama_openbookqa", "openbookqa/openbookqa", _BY_PRIOR, headline="acc_mutual_info"),
)

BIAS = (
    *(
        PresetTask(
            f"crows_pairs_{style}",
            "crows_pairs/crows_pairs_english",
            pair_config(style, pair_crows, "stereotype"),
            file="crows_pairs",
            optional=True,
        )
        for style in INSTRUCTIONS
    ),
    *(
        PresetTask(
            f"winogender_{style}",
            "winogender/winogender_all",
            pair_config(style, pair_winogender, "male"),
            file="winogender",
            optional=True,
        )
        for style in INSTRUCTIONS
    ),
    # lm_eval's prompt opens with the six question-answer pairs of Lin et al. 2021.
    PresetTask("truthfulqa_mc1", "truthfulqa/truthfulqa_mc1", file="truthfulqa_mc", optional=True),
    PresetTask("truthfulqa_mc2", "truthfulqa/truthfulqa_mc2", file="truthfulqa_mc", optional=True),
    PresetTask("truthfulqa_gen", "truthfulqa/truthfulqa_gen", file="truthfulqa_gen", optional=True),
)

INSTRUCTGPT = (
    PresetTask(
        "instructgpt_drop",
        "drop/drop",
        {
            "doc_to_text": "Passage: {{passage}}\nQuestion: {{question}}\nAnswer:",
            "doc_to_target": "{{answers[0]|join(', ')}}",
            "target_delimiter": " ",
            "generation_kwargs": _greedy(64),
        },
        shots=(0, 4),
        headline="f1",
    ),
    PresetTask(
        "instructgpt_squadv2",
        "",
        {
            "dataset_path": "rajpurkar/squad_v2",
            "output_type": "generate_until",
            "training_split": "train",
            "validation_split": "validation",
            "description": (
                "Answer each question using information in the preceding background paragraph.\n"
                'If there is not enough information provided, answer with "Not in background."\n\n'
            ),
            "doc_to_text": "Title: {{title}}\n\nBackground: {{context}}\n\nQ: {{question}}\n\nA:",
            "doc_to_target": answer_squad,
            "process_results": score_squad,
            "metric_list": _metrics("f1", "exact_match"),
            "generation_kwargs": _greedy(64),
        },
        shots=(0, 4),
        headline="f1",
    ),
    PresetTask(
        "instructgpt_quac",
        "",
        {
            "dataset_path": "allenai/quac",
            "output_type": "generate_until",
            "training_split": "train",
            "validation_split": "validation",
            "process_docs": split_dialogs,
            "description": (
                "Answer each question using information in the preceding background paragraph. If "
                'there is not enough information provided, answer with "I don\'t know."\n\n'
            ),
            "doc_to_text": (
                "TITLE: {{title}}\n\nPARAGRAPH: {{paragraph}}\n\n{{before}}Q: {{question}}\n\nA:"
            ),
            "doc_to_target": "answer",
            "process_results": score_quac,
            "fewshot_config": {"split": "train", "process_docs": keep_dialogs},
            "metric_list": _metrics("f1"),
            "generation_kwargs": _greedy(64),
        },
        shots=(0, 2),
        headline="f1",
    ),
    PresetTask(
        "instructgpt_hellaswag",
        "hellaswag/hellaswag",
        {"description": "Complete each independent paragraph using common-sense reasoning.\n\n"},
        shots=(0, 15),
        headline="acc_token",
    ),
    PresetTask(
        "instructgpt_rte",
        "glue/rte",
        {
            "doc_to_text": (
                "Passage: {{sentence1}}\nQuestion: From this passage can one reasonably conclude "
                "that {{sentence2.rstrip('.')}}?\nAnswer:"
            ),
            "doc_to_choice": ["Yes", "No"],
        },
        shots=(0, 15),
        headline="acc_token",
    ),
    PresetTask(
        "instructgpt_sst",
        "glue/sst2",
        {
            "description": (
                "For each snippet of text, label the sentiment of the text as positive or "
                "negative.\n\n"
            ),
            "doc_to_text": "Text: {{sentence}}\nLabel:",
        },
        shots=(0, 15),
        headline="acc_token",
    ),
    PresetTask(
        "instructgpt_wsc",
        "super_glue/wsc",
        {
            "output_type": "generate_until",
            "description": (
                "Final Exam with Answer Key\n\nInstructions: Please carefully read the following "
                "passages. For each passage, you must identify which noun the pronoun marked in "
                "*bold* refers to.\n\n"
            ),
            "doc_to_text": ask_wsc,
            "doc_to_choice": None,
            "doc_to_target": "span1_text",
            "process_results": score_wsc,
            # A row whose noun is the wrong one has no right answer to show.
            "fewshot_config": {"split": "train", "process_docs": keep_positive},
            "metric_list": _metrics("acc"),
            "generation_kwargs": _greedy(64),
        },
        shots=(0, 15),
    ),
    PresetTask(
        "instructgpt_wmt15_fr_en",
        "translation/wmt14-fr-en",
        {
            "dataset_path": "wmt/wmt15",
            "description": "Translate the following sentences from French into English.\n\n",
            "doc_to_text": 'French: {{translation["fr"]}}\n\nEnglish:',
            "doc_to_target": '{{translation["en"]}}',
            "generation_kwargs": _greedy(128),
        },
        shots=(0, 15),
    ),
    PresetTask(
        "instructgpt_cnn_dm",
        "cnn_dailymail/cnn_dailymail_abisee",
        {
            "doc_to_text": "{{article}}\n\nTL;DR:",
            "process_results": score_summary,
            "metric_list": _metrics("rougeL"),
            "generation_kwargs": _greedy(128),
        },
    ),
    PresetTask(
        "instructgpt_reddit_tldr",
        "",
        {
            "output_type": "generate_until",
            "test_split": "test",
            "doc_to_text": "{{content}}\n\nTL;DR:",
            "doc_to_target": "summary",
            "process_results": score_tldr,
            "metric_list": _metrics("rougeL"),
            "generation_kwargs": _greedy(128),
        },
        file="reddit_tldr",
    ),
    PresetTask(
        "instructgpt_realtoxicityprompts",
        "realtoxicityprompts/realtoxicityprompts",
        {"generation_kwargs": _greedy(64)},
        variable="PERSPECTIVE_API_KEY",
    ),
    *BIAS,
)

PRESETS: Mapping[str, tuple[PresetTask, ...]] = {
    "llama": LLAMA,
    "instructgpt": INSTRUCTGPT,
    "bias": BIAS,
}
NAMES = (TINY, OFFLINE, *PRESETS)
