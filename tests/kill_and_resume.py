"""Started by test_harness.py: one unbroken run, then runs that die of SIGKILL at random points and resume.

    python tests/kill_and_resume.py FOLDER NUMBER_OF_KILLS      prints one JSON line per kill

A process of its own, because it forks: each run is a child, which kills itself: in the middle of a line of the
journal, between two batches, and between or within the last writes.
"""

import io
import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
from models import tiny_reward_model, tiny_tokenizer

from rm_plugin import RewardScorer, files
from rm_plugin.evaluation import harness
from rm_plugin.evaluation.benchmarks import load_benchmark

ROWS = [
    {
        "prompt": f"Which country owns Antarctica? Say it {n} times.",
        "chosen": "No country. " * (1 + n % 7),
        "rejected": f"Penguins, {n} of them.",
        "subset": "odd" if n % 2 else "even",
    }
    for n in range(40)
]


def run(scorer: RewardScorer, folder: Path) -> harness.EvaluationReport:
    data = load_benchmark("preference", ROWS)
    return harness.evaluate(scorer, data, output=folder, name="tiny", num_samples=100)


def die_at(phase: str, number: int, last_writes: tuple[str, ...] | None = None) -> None:
    """
    Have this process kill itself after `number` bytes of its journal, or at the `number`-th of the last writes: those
    of files of these names, or all.
    """
    open_locked, replace, left = files._open_locked, Path.replace, number

    class DyingFile(io.FileIO):
        def write(self, line):
            nonlocal left
            if left <= len(line):
                super().write(line[:left])
                os.kill(os.getpid(), signal.SIGKILL)
            left -= len(line)
            return super().write(line)

    def open_dying(path, output):
        open_locked(path, output).close()
        return DyingFile(path, "a+b")

    def dying_replace(self, target):
        nonlocal left
        left -= last_writes is None or Path(target).name in last_writes
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    if phase == "journal":
        files._open_locked = open_dying
    else:
        Path.replace = dying_replace


def run_and_die(scorer: RewardScorer, folder: Path, phase: str, number: int) -> None:
    """The same run in a child that kills itself after `number` bytes of scores, or at the `number`-th last write."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, (phase, number)
        return
    last_writes = ("scores.jsonl", "items.json", "model_card.md", "report.html", "report.json")
    die_at("journal" if phase == "scores" else phase, number, last_writes)
    run(scorer, folder)
    os._exit(0)


def main(folder: Path, num_kills: int) -> None:
    torch.set_num_threads(1)
    scorer = RewardScorer(tiny_reward_model(), tiny_tokenizer("plain"), max_num_batched_tokens=128)
    sizes, finish = [], files.Journal.finish
    files.Journal.finish = lambda journal: (sizes.append(journal.path.stat().st_size), finish(journal))
    whole = run(scorer, folder / "unbroken")
    wanted = (folder / "unbroken" / "scores.jsonl").read_bytes()
    metrics = json.dumps(whole.metrics), json.dumps(whole.report["baselines"])
    num_bytes = sizes[0]
    files.Journal.finish = finish
    rng = random.Random(0)
    for kill in range(num_kills):
        broken = folder / f"broken-{kill}"
        if kill % 4 == 3:
            run_and_die(scorer, broken, "report", 1 + kill // 4 % 5)
        else:
            run_and_die(scorer, broken, "scores", rng.randrange(num_bytes // 4 if kill else 1, num_bytes // 2))
            if kill % 2:  # and once more on the way
                run_and_die(scorer, broken, "scores", rng.randrange(1, num_bytes // 4))
        report = run(scorer, broken)
        print(
            json.dumps(
                {
                    "kill": kill,
                    "same scores": (broken / "scores.jsonl").read_bytes() == wanted,
                    "same metrics": (json.dumps(report.metrics), json.dumps(report.report["baselines"])) == metrics,
                    "same on disk": json.loads((broken / "report.json").read_text())["metrics"] == whole.metrics,
                    "computed": report.report["run"]["num_completions_computed"],
                    "resumed": report.report["run"]["num_completions_resumed"],
                    "left over": sorted(
                        path.name for path in broken.iterdir() if "part" in path.name or "journal" in path.name
                    ),
                }
            )
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
