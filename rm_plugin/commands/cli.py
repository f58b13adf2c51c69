"""`rm-plugin`: one command a job; each imports what it needs when it runs, so that `--help` loads no torch.

    rm-plugin quickstart | train | score | best-of-n | ppo | evaluate | benchmarks | leaderboard | compare | export

Exit code 0 on success, 2 on bad usage or bad input with one line on stderr (`--debug` shows the traceback).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_writer, read_jsonl
from ..messages import nearest, one_line, shorten

if TYPE_CHECKING:
    from ..data.comparison import Comparison
    from ..scoring.scorer import RewardScorer


def main(argv: list[str] | None = None) -> int:
    """Run one command; the console script `rm-plugin`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        parser, commands = _parser()
        if argv and not argv[0].startswith("-") and argv[0] not in commands:
            close = nearest(argv[0], list(commands))
            raise UsageError(f"unknown command {argv[0]!r}{close}; the commands are {', '.join(commands)}")
        args, rest = parser.parse_known_args(argv)
        if rest and not args.takes_fields:
            known = [word.removeprefix("--") for word in commands[args.command]._option_string_actions]
            close = nearest(rest[0].split("=")[0].removeprefix("--"), known)
            raise UsageError(f"unknown argument {rest[0]!r}{close}; see rm-plugin {args.command} --help")
        args.fields = rest
        _quiet_upstream()
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("rm-plugin: interrupted; what was saved stays, the same command goes on", file=sys.stderr)
        return 130
    except Exception as error:
        bad_input = isinstance(error, (ValueError, OSError, ImportError, UsageError)) or _is_of_input(error)
        if debug or not bad_input:
            raise
        print(f"rm-plugin: {one_line(error)}", file=sys.stderr)
        return 2


class UsageError(Exception):
    """Words that the command line does not take."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see {self.prog} --help")


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of everything, and that of each command by name."""
    parser = _Parser(
        prog="rm-plugin",
        description="Reward models beside TRL: train on preferences, score, evaluate, export.",
        epilog="Every command takes --debug, which shows the traceback of an error.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run, help: str, takes_fields: bool = False, **kwargs) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help, description=help, allow_abbrev=False, **kwargs)
        one.set_defaults(run=run, takes_fields=takes_fields)
        return one

    one = command(
        "quickstart", _quickstart, "train, evaluate and score a tiny model on generated preferences (3 minutes)"
    )
    one.add_argument("--output", default="quickstart-reward-model", metavar="DIR", help="folder for model and page")
    one.add_argument("--seed", type=int, help="seed of data, model and training")

    one = command(
        "train",
        _train,
        "train a reward model from a YAML recipe; any field of the recipe can be given as --field value",
        takes_fields=True,
        add_help=False,
    )
    one.add_argument("--config", metavar="RECIPE", help="YAML file with the names of TRL's fields")
    one.add_argument("-h", "--help", action="store_true", dest="show_help", help="show all fields")

    one = command("score", _score, "score prompts and completions of a JSON lines file")
    one.add_argument("model", metavar="MODEL", help="reward model: folder or hub id, adapters included")
    one.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help='lines {"prompt", "completion"} or {"prompt", "completions": […]}',
    )
    one.add_argument("--output", required=True, metavar="FILE", help="the same lines with score or scores added")
    add_scorer_arguments(one)
    _add_control_tokens(one)

    one = command(
        "best-of-n", _best_of_n, "sample n completions a prompt, or take ready ones, and choose by the reward"
    )
    one.add_argument(
        "policy", metavar="POLICY", nargs="?", help="language model: folder or hub id; not with --candidates"
    )
    one.add_argument("--reward-model", required=True, metavar="MODEL", help="reward model: folder or hub id")
    one.add_argument("--prompts", metavar="FILE", help='file or data set with a column "prompt", and perhaps "answer"')
    one.add_argument(
        "--candidates",
        metavar="FILE",
        help='ready completions instead of POLICY and --prompts: lines {"prompt", "completions": […]}, '
        '{"prompt", "outputs": […]} as vLLM writes them, or {"prompt", "completion"}; perhaps with "gold" or "answer"',
    )
    one.add_argument("-n", type=int, help="completions a prompt (default 16)")
    one.add_argument(
        "--output", required=True, metavar="FILE", help="all candidates with scores; a killed run goes on"
    )
    one.add_argument("--to-preferences", metavar="FILE", help="best-versus-worst pairs for DPO or rm-plugin train")
    one.add_argument("--to-sft", metavar="FILE", help="the winners, for SFT")
    one.add_argument("--summary", metavar="FILE", help="best-of-n curve and counts as JSON")
    one.add_argument("--gold-model", metavar="MODEL", help="a better reward model, for true gain and regret")
    one.add_argument("--max-new-tokens", type=int, help="most tokens of a completion (the policy's setting, else 256)")
    one.add_argument("--temperature", type=float, help="of the samples (the policy's setting if absent)")
    one.add_argument("--top-p", type=float, help="of the samples (the policy's setting if absent)")
    one.add_argument("--seed", type=int, help="seed of the samples (default 0)")
    one.add_argument("--batch-size", type=int, help="sequences generated at once (default 16)")
    add_scorer_arguments(one)
    _add_control_tokens(one)

    one = command(
        "ppo",
        _ppo,
        "train a policy with PPO against a reward model, from a YAML recipe (TRL 1.12; --field value overrides)",
        takes_fields=True,
    )
    one.add_argument("--config", required=True, metavar="RECIPE", help="YAML file with the names of TRL's fields")

    one = command("evaluate", _evaluate, "measure a reward model on benchmarks or on any preference data")
    one.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="reward model: folder or hub id, adapters included; or module:callable",
    )
    one.add_argument(
        "--benchmark", action="append", default=[], metavar="NAME", help="see rm-plugin benchmarks; may be repeated"
    )
    one.add_argument("--data", metavar="FILE_OR_ID", help="any preference data instead: file, folder or hub id")
    one.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="local copy of the benchmark; with several benchmarks one each, as NAME=PATH or in their order",
    )
    one.add_argument("--split", help="split of the data, where it has several")
    one.add_argument("--config", help="configuration of a hub data set")
    one.add_argument("--subset", help="name of the part that the source holds, such as RM-Bench's domain")
    one.add_argument("--limit", type=int, metavar="N", help="take the first N comparisons only")
    one.add_argument("--on-bad-row", default="error", choices=("error", "skip"), help="skip counts and lists them")
    one.add_argument(
        "--text-format",
        default="auto",
        choices=("auto", "messages", "as-is"),
        help="plain text as messages for the chat template, or as it is; auto: messages, but --data as it is",
    )
    one.add_argument("--scores", metavar="FILE", help="scores.jsonl to measure instead of running a model")
    one.add_argument("--name", help="name of the model in the report")
    one.add_argument("--output", metavar="DIR", help="folder of the run; the same command goes on where it stopped")
    add_scorer_arguments(one)
    one.set_defaults(truncation_mode="drop")

    command("benchmarks", _benchmarks, "list the benchmarks that evaluate knows")

    one = command("leaderboard", _leaderboard, "put finished evaluations side by side")
    one.add_argument(
        "folders", nargs="+", metavar="DIR", help="--output folder of evaluate, or a folder above several"
    )
    one.add_argument("--html", metavar="FILE", help="write a page")
    one.add_argument("--csv", metavar="FILE", help="write a table, fractions of 1")
    one.add_argument("--markdown", metavar="FILE", help="write tables in Markdown")
    one.add_argument(
        "--published", metavar="CSV", help="published scores for context: columns model, benchmark, score"
    )
    one.add_argument("--model-card", metavar="README", help="put the figures of one model into its README.md")

    one = command("compare", _compare, "say whether the difference between two evaluated models is real")
    one.add_argument("a", metavar="A", help="--output folder of evaluate, or a folder above several")
    one.add_argument("b", metavar="B", help="the same of the other model")

    one = command("export", _export, "write a merged standard checkpoint that transformers, vLLM and SGLang load")
    one.add_argument("model", metavar="MODEL", help="reward model: folder or hub id, adapters included")
    one.add_argument("out", metavar="OUT", help="folder to write")
    one.add_argument("--dtype", default=None, help="dtype of the weights, such as bfloat16; unchanged if absent")
    one.add_argument("--revision", default=None, help="commit or branch on the hub")
    return parser, commands.choices


def add_scorer_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every command that scores with a model."""
    parser.add_argument(
        "--dtype", default="auto", help="dtype of the weights: auto (as saved), float32, bfloat16, float16"
    )
    parser.add_argument("--load-in-4bit", action="store_true", help="load the backbone in NF4")
    parser.add_argument("--revision", default=None, help="commit or branch on the hub")
    parser.add_argument(
        "--max-length", type=int, default=None, help="most tokens of a text; the model's context if absent"
    )
    parser.add_argument(
        "--max-num-batched-tokens", type=int, default=16384, help="token budget of one call of the model"
    )
    parser.add_argument(
        "--truncation-mode", default="error", help="for texts over max-length: error, drop (score null) or keep_end"
    )


def _add_control_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--control-tokens",
        default="as_text",
        help="special tokens and turn markers that a text spells: as_text, or parse as evaluate and training do",
    )


def load_scorer(args: argparse.Namespace, **kwargs) -> RewardScorer:
    """The scorer that [`add_scorer_arguments`]' options describe, with a progress bar on a terminal."""
    import torch

    from ..scoring.scorer import RewardScorer

    if args.dtype != "auto" and not isinstance(getattr(torch, args.dtype, None), torch.dtype):
        raise ValueError(f"dtype={args.dtype!r} is not a torch dtype; use auto, float32, bfloat16 or float16")
    model_kwargs: dict[str, Any] = {"dtype": args.dtype if args.dtype == "auto" else getattr(torch, args.dtype)}
    if args.revision is not None:
        model_kwargs["revision"] = args.revision
    if args.load_in_4bit:
        from ..training.trainer import nf4_config

        model_kwargs["quantization_config"] = nf4_config()
    options = {
        "max_length": args.max_length,
        "max_num_batched_tokens": args.max_num_batched_tokens,
        "truncation_mode": args.truncation_mode,
        "control_tokens": getattr(args, "control_tokens", "parse"),  # evaluate has no such option
        "progress": sys.stderr.isatty(),
    }
    return RewardScorer(args.model, **{**options, **kwargs}, **model_kwargs)


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
    with atomic_writer(args.output) as out:  # opened before the work: a place that cannot be written is told at once
        scores = load_scorer(args).score_comparisons(comparisons)
        for (_, line), values in zip(lines, scores, strict=True):
            values = [None if value != value else float(value) for value in values.tolist()]
            result = {"scores": values} if "completions" in line else {"score": values[0]}
            out.write(json.dumps({**line, **result}, ensure_ascii=False) + "\n")
    num = sum(map(len, scores))
    unscored = sum(int((values != values).sum()) for values in scores)
    note = f", {unscored} over the length limit and null" if unscored else ""
    print(f"{num} completions of {len(lines)} lines scored{note}: {args.output}")


def _comparison(line: Any, where: str) -> Comparison:
    """A line of `score`'s input; `where` stands in its errors."""
    from ..data.comparison import template_arguments
    from ..scoring.scorer import RewardScorer

    if not isinstance(line, dict) or "prompt" not in line or ("completion" in line) == ("completions" in line):
        found = f"has {', '.join(line) or 'nothing'}" if isinstance(line, dict) else f"is a {type(line).__name__}"
        raise ValueError(f'{where} {found}; it needs "prompt" and either "completion" or "completions"')
    name = "scores" if "completions" in line else "score"
    if name in line:
        raise ValueError(f"{where} has a field {name!r}, which would be overwritten; rename it")
    completions = line["completions"] if "completions" in line else [line["completion"]]
    if not isinstance(completions, list) or not completions:
        raise ValueError(f"{where}: completions is empty or no list; give at least one completion")
    for text in [line["prompt"], *completions]:
        is_conversation = isinstance(text, list) and all(isinstance(m, dict) and "role" in m for m in text)
        if not isinstance(text, str) and not is_conversation:
            raise ValueError(f"{where}: {shorten(text)} is neither text nor a list of messages with role and content")
    try:
        comparison = RewardScorer.comparison(line["prompt"], completions, **template_arguments(line))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    comparison.id = where
    return comparison


def _best_of_n(args: argparse.Namespace) -> None:
    from ..data.comparison import load_rows
    from ..loops.best_of_n import best_of_n, print_summary, summarize, to_preferences, to_sft

    if (args.candidates is None) == (args.policy is None) or (args.policy is None) != (args.prompts is None):
        raise UsageError("give POLICY with --prompts, or --candidates; see rm-plugin best-of-n --help")
    fields = {name: getattr(args, name) for name in ("max_new_tokens", "temperature", "top_p")}
    options = {name: getattr(args, name) for name in ("n", "seed", "batch_size")}
    fields, options = ({k: v for k, v in given.items() if v is not None} for given in (fields, options))
    if args.candidates is not None and (sampling := [*options, *fields]):
        words = ", ".join("-n" if name == "n" else f"--{name.replace('_', '-')}" for name in sampling)
        raise UsageError(f"{words}: --candidates are ready, nothing is sampled; leave it out")
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
    summary = summarize(results)
    print_summary(summary)
    print(f"{len(results)} prompts with all their candidates: {args.output}")
    for path, rows, what in (
        (args.to_preferences, to_preferences, "best-versus-worst pairs"),
        (args.to_sft, to_sft, "winners"),
    ):
        if path is not None:
            with atomic_writer(path) as out:
                lines = rows(results)
                out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            print(f"{len(lines)} {what}: {path}")
    if args.summary is not None:
        with atomic_writer(args.summary) as out:
            out.write(json.dumps(summary, indent=2))


def _ppo(args: argparse.Namespace) -> None:
    from .ppo_recipe import parse_ppo_recipe, train_ppo

    train_ppo(*parse_ppo_recipe(args.config, args.fields))


def _evaluate(args: argparse.Namespace) -> None:
    from ..evaluation.benchmarks import load_benchmark
    from ..evaluation.harness import evaluate, evaluate_scores
    from ..evaluation.report import print_report
    from ..processes import Processes
    from ..scoring.rewards import is_function

    if bool(args.benchmark) == bool(args.data):
        raise UsageError("give either --benchmark NAME (see rm-plugin benchmarks) or --data FILE_OR_ID")
    if args.data and args.source:
        raise UsageError("--source is the place of a --benchmark, --data names its own; leave --source out")
    if args.scores or (args.model and is_function(args.model)):
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
    model = args.model if is_function(args.model) else load_scorer(args, progress=False)
    for data in loaded:
        output = Path(args.output) if len(jobs) == 1 else Path(args.output, data.name)
        report = evaluate(model, data, output=output, **options)
        if processes.rank == 0:
            print_report(report.report)
            print(f"report: {output / 'report.html'}\n")


def _scorer_options(args: argparse.Namespace) -> list[str]:
    """The options of [`add_scorer_arguments`] that were given another value than evaluate's default."""
    plain = argparse.ArgumentParser()
    add_scorer_arguments(plain)
    plain.set_defaults(truncation_mode="drop")
    defaults = vars(plain.parse_args([]))
    return [f"--{name.replace('_', '-')}" for name, value in defaults.items() if getattr(args, name) != value]


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
    from rich.console import Console
    from rich.table import Table

    from ..evaluation.benchmarks import BENCHMARKS

    table = Table("name", "data set [split]", "rows", "licence", "revision", "score")
    for name, one in BENCHMARKS.items():
        if name == "preference":
            place = "any preference data: --data FILE_OR_ID"
        elif one.hub:
            place = f"{one.hub} \\[{one.split}]"
        else:
            place = f"--source is needed: {one.files}"
        rows = f"{one.num_rows:,}" if one.num_rows else "–"
        pinned = (one.revision or "unpinned")[:8] if one.hub else "–"
        table.add_row(name, place, rows, one.licence, pinned, one.notes or "accuracy over pairs")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _leaderboard(args: argparse.Namespace) -> None:
    from ..evaluation.leaderboard import build_leaderboard, find_runs
    from ..evaluation.report import update_model_card

    board = build_leaderboard(args.folders, args.published)
    for path, text in ((args.html, board.to_html), (args.csv, board.to_csv), (args.markdown, board.to_markdown)):
        if path:
            with atomic_writer(path) as out:
                out.write(text())
            print(path)
    if args.model_card:
        reports = [run.report for run in find_runs(args.folders)]
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
    import torch

    from ..model.modeling import RewardModel, load_tokenizer
    from ..scoring.scorer import check_model_exists

    kwargs = {"revision": args.revision} if args.revision else {}
    check_model_exists(args.model, **kwargs)
    dtype = None
    if args.dtype is not None:
        dtype = getattr(torch, args.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype={args.dtype!r} is not a torch dtype; use float32, bfloat16 or float16")
    if Path(args.out).exists() and any(Path(args.out).iterdir()):
        raise ValueError(f"{args.out} is not empty; name a new folder")
    model = RewardModel.from_pretrained(args.model, **kwargs)
    adapted = model._peft_model is not None
    model = model.export(args.out, load_tokenizer(args.model, model.config, **kwargs), dtype)
    if adapted and model.dtype in (torch.bfloat16, torch.float16):
        name = str(model.dtype).removeprefix("torch.")
        print(f"the adapters were rounded into {name} weights, which moves scores; --dtype float32 keeps them exact")
    print(f"exported to {args.out}; its README says how transformers, vLLM and SGLang load it")


# --- helpers


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
