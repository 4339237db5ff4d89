"""Train a LLaMA-style BPE: digits split, byte fallback, spaces kept, and a chat template.

No text is unknown: a character outside the vocabulary becomes its UTF-8 bytes. The result is an
ordinary ``PreTrainedTokenizerFast``, which plain ``transformers`` loads.

Departures from LLaMA's tokenizer (Touvron et al. 2023, SentencePiece):
1. Trained by the ``tokenizers`` library; a newline is a piece of its own, and a space stands as it
   is in a piece: SentencePiece's mark for it would turn that character into a space.
2. A padding token and three role tokens, so that padding is never the end of a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline.errors import ModelError

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (PAD, BOS, EOS, *ROLE_TOKENS)
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of exactly the pieces that fit in ``vocab_size``.

    Args:
        documents: texts to count pairs in.
        vocab_size: all tokens: six special, 256 bytes, characters and merges.
    """
    counter = Tokenizer(models.BPE(byte_fallback=True))
    _set_splitting(counter)
    room = vocab_size - len(SPECIAL_TOKENS) - len(BYTE_TOKENS)
    trainer = BpeTrainer(
        vocab_size=room,
        min_frequency=2,
        # A rare character is spelled in bytes rather than kept at the cost of a merge.
        limit_alphabet=min(1000, vocab_size // 4, room // 2),
        show_progress=False,
    )
    counter.train_from_iterator(documents, trainer)
    return _assemble(counter)


def _assemble(counter: Tokenizer) -> PreTrainedTokenizerFast:
    """Put special and byte tokens before the counted pieces, as LLaMA does."""
    pieces = sorted(counter.get_vocab(), key=counter.get_vocab().__getitem__)
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *BYTE_TOKENS, *pieces])}
    merges = _merges(counter)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    _set_splitting(tokenizer)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocab[BOS])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(ROLE_TOKENS),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _set_splitting(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}|\n"), "isolated"),
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[^\w\s]"), "isolated"),
        ]
    )


def _merges(counter: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(counter.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def load_tokenizer(path: Path | str, *, gguf_file: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or by a Hugging Face name.

    Raises:
        ModelError: if there is none.
    """
    try:
        options = {"gguf_file": gguf_file} if gguf_file else {}
        tokenizer = AutoTokenizer.from_pretrained(str(path), **options)
    except (OSError, ValueError) as error:
        raise _no_tokenizer(path, str(error).strip().splitlines()[0]) from error
    # Of some models transformers makes a tokenizer without files: all texts are empty to it.
    if not tokenizer.encode("a", add_special_tokens=False):
        raise _no_tokenizer(path, "there is a model and no vocabulary")
    return tokenizer


def _no_tokenizer(path: Path | str, reason: str) -> ModelError:
    return ModelError(
        f"No tokenizer could be loaded from {path} ({reason}). "
        "Give a folder with tokenizer.json, or a model's name and a connection."
    )


def find_difference(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> str | None:
    """Say why ids of ours cannot be read by a model of theirs, or return None where they can.

    They can if each of our tokens is theirs under the same id; theirs may have more. Equal sizes
    mean nothing: two vocabularies of 32,000 tokens may not share one id.
    """
    known = theirs.get_vocab()
    # The lowest id that differs, so that the same line is said every time.
    for token, number in sorted(ours.get_vocab().items(), key=lambda item: item[1]):
        if known.get(token) != number:
            there = "missing there" if token not in known else f"{known[token]} there"
            return f"token {token!r} is {number} here and {there}"
    return None
