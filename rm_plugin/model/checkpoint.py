"""What lies in a folder or on the hub: config, trained head (whoever wrote it), names of weights, tokenizer.

config, kwargs = load_config(path, kwargs); head = find_head(path, config, **kwargs)
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import load_state_dict
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from ..data.sources import HUB_ID
from ..data.templates import template_hash, trim_template_tail
from ..files import LFS_POINTER
from .config import RewardModelConfig, sequence_classifier
from .sharding import whole_models, without_weights

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
MODEL_FILES = ("adapter_config.json", "config.json")
FOR_WEIGHTS = ("dtype", "torch_dtype", "quantization_config", "attn_implementation", "experts_implementation")
VALUE_HEAD_FILES = ("value_head.safetensors", "value_head.bin")  # LLaMA-Factory's head, beside model or adapter
CLASSIFIER = "ForSequenceClassification"
HEAD_NAMES = ("score", "value_head", "v_head.summary")  # of transformers, of OpenRLHF, of TRL and LLaMA-Factory
POOLS_BY_MASK = ("RewardModel", "CriticModel", "LLMForSequenceRegression")  # OpenRLHF's classes read the last token
HARMLESS = re.compile(r"(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")  # buffers of older checkpoints


# ----------------------------------------------------------------------------------------------------- files, configs


def hub_arguments(kwargs: dict) -> dict:
    """Those of `kwargs` that say where a repository is and how to reach it."""
    return {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}


def find_file(path: str, file_name: str, kwargs: dict) -> str | None:
    """A file of a folder or hub id, or `None` where there is none."""
    # cached_file raises for a file that is missing unless these are given; it has no public argument for that.
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(path, file_name, **quiet, **hub_arguments(kwargs))


def find_model(name: str, kwargs: dict) -> str:
    """
    The file that describes a model: `adapter_config.json` of an adapter, else `config.json`.

    Args:
        name (`str`): folder or hub id.
        kwargs (`dict`): `revision`, `token`, `cache_dir`, …; others are not read.

    Raises:
        ValueError: there is no model of that name; one line instead of what a download says about it.
    """
    on_hub, cause = HUB_ID.fullmatch(name) and not Path(name).exists(), None
    if not on_hub and not Path(name).is_dir():
        raise ValueError(f"{name} is no such folder; name a model's folder or a hub id")
    check_no_pointers(Path(name, kwargs.get("subfolder") or ""))
    try:
        if file := find_file(name, MODEL_FILES[0], kwargs) or find_file(name, MODEL_FILES[1], kwargs):
            return file
    except OSError as error:
        cause = error
    reason = "holds no model (no config.json, no adapter_config.json)"
    if on_hub:
        reason = "is no folder here, and the hub has no such model or cannot be asked"
    raise ValueError(f"{name} {reason}; name a model's folder or a hub id") from cause


def check_no_pointers(folder: Path) -> None:
    """Raise where a file of a model is what git leaves without Git-LFS."""
    for path in sorted(one for one in folder.glob("*") if one.suffix in (".safetensors", ".bin", ".json", ".model")):
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ValueError(f"{path} is a Git-LFS pointer, not the file itself; run git lfs pull in {folder}")


def is_adapter(name: str, kwargs: dict) -> bool:
    """Whether a folder or hub id is an adapter's; raises as [`find_model`]."""
    return find_model(name, kwargs).endswith(MODEL_FILES[0])


def load_config(path: str, kwargs: dict) -> tuple[PreTrainedConfig, dict]:
    """The config in `kwargs`, or that of `path` changed as they ask; and what remains of them for the weights."""
    if kwargs.get("config") is not None:
        return kwargs["config"], {name: value for name, value in kwargs.items() if name != "config"}
    # A nested config forgets the implementation that it was given, so loading has to hand it on.
    for_weights = {name: kwargs[name] for name in FOR_WEIGHTS if name in kwargs}
    for_config = {name: value for name, value in kwargs.items() if name not in for_weights and value is not None}
    for_config = {"trust_remote_code": False, **for_config}  # unset, transformers would ask on the terminal
    try:
        config, unused = AutoConfig.from_pretrained(path, return_unused_kwargs=True, **for_config)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{path} has a class of its own, whose code is not run; measure it as a function (docs/models.md)"
        ) from error
    return config, {**hub_arguments(kwargs), **unused, **for_weights}


def commit_of(path: str, kwargs: dict) -> str | None:
    """The commit of a hub id that its config was read at; `None` for a folder."""
    return extract_commit_hash(find_file(path, "config.json", kwargs), None)


def load_language_model(name: str, **kwargs: Any) -> PreTrainedModel:
    """A causal language model by name, an adapter folder too; one whose language head would be random is refused."""
    kwargs = {"dtype": "auto", **kwargs}
    with whole_models():
        model, loaded = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **kwargs)
    missing, unexpected = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    if missing or any(key.startswith("score.") for key in unexpected):
        what = f"lacks {missing[0]}" if missing else f"is a reward model (it has {unexpected[0]})"
        raise ValueError(f"{name} {what}, so its language head is not trained; name a causal language model")
    return model


def load_tokenizer(model: Any, config: PreTrainedConfig, **kwargs) -> PreTrainedTokenizerBase:
    """
    The tokenizer that belongs to a model.

    Args:
        model (`str` or `PreTrainedModel`): folder or hub id, or a model in memory.
        config (`PreTrainedConfig`): the model's; it names where a model in memory, or an adapter's base, came from.
        kwargs: `HUB_ARGUMENTS`, `trust_remote_code`.

    Raises:
        ValueError: the model was trained with another chat template or special tokens than what is found.
    """
    source = getattr(config, "name_or_path", "")
    if isinstance(model, str) and model != source and find_file(model, "tokenizer_config.json", kwargs):
        source = model  # an adapter: most have a tokenizer of their own
    if not source:
        raise ValueError("the model does not say where its tokenizer is; give processing_class")
    if source == model and kwargs.get("subfolder") and find_file(model, "tokenizer_config.json", kwargs) is None:
        del kwargs["subfolder"]  # one for all subfolders
    if source != model:  # `revision` and `subfolder` are those of the adapter
        kwargs["subfolder"] = None
        kwargs["revision"] = config.base_revision if getattr(config, "base_model", None) == source else None
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    # The config is at hand; an adapter's repository has none.
    kwargs = {"trust_remote_code": False, **kwargs}  # unset, transformers would ask on the terminal
    tokenizer = AutoTokenizer.from_pretrained(source, config=getattr(config, "backbone_config", config), **kwargs)
    wanted = getattr(config, "template_hash", None)
    if source == model or wanted is None or getattr(model, "has_fresh_head", False):
        return tokenizer
    if template_hash(tokenizer) != wanted:
        trim_template_tail(tokenizer)  # as training does by default
    if template_hash(tokenizer) != wanted:
        raise ValueError(
            f"the tokenizer of {source} has another chat template or special tokens than the reward model was trained "
            "with; give the one it was trained with as processing_class"
        )
    return tokenizer


# ------------------------------------------------------------------------------------------------------ trained heads


@dataclass
class TrainedHead:
    """The trained head of a checkpoint: its name there, or the file beside it that holds it."""

    name: str = "score"
    has_bias: bool = False
    reads_last_token: bool = False  # whatever the pad token, as those do that pool by the attention mask
    file: str | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the file holds: `weight` (1, H), and `bias` (1,) where there is one."""
        tensors = load_state_dict(self.file, map_location="cpu")
        parts = {name: name.rpartition(".")[2] for name in sorted(tensors)}
        if list(parts.values()) not in (["weight"], ["bias", "weight"]):
            raise ValueError(
                f"{self.file} holds {', '.join(parts) or 'nothing'}, a linear head has a weight and a bias; "
                "fold other layers into one, or train the head anew without this file"
            )
        return {part: tensors[name] for name, part in parts.items()}


def find_head(path: str, config: PreTrainedConfig, **kwargs) -> TrainedHead | None:
    """
    The trained reward head of a full checkpoint, whoever wrote it; `None` where it has none.

    Args:
        path (`str`): folder or hub id.
        config (`PreTrainedConfig`): its config.
        kwargs: `revision`, `token`, `cache_dir`, …; others are not read.
    """
    if isinstance(config, RewardModelConfig):
        return TrainedHead(has_bias=config.head_bias)
    architecture, weights = (config.architectures or [""])[0], _weight_names(path, kwargs)
    heads = [name for name in head_names(config) if f"{name}.weight" in weights]
    if len(heads) > 1:  # any of them would be read under the one name
        raise ValueError(f"{path} holds several heads ({', '.join(heads)}), a reward model has 1; remove the others")
    for name in heads:
        return TrainedHead(name, f"{name}.bias" in weights, name != "score" or architecture in POOLS_BY_MASK)
    return find_value_head_file(path, kwargs) or (TrainedHead() if architecture.endswith(CLASSIFIER) else None)


def head_names(config: PreTrainedConfig) -> list[str]:
    """What checkpoints call a linear reward head, `score` first; OpenRLHF's config may name another."""
    return list(dict.fromkeys([*HEAD_NAMES, getattr(config, "value_head_prefix", None) or "score"]))


def find_value_head_file(path: str, kwargs: dict) -> TrainedHead | None:
    """The head that LLaMA-Factory writes beside a model or an adapter."""
    for file_name in VALUE_HEAD_FILES:
        if file := find_file(path, file_name, kwargs):
            head = TrainedHead(file_name, reads_last_token=True, file=file)
            head.has_bias = "bias" in head.tensors()
            return head
    return None


def _weight_names(path: str, kwargs: dict) -> set[str]:
    """Names of the tensors of a checkpoint."""
    for file_name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if file := find_file(path, file_name, kwargs):
            return set(json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"])
    for file_name in ("model.safetensors", "pytorch_model.bin"):
        if file := find_file(path, file_name, kwargs):
            return set(load_state_dict(file, map_location="meta"))
    return set()


# ------------------------------------------------------------------------------------------------------------ refusals


def is_other_classifier(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint is a sequence classifier that is no decoder with a linear head `score`."""
    return (config.architectures or [""])[0].endswith(CLASSIFIER) and sequence_classifier(config) is None


def other_class(path: str, kwargs: dict) -> type | None:
    """The Auto class of a checkpoint that is no `RewardModel`: an encoder's, or one whose code lies beside it."""
    raw, _ = PreTrainedConfig.get_config_dict(path, **hub_arguments(kwargs))
    auto_map = raw.get("auto_map") or {}
    own = [one for one in (AutoModelForSequenceClassification, AutoModel) if one.__name__ in auto_map]
    if own and kwargs.get("trust_remote_code"):
        return own[0]
    if own and not hasattr(transformers, (raw.get("architectures") or [""])[0]):
        raise ValueError(
            f"{path}: its class {auto_map[own[0].__name__]} is code in its repository, which is not run unasked; read "
            "it, then give trust_remote_code=True"
        )
    return AutoModelForSequenceClassification if is_other_classifier(load_config(path, kwargs)[0]) else None


def check_headless_decoder(path: str, name: str, config: PreTrainedConfig, has_head: bool) -> None:
    """Raise unless a fresh head may be put on a model: it has none, and it is a decoder."""
    if has_head:
        raise ValueError(
            f"{path} is a {name} with a head of its own; RewardModel.from_pretrained loads a one-label head, and "
            "from_backbone(AutoModel.from_pretrained(…)) puts a fresh one on its backbone"
        )
    if config.is_encoder_decoder or type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(
            f"{path} is a {name}, a RewardModel needs a decoder; RewardScorer takes trained encoder classifiers as "
            "they are"
        )


def check_trained_head(path: str, config: PreTrainedConfig, head: TrainedHead | None) -> None:
    """Raise unless a checkpoint is a decoder with a trained linear head."""
    name = (config.architectures or [config.model_type])[0]
    if head is None:
        raise ValueError(
            f"{path} is a {name}, which has no trained reward head; "
            "RewardModel.from_backbone puts a fresh one on it, to be trained"
        )
    if is_other_classifier(config):
        raise ValueError(
            f"{path} is a {name}, not a decoder with a linear head `score`; RewardScorer takes it as it is "
            "(AutoModelForSequenceClassification)"
        )


def check_all_is_read(path: str, config: PreTrainedConfig, unexpected: set[str]) -> None:
    """Raise where a checkpoint holds weights that its own class neither has nor ignores: scores would be others."""
    unexpected = {name for name in unexpected if not HARMLESS.search(name)}
    own_class = getattr(transformers, (config.architectures or [""])[0], None)
    own_class = own_class or MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if unexpected and own_class is not None:  # a language head is read by its own class
        with without_weights():
            own = own_class(copy.deepcopy(config))
        # What a class of transformers leaves unread has no public name.
        ignored = "|".join(own._keys_to_ignore_on_load_unexpected or ()) or "$^"
        names = {re.sub(rf"^{own.base_model_prefix}\.", "", name) for name in own.state_dict()}  # older files lack it
        unexpected = {name for name in unexpected - own.state_dict().keys() - names if not re.search(ignored, name)}
    if unexpected:
        raise ValueError(
            f"{path} holds weights that nothing reads ({first_names(unexpected)}), so its scores would not be those "
            "that it was trained to give; correct config.json (architectures, number of layers), or remove them"
        )


def check_nothing_is_missing(path: str, info: dict, but: set[str] = frozenset()) -> None:
    """Raise where transformers' report of loading lacks weights, `but` for those that are set otherwise."""
    for _, shape, wanted in info["mismatched_keys"]:
        if wanted[0] == 1 and shape[1:] == wanted[1:]:
            raise ValueError(f"{path}: num_labels={shape[0]}, a reward model has 1; choose a one-label checkpoint")
    if missing := {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])} - but:
        raise ValueError(
            f"{path}: no weights for {first_names(missing)}; correct config.json, or, where "
            "only the head is missing, put a fresh one on it with RewardModel.from_backbone"
        )


def first_names(names: set[str]) -> str:
    """A few of many names, and how many there are."""
    more = f", … {len(names)} in all" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
