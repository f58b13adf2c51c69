"""How many times faster is scoring than TRL's evaluation, and than a well-made padded loop?

    python benchmarks/score_throughput.py --model DIR --data hh --rows 64 --dtype bf16

Two references on the same texts and weights, both at `--eval-batch-size`: `trl.RewardTrainer.evaluate` (file order,
chosen and rejected padded together), and transformers' padded forward over the texts sorted by length. Ours is
`RewardScorer.score`, tokenisation included, as it is in the sorted loop; TRL's data is tokenised before its clock
starts.
All in one process, one after the other in every round; ratios are medians. `limit_*` are padded ÷ packed tokens.
"""

from __future__ import annotations

import argparse
import tempfile

from common import (
    alternate,
    conditions,
    parser,
    preference_pairs,
    quiet,
    report,
    reward_model_and_tokenizer,
    speed,
    summary,
)


def parse_args() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--data", choices=("hh", "gsm8k", "judgebench"), default="hh")
    arguments.add_argument("--rows", type=int, default=64, help="pairs")
    arguments.add_argument("--eval-batch-size", type=int, default=8, help="texts (sorted loop) or pairs (TRL) a batch")
    arguments.add_argument("--max-num-batched-tokens", type=int, default=16384, help="token budget of ours")
    arguments.add_argument("--max-length", type=int, default=1024)
    return arguments.parse_args()


def main(args: argparse.Namespace) -> None:
    quiet()
    import datasets
    import torch
    import transformers
    from trl import RewardConfig, RewardTrainer

    from rm_plugin import Comparison, RewardScorer
    from rm_plugin.data.encoding import EncodedGroup
    from rm_plugin.model.attention import IMPLEMENTATION
    from rm_plugin.model.packing import pad, padded_tokens

    model, tokenizer = reward_model_and_tokenizer(args)
    scorer = RewardScorer(model, tokenizer, max_num_batched_tokens=args.max_num_batched_tokens)
    standard = model.to_sequence_classifier()  # the same weights in transformers' own class, with its own attention
    standard.set_attn_implementation("sdpa")

    rows = []
    for row in preference_pairs(args.data):
        if (
            max(len(tokenizer(row["prompt"] + row[side])["input_ids"]) for side in ("chosen", "rejected"))
            < args.max_length
        ):
            rows.append(row)
        if len(rows) == args.rows:
            break
    prompts = [row["prompt"] for row in rows for _ in range(2)]
    completions = [row[side] for row in rows for side in ("chosen", "rejected")]

    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            folder,
            per_device_eval_batch_size=args.eval_batch_size,
            max_length=args.max_length,
            bf16=args.dtype == "bf16",
            use_cpu=args.device == "cpu",
            report_to="none",
            disable_tqdm=True,
        )
        data = datasets.Dataset.from_list(rows)
        trainer = RewardTrainer(standard, config, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
    trainer.remove_callback(transformers.PrinterCallback)

    def score():
        model.model.set_attn_implementation(IMPLEMENTATION)
        return scorer.score(prompts, completions)

    def trl_evaluate():
        standard.set_attn_implementation("sdpa")
        return trainer.evaluate()

    @torch.no_grad()
    def sorted_padded():
        standard.set_attn_implementation("sdpa")
        ids = tokenizer([p + c + tokenizer.eos_token for p, c in zip(prompts, completions, strict=True)])["input_ids"]
        ids.sort(key=len, reverse=True)
        batches = [ids[i : i + args.eval_batch_size] for i in range(0, len(ids), args.eval_batch_size)]
        for batch in batches:
            standard(**{name: tensor.to(standard.device) for name, tensor in pad(batch).items()})
        return batches

    plan = scorer.plan([Comparison(p, [c]) for p, c in zip(prompts, completions, strict=True)])
    packed = sum(group.num_tokens for batch in plan for group in batch.groups)
    groups = [
        EncodedGroup(ids) for ids in zip(*[iter(texts_in_order(tokenizer, prompts, completions))] * 2, strict=True)
    ]
    trl_batches = [groups[i : i + args.eval_batch_size] for i in range(0, len(groups), args.eval_batch_size)]
    padded_trl = sum(map(padded_tokens, trl_batches))
    padded_sorted = sum(len(batch) * len(batch[0]) for batch in sorted_padded())

    against_trl = summary(*alternate(trl_evaluate, score, args.rounds, args.device))
    against_sorted = summary(*alternate(sorted_padded, score, args.rounds, args.device))
    result = {"benchmark": "score_throughput", **conditions(args)}
    result |= {f"{name}_trl": value for name, value in against_trl.items()}
    result |= {f"{name}_sorted": value for name, value in against_sorted.items()}
    seconds = {"trl": against_trl["seconds_reference"], "sorted": against_sorted["seconds_reference"]}
    num_tokens = sum(len(ids) for group in groups for ids in group.input_ids)
    result |= speed(args, model, num_tokens, {**seconds, "ours": against_sorted["seconds_ours"]})
    result |= {"packed_tokens": packed, "padded_tokens_trl": padded_trl, "padded_tokens_sorted": padded_sorted}
    result["limit_trl"] = round(padded_trl / packed, 3)
    result["limit_sorted"] = round(padded_sorted / packed, 3)
    result["ratio_over_limit_trl"] = round(against_trl["ratio"] / result["limit_trl"], 3)
    result["ratio_over_limit_sorted"] = round(against_sorted["ratio"] / result["limit_sorted"], 3)
    report(result, args.save)


def texts_in_order(tokenizer, prompts, completions) -> list[list[int]]:
    """Ids of every text in file order."""
    return tokenizer([p + c + tokenizer.eos_token for p, c in zip(prompts, completions, strict=True)])["input_ids"]


if __name__ == "__main__":
    main(parse_args())
