"""Let a causal language model read rows of tokens bit by bit, each token once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from pipeline.masked import positions


class _Cache(DynamicCache):
    """Keys and values of the tokens so far, the keys in the values' type.

    Under autocast, rotary embeddings leave keys in float32, and every step would cast all of them
    anew for the product with its query.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Add a step's keys and values to a layer's, and return all of the layer's."""
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)


class CachedModel:
    """A causal language model with the keys and values of what it has read.

    Args:
        model: the model.

    Attributes:
        seen: columns of the rows that it has read.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seen = 0
        self._cache = _Cache(config=model.config)

    @property
    def device(self) -> torch.device:
        """Return where the model computes."""
        device: torch.device = self.model.device
        return device

    @torch.no_grad()
    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Read the columns that are new, and return what could come after the last.

        Args:
            ids: the whole rows so far, [batch, width].
            mask: True at real tokens, [batch, width].
        Returns:
            Next-token logits, [batch, vocabulary].
        """
        logits: Tensor = self.model(
            input_ids=ids[:, self.seen :],
            attention_mask=mask.long(),
            position_ids=positions(mask)[:, self.seen :],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.seen = ids.shape[1]
        return logits

    def keep(self, going: Tensor) -> None:
        """Forget the rows where ``going``, [batch], is False."""
        self._cache.batch_select_indices(going.nonzero().squeeze(1))

    def repeat(self, count: int) -> None:
        """Go on as if each row had been read ``count`` times."""
        self._cache.batch_repeat_interleave(count)
