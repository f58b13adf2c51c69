"""Plain text ► messages, for a tokenizer with a chat template.

as_messages(Comparison("\\n\\nHuman: Hi\\n\\nAssistant:", [" Hello", " Ho"])).prompt    # [{"role": "user", …}]
"""

from __future__ import annotations

import copy
import re

from ...data.comparison import Comparison

HH_REPLY = "\n\nAssistant:"


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
    prompt, completions = comparison.prompt, comparison.completions
    if prompt.endswith(HH_REPLY) and (turns := split_turns(prompt.removesuffix(HH_REPLY))):
        prompt, replies = turns, [[{"role": "assistant", "content": text.strip()}] for text in completions]
    elif not prompt and all(split_turns(text) for text in completions):  # differing prompts: whole transcripts
        prompt, replies = [], [split_turns(text) for text in completions]
    else:
        prompt = [{"role": "user", "content": prompt}] if prompt else []
        replies = [[{"role": "assistant", "content": text}] for text in completions]
    converted = copy.copy(comparison)
    converted.prompt, converted.completions = prompt, replies
    return converted


def split_turns(transcript: str) -> list[dict[str, str]]:
    """Turns of an HH-RLHF transcript as messages; empty for any other text."""
    if not transcript.startswith(("\n\nHuman:", HH_REPLY)):
        return []
    turns: list[dict[str, str]] = []
    pieces = re.split(r"\n\n(Human|Assistant):", transcript)[1:]
    for speaker, text in zip(pieces[::2], pieces[1::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{text.strip()}".strip()
        else:
            turns.append({"role": role, "content": text.strip()})
    return turns
