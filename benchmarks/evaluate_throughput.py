"""How many times faster is a whole evaluation than rewardbench's loop, and what else than the model's forward costs?

    python benchmarks/evaluate_throughput.py --model DIR --data hh --rows 64 --dtype bf16

The reference does what rewardbench 0.1.4 does: chosen and rejected in separate passes, in the order of the file,
batches of 8 padded on the left, the chat template rendered to text and tokenised again. (Its own pipeline class sends
its inputs to CUDA and its package imports fastchat, so the loop is written out.) Ours is `evaluate`: load, encode,
score, metrics with 10,000 bootstrap samples, baselines, report on disk. Both score the same texts, none cut, with the
same weights, one after the other in every round; `share_outside_forward` is the part of our time that is not the
model's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from common import alternate, conditions, parser, quiet, report, reward_model_and_tokenizer, shared_data, summary

SOURCES = {
    "hh": ("hh-rlhf-harmless", "hh_rlhf_harmless/test.jsonl.gz"),
    "llmbar": ("llmbar", "llmbar"),
}
BATCH = 8  # rewardbench's default


def parse_args() -> argparse.Namespace:
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--data", choices=tuple(SOURCES), default="hh")
    arguments.add_argument("--rows", type=int, default=64, help="comparisons, spread evenly over the file")
    arguments.add_argument("--max-num-batched-tokens", type=int, default=16384)
    return arguments.parse_args()


def main(args: argparse.Namespace) -> None:
    quiet()
    import numpy as np
    import torch

    from rm_plugin import RewardScorer
    from rm_plugin.data.encoding import EncodedGroup, encode
    from rm_plugin.evaluation.benchmarks import as_messages, load_benchmark
    from rm_plugin.evaluation.harness import evaluate
    from rm_plugin.model.attention import IMPLEMENTATION
    from rm_plugin.model.packing import padded_tokens

    model, tokenizer = reward_model_and_tokenizer(args)
    standard = model.to_sequence_classifier()  # the same weights in transformers' own class
    standard.config.pad_token_id = tokenizer.pad_token_id
    scorer = RewardScorer(model, tokenizer, max_num_batched_tokens=args.max_num_batched_tokens)
    name, path = SOURCES[args.data]
    source = shared_data() / path
    forward_seconds, reports, margins = [], [], []
    run = scorer.run

    def timed_run(batch):
        start = time.perf_counter()
        result = run(batch)
        forward_seconds[-1] += time.perf_counter() - start
        return result

    scorer.run = timed_run

    def load():
        data = load_benchmark(name, source)
        step = max(1, len(data.comparisons) // args.rows)
        data.comparisons = data.comparisons[::step][: args.rows]
        return data

    def ours() -> None:
        model.model.set_attn_implementation(IMPLEMENTATION)
        forward_seconds.append(0.0)
        with tempfile.TemporaryDirectory() as folder:
            reports.append(evaluate(scorer, load(), output=Path(folder, "run")))

    def text(comparison, completion) -> str:
        if not comparison.conversational:
            return comparison.prompt + completion + (tokenizer.eos_token or "")
        return tokenizer.apply_chat_template([*comparison.prompt, *completion], tokenize=False)

    @torch.no_grad()
    def reference() -> None:
        standard.set_attn_implementation("sdpa")
        comparisons = load().comparisons
        if tokenizer.chat_template is not None:
            comparisons = [as_messages(comparison) for comparison in comparisons]
        tokenizer.padding_side = "left"
        found = []
        for start in range(0, len(comparisons), BATCH):
            batch = comparisons[start : start + BATCH]
            passes = []
            for side in (0, 1):  # chosen, then rejected
                texts = [text(comparison, comparison.completions[side]) for comparison in batch]
                inputs = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
                passes.append(standard(**inputs).logits[:, 0].float().numpy())
            found.append(passes[0] - passes[1])
        margins.append(np.concatenate(found))

    seconds_reference, seconds_ours = alternate(reference, ours, args.rounds)
    last = reports[-1]
    texts = [as_messages(comparison) for comparison in last.data.comparisons]
    texts = texts if tokenizer.chat_template is not None else last.data.comparisons
    groups = [encode(comparison, tokenizer) for comparison in texts]
    sides = [[EncodedGroup([group.input_ids[side]]) for group in groups] for side in (0, 1)]
    padded = sum(padded_tokens(side[i : i + BATCH]) for side in sides for i in range(0, len(groups), BATCH))
    packed = sum(group.num_tokens for group in groups)
    pairs = np.array([scores[0] - scores[1] for scores in last.scores])
    share = [1 - forward / total for forward, total in zip(forward_seconds[1:], seconds_ours, strict=True)]
    result = {
        "benchmark": "evaluate_throughput",
        **conditions(args),
        **summary(seconds_reference, seconds_ours),
        **{"padded_tokens": padded, "packed_tokens": packed, "limit": round(padded / packed, 3)},
        "share_outside_forward": round(float(np.median(share)), 3),
        "seconds_by_part": last.report["run"]["seconds"],
        "largest_difference_of_margins": round(float(np.abs(pairs - margins[-1]).max()), 5),
        "sd_of_margins": round(float(pairs.std()), 5),
    }
    report(result, args.save)


if __name__ == "__main__":
    main(parse_args())
