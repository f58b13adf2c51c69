"""Features of a text that a judge may follow instead of its content; `metrics.preference.feature_bias` says how far.

features_of(comparison)["markdown"]       # one value per completion
"""

from __future__ import annotations

import re

from ..data.comparison import Comparison, text_length

# Headings, list items, quotes, fences and rows of tables at the start of a line; bold and code inside it.
MARKDOWN = re.compile(r"^ *(?:#{1,6} |[-*+] |\d{1,3}[.)] |>|```|\|)|\*\*\S|`[^`\n]+`", re.MULTILINE)
REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|unable to|(?:can(?:no|['’])t|can not|won['’]t|will not|not able to) "
    r"(?:help|assist|answer|provide|do|fulfil|comply|support|create|give|share|discuss|engage|write)|as an AI)",
    re.IGNORECASE,
)
OPENING = 200  # characters in which a refusal says so


def markdown(text: str) -> float:
    """Number of Markdown marks.

    Example:
        >>> markdown("# Title\\n- one\\n- **two**\\nplain")
        4.0
    """
    return float(len(MARKDOWN.findall(text)))


def refusal(text: str) -> float:
    """1 for a text that begins with a refusal, else 0; English.

    Example:
        >>> refusal("I'm sorry, but I can't help with that."), refusal("Sure, here it is.")
        (1.0, 0.0)
    """
    return float(bool(REFUSAL.search(text[:OPENING])))


def repetition(text: str) -> float:
    """Share of the runs of three words that occurred before.

    Example:
        >>> repetition("a b c a b c a b c"), repetition("every word is another one")
        (0.5714285714285714, 0.0)
    """
    words = text.split()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


FEATURES = {"length": text_length, "markdown": markdown, "refusal": refusal, "repetition": repetition}


def features_of(comparison: Comparison) -> dict[str, list[float]]:
    """Each of `FEATURES` for every completion, and whether it is the one that is listed first."""
    texts = [
        text if isinstance(text, str) else "".join(message["content"] for message in text)
        for text in comparison.completions
    ]
    found = {name: [float(feature(text)) for text in texts] for name, feature in FEATURES.items()}
    return {**found, "listed first": [float(index == 0) for index in range(len(texts))]}
