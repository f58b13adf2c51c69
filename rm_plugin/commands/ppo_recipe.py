"""YAML recipes ► a PPO run of TRL 1.12: fields of `PPOConfig`, `ModelConfig`, `DataArguments`, `PPORewardArguments`.

    train_ppo(*parse_ppo_recipe("recipes/ppo-quickstart.yaml", ["--total_episodes", "3200"]))

The policy is `sft_model_path` and the reward model `reward_model_path`, as in TRL's own PPO script; the two may have
different tokenizers. The value model is a fresh head on the policy's backbone.
"""

from __future__ import annotations

import copy
import gc
import os
import tempfile
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import AutoTokenizer, Qwen3ForCausalLM, set_seed
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from ..data.comparison import to_prompt
from ..data.encoding import ensure_pad_token, prompt_ids
from ..loops.ppo import as_ppo_reward_model, require_ppo
from ..messages import explained, located
from ..model.checkpoint import find_model, load_language_model
from ..model.modeling import RewardModel
from ..scoring.remote import is_url
from ..scoring.rewards import load_scorer
from .quickstart import build_model, build_tokenizer
from .quickstart_data import preference_data
from .recipe import DataArguments, load_options, load_split, parse_fields

QUICKSTART = "quickstart"  # as sft_model_path: the embedded policy


@dataclass
class PPORewardArguments:
    """What `as_ppo_reward_model` and its scorer take."""

    reward_normalize: bool = field(
        default=False, metadata={"help": "Normalise rewards by the mean and deviation in the reward model's config."}
    )
    reward_clip: float | None = field(default=None, metadata={"help": "Cut rewards to [-reward_clip, reward_clip]."})
    reward_tokenizer: str | None = field(
        default=None,
        metadata={"help": "Its folder; needed where reward_model_path is a server's URL."},
    )


def parse_ppo_recipe(path: str | os.PathLike | None, arguments: list[str] = ()) -> tuple[Any, ...]:
    """
    A recipe and command-line fields that override it.

    Args:
        path (`str` or `os.PathLike`, *optional*): YAML mapping of field names (underscores or hyphens) to values.
        arguments (`list[str]`): `--field value` words.

    Returns:
        `(DataArguments, PPOConfig, ModelConfig, PPORewardArguments)`

    Raises:
        ImportError: a TRL without PPO.
        ValueError: a field that none of the four has (it names the nearest one), or a file that is not a mapping.
    """
    require_ppo()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.ppo import PPOConfig

    sections = (DataArguments, PPOConfig, ModelConfig, PPORewardArguments)
    parsed, launch_words = parse_fields(path, arguments, sections, prog="rm-plugin ppo")
    if launch_words:
        raise ValueError(f"{' '.join(launch_words)}: rm-plugin ppo does not launch; run it under `accelerate launch`")
    return parsed


def train_ppo(script_args, training_args, model_args, reward_args: PPORewardArguments):
    """
    Run a recipe: policy, reward and value model, prompts, training; the policy is saved to `output_dir`.

    Returns:
        `trl.experimental.ppo.PPOTrainer`: after training; its `state.log_history` holds `objective/scores`.
    """
    from trl.experimental.ppo import PPOTrainer

    wants_eval = _check_fields(script_args, training_args, reward_args)
    set_seed(training_args.seed)
    policy, tokenizer = _load_policy(training_args, model_args)
    rows = prompt_rows(script_args, tokenizer, script_args.dataset_train_split)
    eval_rows = prompt_rows(script_args, tokenizer, script_args.dataset_test_split) if wants_eval else None
    batch_size = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    batch_size *= PartialState().num_processes
    if len(rows) < batch_size:  # TRL drops the incomplete batch, and waits forever for a full one
        raise ValueError(
            f"{len(rows)} prompts do not fill one batch of {batch_size}; give more prompts or lower "
            "per_device_train_batch_size"
        )
    options = {"processing_class": reward_args.reward_tokenizer, "normalize": reward_args.reward_normalize}
    if not is_url(training_args.reward_model_path):
        options["dtype"] = model_args.dtype if model_args.dtype is not None else "auto"
    scorer = load_scorer(training_args.reward_model_path, truncation_mode="keep_end", **options)
    value_model = _value_model(policy, tokenizer, training_args, model_args)
    trainer = PPOTrainer(
        training_args,
        tokenizer,
        policy,
        None,
        as_ppo_reward_model(scorer, tokenizer, rows + (eval_rows or []), reward_clip=reward_args.reward_clip),
        Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows]),
        value_model,
        eval_dataset=eval_rows and Dataset.from_list([{"input_ids": row["input_ids"]} for row in eval_rows]),
        peft_config=get_peft_config(model_args),
    )
    gc.freeze()  # TRL collects garbage twice per update, which takes a second each among all that was imported
    trainer.train()
    gc.unfreeze()
    trainer.save_model(training_args.output_dir)
    tokenizer.save_pretrained(training_args.output_dir)
    if trainer.is_world_process_zero():
        rewards = [entry["objective/scores"] for entry in trainer.state.log_history if "objective/scores" in entry]
        tenth = max(1, len(rewards) // 10)
        first, last = (sum(part) / tenth for part in (rewards[:tenth], rewards[-tenth:]))
        print(
            f"mean reward {first:.4g} in the first {tenth} and {last:.4g} in the last {tenth} of {len(rewards)} "
            f"updates; policy saved to {training_args.output_dir}"
        )
    return trainer


def _check_fields(script_args, training_args, reward_args) -> bool:
    """Refuse fields that TRL ignores or that have no effect; returns whether the run evaluates."""
    for name in ("output_dir", "reward_model_path"):
        path = getattr(training_args, name)
        if not path or path == "EleutherAI/pythia-160m":  # TRL's defaults, neither of which is a reward model
            raise ValueError(f"{name} is unset; name it in the recipe")
    if not is_url(model := training_args.reward_model_path):
        with located("reward_model_path"):
            find_model(model, {})
    elif reward_args.reward_tokenizer is None:
        raise ValueError(f"reward_tokenizer is unset; name the folder of the model that {model} serves")
    if training_args.resume_from_checkpoint:
        raise ValueError("resume_from_checkpoint is set, and TRL's PPOTrainer cannot resume; leave it out")
    wants_eval = training_args.eval_strategy != "no"
    if script_args.dataset_test_split != DataArguments.dataset_test_split and not wants_eval:
        raise ValueError(
            f"dataset_test_split={script_args.dataset_test_split!r} has no effect without an evaluation; set "
            "eval_strategy, or leave it out"
        )
    return wants_eval


def prompt_rows(script_args, tokenizer, split: str) -> list[dict[str, Any]]:
    """Rows for PPO from any data set of prompts or preferences, each prompt once, with its tools."""
    rows = {}
    for index, row in enumerate(load_split(script_args, split)):
        with located(f"{script_args.dataset_name} row {index}"):
            asked = to_prompt(row)
            ids = prompt_ids(asked.prompt, tokenizer, **asked.template_arguments)
        rows[tuple(ids)] = {"prompt": asked.prompt, "input_ids": ids, **asked.template_arguments}
    return list(rows.values())


def _load_policy(training_args, model_args):
    name, quantization = training_args.sft_model_path, get_quantization_config(model_args)
    if quantization is not None and (name == QUICKSTART or not model_args.use_peft):
        option = "load_in_4bit" if model_args.load_in_4bit else "load_in_8bit"
        raise ValueError(
            f"{option}=True, a quantised policy is trained by adapters and loaded from an sft_model_path; set "
            f"use_peft=true, or leave {option} out"
        )
    if name == QUICKSTART:
        return quickstart_policy(training_args.seed)
    with explained(f"sft_model_path={name!r} cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", revision=model_args.model_revision)
        policy = load_language_model(name, **load_options(model_args), quantization_config=quantization)
    ensure_pad_token(tokenizer, policy)
    return policy, tokenizer


def _value_model(policy, tokenizer, training_args, model_args):
    """
    A fresh head on a transformer like the policy's. PPO trains the two apart, so they share no weight, and the value
    model whole, so it is not quantised.
    """
    if not getattr(policy, "is_quantized", False):
        return RewardModel.from_backbone(copy.deepcopy(getattr(policy, policy.base_model_prefix)))
    value_model = RewardModel.from_backbone(training_args.sft_model_path, **load_options(model_args))
    ensure_pad_token(tokenizer, value_model)
    return value_model


def quickstart_policy(seed: int = 0):
    """
    The embedded policy: the quickstart's tiny decoder with a language head, taught some of the chosen answers.

    Returns:
        `(Qwen3ForCausalLM, PreTrainedTokenizerFast)`: a policy that answers in the right form and is often wrong.
    """
    tokenizer = build_tokenizer()
    backbone = build_model(tokenizer, seed)
    set_seed(seed)
    policy = Qwen3ForCausalLM(backbone.config)
    policy.model = backbone
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in preference_data(seed)[0]]
    options = {"max_steps": 300, "per_device_train_batch_size": 64, "learning_rate": 2e-3, "seed": seed}
    on_a_cpu = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    with tempfile.TemporaryDirectory() as folder:
        print(f"teaching the embedded policy its answers: {options['max_steps']} steps", flush=True)
        args = SFTConfig(folder, **options, **on_a_cpu, save_strategy="no", logging_strategy="no")
        trainer = SFTTrainer(policy, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.train()
        trainer.save_model()
        # Read again: the trained one keeps accelerate's `forward`, which copies of it would call.
        policy = load_language_model(folder)
    tokenizer.padding_side = "left"
    return policy, tokenizer
