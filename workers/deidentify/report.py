"""A report's text without whom it is about: what rules find goes, then all that is no known word.

A name that nothing announces looks like any other word, so no list of names is trusted to be whole.
Only words of a closed vocabulary stay (vocabulary.txt tells what it is made of): no number, no name
that is not also a word, nothing misspelt, no language but English. In a sentence that has both
cases a capital inside of it is a name's, whatever the word. What is left is for an encoder; it is
shown to nobody.
"""

import hashlib
import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Final

from workers.deidentify.dicom.words import Known

VOCABULARY_FILE: Final = Path(__file__).with_name("vocabulary.txt")
RECIPE: Final = "1"
"""Raised with whatever changes what is left of a text."""
ABBREVIATIONS: Final = frozenset(
    {
        "AP",
        "CT",
        "CTA",
        "CXR",
        "ECG",
        "EKG",
        "ET",
        "FLAIR",
        "GI",
        "IV",
        "IVC",
        "LAD",
        "LLL",
        "LUL",
        "MR",
        "MRA",
        "MRI",
        "NG",
        "PA",
        "PET",
        "PICC",
        "RLL",
        "RML",
        "RUL",
        "STIR",
        "SVC",
        "US",
    }
)
"""Written in capitals amid a sentence, and nobody's initials; in lower case they are looked for."""

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|\n\n|\n(?=[^a-z])")
_NO_WORD: Final = re.compile(r"\S{65,}")
_TOKEN: Final = re.compile(r"[\w-]+")
_WORD: Final = re.compile(r"[^\W\d_]+")


@cache
def vocabulary() -> frozenset[str]:
    lines = VOCABULARY_FILE.read_text(encoding="ascii").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


@cache
def rules_digest() -> str:
    """Hex SHA-256 of what decides which words stay."""
    return hashlib.sha256(VOCABULARY_FILE.read_bytes() + RECIPE.encode()).hexdigest()


def cleaned_report(text: str, known: Known) -> str:
    """The sentences of what may be read, in lower case, one a line; empty where nothing may.

    known: the identifiers of the picture's own header, which go wherever they stand.
    """
    # Bounded, as the patterns of `Known.clean` begin anew at every letter.
    lines = (_NO_WORD.sub(" ", line) for line in unicodedata.normalize("NFKC", text).splitlines())
    plain = "\n".join(" ".join(line.split()) for line in lines)
    sentences = [_cleaned(sentence) for sentence in _SENTENCE.split(known.clean(plain))]
    return "\n".join(sentence for sentence in sentences if sentence)


def _cleaned(sentence: str) -> str:
    if sentence.isupper():
        sentence = sentence.lower()
    kept, end = list[str](), 0
    for token in _TOKEN.finditer(sentence):
        # Behind a colon a sentence begins anew: "Impression: No fracture".
        begins = end == 0 or {":", ";"} & set(sentence[end : token.start()])
        end = token.end()
        # A part of a number or code is no word: the L of L4, the B of B-17, the th of 12th.
        if any(letter.isdigit() for letter in token[0]):
            continue
        for word in _WORD.findall(token[0]):
            is_plain = word.islower() or (begins and token[0].startswith(word))
            if word in ABBREVIATIONS or (is_plain and word.lower() in vocabulary()):
                kept.append(word.lower())
    return " ".join(kept)
