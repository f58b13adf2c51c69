"""Tiny training runs, for the tests in this process and, as a program, for those in others.

    python training_runs.py killed FOLDER                            runs that are killed, resumed, and never broken
    torchrun --nproc_per_node 2 training_runs.py distributed FOLDER  the runs of `DISTRIBUTED` on two processes

Both write what they found to FOLDER/results.json.
"""

import gc
import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
import trl
from datasets import Dataset
from models import tiny_config, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, TrainerCallback, TrainerState

from rm_plugin.model.modeling import RewardModel
from rm_plugin.training.checkpoints import newest_complete_checkpoint
from rm_plugin.training.config import PairwiseRewardConfig
from rm_plugin.training.peft_configs import lora_config
from rm_plugin.training.trainer import PairwiseRewardTrainer

WORDS = ["Which", "country", "owns", "Antarctica", "penguins", "treaty", "answer", "four", "five", "hello", "world"]
SMALL_WEIGHTS = {"initializer_range": 0.05}


def preference_rows(n: int = 48, seed: int = 0, **columns) -> list[dict]:
    """Prompts of 1 to 12 words, completions of 1 to 10; `columns` are functions of a `random.Random`."""
    draw = random.Random(seed)

    def text(longest):
        return " ".join(draw.choices(WORDS, k=draw.randint(1, longest)))

    return [
        {
            "prompt": text(12),
            "chosen": f" {text(10)}.",
            "rejected": f" {text(10)}!",
            **{name: function(draw) for name, function in columns.items()},
        }
        for _ in range(n)
    ]


def ranked_rows(n: int = 48, seed: int = 0) -> list[dict]:
    """Lists of 2 to 4 completions with ranks, of which about a third are ties."""
    draw = random.Random(seed)
    rows = []
    for row in preference_rows(n, seed):
        k = draw.randint(2, 4)
        completions = [f" {' '.join(draw.choices(WORDS, k=draw.randint(1, 8)))} {i}" for i in range(k)]
        ranks = [draw.randint(0, 2) for _ in range(k)]
        rows.append({"prompt": row["prompt"], "completions": completions, "ranks": ranks})
    return rows


def classifier(architecture: str = "llama", **overrides):
    """A transformers `*ForSequenceClassification` with one label, equal for equal arguments."""
    config = tiny_config(architecture, **{**SMALL_WEIGHTS, **overrides})
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(config)


def make_trainer(folder, model, rows, *, cls=PairwiseRewardTrainer, tokenizer="plain", **options):
    """A trainer on the CPU in float32, one log a step; options that it does not take go to its config."""
    names = ("eval_dataset", "peft_config", "quantization_config", "compute_metrics", "callbacks", "optimizers")
    arguments = {name: options.pop(name) for name in names if name in options}
    config = PairwiseRewardConfig if cls is PairwiseRewardTrainer else trl.RewardConfig
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_steps": 20,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if isinstance(tokenizer, str):
        tokenizer = tiny_tokenizer(tokenizer)
    if isinstance(rows, list):
        rows = Dataset.from_list(rows)
    args = config(**{**settings, **options})
    return cls(model, args, train_dataset=rows, processing_class=tokenizer, **arguments)


def history(trainer, name: str = "loss") -> list[float]:
    """The values logged under a name."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def trained_weights(trainer) -> dict[str, torch.Tensor]:
    """Copies of the parameters that are trained."""
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


# --- killed runs


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAfterStep(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            kill()


def in_mid_training(trainer):
    trainer.add_callback(KillAfterStep(5))


def in_the_weights(trainer):
    save = RewardModel.save_pretrained

    def save_pretrained(self, folder, *args, **kwargs):
        save(self, folder, *args, **kwargs)
        if str(folder).endswith("checkpoint-6"):
            file = Path(folder, "model.safetensors")
            file.write_bytes(file.read_bytes()[:-100])
            kill()

    RewardModel.save_pretrained = save_pretrained


def in_the_optimizer(trainer):
    save = torch.save

    def half(value, file, *args, **kwargs):
        save(value, file, *args, **kwargs)
        if str(file).endswith("checkpoint-6/optimizer.pt"):
            Path(file).write_bytes(Path(file).read_bytes()[:-100])
            kill()

    torch.save = half


def in_the_state(trainer):
    save = TrainerState.save_to_json

    def half(self, path):
        save(self, path)
        if "checkpoint-6" in path:
            Path(path).write_text(Path(path).read_text()[:-100])
            kill()

    TrainerState.save_to_json = half


# name ► (where it is killed, model's architecture, rows, options); checkpoints are written at steps 2, 4, 6 and 8
KILLED = {
    "full, in mid-training": (in_mid_training, "llama", preference_rows, {}),
    "full, in mid-save of the weights": (in_the_weights, "gpt2", preference_rows, {}),
    "LoRA with dropout, in mid-save of the optimizer": (
        in_the_optimizer,
        "llama",
        preference_rows,
        {"peft_config": lora_config(r=4, lora_dropout=0.3), "disable_dropout": False},
    ),
    "ties, in mid-save of the state": (
        in_the_state,
        "llama",
        ranked_rows,
        {"tie_threshold": 0.5, "gradient_accumulation_steps": 2},
    ),
}


def run_killed(folder: Path) -> dict:
    """Each run of `KILLED` three times, in a process of its own: unbroken, killed, resumed."""

    def run(name, how):
        kill_it, architecture, rows, options = KILLED[name]
        output = folder / name / ("unbroken" if how == "unbroken" else "broken")
        trainer = make_trainer(
            output, classifier(architecture), rows(), max_steps=8, save_strategy="steps", save_steps=2, **options
        )
        if how == "killed":
            kill_it(trainer)
        checkpoint = newest_complete_checkpoint(output) if how == "resumed" else None
        trainer.train(resume_from_checkpoint=how == "resumed")
        torch.save(trained_weights(trainer), folder / name / f"{how}.pt")
        Path(folder, name, f"{how}.json").write_text(json.dumps({"from": checkpoint, "loss": history(trainer)}))

    classifier().save_pretrained(folder / "warm-up")  # fills caches that the children then share
    gc.freeze()
    results = {}
    for name in KILLED:
        (folder / name).mkdir(parents=True)
        for how in ("unbroken", "killed", "resumed"):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    run(name, how)
                    code = 0
                finally:
                    sys.stdout.flush()
                    os._exit(code)
            results[f"{name} {how}"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return results


# --- two processes

# name ► (rows, options); the batch is that of all processes together
DISTRIBUTED = {
    "full": (preference_rows, {"save_strategy": "steps", "save_steps": 3}),
    "LoRA, checkpointing, accumulation": (
        preference_rows,
        {"peft_config": lora_config(r=4), "gradient_checkpointing": True, "gradient_accumulation_steps": 2},
    ),
    "micro-batches": (preference_rows, {"max_tokens_per_microbatch": 40}),
    "stream": (lambda: Dataset.from_list(preference_rows()).to_iterable_dataset(), {}),
    # use_cpu unset, as by torchrun and a recipe that does not say it: still one run where there is no accelerator
    "ties": (
        ranked_rows,
        {"tie_threshold": 0.5, "use_cpu": torch.accelerator.is_available(), "dataloader_pin_memory": False},
    ),
}


def run_distributed(folder: Path, batch: int) -> dict:
    """Losses of six steps with `batch` groups a process, an evaluation of 7 rows, and weights of the last run."""
    results = {}
    for name, (rows, options) in DISTRIBUTED.items():
        trainer = make_trainer(
            folder / name, classifier(), rows(), per_device_train_batch_size=batch, max_steps=6, **options
        )
        trainer.train()
        metrics = trainer.evaluate(Dataset.from_list(preference_rows(7, seed=5)))
        predicted = trainer.predict(Dataset.from_list(preference_rows(7, seed=5)))
        results[name] = {
            "num_processes": trainer.accelerator.num_processes,
            "num_microbatches": len(next(iter(trainer.get_train_dataloader()))["microbatches"]),
            "predictions": predicted.predictions.tolist(),
            "metrics": {key: value for key, value in metrics.items() if "second" not in key and "runtime" not in key},
            **{
                key: history(trainer, key)
                for key in ("loss", "grad_norm", "accuracy", "margin", "mean_reward", "num_tokens")
            },
        }
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder = sys.argv[1], Path(sys.argv[2])
    results = run_killed(folder) if what == "killed" else run_distributed(folder, batch=2)
    if int(os.environ.get("RANK", 0)) == 0:
        (folder / "results.json").write_text(json.dumps(results))
    if what == "distributed":
        torch.distributed.destroy_process_group()  # a process that ends with it open may abort
