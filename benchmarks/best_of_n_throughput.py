"""How many times faster is scoring n completions of one prompt than transformers' padded forward?

    python benchmarks/best_of_n_throughput.py --model DIR --prompt-tokens 1024 --completion-tokens 128 -n 16

Score only: the token ids are there, nothing is generated. Ours is `RewardScorer.run`; the reference is the same
weights in transformers' own `*ForSequenceClassification` with sdpa attention, `--reference-batch-size` rows at once
(n if absent), or with `--reference prefix-cache` a decoder that computes the prompt once and continues every
completion from a copy of its cache. One process, one after the other in every round; the ratio is the median. `limit`
is padded ÷ packed tokens. Peak memory above the loaded model is measured in one further process each (`--no-memory`
leaves that out).
"""

from __future__ import annotations

import argparse

from common import (
    PeakMemory,
    alternate,
    conditions,
    parser,
    peak_memory,
    quiet,
    report,
    reward_model_and_tokenizer,
    speed,
    summary,
)


def parse_args() -> argparse.Namespace:
    arguments = parser(__doc__, memory_of=("reference", "ours"))
    arguments.add_argument("--prompt-tokens", type=int, default=1024)
    arguments.add_argument("--completion-tokens", type=int, default=128)
    arguments.add_argument("-n", type=int, default=16, help="completions per prompt")
    arguments.add_argument("--prompts", type=int, default=1, help="prompts of one round")
    arguments.add_argument("--reference", choices=("padded", "prefix-cache"), default="padded")
    arguments.add_argument("--reference-batch-size", type=int, default=None, help="rows of one padded forward")
    return arguments.parse_args()


def main(args: argparse.Namespace) -> None:
    quiet()
    import torch

    from rm_plugin import RewardScorer
    from rm_plugin.data.encoding import EncodedGroup
    from rm_plugin.model.packing import collate, cost, pad, padded_tokens
    from rm_plugin.scoring.base import ScoringBatch

    model, tokenizer = reward_model_and_tokenizer(args)
    scorer = RewardScorer(model, tokenizer)
    standard = model.to_sequence_classifier().eval()  # the same weights in transformers' own class

    def tokens(number: int) -> list[int]:  # no special tokens, transformers pools the last token that is not pad
        return torch.randint(model.config.vocab_size // 2, model.config.vocab_size, (number,)).tolist()

    groups = []
    for _ in range(args.prompts):
        prompt = tokens(args.prompt_tokens)
        groups.append(EncodedGroup([prompt + tokens(args.completion_tokens) for _ in range(args.n)]))
    rows = [ids for group in groups for ids in group.input_ids]
    batch_size = args.reference_batch_size or args.n
    pad_id = tokenizer.pad_token_id

    def ours():
        return torch.cat([torch.from_numpy(scorer.run(ScoringBatch([group], []))) for group in groups])

    @torch.no_grad()
    def prefix_cache():
        model.model.set_attn_implementation("sdpa")
        batches = [collate([group], "continued") for group in groups]
        on_device = [{k: v.to(model.device) if k != "calls" else v for k, v in batch.items()} for batch in batches]
        return torch.cat([model(**batch).logits[:, 0].float().cpu() for batch in on_device])

    @torch.no_grad()
    def padded():
        standard.set_attn_implementation("sdpa")
        scores = []
        for start in range(0, len(rows), batch_size):
            batch = pad(rows[start : start + batch_size])
            batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad_id)
            batch = {name: tensor.to(standard.device) for name, tensor in batch.items()}
            scores.append(standard(**batch).logits[:, 0].float().cpu())
        return torch.cat(scores)

    reference = padded if args.reference == "padded" else prefix_cache
    if args.memory_of:
        with PeakMemory(args.device) as peak:
            {"ours": ours, "reference": reference}[args.memory_of]()
        print(peak.megabytes)
        return
    memory = {} if args.no_memory else {f"peak_mb_{side}": round(peak_memory(side)) for side in ("reference", "ours")}
    scores = ours()
    difference = (scores - reference()).abs().max().item()
    result = {"benchmark": "best_of_n_throughput", **conditions(args)}
    result |= summary(*alternate(reference, ours, args.rounds, args.device))
    seconds = {side: result[f"seconds_{side}"] for side in ("reference", "ours")}
    result |= speed(args, model, sum(map(len, rows)), seconds)
    packed = sum(cost([group], scorer.form()) for group in groups)
    num_padded = sum(padded_tokens([group]) for group in groups)
    result |= {"packed_tokens": packed, "padded_tokens": num_padded, "limit": round(num_padded / packed, 3)}
    result["ratio_over_limit"] = round(result["ratio"] / result["limit"], 3)
    result |= {"max_score_difference": difference, "sd_of_scores": scores.std().item()}
    report({**result, **memory}, args.save)


if __name__ == "__main__":
    main(parse_args())
