"""How many GSM8K questions does a reward model solve by choosing among the solutions of four systems?

    python benchmarks/gsm8k_best_of_4.py --model REWARD_MODEL --rows 120

The solutions are those of openai/grade-school-math (`example_model_solutions.jsonl`): four systems, 1,319 questions,
each solution right or wrong. They are not samples of one policy, so best-of-4 is one number and no curve: the share of
questions whose chosen solution is right, beside that of a random and of a perfect choice.
"""

from __future__ import annotations

import argparse

from common import gsm8k_candidates, quiet, report


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True, help="folder or hub id of a reward model")
    arguments.add_argument("--rows", type=int, default=None, help="questions, the first ones; all if absent")
    arguments.add_argument("--save", metavar="NAME", help="keep the line in benchmarks/results/NAME.json")
    args = arguments.parse_args()
    quiet()
    from rm_plugin import RewardScorer
    from rm_plugin.loops.best_of_n import BestOfNSampler
    from rm_plugin.loops.candidates import summarize

    scorer = RewardScorer(args.model, truncation_mode="keep_end")
    results = BestOfNSampler(None, None, scorer).rank(gsm8k_candidates()[: args.rows])
    summary = summarize(results)
    best = {key: round(value, 4) if isinstance(value, float) else value for key, value in summary["best_of"].items()}
    report(
        {"benchmark": "gsm8k_best_of_4", "model": args.model, "num_prompts": summary["num_prompts"], **best}, args.save
    )


if __name__ == "__main__":
    main()
