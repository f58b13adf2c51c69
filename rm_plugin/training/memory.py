"""GPU memory of a training run, before it: the real training step on tensors that have shapes and no data.

    plan = plan_memory(AutoConfig.from_pretrained("Qwen/Qwen3-8B"), args, peft_config=lora_config())
    plan.total, plan.error, plan.may_fit(12 * GB), plan.max_tokens(12 * GB)

The trainer is built on a model without weights (the meta device), then its parameters become fake tensors. Its
optimizer steps once, which makes Adam's state; then a mode counts the storages that live while `training_step` and the
optimizer run. What lives at the peak of either is linear in layers, and in `training_step` in tokens too, so steps of
two small depths and two lengths give that of all.

    M(L, T) = a + b·L + max(c + d·L + (e + f·L)·T, g + h·L)    L layers, T tokens of the longest micro-batch

The fake tensors are a CPU's, where attention computes in float32: an upper bound of a GPU's. NF4 is computed by a
stand-in, since bitsandbytes' own tensors cannot be fake.
"""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from dataclasses import dataclass

import torch
from datasets import Dataset
from peft import PeftConfig
from tokenizers import Tokenizer, models
from torch import nn

# torch has no public module for fake tensors, dispatch modes and trees of tensors.
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from ..messages import explained
from ..model.attention import IMPLEMENTATION
from ..model.config import RewardModelConfig
from ..model.modeling import RewardModel
from .trainer import PairwiseRewardConfig, PairwiseRewardTrainer

GB = 2**30
# What is on the card besides tensors: the CUDA context with its kernels, 0.3 to 0.4 GB since they load when first used
# (pytorch issues 107667 and 109888), and workspaces of cuBLAS and bitsandbytes; and what the allocator reserves over
# what it hands out where lengths vary.
CONTEXT, CONTEXT_ERROR = 0.6 * GB, 0.2 * GB
FRAGMENTATION, FRAGMENTATION_ERROR = 0.05, 0.05
ENOUGH_TOKENS = 2048  # of the longer step; in a hybrid of 9B what grows fastest with tokens leads from 512 to 1,024 on
SHARE_TO_USE = 0.9  # of a card: what recipes are planned for
BLOCK = 512  # bytes to which torch's allocator rounds
# Bytes of a weight in NF4: half a byte, and scales of blocks of 64, themselves quantised in blocks of 256 if nested.
NF4, NF4_NESTED = 0.5 + 4 / 64, 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass
class MemoryPlan:
    """
    Bytes on the card at the peak of a training step.

    Args:
        weights (`float`): parameters and buffers.
        gradients (`float`): of what is trained.
        optimizer (`float`): its state.
        update (`float`): temporaries of the optimizer's step, when no activations live.
        activations (`float`): what the backward pass needs and temporaries, at `tokens` tokens.
        activations_per_token (`float`): their slope.
        tokens (`int`): of the longest micro-batch.
        tokens_of_a_pair (`int`): below which no micro-batch can be cut.
    """

    weights: float
    gradients: float
    optimizer: float
    update: float
    activations: float
    activations_per_token: float
    tokens: int
    tokens_of_a_pair: int

    @property
    def peak(self) -> float:
        """Bytes that torch's allocator hands out."""
        return self.weights + self.gradients + self.optimizer + max(self.update, self.activations)

    @property
    def allowance(self) -> float:
        """For the CUDA context and for fragmentation."""
        return CONTEXT + FRAGMENTATION * self.peak

    @property
    def total(self) -> float:
        return self.peak + self.allowance

    @property
    def error(self) -> float:
        """Half the width of the error bar of `total`."""
        return CONTEXT_ERROR + FRAGMENTATION_ERROR * self.peak

    def may_fit(self, gpu: float) -> bool:
        """Whether the lower end of the error bar is within a card of `gpu` bytes."""
        return self.total - self.error <= gpu

    def max_tokens(self, gpu: float, share: float = SHARE_TO_USE) -> int:
        """The most tokens of a micro-batch whose total is within a share of a card of `gpu` bytes; maybe 0."""
        room = (share * gpu - CONTEXT) / (1 + FRAGMENTATION) - self.weights - self.gradients - self.optimizer
        if room < self.update:
            return 0
        return max(0, int(self.tokens + (room - self.activations) / self.activations_per_token))


def plan_memory(
    config: PreTrainedConfig,
    args: PairwiseRewardConfig,
    quantization_config: BitsAndBytesConfig | None = None,
    peft_config: PeftConfig | None = None,
    tokens: int | None = None,
) -> MemoryPlan:
    """
    Memory of training on one GPU, from configs alone: no weights, no rows, no GPU.

    Args:
        config (`PreTrainedConfig`): of the base model.
        args ([`PairwiseRewardConfig`]): of the trainer; the weights' dtype is `model_init_kwargs["dtype"]`.
        quantization_config (`BitsAndBytesConfig`, *optional*): for NF4.
        peft_config (`PeftConfig`, *optional*): as for the trainer.
        tokens (`int`, *optional*): of the longest micro-batch; [`longest_microbatch`] of `args` if absent.

    Returns:
        [`MemoryPlan`]: terms in bytes.

    Raises:
        ValueError: 8-bit weights, no `max_length`, or a model whose step depends on values (such as some mixtures of
            experts), which fake tensors do not have.

    Source: FakeTensorMode and the allocator's 512-byte blocks are torch's; NF4's sizes are Dettmers et al. 2023.
    """
    if quantization_config is not None and not quantization_config.load_in_4bit:
        raise ValueError("8-bit weights cannot be planned; use load_in_4bit")
    tokens = longest_microbatch(args) if tokens is None else tokens
    num_layers = config.get_text_config().num_hidden_layers
    depth = max(2, _period(config.get_text_config()))
    depths = [depth, 2 * depth] if 2 * depth < num_layers else [num_layers]
    longest = max(16, min(tokens, ENOUGH_TOKENS))
    lengths = [longest // 2, longest]
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # what it logs is raised too
    with explained("the training step cannot be planned"):
        measured = [_measure(_cut(config, n), args, quantization_config, peft_config, lengths) for n in depths]
    left = (num_layers - depths[-1]) / depth  # how often the difference of the two depths is added
    terms = [last + (last - first) * left for first, last in zip(measured[0], measured[-1], strict=True)]
    *fixed, half, whole = terms
    pair = tokens if args.max_length is None else min(tokens, 2 * args.max_length)
    slope = (whole - half) / (lengths[1] - lengths[0])
    return MemoryPlan(*fixed, whole + slope * (tokens - longest), slope, tokens, pair)


def longest_microbatch(args: PairwiseRewardConfig) -> int:
    """
    Tokens of the longest micro-batch of pairs that a recipe allows: the budget, or a pair of two whole texts alone.

    A row of K completions is computed whole too: where rows have more than two, plan with K × `max_length` tokens.
    """
    if args.max_length is None:
        raise ValueError("max_length is unset, so no micro-batch is the longest; set it")
    pair = 2 * args.max_length
    batch = pair * args.per_device_train_batch_size
    return max(pair, min(args.max_tokens_per_microbatch or batch, batch))


def _period(text: PreTrainedConfig) -> int:
    """The number of layers after which the kinds of layers repeat."""
    kinds = getattr(text, "layer_types", None) or ["all"] * text.num_hidden_layers
    return next(n for n in range(1, len(kinds) + 1) if all(kinds[i] == kinds[i % n] for i in range(len(kinds))))


def _cut(config: PreTrainedConfig, depth: int) -> PreTrainedConfig:
    """A copy of a config with its first layers only."""
    config = copy.deepcopy(config.get_text_config())
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == config.num_hidden_layers:
            setattr(config, name, value[:depth])
    config.num_hidden_layers = depth
    return config


def _measure(config, args, quantization_config, peft_config, lengths: list[int]) -> list[float]:
    """Bytes of weights, gradients, optimizer's state and update, and of activations for each number of tokens."""
    trainer = _build_trainer(config, args, quantization_config, peft_config)
    with FakeTensorMode(), _LiveStorages() as live:
        _make_fake(trainer.model)
        for tensor in [*trainer.model.parameters(), *trainer.model.buffers()]:
            live.add(tensor)
        weights = live.num_bytes
        with unset_fake_temporarily():
            trainer.create_optimizer()
        if getattr(trainer.optimizer, "name2qmap", None):  # bitsandbytes has computed its tables of 8-bit numbers
            trainer.optimizer.name2qmap = {"dynamic": torch.empty(256), "udynamic": torch.empty(256)}
        if args.gradient_checkpointing:
            trainer.model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        on_device = {"device_placement": [False, False]}  # parameters that are fake cannot be moved
        model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer, **on_device)
        trainer.current_gradient_accumulation_steps = 1
        _give_gradients(model)
        optimizer.step()  # makes Adam's state
        optimizer.zero_grad()
        activations, updates = zip(*(_step(trainer, model, optimizer, live, n) for n in lengths), strict=True)
        gradients = sum(_rounded(p.nbytes) for p in model.parameters() if p.requires_grad)
        state = live.num_bytes - weights
    known = weights + state + gradients
    return [weights, gradients, state, updates[-1] - known, *(peak - known for peak in activations)]


def _step(trainer: PairwiseRewardTrainer, model: nn.Module, optimizer, live: _LiveStorages, tokens: int) -> list[int]:
    """One step of the trainer on a pair of so many tokens, which share nothing: the most bytes that lived, and in its
    update of the weights."""
    is_packed = trainer.data_collator.form == "packed"  # else padding would be computed too
    first = tokens * 6 // 10 if is_packed else tokens // 2
    texts = [[0] * first, [1] * (tokens - first)]
    row = {"input_ids": texts, "prefix_length": 0, "ranks": [0, 1], "margin": None, "row": 0, "length": tokens}
    gc.collect()
    if _accumulates(trainer.args):  # those of the micro-batches before are there
        _give_gradients(model)
    live.peak = live.num_bytes
    trainer.training_step(model, trainer.data_collator([row]), 1)
    peaks, live.peak = [live.peak], live.num_bytes
    if trainer.args.max_grad_norm:
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return [*peaks, live.peak]


def _give_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None


def _accumulates(args: PairwiseRewardConfig) -> bool:
    return args.gradient_accumulation_steps > 1 or args.per_device_train_batch_size > 1


def _build_trainer(config, args, quantization_config, peft_config) -> PairwiseRewardTrainer:
    """The trainer of a recipe around a model on the meta device, with a tokenizer and a data set of two tokens."""
    args = copy.copy(args)
    args.push_to_hub = False
    dtype = (args.model_init_kwargs or {}).get("dtype") or torch.float32
    args.model_init_kwargs = None
    config = copy.deepcopy(config)
    if dtype != "auto":
        config.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    with torch.device("meta"), no_init_weights():
        model = _PlannedModel(RewardModelConfig.from_backbone_config(config))
    model.has_fresh_head = True
    if quantization_config is not None:
        model.is_loaded_in_4bit = True
        for name, linear in [(n, m) for n, m in model.model.named_modules() if isinstance(m, nn.Linear)]:
            model.model.set_submodule(name, _nf4_linear(linear, quantization_config.bnb_4bit_use_double_quant))
    vocabulary = models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")
    special = {"pad_token": "<pad>", "eos_token": "<eos>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), **special)
    row = {"input_ids": [[0], [1]], "prefix_length": 0, "ranks": [0, 1], "margin": None, "row": 0, "length": 2}
    rows = Dataset.from_list([row])
    return _PlannedTrainer(model, args, None, rows, rows, tokenizer, peft_config=peft_config)


class _PlannedModel(RewardModel):
    def batch_form(self, with_gradients: bool = True, agree=None) -> str:
        """One row: all forms hold the activations of as many tokens; whether scores agree only weights would tell."""
        self.model.set_attn_implementation(IMPLEMENTATION)
        return "packed"


class _PlannedTrainer(PairwiseRewardTrainer):
    def _move_model_to_device(self, model, device):
        """The meta device is not left by a copy."""


def _make_fake(model: nn.Module) -> None:
    """Tensors without data on the CPU in place of those on the meta device; what is shared stays shared."""
    fakes: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):  # to set a tensor by name in both, nothing public does
            for name, tensor in tensors.items():
                if tensor is not None and tensor not in fakes:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    fakes[tensor] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                tensors[name] = None if tensor is None else fakes[tensor]


def _nf4_linear(linear: nn.Linear, nested: bool) -> nn.Module:
    """A linear layer of bitsandbytes' class, so that PEFT adapts it as one, whose NF4 weight may be fake."""
    import bitsandbytes as bnb

    class NF4Linear(bnb.nn.Linear4bit):
        def __init__(self):
            nn.Module.__init__(self)
            self.in_features, self.out_features = linear.in_features, linear.out_features
            self.bias, self.compute_dtype = linear.bias, torch.bfloat16
            num_bytes = int(linear.weight.numel() * (NF4_NESTED if nested else NF4))
            self.weight = nn.Parameter(torch.empty(num_bytes, dtype=torch.uint8, device="meta"), requires_grad=False)
            self.weight.compress_statistics, self.weight.quant_type = nested, "nf4"

        def forward(self, x):
            y = _Dequantised.apply(x.to(self.compute_dtype), self.weight, (self.out_features, self.in_features))
            return (y if self.bias is None else y + self.bias).to(x.dtype)

    return NF4Linear()


class _Dequantised(torch.autograd.Function):
    """x Wᵀ with W made from its NF4 form for the call, forward and backward, as bitsandbytes does."""

    @staticmethod
    def forward(ctx, x, packed, shape):
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return nn.functional.linear(x, packed.new_empty(shape, dtype=x.dtype))

    @staticmethod
    def backward(ctx, gradient):
        (packed,) = ctx.saved_tensors
        return gradient @ packed.new_empty(ctx.shape, dtype=gradient.dtype), None, None


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, while they live."""

    def __init__(self):
        super().__init__()
        self.num_bytes = self.peak = 0
        self._references: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in [made] if isinstance(made, torch.Tensor) else tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return made

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = id(storage), _rounded(storage.nbytes())
        if key not in self._references:  # a storage keeps its Python object as long as it lives
            self._references[key] = weakref.ref(storage, lambda _: self._free(key, num_bytes))
            self.num_bytes += num_bytes
            self.peak = max(self.peak, self.num_bytes)

    def _free(self, key: int, num_bytes: int) -> None:
        del self._references[key]
        self.num_bytes -= num_bytes


def _rounded(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK) * BLOCK
