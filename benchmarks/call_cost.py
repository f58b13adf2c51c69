"""How many tokens does one more call of the backbone cost? What `TOKENS_OF_A_CALL` in model/packing.py is set to.

    python benchmarks/call_cost.py --model DIR --dtype fp32

Calls of several shapes are timed forward, with gradients (LoRA r 16), and with gradients and checkpointing; a line is
fitted to their seconds over their tokens, in relative error. `tokens_of_a_call` is its constant ÷ its slope. The first
round is not timed.
"""

from __future__ import annotations

from contextlib import nullcontext

from common import conditions, loading, mark, parser, quiet, report, seconds_between

SHAPES = [(1, 64), (1, 100), (1, 128), (2, 64), (2, 128), (4, 64), (1, 256), (4, 128), (2, 256), (1, 512), (3, 192)]


def main(args) -> None:
    quiet()
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model

    from rm_plugin import RewardModel
    from rm_plugin.training.peft_configs import reward_peft_config

    lora = reward_peft_config(LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    model = get_peft_model(RewardModel.from_backbone(args.model, **loading(args)), lora)

    def seconds(shape: tuple[int, int], with_gradients: bool) -> float:
        ids = torch.randint(5, 1000, shape, device=args.device)
        start = mark(args.device)
        with nullcontext() if with_gradients else torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        if with_gradients:
            logits.sum().backward()
        return seconds_between(start, mark(args.device))

    result = {}
    for name in ("forward", "gradients", "checkpointed"):
        if name == "checkpointed":
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        model.train(name != "forward")
        rounds = [[seconds(shape, name != "forward") for shape in SHAPES] for _ in range(args.rounds + 1)][1:]
        tokens, taken = np.array([rows * length for rows, length in SHAPES]), np.median(rounds, axis=0)
        line = np.stack([np.ones(len(tokens)), tokens], axis=1) / taken[:, None]
        (constant, slope), *_ = np.linalg.lstsq(line, np.ones(len(tokens)), rcond=None)
        result[name] = {
            "tokens_of_a_call": round(constant / slope, 1),
            "seconds_of_a_call": round(constant, 4),
            "seconds_of_a_token": round(slope, 6),
        }
    report({"benchmark": "call_cost", **conditions(args), **result}, args.save)


if __name__ == "__main__":
    main(parser(__doc__, rounds=2).parse_args())
