"""What share of a training step does RewardScoringCallback cost, without `eval_prompts`?

    python benchmarks/callback_overhead.py --model DIR --steps 20

GRPO with a reward model of the same backbone (random head) as reward function, logging every step, once: the time
spent inside the callback (recording scores, metrics, samples on disk) is measured around its three entries and
divided by the time of the steps. Two runs, with and without the callback, could not show less than the noise.
"""

from __future__ import annotations

import argparse
import tempfile
import time

from common import conditions, parser, quiet, report


def parse_args() -> argparse.Namespace:
    arguments = parser(__doc__, rounds=None)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--batch-size", type=int, default=8, help="completions of one step")
    arguments.add_argument("--num-generations", type=int, default=8, help="completions per prompt")
    arguments.add_argument("--max-completion-length", type=int, default=32)
    return arguments.parse_args()


class Timed:
    """Adds up the seconds of a function's calls."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self, function):
        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def main(args: argparse.Namespace) -> None:
    quiet()
    import datasets
    import torch
    import transformers
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from rm_plugin import RewardModel, RewardScorer
    from rm_plugin.loops.callbacks import RewardScoringCallback

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    torch.manual_seed(0)
    scorer = RewardScorer(RewardModel.from_backbone(args.model, dtype=torch.float32), tokenizer)
    prompts = ["Which country owns Antarctica?", "What is 12 times 12?", "Name three colours.", "Say hello."]
    timed = Timed()

    class TimedCallback(RewardScoringCallback):
        __call__ = timed(RewardScoringCallback.__call__)
        _take = timed(RewardScoringCallback._take)
        _write_samples = timed(RewardScoringCallback._write_samples)

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=args.model,
            reward_funcs=scorer,
            args=GRPOConfig(
                folder,
                per_device_train_batch_size=args.batch_size,
                num_generations=args.num_generations,
                max_completion_length=args.max_completion_length,
                max_steps=args.steps,
                logging_steps=1,
                bf16=False,
                use_cpu=not torch.accelerator.is_available(),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            callbacks=[TimedCallback(scorer)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    result = {"benchmark": "callback_overhead", **conditions(args)}
    result["ms_per_step"] = round(1e3 * seconds / args.steps, 1)
    result["ms_callback_per_step"] = round(1e3 * timed.seconds / args.steps, 3)
    result["share"] = round(timed.seconds / seconds, 6)
    report(result, args.save)


if __name__ == "__main__":
    main(parse_args())
