"""A tokenizer whose tokens are the building blocks of a small language: identifiers, and the phrases between them.

    tokenizer = train_tokenizer(texts, atoms)       # a transformers PreTrainedTokenizerFast

A tiny policy learns to copy identifiers only if each is one token; everything else of its texts is templates, so each
phrase between identifiers is one token as well and an episode takes about seventy. Characters are the fallback, so
every printable ASCII text can be encoded and decoded exactly. Texts are split by leftmost-longest match (the tokenizers
library's added tokens).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sentinel.llm.templates import END, MARKERS, PAD

CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]
_SENTENCE = re.compile(r"(?<=[.!?])(?= )")


def _pieces(text: str, atoms: re.Pattern[str]) -> list[str]:
    """Markers, atoms and the phrases between them; phrases end with a sentence."""
    found = []
    for part in re.split(f"({'|'.join(re.escape(marker) for marker in MARKERS)})", text):
        if part in MARKERS:
            found.append(part)
            continue
        for phrase in atoms.split(part):
            found += [phrase] if atoms.fullmatch(phrase) else _SENTENCE.split(phrase)
    return [piece for piece in found if piece]


def train_tokenizer(texts: Iterable[str], atoms: Iterable[str], *, max_context: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a small language.

    Args:
        texts: what will be read and written, rendered; every phrase between atoms becomes a token.
        atoms: strings that are one token wherever they stand as a word.
        max_context: recorded as the model's maximal length.
    """
    alphabet = sorted(set(atoms), key=lambda atom: (-len(atom), atom))
    pattern = re.compile("(" + "|".join(rf"(?<!\w){re.escape(atom)}(?:(?!\w)|(?<= ))" for atom in alphabet) + ")")
    counts: Counter[str] = Counter()
    for text in set(texts):
        counts.update(_pieces(text, pattern))
    phrases = sorted(piece for piece in counts if piece not in MARKERS and len(piece) > 1)
    vocabulary = list(dict.fromkeys([PAD, *MARKERS, *CHARACTERS, *sorted(alphabet), *phrases]))
    tokenizer = Tokenizer(models.WordLevel({PAD: 0}, unk_token=PAD))
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in vocabulary[1:]])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=max_context,
    )
