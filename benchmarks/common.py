"""What the benchmark scripts share: public preference rows, clocks, the machine's description, one JSON line a run.

Data is read from ../shared/data (or $RM_PLUGIN_SHARED) in its original schema; nothing is downloaded. With
`--device cuda` time is that of CUDA events, and memory that of torch's allocator.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "hh": ("hh-rlhf-harmless", "hh_rlhf_harmless/test.jsonl.gz"),
    "judgebench": ("judgebench", "judgebench/gpt.jsonl"),
}


def parser(doc: str, rounds: int | None = 5, memory_of: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """What every script takes; `rounds=None` leaves out what only comparisons of two sides take.

    `memory_of` names the sides whose memory is measured, see `peak_memory`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a causal model (it gets a random head)")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
        parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        parser.add_argument("--load-in-4bit", action="store_true", help="NF4 weights, for both sides")
        parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak of the device, for `mfu_*`")
    if memory_of:
        parser.add_argument("--no-memory", action="store_true", help="skip the subprocesses that measure memory")
        parser.add_argument("--memory-of", choices=memory_of, help=argparse.SUPPRESS)
    parser.add_argument("--save", metavar="NAME", help="keep the line in benchmarks/results/NAME.json")
    return parser


def conditions(args: argparse.Namespace) -> dict:
    """The arguments that say what was measured, and not how it is run or shown; the model by its folder's name."""
    left_out = ("save", "rounds", "no_memory", "memory_of", "output", "engine", "pause_file", "vllm", "peak_tflops")
    shown = {name: value for name, value in vars(args).items() if name not in left_out}
    return {**shown, "model": Path(args.model).name}


def quiet() -> None:
    """No warnings and progress bars of libraries between the results."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


def loading(args: argparse.Namespace) -> dict:
    """Arguments of `from_pretrained` for the dtype, the device and 4 bits."""
    import torch

    from rm_plugin import nf4_config

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    quantization = {"quantization_config": nf4_config()} if args.load_in_4bit else {}
    return {"dtype": dtype, "device_map": {"": args.device}, **quantization}


def reward_model_and_tokenizer(args: argparse.Namespace):
    """A `RewardModel` with a random head, wide enough that the scores of two sides can be compared, to score with."""
    import torch
    from transformers import AutoTokenizer

    from rm_plugin import RewardModel
    from rm_plugin.data.encoding import ensure_pad_token

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    torch.manual_seed(0)
    model = RewardModel.from_backbone(args.model, **loading(args)).eval()
    ensure_pad_token(tokenizer, model)
    torch.nn.init.normal_(model.score.weight)
    return model, tokenizer


def shared_data() -> Path:
    """The folder of public preference data, or an error that says where it is looked for."""
    folder = Path(os.environ.get("RM_PLUGIN_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there; set RM_PLUGIN_SHARED to the folder that holds data/")
    return folder


def preference_pairs(name: str, seed: int = 0) -> list[dict[str, str]]:
    """Rows {prompt, chosen, rejected} of plain text, shuffled by seed; every right–wrong pair of a group is a row."""
    from rm_plugin.data.comparison import Comparison
    from rm_plugin.evaluation.benchmarks import load_benchmark

    if name == "gsm8k":
        comparisons = [
            Comparison(row["prompt"], row["completions"], [int(not right) for right in row["gold"]])
            for row in gsm8k_candidates()
        ]
    else:
        benchmark, path = SOURCES[name]
        comparisons = load_benchmark(benchmark, shared_data() / path).comparisons
    rows = []
    for comparison in comparisons:
        for better, worse in comparison.pairs():
            chosen, rejected = comparison.completions[better], comparison.completions[worse]
            if chosen.strip() and rejected.strip() and chosen != rejected:
                rows.append({"prompt": comparison.prompt, "chosen": chosen, "rejected": rejected})
    random.Random(seed).shuffle(rows)
    return rows


def gsm8k_candidates() -> list[dict]:
    """GSM8K's questions with the solutions of four systems, `gold` 1 for a right one; as best-of-n reads them."""
    path = shared_data() / "gsm8k_solutions" / "example_model_solutions.jsonl"
    systems = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        solutions = [row[system] for system in systems]
        rows.append(
            {
                "prompt": row["question"],
                "completions": [solution["solution"] for solution in solutions],
                "gold": [float(solution["is_correct"]) for solution in solutions],
                "systems": list(systems),
            }
        )
    return rows


def mark(device: str):
    """A point in time of what the device has been given to do, for `seconds_between`."""
    if device == "cpu":
        return time.perf_counter()
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start, end) -> float:
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


def alternate(
    reference: Callable[[], object], ours: Callable[[], object], rounds: int, device: str = "cpu"
) -> tuple[list, list]:
    """Seconds of both, one after the other in every round, in changing order; the first round warms up."""
    seconds = {reference: [], ours: []}
    for round_ in range(rounds + 1):
        for run in (reference, ours) if round_ % 2 else (ours, reference):
            start = mark(device)
            run()
            taken = seconds_between(start, mark(device))
            if round_:
                seconds[run].append(taken)
    return seconds[reference], seconds[ours]


class PeakMemory:
    """`with PeakMemory() as peak: …; peak.megabytes`: the most resident memory above that at the start, sampled.

    On a GPU the most that torch's allocator reserved.
    """

    def __init__(self, device: str = "cpu"):
        self._on_gpu = device != "cpu"

    def __enter__(self):
        import psutil
        import torch

        if self._on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_reserved()
            return self
        self._process, self._stop = psutil.Process(), threading.Event()
        self._start = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self):
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_):
        if self._on_gpu:
            import torch

            self.megabytes = (torch.cuda.max_memory_reserved() - self._start) / 2**20
            return
        self._stop.set()
        self._thread.join()
        self.megabytes = (self._peak - self._start) / 2**20


def peak_memory(name: str) -> float:
    """Megabytes of one side above its loaded model: this script with the same arguments and `--memory-of NAME`."""
    command = [sys.executable, *sys.argv, "--memory-of", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def summary(reference: list[float], ours: list[float]) -> dict[str, float]:
    """Median, lowest and highest ratio of the rounds, and median seconds."""
    ratios = [r / o for r, o in zip(reference, ours, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "rounds": len(ratios),
        "seconds_reference": round(statistics.median(reference), 3),
        "seconds_ours": round(statistics.median(ours), 3),
    }


def speed(args: argparse.Namespace, model, num_tokens: int, seconds: dict[str, float], passes: int = 1) -> dict:
    """
    Tokens of whole texts per second for each side, and with `--peak-tflops` the share of it that their work takes.

    Work is 2 operations a weight of a linear layer and token, in each of `passes`: 1 forward, 3 with the gradients of
    weights, 2 where few are trained. Attention's and what is computed anew are not counted, what a side leaves out is.
    """
    per_second = {side: num_tokens / taken for side, taken in seconds.items()}
    result = {f"tokens_per_second_{side}": round(rate, 1) for side, rate in per_second.items()}
    if args.peak_tflops:
        import torch

        linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        num_weights = sum(module.in_features * module.out_features for module in linear)
        for side, rate in per_second.items():
            result[f"mfu_{side}"] = round(2 * num_weights * passes * rate / (args.peak_tflops * 1e12), 4)
    return result


def environment() -> dict[str, str]:
    """Versions, machine and commit."""
    import torch

    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    packages = ("torch", "transformers", "trl", "peft")
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores",
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "commit": commit.stdout.strip(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def report(result: dict, save: str | None) -> None:
    """Print one JSON line, and keep it in benchmarks/results/NAME.json where asked."""
    line = json.dumps({**result, **environment()})
    print(line)
    if save:
        folder = ROOT / "benchmarks" / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"{save}.json").write_text(line + "\n", encoding="utf-8")
