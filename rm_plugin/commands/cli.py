"""`rm-plugin`: one function per command; each imports what it needs when it runs, so that `--help` loads no torch.

    rm-plugin quickstart | train | score | best-of-n | ppo | evaluate | benchmarks | leaderboard | compare | export

Exit code 0 on success, 2 on bad usage or bad input with one line on stderr (`--debug` shows the traceback).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_writer, read_jsonl, write_atomically
from ..messages import explained, located, one_line
from .arguments import UsageError, build_parser, parse_arguments

if TYPE_CHECKING:
    from ..data.comparison import Comparison
    from ..scoring.scorer import RewardScorer

# What is true after Ctrl-C, of each command.
INTERRUPTED = {
    "train": "checkpoints stay; --resume_from_checkpoint true resumes from the newest",
    "best-of-n": "what was done stays, the same command resumes",
    "evaluate": "what was done stays, the same command resumes",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the console script `rm-plugin`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    command = None
    try:
        args = parse_arguments([word for word in argv if word != "--debug"])
        command = args.command
        _quiet_upstream()
        return RUN[command](args) or 0
    except KeyboardInterrupt:
        print(f"rm-plugin: interrupted; {INTERRUPTED.get(command, 'nothing was kept')}", file=sys.stderr)
        return 130
    except Exception as error:
        bad_input = isinstance(error, (ValueError, OSError, ImportError, UsageError)) or _is_of_input(error)
        if debug or not bad_input:
            raise
        print(f"rm-plugin: {one_line(error)}", file=sys.stderr)
        return 2


def load_scorer(args: argparse.Namespace, **kwargs) -> RewardScorer:
    """The scorer that the options of a command describe, with a progress bar on a terminal."""
    from ..scoring.scorer import RewardScorer

    model_kwargs: dict[str, Any] = {"dtype": _torch_dtype(args.dtype)}
    if args.revision is not None:
        model_kwargs["revision"] = args.revision
    if args.load_in_4bit:
        from ..model.adapters import nf4_config

        model_kwargs["quantization_config"] = nf4_config()
    options = {
        "max_length": args.max_length,
        "max_num_batched_tokens": args.max_num_batched_tokens,
        "truncation_mode": args.truncation_mode,
        "control_tokens": getattr(args, "control_tokens", "parse"),  # evaluate has no such option
        "progress": sys.stderr.isatty(),
    }
    with explained(f"{args.model} cannot be loaded"):
        return RewardScorer(args.model, **{**options, **kwargs}, **model_kwargs)


def _torch_dtype(name: str) -> Any:
    import torch

    dtype = getattr(torch, name, None)
    if name != "auto" and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={name!r} is not a torch dtype; use auto, float32, bfloat16 or float16")
    return dtype or name


# --- commands


def _quickstart(args: argparse.Namespace) -> None:
    from .quickstart import run

    run(args.output, seed=args.seed)


def _train(args: argparse.Namespace) -> int:
    from .recipe import parse_recipe, run_recipe

    if args.show_help:
        parse_recipe(None, ["--help"])
    return run_recipe(args.config, args.fields)


def _score(args: argparse.Namespace) -> None:
    lines = list(read_jsonl(args.input))
    if not lines:
        raise ValueError(f"{args.input} is empty; give one JSON object per line")
    comparisons = [_comparison(line, f"{args.input} line {number}") for number, line in lines]
    with atomic_writer(args.output) as out:  # opened before the work: a file that cannot be written is told at once
        scores = load_scorer(args).score_comparisons(comparisons)
        for (_, line), values in zip(lines, scores, strict=True):
            values = [None if value != value else float(value) for value in values.tolist()]
            result = {"scores": values} if "completions" in line else {"score": values[0]}
            out.write(json.dumps({**line, **result}, ensure_ascii=False) + "\n")
    num = sum(map(len, scores))
    unscored = sum(int((values != values).sum()) for values in scores)
    note = f", {unscored} over the length limit and null" if unscored else ""
    print(f"{num} completions of {len(lines)} lines scored{note}: {args.output}")


def _comparison(line: dict[str, Any], where: str) -> Comparison:
    """A line of `score`'s input; `where` stands in its errors."""
    from ..data.comparison import to_comparison

    with located(where):
        if "prompt" not in line or ("completion" in line) == ("completions" in line):
            found = ", ".join(line) or "nothing"
            raise ValueError(f'it has {found}; it needs "prompt" and either "completion" or "completions"')
        name = "scores" if "completions" in line else "score"
        if name in line:
            raise ValueError(f"it has a field {name!r}, which would be overwritten; rename it")
        comparison = to_comparison(line, candidates=True)
    comparison.id = where
    return comparison


def _best_of_n(args: argparse.Namespace) -> None:
    from ..data.sources import load_rows
    from ..loops.best_of_n import best_of_n, print_summary, summarize, to_preferences, to_sft
    from ..processes import Processes

    if (args.candidates is None) == (args.policy is None) or (args.policy is None) != (args.prompts is None):
        raise UsageError("give POLICY with --prompts, or --candidates; see rm-plugin best-of-n --help")
    outputs = ("output", "to_preferences", "to_sft", "summary")
    _refuse_equal_paths(args, outputs, inputs=("candidates", "prompts"))
    fields = {name: getattr(args, name) for name in ("max_new_tokens", "temperature", "top_p")}
    options = {name: getattr(args, name) for name in ("n", "seed", "batch_size")}
    fields, options = ({k: v for k, v in given.items() if v is not None} for given in (fields, options))
    if args.candidates is not None and (sampling := [*options, *fields]):
        words = ", ".join("-n" if name == "n" else f"--{name.replace('_', '-')}" for name in sampling)
        raise UsageError(f"{words}: --candidates are ready, nothing is sampled; leave it out")
    processes = Processes.current()  # before the models: it says which accelerator is this process's
    reward_model = argparse.Namespace(**{**vars(args), "model": args.reward_model})
    gold_model = argparse.Namespace(**{**vars(args), "model": args.gold_model, "revision": None})
    results = best_of_n(
        args.policy,
        None if args.prompts is None else load_rows(args.prompts),
        load_scorer(reward_model, progress=False),
        generation_config=fields,
        candidates=None if args.candidates is None else load_rows(args.candidates),
        gold=None if args.gold_model is None else load_scorer(gold_model, progress=False),
        output=args.output,
        progress=sys.stderr.isatty(),
        **options,
    )
    if processes.rank > 0:
        return
    summary = summarize(results)
    print_summary(summary)
    print(f"{len(results)} prompts with all their candidates: {args.output}")
    if args.to_preferences is not None:
        num = _write_lines(args.to_preferences, to_preferences(results))
        print(f"{num} best-versus-worst pairs: {args.to_preferences}")
    if args.to_sft is not None:
        print(f"{_write_lines(args.to_sft, to_sft(results))} winners: {args.to_sft}")
    if args.summary is not None:
        write_atomically(args.summary, json.dumps(summary, indent=2))


def _ppo(args: argparse.Namespace) -> None:
    from .ppo_recipe import parse_ppo_recipe, train_ppo

    train_ppo(*parse_ppo_recipe(args.config, args.fields))


def _evaluate(args: argparse.Namespace) -> None:
    from ..evaluation.benchmarks import load_benchmark
    from ..evaluation.harness import evaluate, evaluate_scores
    from ..evaluation.report import print_report
    from ..processes import Processes
    from ..scoring.rewards import is_dotted_path

    if bool(args.benchmark) == bool(args.data):
        raise UsageError("give either --benchmark NAME (see rm-plugin benchmarks) or --data FILE_OR_ID")
    if args.data and args.source:
        raise UsageError("--source is for a --benchmark, --data names its own data; leave --source out")
    if args.scores or (args.model and is_dotted_path(args.model)):
        unused = _scorer_options(args) + ["--text-format"] * bool(args.scores and args.text_format != "auto")
        what = "--scores, which run no model" if args.scores else f"the function {args.model}"
        if unused:
            raise UsageError(f"{', '.join(unused)} cannot be applied to {what}; leave it out")
    if args.truncation_mode == "error":
        raise ValueError("truncation_mode=error would stop the evaluation; use drop (counts as wrong) or keep_end")
    if not args.scores and not (args.model and args.output):
        raise UsageError(f"{'--output DIR' if args.model else 'MODEL (or --scores FILE)'} is missing")
    jobs = [("preference", args.data)] if args.data else _named_sources(args.benchmark, args.source)
    if args.scores and len(jobs) > 1:
        raise UsageError("--scores holds the scores of one benchmark; give one --benchmark")
    how = {key: getattr(args, key) for key in ("split", "config", "subset", "limit", "on_bad_row")}
    loaded = [load_benchmark(name, source, **how) for name, source in jobs]  # bad data show before a model is loaded
    options = {"name": args.name or args.model}
    if args.scores:
        print_report(evaluate_scores(args.scores, loaded[0], output=args.output, **options).report)
        return
    processes = Processes.current()  # before the model: it says which GPU is this process's
    options |= {"text_format": args.text_format, "progress": sys.stderr.isatty()}
    model = args.model if is_dotted_path(args.model) else load_scorer(args, progress=False)
    for data in loaded:
        output = Path(args.output) if len(jobs) == 1 else Path(args.output, data.name)
        report = evaluate(model, data, output=output, **options)
        if processes.rank == 0:
            print_report(report.report)
            print(f"report: {output / 'report.html'}\n")


def _scorer_options(args: argparse.Namespace) -> list[str]:
    """The options of a scorer that were given another value than evaluate's default."""
    evaluate = build_parser()[1]["evaluate"]
    names = ("dtype", "load_in_4bit", "revision", "max_length", "max_num_batched_tokens", "truncation_mode")
    return [f"--{n.replace('_', '-')}" for n in names if getattr(args, n) != evaluate.get_default(n)]


def _named_sources(benchmarks: list[str], sources: list[str]) -> list[tuple[str, str | None]]:
    """Each benchmark with its source: given as NAME=PATH, or in the order of the benchmarks."""
    named = dict(source.split("=", 1) for source in sources if source.split("=", 1)[0] in benchmarks and "=" in source)
    plain = [source for source in sources if "=" not in source or source.split("=", 1)[0] not in benchmarks]
    rest = [name for name in benchmarks if name not in named]
    if plain and len(plain) != len(rest):
        raise UsageError(
            f"{len(plain)} --source for the benchmarks {', '.join(rest) or 'that have none left'}; give one each, as "
            "--source NAME=PATH"
        )
    named.update(zip(rest, plain, strict=False))
    return [(name, named.get(name)) for name in dict.fromkeys(benchmarks)]


def _benchmarks(args: argparse.Namespace) -> None:
    from ..evaluation.benchmarks import BENCHMARKS
    from ..evaluation.page import Table

    cells = []
    for name, one in BENCHMARKS.items():
        source = f"{one.hub} [{'+'.join(one.splits)}]" if one.hub else f"--source is needed: {one.files}"
        if name == "preference":
            source = "any preference data: --data FILE_OR_ID"
        rows = f"{one.num_rows:,}" if one.num_rows else "–"
        pinned = (one.parts[0].commit or "unpinned")[:8] if one.hub else "–"
        cells.append([name, source, rows, one.licence, pinned, one.notes or "accuracy over pairs"])
    columns = ["name", "data set [split]", "rows", "licence", "revision", "score"]
    Table(columns, cells, num_text_columns=len(columns)).print()


def _leaderboard(args: argparse.Namespace) -> None:
    from ..evaluation.leaderboard import build_leaderboard, find_runs
    from ..evaluation.report import update_model_card

    _refuse_equal_paths(args, ("html", "csv", "markdown", "model_card"), inputs=("published",))
    board = build_leaderboard(args.folders, args.published)
    for path, text in ((args.html, board.to_html), (args.csv, board.to_csv), (args.markdown, board.to_markdown)):
        if path:
            write_atomically(path, text())
            print(path)
    if args.model_card:
        reports = [run.report for same in find_runs(args.folders).values() for run in same]
        names = sorted({report["model"]["name"] for report in reports})
        if len(names) > 1:
            raise ValueError(f"a model card is for one model, the folders have {', '.join(names)}; name those of one")
        for path in update_model_card(args.model_card, reports):
            print(path)
    if not (args.html or args.csv or args.markdown or args.model_card):
        board.overview().print()


def _compare(args: argparse.Namespace) -> None:
    from ..evaluation.leaderboard import compare_runs, print_comparison

    for result in compare_runs(args.a, args.b):
        print_comparison(result)


def _export(args: argparse.Namespace) -> None:
    from ..model.checkpoint import load_tokenizer
    from ..model.modeling import RewardModel
    from ..scoring.scorer import check_model_exists

    kwargs = {"revision": args.revision} if args.revision else {}
    check_model_exists(args.model, **kwargs)
    dtype = None if args.dtype in (None, "auto") else _torch_dtype(args.dtype)
    if Path(args.out).exists() and any(Path(args.out).iterdir()):
        raise ValueError(f"{args.out} is not empty; name a new folder")
    with explained(f"{args.model} cannot be loaded"):
        model = RewardModel.from_pretrained(args.model, **kwargs)
        tokenizer = load_tokenizer(args.model, model.config, **kwargs)
    adapted = model.peft_model is not None
    model = model.export(args.out, tokenizer, dtype)
    name = str(model.dtype).removeprefix("torch.")
    if adapted and name in ("bfloat16", "float16"):
        print(f"the adapters were rounded into {name} weights, which moves scores; --dtype float32 keeps them exact")
    print(f"exported to {args.out}; its README says how transformers, vLLM and SGLang load it")


RUN = {
    "quickstart": _quickstart,
    "train": _train,
    "score": _score,
    "best-of-n": _best_of_n,
    "ppo": _ppo,
    "evaluate": _evaluate,
    "benchmarks": _benchmarks,
    "leaderboard": _leaderboard,
    "compare": _compare,
    "export": _export,
}


# --- helpers


def _refuse_equal_paths(args: argparse.Namespace, outputs: Iterable[str], inputs: Iterable[str] = ()) -> None:
    """Refuse an output that would replace an input or another output."""
    seen: dict[Path, str] = {}
    for name in [*inputs, *outputs]:
        path = getattr(args, name)
        if path is None or (Path(path).exists() and not Path(path).is_file()):  # a pipe takes several
            continue
        word = f"--{name.replace('_', '-')}"
        other = seen.setdefault(Path(path).resolve(), word)
        if other != word:
            raise UsageError(f"{other} and {word} are the same file, {path}; name another one")


def _write_lines(path: str, rows: list[dict[str, Any]]) -> int:
    with atomic_writer(path) as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def _is_of_input(error: BaseException) -> bool:
    """Errors about what was given that upstream derives from `Exception` alone: weights, chat templates."""
    return type(error).__module__.partition(".")[0] in ("safetensors", "safetensors_rust", "jinja2")


def _quiet_upstream() -> None:
    """Our lines and upstream's errors only; a user who wants more sets TRANSFORMERS_VERBOSITY or PYTHONWARNINGS."""
    import logging
    import warnings

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("rm_plugin").setLevel(logging.INFO)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # among libraries, about names that will change
        warnings.simplefilter("ignore", DeprecationWarning)


if __name__ == "__main__":
    sys.exit(main())
