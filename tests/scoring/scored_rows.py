"""Rows of every kind that is scored, a function that scores them, and how they are written and read."""

import json
from pathlib import Path

PAIRS = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": " penguins " * (1 + n % 3)} for n in range(23)]
CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
MIXED = [
    {"prompt": "2 + 2 =", "completion": " 4", "id": 7, "nested": {"a": [1, None]}, "note": "Ünï"},
    {"prompt": "2 + 2 =", "completions": [" 4", " 5"], "id": "x"},
    {"prompt": "2 + 2 =", "chosen": [" 4", " four"], "rejected": " 5"},
    {"prompt": CHAT[:1], "completion": CHAT[1:]},
    {"messages": CHAT},
    {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    {"prompt": "2 + 2 =", "completion": ""},
    {"prompt": "2 + 2 =", "completions": [" 4", " 4" * 300]},
    {"text": "nothing that is known"},
]


def lengths(prompts, completions):
    return [float(len(str(text))) for text in completions]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
