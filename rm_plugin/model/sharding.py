"""Models that FSDP2 or DeepSpeed ZeRO-3 has split over processes: where they are whole, and how they compute.

    with whole_models():            # a scorer or a probe, whatever the arguments of training say
        model = RewardModel.from_pretrained("my-reward-model")

transformers splits every model that it makes once arguments of ZeRO-3 exist, and under FSDP it may leave weights empty
in all processes but the first. What is gathered here has to be entered by all processes together.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn
from transformers.initialization import no_init_weights
from transformers.integrations import deepspeed as marks
from transformers.integrations import is_deepspeed_zero3_enabled

from ..files import write_atomically

FSDP_MARK = "FSDP_CPU_RAM_EFFICIENT_LOADING"

# At its first use torch notes which functions make tensors: within DeepSpeed's Init, which wraps them, it would note
# the wrapped ones, and no `torch.device` had any effect in this process again (torch 2.13, deepspeed 0.19).
with torch.device("meta"):
    torch.empty(0)


@contextmanager
def whole_models() -> Iterator[None]:
    """Models made within are whole in each process, by itself: neither split by ZeRO-3 nor left empty for FSDP."""
    # transformers has functions to set and unset its mark of ZeRO-3, and none that reads what to set again.
    zero3, fsdp = marks._hf_deepspeed_config_weak_ref, os.environ.pop(FSDP_MARK, None)
    init = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    marks.unset_hf_deepspeed_config()
    if init is not None:  # within which a probe may be
        init.shutdown_init_context()
    try:
        yield
    finally:
        if init is not None:
            init.restore_init_context()
        marks._hf_deepspeed_config_weak_ref = zero3
        if fsdp is not None:
            os.environ[FSDP_MARK] = fsdp


@contextmanager
def without_weights() -> Iterator[None]:
    """Models made within have shapes and no data, to look at their structure."""
    with whole_models(), torch.device("meta"), no_init_weights():
        yield


def is_split(model: nn.Module) -> bool:
    """Whether each process holds a part of the weights, so that a forward is a call that all of them have to make."""
    # DeepSpeed marks a weight that it has split, or cast, by `ds_id` and these two alone; so below.
    return any(
        hasattr(weight, "ds_id")
        or hasattr(weight, "full_tensor")
        or (hasattr(weight, "_hp_mapping") and is_16_bit(weight))
        for weight in model.parameters()
    )


def is_16_bit(weight: torch.Tensor) -> bool:
    """Whether DeepSpeed keeps another copy of it, in float32."""
    return weight.dtype in (torch.float16, torch.bfloat16)


def as_split(model: nn.Module) -> None:
    """Cast what is trained beside weights that ZeRO-3 has split to their 16 bits; its optimizer takes one dtype."""
    dtypes = {weight.dtype for weight in model.parameters() if hasattr(weight, "ds_id") and is_16_bit(weight)}
    for weight in model.parameters() if dtypes else ():
        if weight.requires_grad and not hasattr(weight, "ds_id"):
            weight.data = weight.data.to(next(iter(dtypes)))


def gathered(parameters: Iterable[nn.Parameter]) -> AbstractContextManager:
    """Within, those of the parameters that ZeRO-3 has split are whole, to be read."""
    split = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not split:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(split)


@contextmanager
def gathered_to_compute(model: nn.Module) -> Iterator[None]:
    """Within, a model that ZeRO-3 has split computes without an engine: each layer is whole while it does."""
    layers: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules() if is_deepspeed_zero3_enabled() else ():
        if isinstance(module, nn.ModuleList) and module not in inside:
            layers += module
            inside.update(module.modules())
    in_layers = {weight for layer in layers for weight in layer.parameters()}
    with ExitStack() as open_layers, ExitStack() as hooks:
        for layer in layers:

            def gather(layer, args):
                open_layers.enter_context(gathered(layer.parameters()))

            hooks.callback(layer.register_forward_pre_hook(gather).remove)
            hooks.callback(layer.register_forward_hook(lambda *_: open_layers.close()).remove)
        hooks.enter_context(gathered(weight for weight in model.parameters() if weight not in in_layers))
        yield


def precise(weight: nn.Parameter) -> torch.Tensor:
    """
    The float32 of a weight that DeepSpeed has cast to 16 bits, as its optimizer holds it; gradients reach the weight.

    DeepSpeed casts every parameter (0.19); to go when it takes `_keep_in_fp32_modules_strict` for parameters, too.
    """
    if not is_16_bit(weight):
        return weight
    held, rounded = held_by_optimizer(weight), weight.float()
    return rounded if held is None else rounded + (held.view_as(rounded) - rounded).detach()


def held_by_optimizer(weight: nn.Parameter) -> torch.Tensor | None:
    """The float32 of a weight that DeepSpeed has cast, gathered from all processes; `None` without its optimizer."""
    if not (hasattr(weight, "_hp_mapping") or hasattr(weight, "_z3_optimizer")):
        return None
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(weight)


def beyond_16_bits(model: nn.Module, dtype: torch.dtype) -> dict[nn.Parameter, torch.Tensor]:
    """Copies of the trained weights that a cast to 16 bits would round; those of a 16-bit checkpoint it leaves."""
    whole = (weight for weight in model.parameters() if weight.requires_grad and not hasattr(weight, "ds_id"))
    return {weight: weight.detach().clone() for weight in whole if not weight.equal(weight.to(dtype).to(weight.dtype))}


def hold_in_optimizer(start: dict[nn.Parameter, torch.Tensor]) -> None:
    """Begin from these values where DeepSpeed has cast a weight, and its optimizer holds what that has rounded."""
    for weight, value in start.items():
        if is_16_bit(weight) and held_by_optimizer(weight) is not None:
            from deepspeed.utils import safe_set_full_fp32_param

            safe_set_full_fp32_param(weight, value.float().to(weight.device))


def with_precise(
    state_dict: dict[str, torch.Tensor] | None, model: nn.Module, wanted: Iterable[nn.Parameter], keep: bool
) -> dict[str, torch.Tensor] | None:
    """
    A state dict with the float32 of trained parameters that DeepSpeed has cast.

    Args:
        state_dict (`dict`, *optional*): by names in the model; a process that saves nothing may have none.
        model (`nn.Module`): the model.
        wanted (`Iterable[nn.Parameter]`): which parameters.
        keep (`bool`): whether this process saves them; all have to gather them.
    """
    ids, trained = {id(parameter) for parameter in wanted if parameter.requires_grad}, {}
    for name, weight in model.named_parameters():
        held = held_by_optimizer(weight) if id(weight) in ids else None
        if held is not None and keep:
            trained[name] = held.cpu()
    return state_dict and {**state_dict, **trained}


@contextmanager
def whole_when_saved(trainer: Any, folder: str | os.PathLike) -> Iterator[None]:
    """
    Within, transformers' `save_model` writes one whole model into a folder, whatever type of state dict checkpoints
    have, and of the dtype that it was made in, which DeepSpeed's cast hides from those that write the files.
    """
    holders = []
    if trainer.is_fsdp_enabled:
        holders = [(trainer.accelerator.state.fsdp_plugin, "state_dict_type", "FULL_STATE_DICT")]
    elif trainer.is_deepspeed_enabled and trainer.deepspeed is not None:
        zero_config = trainer.deepspeed._config.zero_config  # nothing public tells the engine at a save
        holders = [(zero_config, "gather_16bit_weights_on_model_save", True)]
    before = [getattr(holder, name) for holder, name, _ in holders]
    for holder, name, value in holders:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for (holder, name, _), value in zip(holders, before, strict=True):
            setattr(holder, name, value)
    if trainer.is_deepspeed_enabled and trainer.args.should_save:
        dtype = str(trainer.reward_model.config.dtype or torch.float32).removeprefix("torch.")
        for path in (path for name in ("config.json", "reward_model.json") for path in Path(folder).glob(name)):
            content = json.loads(path.read_text(encoding="utf-8"))
            write_atomically(path, json.dumps({**content, "dtype": dtype}, indent=2) + "\n")


def whole_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of a model's state, each of them whole while it is looked at."""
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if isinstance(tensor, torch.Tensor):
            with gathered([tensor]):
                yield name, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextmanager
def units_of_their_own(head_class: type[nn.Module], model_class: type[nn.Module]) -> Iterator[None]:
    """
    Within, FSDP2 makes each head a unit that computes in the dtype of its weights, and casts no output; a model within
    another, of PEFT, becomes one that can be called by itself.

    accelerate has one `MixedPrecisionPolicy` for all modules; to go when it takes one by module.
    """
    from torch.distributed import fsdp

    fully_shard = fsdp.fully_shard

    def shard(module: nn.Module | list[nn.Module], **options: Any) -> Any:
        policy = replace(options.get("mp_policy") or fsdp.MixedPrecisionPolicy(), output_dtype=None)
        own = replace(policy, param_dtype=None, reduce_dtype=None, cast_forward_inputs=False)
        modules = [module] if isinstance(module, nn.Module) else module
        inner = [part for one in modules for part in one.modules() if not isinstance(part, fsdp.FSDPModule)]
        for part in (part for part in inner if isinstance(part, head_class)):
            fully_shard(part, **{**options, "mp_policy": own})
        for part in (part for part in inner if isinstance(part, model_class) and part is not module):
            fully_shard(part, **{**options, "mp_policy": policy})
        return fully_shard(module, **{**options, "mp_policy": policy})

    fsdp.fully_shard = shard
    try:
        yield
    finally:
        fsdp.fully_shard = fully_shard


@contextmanager
def adding_up_gradients(accelerator: Any, model: nn.Module) -> Iterator[None]:
    """Within, a backward adds to the gradients of a step that goes on: DDP exchanges and DeepSpeed uses them later."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        state = accelerator.gradient_state
        ends = state.sync_gradients
        state._set_sync_gradients(False)  # the attribute itself is read-only
        try:
            yield
        finally:
            state._set_sync_gradients(ends)
    elif accelerator.distributed_type == DistributedType.FSDP:  # each process adds up what it holds
        yield
    else:
        with accelerator.no_sync(model):
            yield
