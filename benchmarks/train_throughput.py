"""How many times faster is a training step than TRL's, on real preference pairs?

    python benchmarks/train_throughput.py --model DIR --data hh --batch-size 8 --steps 1 --dtype bf16 --lora-r 16

Reference: `trl.RewardTrainer` as a user runs it: same weights, rows, batches, dtype, LoRA, with gradient checkpointing
on both sides or on neither; or with `--reference unshared` our trainer on rows that are packed without sharing. Both
run in one process, one after the other in every round, on rows that no other round uses; the first step of a round is
not timed. Ratios are medians over rounds. `limit` is padded ÷ packed tokens of the very batches that were run, the
most that linear work allows: what padding wastes times what the shared prefix repeats. `--sorted` takes the gain of
padding out: batches of rows of nearly one length, the same for both. `--no-prefix` is the worst case: texts of one
length that share nothing. Memory is the peak above the loaded model over the step of longest texts among those that
were run, in one subprocess per side.
"""

from __future__ import annotations

import argparse
import random
import tempfile

from common import (
    PeakMemory,
    conditions,
    loading,
    mark,
    parser,
    peak_memory,
    preference_pairs,
    quiet,
    report,
    seconds_between,
    speed,
    summary,
)

WORST_CASE_LENGTH = 128


def parse_args() -> argparse.Namespace:
    arguments = parser(__doc__, memory_of=("reference", "ours"))
    arguments.add_argument("--reference", choices=("trl", "unshared"), default="trl")
    arguments.add_argument("--attention", help="of TRL's model, such as flash_attention_2; its own if absent")
    arguments.add_argument("--data", choices=("hh", "gsm8k", "judgebench"), default="hh")
    arguments.add_argument("--batch-size", type=int, default=8, help="pairs a step")
    arguments.add_argument("--steps", type=int, default=1, help="timed steps a round")
    arguments.add_argument("--max-length", type=int, default=1024)
    arguments.add_argument("--lora-r", type=int, default=16, help="0 trains all weights")
    arguments.add_argument("--gradient-checkpointing", action="store_true", help="on both sides")
    arguments.add_argument("--sorted", action="store_true", help="batches of rows of nearly one length, for both")
    arguments.add_argument("--no-prefix", action="store_true", help="equal lengths, nothing shared")
    return arguments.parse_args()


def main(args: argparse.Namespace) -> None:
    quiet()
    import datasets
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    from rm_plugin import PairwiseRewardConfig, PairwiseRewardTrainer, RewardModel
    from rm_plugin.data.encoding import ensure_pad_token
    from rm_plugin.training.peft_configs import reward_peft_config

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ensure_pad_token(tokenizer)
    rows = rows_to_run(args, tokenizer)
    a_round = args.batch_size * (args.steps + 1)

    class StepTimer(TrainerCallback):
        def on_step_end(self, *_, **__):
            self.ends.append(mark(args.device))

        def on_train_begin(self, *_, **__):
            self.ends = []

    def with_lora(model):
        if not args.lora_r:
            return model
        lora = LoraConfig(r=args.lora_r, lora_alpha=2 * args.lora_r, target_modules="all-linear")
        return get_peft_model(model, reward_peft_config(lora))

    def build(name):
        torch.manual_seed(0)
        if name == "reference" and args.reference == "trl":
            options = {"num_labels": 1, "attn_implementation": args.attention, **loading(args)}
            model = AutoModelForSequenceClassification.from_pretrained(args.model, **options)
            model.config.pad_token_id = tokenizer.pad_token_id
            return RewardTrainer, RewardConfig, with_lora(model), None
        model = RewardModel.from_backbone(args.model, **loading(args))
        return PairwiseRewardTrainer, PairwiseRewardConfig, with_lora(model), "apart" if name == "reference" else None

    def run(built, rows, steps: int) -> float:
        """Seconds of the steps after the first, data loading, logging and optimizer included."""
        trainer_class, config_class, model, form = built
        timer = StepTimer()
        with tempfile.TemporaryDirectory() as folder:
            config = config_class(
                folder,
                per_device_train_batch_size=args.batch_size,
                max_steps=steps,
                max_length=args.max_length,
                bf16=args.dtype == "bf16",
                gradient_checkpointing=args.gradient_checkpointing,
                learning_rate=1e-5,
                use_cpu=args.device == "cpu",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                train_sampling_strategy="sequential",
            )
            trainer = trainer_class(
                model,
                config,
                train_dataset=datasets.Dataset.from_list([row["row"] for row in rows]),
                processing_class=tokenizer,
                callbacks=[timer],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            if form is not None:
                trainer.data_collator.form = form
            trainer.train()
        return seconds_between(timer.ends[0], timer.ends[-1])

    if args.memory_of:
        batches = [rows[i : i + args.batch_size] for i in range(0, len(rows), args.batch_size)]
        longest = max(batches, key=lambda batch: max(row["longest"] for row in batch))
        built = build(args.memory_of)
        with PeakMemory(args.device) as peak:
            run(built, longest, steps=1)
        print(peak.megabytes)
        return

    memory = {}
    if not args.no_memory:  # before this process holds two models
        memory = {f"peak_mb_{name}": round(peak_memory(name)) for name in ("reference", "ours")}
        memory["memory_ratio"] = round(memory["peak_mb_ours"] / memory["peak_mb_reference"], 3)
    reference, ours = build("reference"), build("ours")
    seconds_reference, seconds_ours, timed = [], [], []
    for round_ in range(args.rounds + 1):  # the first warms both up
        chunk = rows[round_ * a_round : (round_ + 1) * a_round]
        jobs = [(reference, seconds_reference), (ours, seconds_ours)]
        for built, seconds in jobs if round_ % 2 else jobs[::-1]:
            taken = run(built, chunk, args.steps + 1)
            if round_:
                seconds.append(taken)
        if round_:
            timed += [chunk[i : i + args.batch_size] for i in range(args.batch_size, a_round, args.batch_size)]

    result = {"benchmark": "train_throughput", **conditions(args), **summary(seconds_reference, seconds_ours)}
    result |= token_counts(timed, tokenizer)
    seconds = {side: result[f"seconds_{side}"] for side in ("reference", "ours")}
    result |= speed(args, ours[2], result["real_tokens"] // args.rounds, seconds, passes=2 if args.lora_r else 3)
    result["ratio_over_limit"] = round(result["ratio"] / result["limit"], 3)
    report({**result, **memory}, args.save)


def rows_to_run(args, tokenizer) -> list[dict]:
    """The rows of all rounds in order, as {"row", "longest"}."""
    number = args.batch_size * (args.steps + 1) * (args.rounds + 1)
    rows = []
    for row in preference_pairs(args.data):
        ids = [tokenizer(row["prompt"] + row[side])["input_ids"] for side in ("chosen", "rejected")]
        if args.no_prefix:  # token ids, which both trainers take; the second text begins where the first has ended
            text = sum(ids, [])
            chosen, rejected = text[:WORST_CASE_LENGTH], text[WORST_CASE_LENGTH : 2 * WORST_CASE_LENGTH]
            if len(rejected) == WORST_CASE_LENGTH and chosen[0] != rejected[0]:
                rows.append({"row": {"chosen_ids": chosen, "rejected_ids": rejected}, "longest": WORST_CASE_LENGTH})
        elif (longest := max(map(len, ids)) + 1) <= args.max_length:
            rows.append({"row": row, "longest": longest})
        if len(rows) == number and not args.sorted:
            break
    if len(rows) < number:
        raise SystemExit(f"{len(rows)} rows, {args.rounds} rounds need {number}; use fewer rounds")
    if args.sorted:
        rows.sort(key=lambda row: row["longest"])
        batches = [rows[i : i + args.batch_size] for i in range(0, len(rows), args.batch_size)]
        batches = [batch for batch in batches if len(batch) == args.batch_size]
        random.Random(0).shuffle(batches)
        rows = sum(batches, [])[:number]
    return rows


def token_counts(batches: list[list[dict]], tokenizer) -> dict[str, float]:
    """Real, padded and packed tokens of the batches, and what follows from them."""
    from rm_plugin.data.encoding import EncodedGroup
    from rm_plugin.model.packing import padded_tokens
    from rm_plugin.training.batches import RowEncoder

    encode = RowEncoder(tokenizer)
    batches = [[EncodedGroup(encode(row["row"], 0)["input_ids"]) for row in batch] for batch in batches]
    real = sum(len(ids) for batch in batches for group in batch for ids in group.input_ids)
    padded = sum(map(padded_tokens, batches))
    packed = sum(group.num_tokens for batch in batches for group in batch)
    return {
        "real_tokens": real,
        "padded_tokens": padded,
        "packed_tokens": packed,
        "limit": round(padded / packed, 3),
        "limit_padding": round(padded / real, 3),
        "limit_prefix": round(real / packed, 3),
    }


if __name__ == "__main__":
    main(parse_args())
