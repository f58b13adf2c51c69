"""YAML recipes ► a training run: TRL's field names, flat; an unmodified `trl reward` recipe runs.

train(*parse_recipe("recipes/smollm2-135m-lora-cpu.yaml", ["--max_steps", "100"]))
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

from ..data.layouts import COLUMNS_HELP
from ..data.sources import load_rows
from ..messages import check_at_least, explained, located, nearest, one_line
from ..model.checkpoint import find_model
from ..training.checkpoints import newest_complete_checkpoint, writing
from ..training.config import PairwiseRewardConfig
from ..training.trainer import PairwiseRewardTrainer
from .console import print_short_lines

logger = logging.getLogger(__name__)


@dataclass
class DataArguments(ScriptArguments):
    """[`trl.ScriptArguments`], and which of the data's columns hold what."""

    columns: list[str] | None = field(default=None, metadata={"help": COLUMNS_HELP})


COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
SECTIONS = (DataArguments, PairwiseRewardConfig, ModelConfig, DatasetMixtureConfig)


def parse_recipe(path: str | os.PathLike | None, arguments: list[str] = ()) -> tuple[Any, ...]:
    """
    A recipe and command-line fields that override it. An unset `dtype` means float32 (TRL's default), for an
    adapter the dtype that it was trained in.

    Fields of `accelerate launch`, which TRL's recipes may hold (`num_processes`, `accelerate_config`, …), are for
    [`run_recipe`]; here they are left out.

    Args:
        path (`str` or `os.PathLike`, *optional*): YAML mapping of field names (underscores or hyphens) to values.
        arguments (`list[str]`): `--field value` words.

    Returns:
        `(DataArguments, PairwiseRewardConfig, ModelConfig, DatasetMixtureConfig)`

    Raises:
        ValueError: a field that none of the four has (it names the nearest one), a value that does not fit, or a file
            that is not a mapping.
    """
    return parse_fields(path, arguments, SECTIONS, prog="rm-plugin train", dtype=None)[0]


def parse_fields(
    path: str | os.PathLike | None, arguments: list[str], sections: tuple[type, ...], prog: str, **defaults: Any
) -> tuple[tuple[Any, ...], list[str]]:
    """Instances of dataclasses from a recipe and `--field value` words, and the words for `accelerate launch`."""
    parser = TrlParser(sections, prog=prog, allow_abbrev=False)
    parser.error = _raise
    hints = {name: hint for section in sections for name, hint in get_type_hints(section).items()}
    recipe = {} if path is None else _read_yaml(path)
    with located(" ".join([*([] if path is None else [os.fspath(path)]), *arguments]) or prog.split()[-1]):
        environment = recipe.pop("env", None) or {}
        if not isinstance(environment, dict):
            raise ValueError(f"env is of type {type(environment).__name__}; it is a mapping, `NAME: value` lines")
        os.environ.update({str(name): str(value) for name, value in environment.items()})
        words = []
        for name, value in recipe.items():
            if name == "columns" and isinstance(value, dict):
                value = [f"{ours}={theirs}" for ours, theirs in value.items()]
            if value is None or isinstance(value, (list, dict)):
                defaults[name] = _checked(name, value, hints.get(name, Any))
            else:
                is_no = value is False and name.endswith("_strategy")  # what YAML makes of a bare `no`
                words.append(f"--{name}={'no' if is_no else value}")
        words += parser.set_defaults_with_config(**defaults)
        rest = parser.parse_known_args([*words, *arguments])[1]
        # Here and below: argparse has no public list of a parser's options.
        launch_words = _launch_words(rest, known=[action.dest for action in parser._actions], prog=prog)
        *parsed, _ = parser.parse_args_into_dataclasses([*words, *arguments], return_remaining_strings=True)
        for name, value in [item for section in parsed for item in vars(section).items()]:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it is a finite number")
            if name in COUNTS:
                check_at_least(1, **{name: value})
    return tuple(parsed), launch_words


def _checked(name: str, value: list | dict | None, hint: Any) -> list | dict | None:
    """A list, mapping or null in a recipe, refused unless its field takes one."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(kind is Any or (get_origin(kind) or kind) is type(value) for kind in kinds):
        needed = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        found = "null" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {found}; it takes one {needed}")
    return value


def _launch_words(words: list[str], known: list[str], prog: str) -> list[str]:
    """Words that are no fields, as `accelerate launch` takes them or TRL's `accelerate_config`; others are refused."""
    if not words:
        return []
    from accelerate.commands.launch import launch_command_parser

    own = ("help", "module", "no_python", "training_script", "training_script_args")
    switches = {
        action.dest: action.nargs == 0 for action in launch_command_parser()._actions if action.dest not in own
    }
    switches["accelerate_config"] = False
    launch_words = []
    for word in words:
        option, _, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--"):
            if not launch_words:
                raise ValueError(f"{word!r} follows no field; give --field value, see {prog} --help")
            launch_words.append(word)
        elif name not in switches:
            raise ValueError(f"unknown field {name!r}{nearest(name, known)}; fields have the names of TRL's")
        elif not (switches[name] and value == "False"):
            launch_words += [option] if switches[name] or not value else [option, value]
    return launch_words


def run_recipe(path: str | os.PathLike | None, arguments: list[str] = (), force: bool = False) -> int:
    """
    Train from a recipe, under `accelerate launch` where the recipe has fields of it or the machine has several GPUs.

    Args:
        path (`str` or `os.PathLike`, *optional*): the YAML file.
        arguments (`list[str]`): `--field value` words, which override it.
        force (`bool`, *optional*, defaults to `False`): train even if the plan says that this GPU is too small.

    Returns:
        `int`: exit code, 0 on success.
    """
    import torch

    sections, launch_words = parse_fields(path, arguments, SECTIONS, prog="rm-plugin train", dtype=None)
    is_launched = "LOCAL_RANK" in os.environ or "RM_PLUGIN_LAUNCHED" in os.environ
    if torch.cuda.is_available() and not (is_launched or launch_words or sections[1].use_cpu):
        check_memory(path, arguments, torch.cuda.get_device_properties(0).total_memory, force)
    try:
        if is_launched or not (launch_words or torch.cuda.device_count() > 1):
            train(*sections)
            return 0
        return _launch(path, arguments, launch_words)
    except KeyboardInterrupt:
        newest = newest_complete_checkpoint(sections[1].output_dir)
        how = "the same command with --resume_from_checkpoint true resumes from it"
        raise KeyboardInterrupt(f"{newest} is kept, {how}" if newest else "no checkpoint is complete yet") from None


def check_memory(path: str | os.PathLike | None, arguments: list[str], gpu: int, force: bool = False) -> None:
    """
    Print one line of the plan for a card of `gpu` bytes; refuse a recipe that cannot fit.

    `rm-plugin plan` runs in a process of its own: it computes on the CPU, and accelerate knows one device per process.
    """
    words = [*([] if path is None else ["--config", os.fspath(path)]), *arguments, "--gpu", f"{gpu >> 20}MB"]
    command = [sys.executable, "-m", "rm_plugin.commands.cli", "plan", *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    plan = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = (plan.stdout or plan.stderr).strip().splitlines()
    if plan.returncode == 1 and plan.stdout and not force:
        raise ValueError(f"{said[-1]}; --force trains anyway")
    print(said[-1] if said else "no plan of the memory could be made", flush=True)


def _launch(path: str | os.PathLike | None, arguments: list[str], launch_words: list[str]) -> int:
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
    find_model(model_args.model_name_or_path, {"revision": model_args.model_revision})
    training_args.model_init_kwargs = {**load_options(model_args), **(training_args.model_init_kwargs or {})}
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
    print_short_lines(trainer)
    resume = training_args.resume_from_checkpoint  # a folder, or "true" for the newest one
    words = {"true": True, "1": True, "false": None, "0": None, "none": None}
    trainer.train(resume_from_checkpoint=words.get(str(resume).lower(), resume))
    if eval_rows is not None:
        metrics = trainer.held_out_metrics or trainer.evaluate()
        trainer.save_metrics("eval", metrics)
    names = [one.path for one in dataset_args.datasets or []] or script_args.dataset_name
    with writing(training_args.output_dir):
        trainer.save_model(training_args.output_dir)
        trainer.create_model_card(dataset_name=names)
        trainer.save_state()
    if trainer.is_world_process_zero():
        print(f"saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=names)
    return trainer


def load_options(model_args: ModelConfig) -> dict[str, Any]:
    """What a recipe says about how a model is loaded."""
    return {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }


def load_split(script_args: DataArguments, split: str):
    """Raw rows of one split of the recipe's data set."""
    if not script_args.dataset_name:
        raise ValueError("dataset_name is unset; name a hub id, a folder or a file (jsonl, json, parquet, csv)")
    options = {"name": script_args.dataset_config, "streaming": script_args.dataset_streaming}
    return load_rows(script_args.dataset_name, split, columns=script_args.columns, **options)


def _load_data(script_args: ScriptArguments, dataset_args: DatasetMixtureConfig, wants_eval: bool):
    test_split = script_args.dataset_test_split
    if not dataset_args.datasets:
        train_rows = load_split(script_args, script_args.dataset_train_split)
        return train_rows, load_split(script_args, test_split) if wants_eval else None
    if script_args.dataset_name:
        logger.warning("datasets and dataset_name are both set: datasets is used, as by TRL")
    mixture = get_dataset(dataset_args)
    if wants_eval and test_split not in mixture:
        raise ValueError("eval_strategy is set, but the mixture has no test split; set test_split_size")
    return mixture["train"], mixture[test_split] if wants_eval else None


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no field appears twice; PyYAML would silently take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        names = [str(key.value).replace("-", "_") for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(problem=f"{twice[0]} appears twice", problem_mark=node.start_mark)
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
