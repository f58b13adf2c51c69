"""How many rows a second does annotating a corpus take, and does its memory stay flat?

    python benchmarks/score_corpus.py --model DIR --rows 20000                    # one process, two ranks, two actors
    python benchmarks/score_corpus.py --model DIR --rows 20000 200000 1000000 --runs memory

Rows are four completions each of generated prompts, in a jsonl file; the output is parquet. Each run is a process of
its own (or two), so that start-up and the highest memory are its own. `memory` scores with a function, so that the
time goes into reading, the journal and writing. Ray runs where it can be imported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, conditions, parser, report

RUNS = ("one", "ranks", "actors", "memory")


def parse_args() -> argparse.Namespace:
    arguments = parser(__doc__, rounds=None)
    arguments.add_argument("--rows", type=int, nargs="+", default=[20_000])
    arguments.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS[:3]))
    arguments.add_argument("--as", dest="one_run", choices=RUNS, help=argparse.SUPPRESS)
    arguments.add_argument("--folder", help=argparse.SUPPRESS)
    return arguments.parse_args()


def lengths(prompts: list[str], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def write_rows(path: Path, number: int) -> None:
    with path.open("w") as file:
        for n in range(number):
            text = f" The answer to question {n // 4} is {n}." * (1 + n % 3)
            file.write(json.dumps({"id": n, "prompt": f"Question {n // 4}: what is it?", "completion": text}) + "\n")


def run(args: argparse.Namespace) -> None:
    """One run, in this process: prints its seconds and its highest memory."""
    from rm_plugin.scoring.corpus import score_dataset

    folder, start = Path(args.folder), time.perf_counter()
    if args.one_run == "actors":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        rows = ray.data.read_json(str(folder / "rows.jsonl"), override_num_blocks=8)
        score_dataset(rows, str(folder / "rm"), num_actors=2).write_parquet(str(folder / "actors"))
    else:
        from rm_plugin.scoring.rewards import as_reward

        model = as_reward(lengths, "lengths") if args.one_run == "memory" else str(folder / "rm")
        score_dataset(folder / "rows.jsonl", model, folder / f"{args.one_run}.parquet")
    # Not ru_maxrss, which a process takes over from the one that started it.
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"seconds": round(time.perf_counter() - start, 1), "peak_mb": peak}))


def main(args: argparse.Namespace) -> None:
    from transformers import AutoTokenizer

    from rm_plugin import RewardModel
    from rm_plugin.data.encoding import ensure_pad_token

    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer, model = AutoTokenizer.from_pretrained(args.model), RewardModel.from_backbone(args.model)
        ensure_pad_token(tokenizer, model)
        for part in (model, tokenizer):
            part.save_pretrained(Path(temporary, "rm"))
        for number in args.rows:
            for name in args.runs:
                folder = Path(temporary, f"{number}-{name}")
                folder.mkdir()
                (folder / "rm").symlink_to(Path(temporary, "rm"))
                write_rows(folder / "rows.jsonl", number)
                words = [__file__, "--model", args.model, "--as", name, "--folder", str(folder)]
                if name == "ranks":
                    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
                    words = [*torchrun, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", *words]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
                done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
                if done.returncode != 0:
                    raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
                line = next(line for line in done.stdout.splitlines() if line.startswith('{"seconds"'))
                found = json.loads(line)
                results[f"{name}, {number} rows"] = {**found, "rows_per_second": round(number / found["seconds"])}
    del args.one_run, args.folder
    report({"benchmark": "score_corpus", **conditions(args), **results}, args.save)


if __name__ == "__main__":
    parsed = parse_args()
    run(parsed) if parsed.one_run else main(parsed)
