"""README.md of a reward model: how to load it and score with it, how it was trained, the metrics measured.

    model_card("my-org/my-reward-model", facts={"Started from": "Qwen/Qwen3-0.6B"}, metrics={"eval_accuracy": 0.71})

The text is `card.md` beside this file, a jinja2 template.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

INHERITED = ("base_model", "datasets", "license", "license_name", "license_link")


def model_card(
    repository: str,
    *,
    library: str = "transformers",
    facts: dict[str, Any] | None = None,
    metrics: dict[str, str] | None = None,
    step: int | None = None,
    metadata: dict[str, Any] | None = None,
) -> str:
    """
    The text of README.md of a trained model.

    Args:
        repository (`str`): hub id or folder that the model is loaded by.
        library (`str`): `"transformers"`, `"peft"` for an adapter folder, `"rm_plugin"` for what nothing else opens.
        facts (`dict`): what the model was made of and how, by name.
        metrics (`dict`): metrics of the last evaluation as they are shown, by name.
        step (`int`, *optional*): training step that they were measured at.
        metadata (`dict`): more entries of the hub's header: `tags`, `base_model`, `datasets`, `license`.
    """
    return _render(repository, library, metadata or {}, facts=facts, metrics=metrics or {}, step=step, exported=False)


def export_card(
    repository: str, *, library: str, metadata: dict[str, Any], conversational: bool, trailing_pad_id: int | None
) -> str:
    """
    The text of README.md of an exported model: how transformers, vLLM and SGLang load it.

    Args:
        repository (`str`): folder that the model is loaded by.
        library (`str`): as for [`model_card`].
        metadata (`dict`): more entries of the hub's header, such as those that the model's own card has.
        conversational (`bool`): whether its tokenizer has a chat template.
        trailing_pad_id (`int`, *optional*): `RewardModelConfig.trailing_pad_id`.
    """
    metadata = {"tags": ["reward-model", "rm_plugin"], **metadata}
    how = {"conversational": conversational, "trailing_pad_id": trailing_pad_id}
    return _render(repository, library, metadata, facts=None, metrics=None, exported=True, **how)


def inherited(model: str | None) -> dict[str, Any]:
    """What a model made from another one takes over from the header of its card; `{}` where no folder has one."""
    from huggingface_hub import ModelCard

    readme = Path(model or "", "README.md")
    if not model or not readme.is_file():
        return {}
    header = ModelCard.load(readme, ignore_metadata_errors=True).data
    return {name: header.get(name) for name in INHERITED if header.get(name)}


def _render(repository: str, library: str, metadata: dict[str, Any], **variables) -> str:
    import jinja2
    from huggingface_hub import ModelCardData

    header = ModelCardData(library_name=library, pipeline_tag="text-classification", **metadata)
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    options = {"trim_blocks": True, "keep_trailing_newline": True, "undefined": jinja2.StrictUndefined}
    return jinja2.Template(template, **options).render(
        header=header.to_yaml(),
        name=repository.rstrip("/").split("/")[-1],
        repository=repository,
        library=library,
        **variables,
    )


def shown_metrics(*of_sets: dict[str, float]) -> dict[str, str]:
    """Metrics of evaluation sets as text; an accuracy with its 95 % interval (Wilson's, over pairs)."""
    metrics = {name: value for one in of_sets for name, value in one.items()}
    return {
        name: accuracy_text(metrics, name, ".4g") if name.endswith("_accuracy") else f"{value:.4g}"
        for name, value in metrics.items()
        if isinstance(value, (int, float))
    }


def accuracy_text(metrics: Mapping[str, float], name: str, form: str) -> str:
    """
    An accuracy among a trainer's metrics with its 95 % interval (Wilson's, over pairs).

    Args:
        metrics (`dict`): metrics by name.
        name (`str`): the accuracy, such as `"eval_accuracy"`; the interval needs `"eval_num_pairs"` beside it.
        form (`str`): how each number is formatted.

    Example:
        >>> accuracy_text({"eval_accuracy": 0.5, "eval_num_pairs": 100}, "eval_accuracy", ".3f")
        '0.500 [0.404, 0.596]'
    """
    from ..metrics.statistics import wilson_interval

    text = f"{metrics[name]:{form}}"
    if num_pairs := metrics.get(f"{name.removesuffix('accuracy')}num_pairs"):
        low, high = wilson_interval(metrics[name] * num_pairs, round(num_pairs))
        text += f" [{low:{form}}, {high:{form}}]"
    return text
