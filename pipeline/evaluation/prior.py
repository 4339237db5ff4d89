"""Weigh an answer by how likely it is after ``Answer:`` alone.

lm_eval's ``acc_mutual_info`` takes the answer's likelihood after nothing for the prior. GPT-3, and
LLaMA for BoolQ and OpenBookQA, take the one after ``Answer:``:

    argmax_c  log P(c | context) - log P(c | "Answer:")

Brown et al. 2020, section 2.4; Touvron et al. 2023, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.task import ConfigurableTask

PRIOR = "Answer:"


class AnswerPriorTask(ConfigurableTask):
    """Ask for each choice after ``Answer:`` as well; its metrics must name ``acc_mutual_info``.

    Args:
        config: lm_eval's, from a YAML.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: config[key] for key in config if key != "class"})

    def construct_requests(self, doc: Any, ctx: Any, **options: Any) -> list[Any]:
        """Return a request a choice after the context, and as many after the prior."""
        requests: list[Any] = super().construct_requests(doc, ctx, **options)
        for request in requests[len(requests) // 2 :]:
            request.arguments = (PRIOR, request.arguments[1])
        return requests
