"""Render a conversation to token ids and a loss mask, in one place for every stage.

SFT, the reward model, PPO, sampling and evaluation all call ``Formatter``. A completion is encoded
apart from its prompt, so the boundary between the two is the same tokens whether the text was
written, ranked or sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.records import Message, Prompt

PROBE = "probe"


def encode_document(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a pretraining document: begin token where the tokenizer has one, text, end."""
    ids: list[int] = tokenizer(text)["input_ids"]
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer_next: bool = False
) -> str:
    """Render a conversation by a tokenizer's chat template, from its first character to its last.

    Raises:
        ModelError: if the template refuses the conversation (a role, an order of turns).
    """
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer_next
        )
    except TemplateError as error:
        raise ModelError(
            f"The chat template of {tokenizer.name_or_path!r} must take the conversation, got "
            f"'{error}'. Use a template that does, or other prompts."
        ) from error
    return text


def drop_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Remove what a tokenizer would read as special tokens from a text that another one wrote.

    A completion could end its own turn, and begin one that praises it, by spelling them out.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
    # Where two overlap, the order decides what is left: it must be the same in every process.
    ordered = sorted(filter(None, special), key=lambda token: (-len(token), token))
    while any(token in text for token in ordered):
        for token in ordered:
            text = text.replace(token, "")
    return text


class Encoded(NamedTuple):
    """Token ids, and for each whether the assistant wrote it (the loss counts it)."""

    ids: list[int]
    mask: list[bool]


class Formatter:
    """Turn conversations into ids by a tokenizer's chat template.

    Attributes:
        tokenizer: with a chat template.
        end_id: the token that ends an assistant's turn; sampling stops at it.
        pad_id: a token that is never the end of a text.

    Raises:
        ModelError: if the tokenizer has no chat template, or one that does not append turns.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer {tokenizer.name_or_path!r} must have a chat template, got none. "
                "Add chat_template.jinja to its folder."
            )
        self.tokenizer = tokenizer
        self.end_id = self._find_end()
        self.pad_id = self._find_pad()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Encode a conversation up to where the assistant's answer begins."""
        return self._encode(self._render(messages, answer_next=True))

    def completion_ids(self, text: str) -> list[int]:
        """Encode an assistant's answer and its end."""
        return [*self._encode(text), self.end_id]

    def document_ids(self, text: str) -> list[int]:
        """Encode a pretraining document: begin token where the tokenizer has one, text, end."""
        return encode_document(self.tokenizer, text)

    def conversation(self, messages: Sequence[Message]) -> Encoded:
        """Encode a whole conversation; the mask is True at the assistant's tokens and their ends.

        Raises:
            ModelError: if the template does not only append to what it rendered before.
        """
        ids: list[int] = []
        mask: list[bool] = []
        for text, written in self._segments(messages):
            segment = self.completion_ids(text) if written else self._encode(text)
            ids += segment
            mask += [written] * len(segment)
        return Encoded(ids, mask)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn a sampled completion into text, up to its end token."""
        ids = list(ids)
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        text: str = self.tokenizer.decode(
            [i for i in ids if i != self.pad_id], skip_special_tokens=True
        )
        return text

    def check_lengths(self, prompts: Sequence[Prompt], room: int, where: str) -> list[list[int]]:
        """Encode prompts that must leave room in the context.

        Raises:
            DataError: if any is longer than ``room`` tokens; says how many are, and names the
                longest and the setting ``where``.
            ConfigError: if there is no room for any.
        """
        if room < 1:
            raise ConfigError(
                "max_new_tokens must leave room for a prompt in the model's context, "
                f"got {1 - room} too many. Lower it."
            )
        encoded = [self.prompt_ids(prompt.messages) for prompt in prompts]
        too_long = sum(len(ids) > room for ids in encoded)
        if too_long:
            longest = max(range(len(encoded)), key=lambda i: len(encoded[i]))
            start = prompts[longest].messages[-1]["content"][:40]
            count = f", the longest of {too_long} among {len(prompts)}" if len(prompts) > 1 else ""
            raise DataError(
                f"{where}: a prompt must have at most {room} tokens to leave room for its "
                f"completion in the context, got {len(encoded[longest])} at prompt "
                f"{prompts[longest].id} ({start!r}...){count}. "
                "Shorten or remove them, or lower max_new_tokens."
            )
        return encoded

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _render(self, messages: Sequence[Message], *, answer_next: bool = False) -> str:
        return render_chat(self.tokenizer, messages, answer_next=answer_next)

    def _segments(self, messages: Sequence[Message]) -> Iterator[tuple[str, bool]]:
        """Yield (text, written by the assistant) in order; an answer comes without its end."""
        end = self.tokenizer.convert_ids_to_tokens(self.end_id)
        done = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:i], answer_next=True)
            whole = self._render(messages[: i + 1])
            answer = whole[len(before) :]
            if not (before.startswith(done) and whole.startswith(before) and end in answer):
                raise ModelError(
                    f"The chat template of {self.tokenizer.name_or_path!r} must append each turn "
                    "unchanged and end the assistant's. Use a template that does."
                )
            yield before[len(done) :], False
            yield answer[: answer.rindex(end)], True
            done = before + answer[: answer.rindex(end) + len(end)]

    def _find_end(self) -> int:
        """Find the token that the template puts after an assistant's text."""
        user: Message = {"role": "user", "content": PROBE}
        answer: Message = {"role": "assistant", "content": PROBE}
        before = self._render([user], answer_next=True)
        whole = self._render([user, answer])
        tail = self._encode(whole[len(before) :].partition(PROBE)[2])
        special = set(self.tokenizer.all_special_ids)
        ends = [i for i in tail if i in special]
        if not whole.startswith(before) or not ends:
            raise ModelError(
                f"The chat template of {self.tokenizer.name_or_path!r} must end an assistant's "
                "turn with a special token. Use a template that does."
            )
        return ends[0]

    def _find_pad(self) -> int:
        """Find a token for padding that does not end a turn."""
        tokenizer = self.tokenizer
        candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id]
        candidates += sorted(set(tokenizer.all_special_ids))
        for token in candidates:
            if token is not None and token != self.end_id:
                return int(token)
        raise ModelError(
            f"The tokenizer {tokenizer.name_or_path!r} must have a special token beside the end "
            "of a turn to pad with. Add a <|pad|> token."
        )
