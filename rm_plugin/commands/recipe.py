"""YAML recipes ► a training run: TRL's field names, flat; an unmodified `trl reward` recipe runs.

train(*parse_recipe("recipes/smollm2-135m-lora-cpu.yaml", ["--max_steps", "100"]))
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import math
import os
import subprocess
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from ..data.sources import load_rows
from ..messages import explained, located, nearest, one_line
from ..scoring.scorer import check_model_exists
from ..training.config import PairwiseRewardConfig
from ..training.trainer import PairwiseRewardTrainer

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class RewardModelArguments(ModelConfig):
    """[`trl.ModelConfig`], in which `dtype` may be unset: an adapter is trained on in the dtype that it has."""

    dtype: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "dtype of the weights. Unset: float32 (TRL's default), for an adapter the one it was trained in.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )


COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
SECTIONS = (ScriptArguments, PairwiseRewardConfig, RewardModelArguments, DatasetMixtureConfig)


def parse_recipe(path: str | os.PathLike | None, arguments: list[str] = ()) -> tuple[Any, ...]:
    """
    A recipe and command-line fields that override it.

    Fields of `accelerate launch`, which TRL's recipes may hold (`num_processes`, `accelerate_config`, …), are for
    [`run_recipe`]; here they are left out.

    Args:
        path (`str` or `os.PathLike`, *optional*): YAML mapping of field names (underscores or hyphens) to values.
        arguments (`list[str]`): `--field value` words.

    Returns:
        `(ScriptArguments, PairwiseRewardConfig, RewardModelArguments, DatasetMixtureConfig)`

    Raises:
        ValueError: a field that none of the four has (the nearest name is told), a value that does not fit, or a file
            that is not a mapping.
    """
    return parse_fields(path, arguments, SECTIONS, prog="rm-plugin train")[0]


def parse_fields(
    path: str | os.PathLike | None, arguments: list[str], sections: tuple[type, ...], prog: str
) -> tuple[tuple[Any, ...], list[str]]:
    """Instances of dataclasses from a recipe and `--field value` words, and the words for `accelerate launch`."""
    parser = TrlParser(sections, prog=prog, allow_abbrev=False)
    parser.exit_on_error = False
    parser.error = _raise
    actions = {action.dest: action for action in reversed(parser._actions)}  # `--no_x` comes behind `--x`
    known = sorted({field.name for section in sections for field in dataclasses.fields(section)})
    hints = {name: hint for section in sections for name, hint in get_type_hints(section).items()}
    recipe = {} if path is None else _read_yaml(path)
    with located(str(path)):
        environment = recipe.pop("env", None) or {}
        if not isinstance(environment, dict):
            raise ValueError(f"env is of type {type(environment).__name__}; it is a mapping, `NAME: value` lines")
        launch = {name: recipe.pop(name) for name in list(recipe) if name not in known and name in _launch_options()}
        if unknown := [name for name in recipe if name not in known]:
            close = nearest(unknown[0], known)
            raise ValueError(f"unknown field {unknown[0]!r}{close}; fields have the names of TRL's")
        defaults = {name: _default(value, actions[name], hints[name]) for name, value in recipe.items()}
    os.environ.update({str(name): str(value) for name, value in environment.items()})
    parser.set_defaults_with_config(**defaults)
    with located(" ".join([*([] if path is None else [os.fspath(path)]), *arguments]) or prog.split()[-1]):
        *parsed, rest = parser.parse_args_into_dataclasses(args=list(arguments), return_remaining_strings=True)
        _check_numbers(parsed)
    launch_words = [word for name, value in launch.items() for word in _launch_words(name, value)]
    for word in rest:
        name = word.removeprefix("--").split("=")[0].replace("-", "_")
        if word.startswith("--") and name not in _launch_options():
            raise ValueError(f"unknown field {word!r}{nearest(name, known)}; fields have the names of TRL's")
        if not word.startswith("--") and not launch_words:
            raise ValueError(f"{word!r} follows no field; give --field value, see {prog} --help")
        launch_words.append(word)
    return tuple(parsed), launch_words


def _default(value: Any, action: argparse.Action, hint: Any) -> Any:
    """A recipe's value as argparse takes defaults: it checks strings only, so numbers are given as such."""
    name, kinds = action.dest, get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    is_flag = bool in kinds
    if name.endswith("_strategy") and value is False:  # what YAML makes of a bare `no`
        return "no"
    if value is None or isinstance(value, (list, dict)):
        if not any(kind is Any or (get_origin(kind) or kind) is type(value) for kind in kinds):
            needed = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
            found = "null" if value is None else f"a {type(value).__name__}"
            raise ValueError(f"{name} is {found}; it takes one {needed}")
        return value
    if action.choices and str(value) not in map(str, action.choices):
        close = nearest(str(value), [str(choice) for choice in action.choices])
        raise ValueError(f"{name} is {value!r}{close}; it is one of {', '.join(map(str, action.choices))}")
    return value if isinstance(value, bool) and is_flag else str(value)


def _check_numbers(parsed: list[Any]) -> None:
    for name, value in [item for section in parsed for item in vars(section).items()]:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it is a finite number")
        if name in COUNTS and value < 1:
            raise ValueError(f"{name} is {value}; it is at least 1")


def run_recipe(path: str | os.PathLike | None, arguments: list[str] = ()) -> int:
    """
    Train from a recipe, under `accelerate launch` where the recipe has fields of it or the machine has several GPUs.

    Args:
        path (`str` or `os.PathLike`, *optional*): the YAML file.
        arguments (`list[str]`): `--field value` words, which override it.

    Returns:
        `int`: exit code, 0 where all went well.
    """
    import torch

    sections, launch_words = parse_fields(path, arguments, SECTIONS, prog="rm-plugin train")
    is_launched = "LOCAL_RANK" in os.environ or "RM_PLUGIN_LAUNCHED" in os.environ
    if is_launched or not (launch_words or torch.cuda.device_count() > 1):
        train(*sections)
        return 0
    from accelerate.commands.launch import launch_command, launch_command_parser
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    words = resolve_accelerate_config_argument(launch_words)
    words += ["--module", "rm_plugin.commands.cli", "train"] + (["--config", os.fspath(path)] if path else [])
    os.environ["RM_PLUGIN_LAUNCHED"] = "1"
    try:
        launch_command(launch_command_parser().parse_args([*words, *arguments]))
    except subprocess.CalledProcessError as error:
        return error.returncode  # the process has said why
    finally:
        del os.environ["RM_PLUGIN_LAUNCHED"]
    return 0


def train(script_args, training_args: PairwiseRewardConfig, model_args, dataset_args) -> PairwiseRewardTrainer:
    """
    Run a recipe: load rows, train, evaluate where there is held-out data, save model and card.

    Returns:
        [`PairwiseRewardTrainer`]: after training; its model is in `training_args.output_dir`.
    """
    if not model_args.model_name_or_path:
        raise ValueError(
            "model_name_or_path is unset; name a causal model (fresh head) or a reward model (trained on)"
        )
    revision = {"revision": model_args.model_revision} if model_args.model_revision else {}
    check_model_exists(model_args.model_name_or_path, **revision)
    model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    training_args.model_init_kwargs = model_init_kwargs
    train_rows, eval_rows = _load_data(script_args, dataset_args, wants_eval=training_args.eval_strategy != "no")
    with explained(f"{model_args.model_name_or_path} cannot be trained as the recipe says"):
        trainer = PairwiseRewardTrainer(
            model_args.model_name_or_path,
            training_args,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            quantization_config=get_quantization_config(model_args),
            peft_config=get_peft_config(model_args),
        )
    resume = training_args.resume_from_checkpoint  # a folder, or "true" for the newest one
    words = {"true": True, "1": True, "false": None, "0": None, "none": None}
    trainer.train(resume_from_checkpoint=words.get(str(resume).lower(), resume))
    if eval_rows is not None:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)
        if trainer.is_world_process_zero():
            names = ("loss", "accuracy", "accuracy_strict", "tie_rate", "num_pairs", "margin", "margin_std")
            for prefix in [key.removesuffix("_accuracy") for key in metrics if key.endswith("_accuracy")]:
                shown = ", ".join(f"{n} {metrics[f'{prefix}_{n}']:.4g}" for n in names if f"{prefix}_{n}" in metrics)
                print(f"{prefix}: {shown}")
    trainer.save_model(training_args.output_dir)
    trainer.save_state()
    if trainer.is_world_process_zero():
        print(f"saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    return trainer


def _load_data(script_args, dataset_args, wants_eval: bool):
    if dataset_args.datasets:
        from trl import get_dataset

        if script_args.dataset_name:
            logger.warning("datasets and dataset_name are both set: datasets is used, as by TRL")
        mixture = get_dataset(dataset_args)
        if wants_eval and script_args.dataset_test_split not in mixture:
            raise ValueError("eval_strategy is set, but the mixture has no test split; set test_split_size")
        return mixture["train"], mixture[script_args.dataset_test_split] if wants_eval else None
    if not script_args.dataset_name:
        raise ValueError("dataset_name is unset; name a hub id, a folder or a file (jsonl, json, parquet, csv)")
    options = {"name": script_args.dataset_config, "streaming": script_args.dataset_streaming}
    train_rows = load_rows(script_args.dataset_name, script_args.dataset_train_split, **options)
    eval_rows = load_rows(script_args.dataset_name, script_args.dataset_test_split, **options) if wants_eval else None
    return train_rows, eval_rows


@functools.cache
def _launch_options() -> dict[str, bool]:
    """Options of `accelerate launch`, and whether each is a switch without a value; with TRL's `accelerate_config`."""
    from accelerate.commands.launch import launch_command_parser

    actions = {action.dest: action for action in launch_command_parser()._actions}
    own = ("help", "module", "no_python", "training_script", "training_script_args")
    return {"accelerate_config": False, **{name: a.nargs == 0 for name, a in actions.items() if name not in own}}


def _launch_words(name: str, value: Any) -> list[str]:
    if _launch_options()[name]:
        return [f"--{name}"] if value else []
    return [f"--{name}", str(value)]


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no field stands twice; PyYAML takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        names = [str(key.value).replace("-", "_") for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(problem=f"{twice[0]} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    with located(str(path)):
        try:
            recipe = yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeys)
        except yaml.YAMLError as error:
            raise ValueError(f"it is not YAML ({one_line(error)}); give `field: value` lines") from None
        if not isinstance(recipe, dict):
            raise ValueError(f"it holds a {type(recipe).__name__}; a recipe is a mapping, `field: value` lines")
    return {str(name).replace("-", "_"): value for name, value in recipe.items()}


def _raise(message: str):
    raise ValueError(message)
