"""The linear head of a reward model: hidden (…, H) ► score (…, 1), computed in float32 whatever the model's dtype.

RewardHead(hidden_size=576)(hidden_states)      # equals nn.Linear(576, 1, bias=False) in float32
"""

from __future__ import annotations

import torch
from torch import nn

from .sharding import gathered, precise


class RewardHead(nn.Linear):
    """Linear hidden → 1, float32 (float64 for a float64 backbone) however the model is cast, autocast or quantised."""

    def __init__(self, hidden_size: int, bias: bool = False):
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        super().__init__(hidden_size, 1, bias=bias, dtype=dtype)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            weight = precise(self.weight)
            bias = None if self.bias is None else precise(self.bias)
            return nn.functional.linear(hidden_states.to(weight.dtype), weight, bias)

    def share(self, linear: nn.Linear) -> RewardHead:
        """Take the weight of another head: the parameter itself, or a float32 copy of a 16-bit one."""
        if not linear.weight.is_floating_point():
            raise ValueError(
                "the head `score` is quantised, a RewardModel's is float32; load the model with "
                "llm_int8_skip_modules=['score'] in its quantization_config"
            )
        if linear.weight.dtype in (torch.float32, torch.float64):
            self.weight = linear.weight
        else:
            dtype = torch.promote_types(self.weight.dtype, torch.float32)  # it may be this very weight, cast since
            with gathered([linear.weight]):
                copied = linear.weight.detach().to(dtype)
            self.weight = nn.Parameter(copied, requires_grad=linear.weight.requires_grad)
        return self

    def _apply(self, fn, recurse=True):  # `to`, `half`, `bfloat16` and the like have nothing public in common
        def keep_precision(tensor):
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(keep_precision, recurse)


def head_in_use(head: nn.Module) -> nn.Module:
    """The head itself, or of one that PEFT trains the copy of the adapter that is active now."""
    if not hasattr(head, "modules_to_save"):
        return head
    active = [name for name in head.active_adapters if name in head.modules_to_save]
    return head.original_module if head.disable_adapters or not active else head.modules_to_save[active[0]]
