"""How many times faster is GRPO's reward step with a `RewardScorer` than with the model itself in `reward_funcs`?

    python benchmarks/reward_step.py --model DIR --prompt-tokens 256 --completion-tokens 128 -n 8

Both sides are TRL's own `GRPOTrainer._calculate_rewards` on the same texts: tokenisation, forward, gathering. The
reference is the same weights in transformers' `*ForSequenceClassification`, as a GRPO user passes them: one padded
forward of the whole batch, in the trainer's bf16 autocast where `--dtype bf16`. One process, one after the other in
every round; the ratio is the median. `limit` is padded ÷ packed tokens. Rankings within each prompt are compared. Peak
memory above the loaded model is measured in one further process each (`--no-memory` leaves that out).
"""

from __future__ import annotations

import argparse
import random
import tempfile

from common import (
    PeakMemory,
    alternate,
    conditions,
    parser,
    peak_memory,
    quiet,
    report,
    reward_model_and_tokenizer,
    summary,
)


def parse_args() -> argparse.Namespace:
    arguments = parser(__doc__, memory_of=("reference", "ours"))
    arguments.add_argument("--prompt-tokens", type=int, default=256, help="about; texts are made of random words")
    arguments.add_argument("--completion-tokens", type=int, default=128, help="about, half to all of it")
    arguments.add_argument("-n", type=int, default=8, help="completions per prompt")
    arguments.add_argument("--prompts", type=int, default=2, help="prompts of one step")
    return arguments.parse_args()


def main(args: argparse.Namespace) -> None:
    quiet()
    from rm_plugin import Comparison, RewardScorer
    from rm_plugin.data.encoding import encode
    from rm_plugin.model.attention import IMPLEMENTATION
    from rm_plugin.model.packing import padded_tokens

    model, tokenizer = reward_model_and_tokenizer(args)
    scorer = RewardScorer(model, tokenizer)
    standard = model.to_sequence_classifier().eval()
    prompts, completions = random_texts(tokenizer, args)

    def reward_step(reward_func, reward_tokenizer, folder):
        trainer = grpo_trainer(reward_func, reward_tokenizer, tokenizer, args, folder)
        inputs, ids = [{"prompt": prompt} for prompt in prompts], [[1]] * len(prompts)
        # TRL has no public name for the reward step alone.
        return lambda: trainer._calculate_rewards(inputs, prompts, completions, ids)[:, 0]

    with tempfile.TemporaryDirectory() as folder:
        score_ours, score_reference = reward_step(scorer, None, folder), reward_step(standard, tokenizer, folder)

    def ours():
        model.model.set_attn_implementation(IMPLEMENTATION)
        return score_ours()

    def reference():
        standard.set_attn_implementation("sdpa")
        return score_reference()

    if args.memory_of:
        with PeakMemory() as peak:
            {"ours": ours, "reference": reference}[args.memory_of]()
        print(peak.megabytes)
        return
    memory = {} if args.no_memory else {f"peak_mb_{side}": round(peak_memory(side)) for side in ("reference", "ours")}
    a, b = ours().view(-1, args.n), reference().view(-1, args.n)
    result = {"benchmark": "reward_step", **conditions(args)}
    result |= summary(*alternate(reference, ours, args.rounds))
    groups = [
        encode(Comparison(prompts[i], completions[i : i + args.n]), tokenizer) for i in range(0, len(prompts), args.n)
    ]
    packed, padded = sum(group.num_tokens for group in groups), padded_tokens(groups)
    result |= {"packed_tokens": packed, "padded_tokens": padded, "limit": round(padded / packed, 3)}
    result |= {"max_score_difference": (a - b).abs().max().item(), "sd_of_scores": a.std().item()}
    result["same_ranking"] = bool((a.argsort(-1) == b.argsort(-1)).all())
    report({**result, **memory}, args.save)


def random_texts(tokenizer, args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Plain texts of random words; completions end in EOS, so that both sides read the same ids."""
    rng = random.Random(0)
    words = [tokenizer.decode([i]) for i in range(len(tokenizer) // 2)]
    words = [word for word in words if word.startswith(" ") and word[1:].isascii() and word[1:].isalpha()]
    prompts, completions = [], []
    for _ in range(args.prompts):
        prompt = "".join(rng.choices(words, k=args.prompt_tokens))
        for _ in range(args.n):
            length = rng.randint(max(1, args.completion_tokens // 2), args.completion_tokens)
            prompts.append(prompt)
            completions.append("".join(rng.choices(words, k=length)) + tokenizer.eos_token)
    return prompts, completions


def grpo_trainer(reward_func, reward_tokenizer, tokenizer, args: argparse.Namespace, folder: str):
    """A GRPOTrainer whose policy is tiny: only its reward step is run."""
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=args.n * args.prompts,
        num_generations=args.n,
        bf16=args.dtype == "bf16",
        gradient_checkpointing=False,
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    return GRPOTrainer(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes)),
        reward_funcs=[reward_func],
        reward_processing_classes=[reward_tokenizer],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * args.prompts),
        processing_class=tokenizer,
    )


if __name__ == "__main__":
    main(parse_args())
