"""Read what ``Source`` sections name: documents, demonstrations, prompts and rankings."""

from __future__ import annotations

from pipeline.data.answered import read_answered
from pipeline.data.conversations import read_demonstrations, read_prompts
from pipeline.data.documents import read_documents
from pipeline.data.hashes import fingerprint_sources, hash_sources
from pipeline.data.mixture import MixtureRow, mix_documents
from pipeline.data.rankings import read_rankings

__all__ = [
    "MixtureRow",
    "fingerprint_sources",
    "hash_sources",
    "mix_documents",
    "read_answered",
    "read_demonstrations",
    "read_documents",
    "read_prompts",
    "read_rankings",
]
