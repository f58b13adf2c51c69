"""`rm-plugin plan`: the GPU memory of a recipe, from the config of its model alone.

plan = plan_recipe("recipes/qwen3.5-4b-qlora-12gb.yaml"); print(describe(plan, gpu=12 * GB))
"""

from __future__ import annotations

import os
import re

from transformers import AutoConfig
from trl import get_peft_config, get_quantization_config

from ..messages import explained
from ..model.checkpoint import is_adapter
from ..training.memory import GB, SHARE_TO_USE, MemoryPlan, plan_memory
from .recipe import parse_recipe


def plan_recipe(path: str | os.PathLike | None, arguments: list[str] = ()) -> MemoryPlan:
    """
    The memory of a recipe on one GPU; only the model's config is read.

    Args:
        path (`str` or `os.PathLike`, *optional*): the YAML file.
        arguments (`list[str]`): `--field value` words, which override it.

    Returns:
        [`MemoryPlan`]: at the longest micro-batch that the recipe allows.
    """
    on_the_cpu = ["--use_cpu", "true"]  # where the plan is computed
    _, training_args, model_args, _ = parse_recipe(path, [*arguments, *on_the_cpu])
    name = model_args.model_name_or_path
    if not name:
        raise ValueError("model_name_or_path is unset; name a causal model")
    if is_adapter(name, {"revision": model_args.model_revision}):
        raise ValueError(f"{name} is an adapter; plan a recipe with its base model and use_peft")
    with explained(f"{name} cannot be planned"):
        config = AutoConfig.from_pretrained(name, revision=model_args.model_revision)
    training_args.model_init_kwargs = {"dtype": model_args.dtype, **(training_args.model_init_kwargs or {})}
    return plan_memory(config, training_args, get_quantization_config(model_args), get_peft_config(model_args))


def parse_gpu(text: str) -> float:
    """Bytes of a card's size: `12GB`, `12`, `24564MiB`; a card's GB are 2³⁰ bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:(g|m)i?b?)?", text.strip().lower())
    if not found or not float(found[1]) or (float(found[1]) > 1000 and not found[2]):
        raise ValueError(f"--gpu {text} is not the memory of a card; give it as 12GB or 12288MiB")
    return float(found[1]) * (2**20 if found[2] == "m" else GB)


def describe(plan: MemoryPlan, gpu: float | None = None) -> str:
    """The terms of a plan and, for a card of `gpu` bytes, what they mean; the last line is the verdict."""
    at_the_peak = max(plan.update, plan.activations)
    terms = {
        "weights": plan.weights,
        "gradients": plan.gradients,
        "optimizer": plan.optimizer,
        f"activations, {plan.tokens:,} tokens" if at_the_peak > plan.update else "optimizer's step": at_the_peak,
        "CUDA context, fragmentation": plan.allowance,
    }
    lines = [f"{name:<32}{num_bytes / GB:6.2f} GB" for name, num_bytes in terms.items()]
    return "\n".join([*lines, verdict(plan, gpu)])


def verdict(plan: MemoryPlan, gpu: float | None = None) -> str:
    """One line: total with its error bar, and whether a card of `gpu` bytes holds it."""
    total = f"{plan.total / GB:.1f} ± {plan.error / GB:.1f} GB"
    if gpu is None:
        return f"planned: {total} on a GPU; --gpu 12GB says whether it fits"
    fits = "does not fit" if not plan.may_fit(gpu) else "fits" if plan.total + plan.error <= gpu else "may fit"
    tokens, share = plan.max_tokens(gpu), f"leaves {1 - SHARE_TO_USE:.0%}"
    most = f"max_tokens_per_microbatch up to {tokens:,} {share}"
    if tokens < plan.tokens_of_a_pair:  # which is computed whole
        most = f"max_length up to {tokens // 2:,}, with max_tokens_per_microbatch up to {tokens:,}, {share}"
    if tokens < 2:
        most = "no max_tokens_per_microbatch would; take a smaller model or load_in_4bit"
    return f"planned: {total}, which {fits} in {gpu / GB:.3g} GB; {most}"
