"""Scoring a predicted answer against gold aliases: the only copy of these numbers in the project.

Normalisation and exact match follow SQuAD's official script, as Search-R1 and FlashRAG do: lower case,
ASCII punctuation deleted without a space in its place, the articles a/an/the dropped, white space
collapsed, no Unicode folding. One deliberate difference: a prediction that is empty, before or after
normalisation, scores 0 (there, an empty prediction equals the gold answer "The").
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})


def normalize_answer(text: str) -> str:
    """Return `text` lower-cased, without ASCII punctuation and articles, words separated by one space."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golden: Sequence[str]) -> float:
    """Return 1.0 when the normalised prediction equals a normalised alias, else 0.0."""
    predicted = normalize_answer(prediction)
    return float(bool(predicted) and any(predicted == normalize_answer(alias) for alias in golden))


def sub_exact_match(prediction: str, golden: Sequence[str]) -> float:
    """Return 1.0 when a normalised alias is a substring of the normalised prediction, else 0.0.

    An alias that normalises to nothing matches nothing.
    """
    predicted = normalize_answer(prediction)
    aliases = filter(None, map(normalize_answer, golden))
    return float(any(alias in predicted for alias in aliases))


def f1(prediction: str, golden: Sequence[str]) -> float:
    """Return the best token F1 (0..1) over the aliases, counted over bags of normalised words.

    As in HotpotQA's official script, yes, no and noanswer earn no partial credit: when either side is
    one of them, the other must be the same.
    """
    predicted = normalize_answer(prediction)
    return max((_token_f1(predicted, normalize_answer(alias)) for alias in golden), default=0.0)


def _token_f1(predicted: str, gold: str) -> float:
    if predicted != gold and _CLOSED_ANSWERS & {predicted, gold}:
        return 0.0
    predicted_words, gold_words = predicted.split(), gold.split()
    shared = (Counter(predicted_words) & Counter(gold_words)).total()
    return 2 * shared / (len(predicted_words) + len(gold_words)) if shared else 0.0
