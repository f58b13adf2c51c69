"""Eight texts of ours, whose ids and scores lie beside a model's weights, so that a server of it can be checked.

    model.save_reference("my-reward-model", tokenizer)        # at the final save of training, and at export
    read_reference("my-reward-model")["texts"][0]             # {"input_ids": […], "score": 1.23, "bos_twice": 0.4}

The texts are in this file and never from data. Ids and scores are what a server has to give, so they distinguish its
faults: other ids mean another template, other scores of the same ids an activation, another head or adapter. Scores of
the ids that a server may make by itself (with a second BOS, or of prompt and answer as a pair) are kept too.
Importing it loads no torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import parse_json, write_atomically
from .comparison import Comparison
from .encoding import encode, pooling_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "reference_scores.json"
SCHEMA_VERSION = 1
ANSWER = "Boil the water, take it off the heat, and let the leaves stand in it for three minutes. "
TURNS = [  # user and assistant in turn; the last one is long, so that a server that cuts texts shows it
    ["Which country owns Antarctica?", "None: the Antarctic Treaty System governs it."],
    ["Which country owns Antarctica?", "Penguins own it, all of it!"],
    ["2 + 2 =", "4"],
    ["Schreibe einen Satz über Bücher.", "Bücher öffnen Türen, die man vorher nicht sah."],
    ["南极洲属于哪个国家？", "它不属于任何国家。🐧"],
    ["Write `f(x) = x + 1` in Python.", "```python\ndef f(x):\n    return x + 1\n```"],
    ["Hello!", "Hi, how can I help?", "Say nothing.", "  "],
    ["How do I make tea?", ANSWER * 24],
]


def reference_ids(tokenizer: PreTrainedTokenizerBase, trailing_pad_id: int | None = None) -> list[list[int]]:
    """Token ids of the eight texts; of a tokenizer without a chat template, those of plain prompts and answers."""
    ids = []
    for turns in TURNS:
        messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        prompt, answer = messages[:-1], messages[-1:]
        if tokenizer.chat_template is None:
            prompt, answer = "\n".join(turns[:-1]), " " + turns[-1]
        how = {"control_tokens": "as_text", "trailing_pad_id": trailing_pad_id}
        ids += encode(Comparison(prompt, [answer]), tokenizer, **how).input_ids
    return ids


def write_reference(folder: str | os.PathLike, dtype: str, texts: list[dict[str, Any]]) -> None:
    """
    Keep ids and scores of the eight texts beside a model's weights.

    Args:
        folder (`str` or `os.PathLike`): the folder of its weights.
        dtype (`str`): of the weights, which says how close a server's scores can be.
        texts (`list[dict]`): for each text `input_ids` (`list[int]`) and the scores (`float`; missing where the ids
            are longer than the model can read) `score`, `as_pair` (of prompt and answer without the chat template, as
            `/score` joins them) and, where there is a BOS, `bos_twice`, with a second one.
    """
    reference = {"schema_version": SCHEMA_VERSION, "dtype": dtype, "texts": texts}
    write_atomically(Path(folder, FILE), json.dumps(reference) + "\n")


def read_reference(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What [`write_reference`] left in a folder; None where there is nothing, or that of another version."""
    path = Path(folder, FILE)
    if not path.is_file():
        return None
    reference = parse_json(path.read_text(encoding="utf-8"), str(path))
    return reference if isinstance(reference, dict) and reference.get("schema_version") == SCHEMA_VERSION else None


def read_facts(folder: str | os.PathLike) -> dict[str, Any]:
    """
    What the files in a model's folder say of how its texts are made: `reasoning`, `reward_mean`, `reward_std`,
    `template_hash`, `trailing_pad_id` and `max_length` where they do, read without torch.
    """
    path, side_file = Path(folder, "config.json"), Path(folder, "reward_model.json")
    if side_file.is_file():
        facts = block = parse_json(side_file.read_text(encoding="utf-8"), str(side_file))
        pad_token_id = facts.get("pad_token_id")
    elif path.is_file():
        config = parse_json(path.read_text(encoding="utf-8"), str(path))
        text_config = config.get("text_config") or config
        block, pad_token_id = config.get("reward_model") or {}, text_config.get("pad_token_id")
        facts = {**block, "max_length": text_config.get("max_position_embeddings")}
    else:
        return {}
    reads_all = pooling_of(block, pad_token_id) == "last_token"
    return {**facts, "trailing_pad_id": None if reads_all else pad_token_id}
