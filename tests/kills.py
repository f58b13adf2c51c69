"""Kill `score`, `best-of-n` and `evaluate`, in one and in two processes, at random, and let the same call resume.

    python tests/kills.py FOLDER [NUMBER_OF_KILLS] [SEED]      prints one JSON line per kill; test_kills.py runs eight

Each run is a fork, or two that share the work as under torchrun; one of them kills itself in the middle of a line of
its journal, between two chunks, or within the last writes, and the other one is killed then, as torchrun does.
"""

import json
import os
import random
import signal
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from kill_and_resume import ROWS, die_at
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from rm_plugin import BestOfNSampler, RewardScorer, evaluate, files, score_dataset
from rm_plugin.scoring import corpus

CHUNK = 2  # prompts that best-of-n generates at once


def score(models: dict, folder: Path) -> None:
    score_dataset(ROWS, models["scorer"], folder / "out.jsonl", rows_per_chunk=4)


def best_of_n(models: dict, folder: Path) -> None:
    options = {"n": 2, "batch_size": 2 * CHUNK, "generation_config": {"max_new_tokens": 4}}
    sampler = BestOfNSampler(models["policy"], models["tokenizer"], models["scorer"], **options)
    sampler.sample([row["prompt"] for row in ROWS[:16]], folder / "out.jsonl")


def evaluate_pairs(models: dict, folder: Path) -> None:
    evaluate(models["scorer"], source=ROWS, output=folder, num_samples=100)


COMMANDS = {"score": score, "best-of-n": best_of_n, "evaluate": evaluate_pairs}


# Of each command: what does one unit of its work (a chunk of rows, a prompt, a batch), and how many a call is.
UNITS = {
    "score": (corpus, "annotate", lambda args: 1),
    "best-of-n": (BestOfNSampler, "_sample", lambda args: len(args[2])),
    "evaluate": (RewardScorer, "run", lambda args: 1),
}
UNITS_PER_CHUNK = {"score": 1, "best-of-n": CHUNK, "evaluate": 1}


def count_work(command: str, log: Path) -> None:
    """Write a line to `log` for every unit of work that is begun."""
    owner, name, number_of = UNITS[command]
    function = getattr(owner, name)

    def counted(*args, **kwargs):
        with log.open("a") as file:
            file.write("x\n" * number_of(args))
        return function(*args, **kwargs)

    setattr(owner, name, counted)


def run(command: str, models: dict, folder: Path, size: int, death: tuple | None = None) -> list[int]:
    """Exit codes of the processes of one run; `death` says which rank dies, where."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = str(one.getsockname()[1])
    running = {}
    for rank in range(size):
        child = os.fork()
        if child:
            running[child] = rank
            continue
        try:
            os.dup2(os.open(folder.with_suffix(".err"), os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
            if size > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
                os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            count_work(command, folder.with_suffix(".log"))
            if death is not None and death[0] == rank:
                die_at(*death[1:])
            COMMANDS[command](models, folder)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    codes = []
    while running:
        child, status = os.wait()
        codes.append(os.waitstatus_to_exitcode(status))
        del running[child]
        if codes[-1] != 0:
            for other in running:
                os.kill(other, signal.SIGKILL)
    return codes


def result(command: str, folder: Path) -> list:
    """What a run left, with the scores last."""
    name = "scores.jsonl" if command == "evaluate" else "out.jsonl"
    rows = [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]
    names = ("score", "scores", "score_chosen", "score_rejected", "margin")
    texts = [{key: value for key, value in row.items() if key not in names} for row in rows]
    return [texts, [np.ravel(row[key]).tolist() for row in rows for key in names if key in row]]


def main(folder: Path, num_kills: int = 8, seed: int = 0) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("plain")
    models = {"tokenizer": tokenizer, "policy": AutoModelForCausalLM.from_config(tiny_config("llama")).eval()}
    models["scorer"] = RewardScorer(tiny_reward_model(), tokenizer, max_num_batched_tokens=256)
    expected, units, sizes, finish = {}, {}, {}, files.Journal.finish
    for command, work in COMMANDS.items():
        whole = folder / f"{command}-whole"
        files.Journal.finish = lambda one, key=command: (sizes.update({key: one.path.stat().st_size}), finish(one))
        work(models, whole)
        expected[command] = result(command, whole)
        files.Journal.finish = finish
        assert run(command, models, folder / f"{command}-counted", 1) == [0]
        units[command] = (folder / f"{command}-counted.log").read_text().count("x")
    rng = random.Random(seed)
    for kill in range(num_kills):
        command, size = list(COMMANDS)[kill % 3], 1 + kill // 3 % 2
        broken = folder / f"{kill}-{command}"
        late = kill % 4 == 3
        death = (
            (0, "end", 1 + rng.randrange(2))
            if late
            else (rng.randrange(size), "journal", rng.randrange(1, sizes[command] // (3 * size)))
        )
        codes = run(command, models, broken, size, death)
        assert -signal.SIGKILL in codes, (kill, command, size, death, broken.with_suffix(".err").read_text())
        resumed = run(command, models, broken, size)
        found, wanted = result(command, broken), expected[command]
        scores = [np.array([x for row in one[1] for x in row], dtype=float) for one in (found, wanted)]
        begun = broken.with_suffix(".log").read_text().count("x")
        report = {
            "command": command,
            "processes": size,
            "death": death,
            "resumed": resumed == [0] * size,
            "same texts": found[0] == wanted[0],
            "same scores": bool(np.allclose(*scores, rtol=0, atol=1e-5)),
            "chunks lost": (begun - units[command]) / UNITS_PER_CHUNK[command],
            "left over": sorted(p.name for p in broken.iterdir() if ".part" in p.name or "journal" in p.name),
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary), *map(int, sys.argv[2:]))
