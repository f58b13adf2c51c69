"""Does training with us learn the same as with TRL, and in what share of the time? One epoch of real preferences.

    python benchmarks/real_training.py --model DIR --output RUNS

SmolLM2-sized LoRA training on HH-RLHF harmless, rows 0 to 1999, by `trl.RewardTrainer` and by ours: same model, head,
rows, order, seed and settings. Rows 2000 to 2311 are held out, used for no choice, and scored in float32 at the end by
one scorer for both. Each run is checkpointed and resumes where it was killed; `--engine` runs one of the two. The end
is RUNS/real_training.png and one JSON line with both accuracies, their intervals, and the seconds of both.

Seconds are those of the steps, kept in RUNS/<engine>/steps.jsonl. Evaluation, saving and set-up are not counted, and
neither is waiting for `--pause-file`: while that file is there a run rests between two steps, for machines that are
shared. Where other jobs ran beside a run, CPU seconds say what it cost.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
import warnings
from pathlib import Path

from common import conditions, parser, report, shared_data

REPLY = "\n\nAssistant:"
ENGINES = ("trl", "ours")


def parse_args() -> argparse.Namespace:
    arguments = parser(__doc__, rounds=None)
    arguments.add_argument("--output", required=True, type=Path, help="folder of both runs")
    arguments.add_argument("--engine", choices=ENGINES, help="train with one of the two only")
    arguments.add_argument("--train-rows", type=int, default=2000)
    arguments.add_argument("--batch-size", type=int, default=8, help="pairs a step")
    arguments.add_argument("--max-length", type=int, default=512, help="pairs with a longer text are left out by both")
    arguments.add_argument("--learning-rate", type=float, default=2e-4)
    arguments.add_argument("--lora-r", type=int, default=16)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--at-step", type=int, help="train no further; compare the checkpoints of this step")
    arguments.add_argument("--pause-file", type=Path, help="rest between steps while this file is there")
    return arguments.parse_args()


def hh_rows() -> list[dict[str, str]]:
    with gzip.open(shared_data() / "hh_rlhf_harmless" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def usable(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without the few rows that have an empty reply or two equal ones."""
    replied = [row for row in rows if all(row[side].rpartition(REPLY)[2].strip() for side in ("chosen", "rejected"))]
    return [row for row in replied if row["chosen"] != row["rejected"]]


def train(args: argparse.Namespace, engine: str) -> None:
    import datasets
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    from rm_plugin import PairwiseRewardConfig, PairwiseRewardTrainer
    from rm_plugin.data.encoding import ensure_pad_token
    from rm_plugin.model.modeling import RewardModel
    from rm_plugin.training.checkpoints import newest_complete_checkpoint
    from rm_plugin.training.peft_configs import reward_peft_config

    folder = args.output / engine
    if (folder / "adapter_model.safetensors").exists():
        return

    class StepTimer(TrainerCallback):
        def on_step_begin(self, *_, **__):
            while args.pause_file is not None and args.pause_file.exists():
                time.sleep(0.5)
            self.start, self.cpu_start = time.perf_counter(), time.process_time()

        def on_step_end(self, _, state, *__, **___):
            seconds, cpu_seconds = time.perf_counter() - self.start, time.process_time() - self.cpu_start
            line = {"step": state.global_step, "seconds": seconds, "cpu_seconds": cpu_seconds}
            with (folder / "steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    torch.manual_seed(args.seed)  # one head for both
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1, dtype=torch.bfloat16)
    ensure_pad_token(tokenizer, model)
    trainer_class, config_class = RewardTrainer, RewardConfig
    if engine == "ours":
        trainer_class, config_class = PairwiseRewardTrainer, PairwiseRewardConfig
        model = RewardModel.from_sequence_classifier(model)
    torch.manual_seed(args.seed)  # one start of the adapters
    lora = LoraConfig(r=args.lora_r, lora_alpha=2 * args.lora_r, target_modules="all-linear")
    trainer = trainer_class(
        get_peft_model(model, reward_peft_config(lora)),
        config_class(
            str(folder),
            per_device_train_batch_size=args.batch_size,
            num_train_epochs=1,
            max_length=args.max_length,
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            bf16=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_steps=25,
            seed=args.seed,
            use_cpu=not torch.accelerator.is_available(),
            report_to="none",
        ),
        train_dataset=datasets.Dataset.from_list(usable(hh_rows()[: args.train_rows])),
        processing_class=tokenizer,
        callbacks=[StepTimer()],
    )
    trainer.train(resume_from_checkpoint=newest_complete_checkpoint(folder))
    trainer.save_state()
    trainer.save_model()


def evaluate(args: argparse.Namespace, engine: str) -> dict:
    """What a finished run shows: held-out scores, losses by step, seconds."""
    import torch

    from rm_plugin import RewardScorer

    folder = args.output / engine
    model = folder / f"checkpoint-{args.at_step}" if args.at_step else folder
    file = model / "heldout.json"
    if not file.exists():
        rows = usable(hh_rows()[args.train_rows :])
        scorer = RewardScorer(model, dtype=torch.float32, progress=True)
        texts = [row[side] for row in rows for side in ("chosen", "rejected")]
        parts = [text.rpartition(REPLY) for text in texts]
        scores = scorer.score([before + marker for before, marker, _ in parts], [reply for _, _, reply in parts])
        file.write_text(json.dumps(scores.reshape(-1, 2).tolist()), encoding="utf-8")
    log = json.loads((model / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    losses = [line["loss"] for line in log if "loss" in line]
    lines = map(json.loads, (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines())
    steps = {line["step"]: line for line in lines if line["step"] <= len(losses)}  # a step done again counts once
    steps = [steps[step] for step in sorted(steps)]
    return {
        "scores": json.loads(file.read_text(encoding="utf-8")),
        "losses": losses,
        "seconds": [step["seconds"] for step in steps],
        "cpu_seconds": [step["cpu_seconds"] for step in steps],
    }


def plot(runs: dict[str, dict], path: Path) -> None:
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    names = {"trl": "TRL RewardTrainer", "ours": "rm-plugin"}
    for engine, style in (("trl", {"color": "#888888", "lw": 3}), ("ours", {"color": "#1f6fb4", "lw": 1.4})):
        losses, width = np.array(runs[engine]["losses"]), 20
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        minutes = np.cumsum(runs[engine]["seconds"])[width - 1 :] / 60
        axes[0].plot(np.arange(width, len(losses) + 1), smooth, label=names[engine], **style)
        axes[1].plot(minutes[: len(smooth)], smooth, label=names[engine], **style)
    axes[0].set(xlabel="step", ylabel=f"training loss, mean of {width} steps", title="The same learning …")
    axes[1].set(xlabel="minutes of training steps", title="… in a share of the time")
    for axis in axes:
        axis.axhline(np.log(2), color="black", lw=0.6, ls=":")
        axis.grid(alpha=0.25)
        axis.legend()
    figure.savefig(path, dpi=110)


def main(args: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore")
    args.model = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
    for engine in [args.engine] if args.engine else ENGINES if args.at_step is None else ():
        train(args, engine)
    if args.engine:
        return
    import numpy as np

    from rm_plugin.metrics.statistics import Bootstrap, wilson_interval

    runs = {engine: evaluate(args, engine) for engine in ENGINES}
    result = {"benchmark": "real_training", **conditions(args)}
    right = {}
    for engine, run in runs.items():
        margins = np.subtract(*np.array(run["scores"]).T)
        right[engine] = (margins > 0).astype(float)
        low, high = wilson_interval(right[engine].sum(), len(margins))
        result |= {
            f"accuracy_{engine}": round(right[engine].mean(), 4),
            f"interval_{engine}": [round(low, 4), round(high, 4)],
            f"steps_{engine}": len(run["seconds"]),
            f"seconds_{engine}": round(sum(run["seconds"]), 1),
            f"cpu_seconds_{engine}": round(sum(run["cpu_seconds"]), 1),
            f"last_50_losses_{engine}": round(float(np.mean(run["losses"][-50:])), 4),
        }
    result["heldout_pairs"] = len(right["ours"])
    result["difference_p_value"] = Bootstrap([right["ours"], right["trl"]]).compare()["p_value"]
    losses = [np.array(runs[engine]["losses"]) for engine in ENGINES]
    result["mean_abs_loss_difference"] = round(float(np.abs(losses[0] - losses[1]).mean()), 4)
    for what in ("seconds", "cpu_seconds"):
        result[f"{what}_ratio"] = round(result[f"{what}_trl"] / result[f"{what}_ours"], 3)
    plot(runs, args.output / "real_training.png")
    report(result, args.save)
    if args.save:
        plot(runs, Path(__file__).parent / "results" / f"{args.save}.png")


if __name__ == "__main__":
    main(parse_args())
