"""README.md of a trained reward model: how to load it and score with it, how it was trained, the figures measured.

model_card("my-org/my-reward-model", facts={"Started from": "Qwen/Qwen3-0.6B"}, figures={"eval_accuracy": 0.71})
"""

from __future__ import annotations

import json
from typing import Any

READING = """\
σ(r₁ − r₂) reads the difference of two scores as Bradley & Terry do: how probably people prefer the first completion.
For a model trained with ties, a margin or label smoothing it is not the probability that was fitted."""

TEMPLATE = """\
---
{header}
---

# {title}

A reward model: one scalar for a prompt and its completion; higher is better.
{reading}

{facts}

## Measured

{figures}

## Use

```python
from rm_plugin import RewardScorer

scorer = RewardScorer("{repository}")
scorer.score(["Which country owns Antarctica?"], ["None: the Antarctic Treaty System governs it."])
scorer.preference("Which country owns Antarctica?", "None: the Antarctic Treaty System governs it.", "Sweden.")
```

Without rm_plugin: {plain}. Read `.logits`; transformers' ready-made text classifier puts a sigmoid on a single label,
and what it prints is not the reward.
"""

PLAIN = {
    "transformers": 'transformers\' `AutoModelForSequenceClassification.from_pretrained("{}")`',
    "peft": 'PEFT\'s `AutoPeftModelForSequenceClassification.from_pretrained("{}", num_labels=1)`',
}


def model_card(
    repository: str,
    *,
    library: str = "transformers",
    facts: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
    step: int | None = None,
    metadata: dict[str, Any] | None = None,
) -> str:
    """
    The text of README.md.

    Args:
        repository (`str`): hub id or folder that the model is loaded by.
        library (`str`): `"transformers"`, or `"peft"` for an adapter folder.
        facts (`dict`): what the model was made of and how, by name.
        figures (`dict`): metrics of the last evaluation, by name.
        step (`int`, *optional*): training step that the figures were measured at.
        metadata (`dict`): more entries of the hub's header: `tags`, `base_model`, `datasets`.
    """
    header = {"library_name": library, "pipeline_tag": "text-classification", **(metadata or {})}
    rows = [f"| {name} | {v:.4g} |" for name, v in (figures or {}).items() if isinstance(v, (int, float))]
    table = "\n".join([f"Held-out data, at step {step}:", "", "| figure | value |", "|---|---|", *rows])
    return TEMPLATE.format(
        header="\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()),
        title=repository.rstrip("/").split("/")[-1],
        facts="\n".join(f"- {name}: {value}" for name, value in (facts or {}).items()),
        figures=table if rows else "No evaluation was run.",
        reading=READING,
        repository=repository,
        plain=PLAIN[library].format(repository),
    )
