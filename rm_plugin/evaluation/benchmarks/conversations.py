"""Plain text ► messages, for a tokenizer with a chat template.

as_messages(Comparison("\\n\\nHuman: Hi\\n\\nAssistant:", [" Hello", " Ho"])).prompt    # [{"role": "user", …}]
"""

from __future__ import annotations

import copy
import re
from itertools import groupby

from ...data.comparison import HH_ASSISTANT, Comparison

ROLES = {"Human": "user", "Assistant": "assistant"}


def as_messages(comparison: Comparison) -> Comparison:
    """
    The same comparison as message lists, for a tokenizer with a chat template.

    A plain prompt becomes the user's message and a plain completion the assistant's; HH-RLHF transcripts
    (`"\\n\\nHuman: ...\\n\\nAssistant: ..."`) become their turns, neighbouring turns of one speaker joined.

    Args:
        comparison ([`Comparison`]): Plain text, or messages (returned as they are).

    Returns:
        [`Comparison`]: A copy with `prompt` and `completions` replaced.

    Example:
    ```python
    >>> as_messages(Comparison("\\n\\nHuman: Hi\\n\\nAssistant:", [" Hello", ""])).completions
    [[{'role': 'assistant', 'content': 'Hello'}], [{'role': 'assistant', 'content': ''}]]

    ```
    """
    if comparison.conversational:
        return comparison
    prompt, texts, converted = comparison.prompt, comparison.completions, copy.copy(comparison)
    if prompt.endswith(HH_ASSISTANT) and (turns := split_turns(prompt.removesuffix(HH_ASSISTANT))):
        prompt, texts = turns, [text.strip() for text in texts]
    elif not prompt and all(split_turns(text) for text in texts):  # differing prompts: whole transcripts
        converted.prompt, converted.completions = [], [split_turns(text) for text in texts]
        return converted
    else:
        prompt = [{"role": "user", "content": prompt}] if prompt else []
    converted.prompt, converted.completions = prompt, [[{"role": "assistant", "content": text}] for text in texts]
    return converted


def split_turns(transcript: str) -> list[dict[str, str]]:
    """Turns of an HH-RLHF transcript as messages, neighbours of one speaker joined; empty for any other text."""
    start, *pieces = re.split(r"\n\n(Human|Assistant):", transcript)
    turns = [] if start else zip(pieces[::2], pieces[1::2], strict=True)
    by_speaker = [
        (speaker, [text.strip() for _, text in texts]) for speaker, texts in groupby(turns, lambda one: one[0])
    ]
    return [{"role": ROLES[speaker], "content": "\n\n".join(texts).strip()} for speaker, texts in by_speaker]
