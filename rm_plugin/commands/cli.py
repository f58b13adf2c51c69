"""`rm-plugin`: options and work of every command.

    rm-plugin quickstart | train | plan | score | best-of-n | ppo | evaluate | leaderboard | compare | export | …

A command is a function whose docstring is its help, and one that adds its options; it imports what it needs when it
runs, so that `--help` loads no torch. Exit code 0 on success, 2 on bad usage or bad input with one line on stderr
(`--debug` shows the traceback).
"""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..data.layouts import COLUMNS_HELP
from ..files import write_atomically, write_jsonl
from ..messages import check_choice, explained, nearest, one_line, whole_number_or_auto
from ..processes import leave

MODEL_HELP = "reward model: folder or hub id, adapters included"
SCORED_HELP = f"{MODEL_HELP}; or the URL of a server of one, with --tokenizer"
DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
RECIPE_HELP = "YAML file with the names of TRL's fields"
SCORER_OPTIONS = (
    *("dtype", "load_in_4bit", "revision", "processing_class"),
    *("max_length", "max_num_batched_tokens", "truncation_mode", "control_tokens"),
)
OPTION_NAMES = {"n": "-n", "processing_class": "--tokenizer"}  # where a word is not named as its argument

# What holds after Ctrl-C, by command.
INTERRUPTED = {
    "quickstart": "the same command starts over",
    "ppo": "checkpoints are kept, but TRL's PPO cannot resume from them",
    "best-of-n": "finished work is kept, the same command resumes",
    "evaluate": "finished work is kept, the same command resumes",
    "export": "the folder is not whole, delete it",
    "score": "finished work is kept, the same command resumes",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the console script `rm-plugin`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    command = None
    atexit.register(leave)
    try:
        args = parse_arguments([word for word in argv if word != "--debug"])
        command = args.command
        _quiet_upstream()
        return COMMANDS[command][0](args) or 0
    except KeyboardInterrupt as error:  # `train` says what its checkpoints allow
        kept = str(error) or INTERRUPTED.get(command, "nothing was kept")
        print(f"rm-plugin: interrupted; {kept}", file=sys.stderr)
        return 130
    except Exception as error:
        if debug or not (isinstance(error, (ValueError, OSError, ImportError)) or _is_of_input(error)):
            raise
        print(f"rm-plugin: {one_line(error)}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message}; see {self.prog} --help")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command and its options; `fields` holds the `--field value` words of a recipe."""
    parser = _Parser(
        prog="rm-plugin",
        description="Reward models beside TRL: train on preferences, score, evaluate, export.",
        epilog="Every command takes --debug, which shows the traceback of an error.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (run, add_options) in COMMANDS.items():
        options = {"help": run.__doc__, "description": run.__doc__, "allow_abbrev": False}
        one = commands.add_parser(name, **options, add_help=name != "train")  # which shows the fields of a recipe
        add_options(one.add_argument)
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        close = nearest(argv[0], COMMANDS)
        raise ValueError(f"unknown command {argv[0]!r}{close}; the commands are {', '.join(COMMANDS)}")
    args, args.fields = parser.parse_known_args(argv)
    if args.fields and args.command not in ("train", "plan", "ppo"):
        # argparse has no public list of a parser's options.
        known = [word.removeprefix("--") for word in commands.choices[args.command]._option_string_actions]
        close = nearest(args.fields[0].split("=")[0].removeprefix("--"), known)
        raise ValueError(f"unknown argument {args.fields[0]!r}{close}; see rm-plugin {args.command} --help")
    return args


def _quickstart_options(add) -> None:
    add("--output", default="quickstart-reward-model", metavar="DIR", help="folder for model and page")
    add("--seed", type=int, help="seed of data, model and training")


def _quickstart(args: argparse.Namespace) -> None:
    """train, evaluate and score a tiny model on generated preferences (3 minutes)"""
    from .quickstart import run

    run(args.output, seed=args.seed)


def _train_options(add) -> None:
    add("--config", metavar="RECIPE", help=RECIPE_HELP)
    add("--force", action="store_true", help="train even if the plan says that this GPU is too small")
    add("-h", "--help", action="store_true", dest="show_help", help="show this")
    add("--help-all", action="store_true", help="show the fields of TRL and transformers too")


def _train(args: argparse.Namespace) -> int:
    """train a reward model from a YAML recipe; any field can be given as --field value"""
    if args.show_help:
        return _train_help()
    from .recipe import parse_recipe, run_recipe

    if args.help_all:
        parse_recipe(None, ["--help"])
    return run_recipe(args.config, args.fields, args.force)


def _train_help() -> None:
    """Our own fields, which lie in a module without imports: those of TRL take seconds to load."""
    from ..training.fields import PairwiseRewardFields

    everything = (
        "Every field of TRL's RewardConfig, ModelConfig and ScriptArguments is taken too: --help-all shows them."
    )
    parser = argparse.ArgumentParser("rm-plugin train", description=_train.__doc__, epilog=everything, add_help=False)
    _train_options(parser.add_argument)
    own = parser.add_argument_group("fields of reward training, in the recipe or as --field value")
    for field in dataclasses.fields(PairwiseRewardFields):
        default = "" if field.default is None else f" Default: {field.default}."
        own.add_argument(
            f"--{field.name}", metavar="VALUE", help=f"{field.metadata['help']}{default}".replace("%", "%%")
        )
    parser.print_help()


def _plan_options(add) -> None:
    add("--config", metavar="RECIPE", help=RECIPE_HELP)
    add("--gpu", metavar="SIZE", help="memory of the card, such as 12GB (default: that of this GPU)")


def _plan(args: argparse.Namespace) -> int:
    """say how much GPU memory a recipe needs and whether a card has it; reads no weights, needs no GPU"""
    from .plan import describe, parse_gpu, plan_recipe

    gpu = None if args.gpu is None else parse_gpu(args.gpu)
    if gpu is None:
        import torch

        gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    plan = plan_recipe(args.config, args.fields)
    print(describe(plan, gpu))
    return 0 if gpu is None or plan.may_fit(gpu) else 1


def _score_options(add) -> None:
    add(
        "model",
        metavar="MODEL",
        nargs="?",
        help=f"{SCORED_HELP}; or module:callable; omit to join finished shards",
    )
    add("--data", required=True, metavar="DATA", help="rows of any format: file, folder or hub id")
    _columns_option(add)
    add("--split", help="split of the data, where it has several")
    add("--config", help="configuration of a hub data set")
    add("--output", required=True, metavar="OUT", help="the same rows with scores: OUT.jsonl, OUT.parquet or a folder")
    add("--on-bad-row", default="null", choices=("null", "error"), help="null scores with a reason, or stop")
    add("--shard", metavar="I/N", help="only the I-th of N shares, for job arrays; without MODEL all are joined")
    add("--push-to-hub", metavar="ID", help="data set on the hub that gets the scored rows too")
    _scorer_options(add)
    _control_tokens_option(add)


def _columns_option(add) -> None:
    add("--columns", nargs="+", metavar="OURS=THEIRS", help=COLUMNS_HELP)


def _score(args: argparse.Namespace) -> None:
    """add scores to the rows of any data set; the same command resumes"""
    from ..processes import Processes
    from ..scoring.corpus import score_dataset
    from ..scoring.rewards import is_dotted_path

    shard = None
    if args.shard is not None:
        try:
            shard = tuple(map(int, args.shard.split("/")))
            index, number = shard
        except ValueError:
            raise ValueError(f"--shard {args.shard} is not understood; write I/N, such as 1/8") from None
    processes = Processes.current()  # before the model: it says which accelerator is this process's
    given = _given(args, SCORER_OPTIONS)
    if given and (args.model is None or is_dotted_path(args.model)):
        raise ValueError(f"{_options(given)} cannot be applied without a model; leave it out")
    given |= _given(args, ("columns", "split", "config", "on_bad_row", "push_to_hub"))
    counts = score_dataset(args.data, args.model, args.output, shard=shard, progress=True, **given)
    if processes.rank > 0:
        return
    note = f", {counts['unscored']} of them null (see score_reason)" if counts["unscored"] else ""
    where = args.output if shard is None else f"shard {index} of {number} of {args.output}"
    print(f"{counts['completions']} completions of {counts['rows']} rows scored{note}: {where}")


def _best_of_n_options(add) -> None:
    add("policy", metavar="POLICY", nargs="?", help="language model: folder or hub id; not with --candidates")
    add("--reward-model", required=True, metavar="MODEL", help=SCORED_HELP)
    add("--prompts", metavar="FILE", help='file or data set with a column "prompt", and perhaps "answer"')
    ready = (
        '{"prompt", "completions" (or vLLM\'s "outputs"): […]} or {"prompt", "completion"}, perhaps "gold", "answer"'
    )
    add("--candidates", metavar="FILE", help=f"ready completions instead of POLICY and --prompts: lines {ready}")
    _columns_option(add)
    add("-n", type=int, help="completions per prompt (default 16)")
    add("--output", required=True, metavar="FILE", help="all candidates with scores; the same command resumes")
    add("--to-preferences", metavar="FILE", help="best-versus-worst pairs for DPO or rm-plugin train")
    add("--to-sft", metavar="FILE", help="the winners, for SFT")
    add("--summary", metavar="FILE", help="best-of-n curve and counts as JSON")
    add("--gold-model", metavar="MODEL", help="a better reward model, for true gain and regret")
    add("--gold-tokenizer", metavar="DIR", help="as --tokenizer, where the gold model is the URL of a server")
    add("--max-new-tokens", type=int, help="most tokens of a completion (the policy's setting, else 256)")
    add("--temperature", type=float, help="of the samples (the policy's setting if absent)")
    add("--top-p", type=float, help="of the samples (the policy's setting if absent)")
    add("--seed", type=int, help="seed of the samples (default 0)")
    add("--batch-size", type=int, help="sequences generated at once (default 16)")
    _scorer_options(add)
    _control_tokens_option(add)


def _best_of_n(args: argparse.Namespace) -> None:
    """sample n completions per prompt, or take ready ones, and choose by the reward"""
    from ..data.sources import load_rows
    from ..loops.best_of_n import BestOfNSampler
    from ..loops.candidates import print_summary, summarize, to_preferences, to_sft
    from ..processes import Processes
    from ..scoring.rewards import load_scorer

    if (args.candidates is None) == (args.policy is None) or (args.policy is None) != (args.prompts is None):
        raise ValueError("give POLICY with --prompts, or --candidates; see rm-plugin best-of-n --help")
    _refuse_equal_paths(args, ("output", "to_preferences", "to_sft", "summary"), inputs=("candidates", "prompts"))
    fields = _given(args, ("max_new_tokens", "temperature", "top_p"))
    options = _given(args, ("n", "seed", "batch_size"))
    if args.candidates is not None and (sampling := {**options, **fields}):
        raise ValueError(f"{_options(sampling)}: --candidates are ready, nothing is sampled; leave it out")
    processes = Processes.current()  # before the models: it says which accelerator is this process's
    scorer_options = _given(args, SCORER_OPTIONS)
    scorer = load_scorer(args.reward_model, **scorer_options)
    scorer_options.pop("revision", None)  # of the reward model, as its tokenizer is
    scorer_options["processing_class"] = args.gold_tokenizer
    sampler = BestOfNSampler(
        args.policy,
        scorer=scorer,
        generation_config=fields,
        gold=None if args.gold_model is None else load_scorer(args.gold_model, **scorer_options),
        progress=sys.stderr.isatty(),
        **options,
    )
    if args.candidates is None:
        results = sampler.sample(load_rows(args.prompts, columns=args.columns), args.output)
    else:
        results = sampler.rank(load_rows(args.candidates, columns=args.columns), args.output)
    if processes.rank > 0:
        return
    summary = summarize(results)
    print_summary(summary)
    print(f"{len(results)} prompts with all their candidates: {args.output}")
    if args.to_preferences is not None:
        write_jsonl(args.to_preferences, pairs := to_preferences(results))
        print(f"{len(pairs)} best-versus-worst pairs: {args.to_preferences}")
    if args.to_sft is not None:
        write_jsonl(args.to_sft, winners := to_sft(results))
        print(f"{len(winners)} winners: {args.to_sft}")
    if args.summary is not None:
        write_atomically(args.summary, json.dumps(summary, indent=2))


def _ppo_options(add) -> None:
    add("--config", required=True, metavar="RECIPE", help=RECIPE_HELP)


def _ppo(args: argparse.Namespace) -> None:
    """train a policy with PPO against a reward model, from a YAML recipe (TRL 1.12)"""
    from .ppo_recipe import parse_ppo_recipe, train_ppo

    train_ppo(*parse_ppo_recipe(args.config, args.fields))


def _evaluate_options(add) -> None:
    add("model", nargs="?", metavar="MODEL", help=f"{SCORED_HELP}; or module:callable")
    help = "see rm-plugin benchmarks, or module:NAME of yours (docs/benchmarks.md); may be repeated"
    add("--benchmark", action="append", default=[], metavar="NAME", help=help)
    add("--suite", metavar="NAME", help="several benchmarks, and the row that papers print of them: skywork")
    add("--data", metavar="FILE_OR_ID", help="any preference data instead: file, folder or hub id")
    local = "local copy of the benchmark; with several benchmarks one each, as NAME=PATH"
    add("--source", action="append", default=[], metavar="[NAME=]PATH", help=local)
    add("--split", help="split of the data, where it has several")
    add("--config", help="configuration of a hub data set")
    add("--subset", help="name of the part that the source holds, such as RM-Bench's domain")
    add("--limit", type=int, metavar="N", help="take a sample of N comparisons, balanced over subsets (seed 0)")
    _columns_option(add)
    add("--on-bad-row", default="error", choices=("error", "skip"), help="skip counts and lists them")
    add("--on-empty", default="keep", choices=("error", "keep", "skip"), help="comparisons with an empty reply")
    text_format = "plain text as messages for the chat template, or as it is; auto: messages, except for --data"
    add("--text-format", choices=("auto", "messages", "as-is"), help=text_format)
    add("--scores", metavar="FILE", help="scores.jsonl to measure instead of running a model")
    add("--name", help="name of the model in the report")
    add(
        "--mistakes",
        type=int,
        default=10,
        metavar="N",
        help="how many of the most confident mistakes mistakes.jsonl holds",
    )
    add("--output", metavar="DIR", help="folder of the run; the same command resumes where it stopped")
    _scorer_options(add, truncation_mode="drop")


def _evaluate(args: argparse.Namespace) -> None:
    """measure a reward model on benchmarks or on any preference data"""
    from ..evaluation.benchmarks import SUITES, load_benchmark
    from ..evaluation.harness import evaluate, evaluate_scores
    from ..evaluation.leaderboard import suite_table
    from ..evaluation.report import print_report
    from ..processes import Processes
    from ..scoring.functions import is_dotted_path
    from ..scoring.rewards import as_reward

    if args.suite is not None:
        check_choice("suite", args.suite, SUITES)
        args.benchmark += [name for parts in SUITES[args.suite].values() for name, _ in parts]
    if bool(args.benchmark) == bool(args.data):
        raise ValueError("give either --benchmark NAME (see rm-plugin benchmarks) or --data FILE_OR_ID")
    if args.data and args.source:
        raise ValueError("--source is for a --benchmark, --data names its own data; leave --source out")
    is_function = bool(args.model) and is_dotted_path(args.model)
    scorer_options, shown_as = _given(args, SCORER_OPTIONS), _given(args, ("text_format",))
    if unused := (scorer_options | shown_as if args.scores else scorer_options if is_function else {}):
        what = "--scores, which run no model" if args.scores else f"the function {args.model}"
        raise ValueError(f"{_options(unused)} cannot be applied to {what}; leave it out")
    if args.truncation_mode == "error":
        raise ValueError("truncation_mode=error would stop the evaluation; use drop (counts as wrong) or keep_end")
    if not args.scores and not (args.model and args.output):
        raise ValueError(f"{'--output DIR' if args.model else 'MODEL (or --scores FILE)'} is missing")
    jobs = {"preference": args.data} if args.data else _named_sources(args.benchmark, args.source)
    if args.scores and len(jobs) > 1:
        raise ValueError("--scores holds the scores of one benchmark; give one --benchmark")
    names = ("split", "config", "subset", "limit", "on_bad_row", "on_empty", "columns")
    how = {name: getattr(args, name) for name in names}
    # Before the model, so that bad data show at once.
    loaded = [load_benchmark(name, source, **how) for name, source in jobs.items()]
    options = {"name": args.name or args.model, "num_mistakes": args.mistakes}
    if args.scores:
        print_report(evaluate_scores(args.scores, loaded[0], output=args.output, **options).report)
        if args.output:
            print(f"report: {Path(args.output, 'report.html')}\n")
        return
    processes = Processes.current()  # before the model: it says which GPU is this process's
    options |= {"progress": sys.stderr.isatty(), **shown_as}
    model = as_reward(args.model, evaluating=True, **scorer_options)
    reports = []
    for data in loaded:
        output = Path(args.output) if len(jobs) == 1 else Path(args.output, data.name.replace(":", "."))
        reports.append(evaluate(model, data, output=output, **options).report)
        if processes.rank == 0:
            print_report(reports[-1])
            print(f"report: {output / 'report.html'}\n")
    if args.suite is not None and processes.rank == 0:
        suite_table(args.suite, reports).print()


def _named_sources(benchmarks: list[str], sources: list[str]) -> dict[str, str | None]:
    """The source of each benchmark: PATH or NAME=PATH for the only one, NAME=PATH for one of several."""
    if len(benchmarks) == len(sources) == 1:
        return {benchmarks[0]: sources[0].removeprefix(f"{benchmarks[0]}=")}
    named = dict(source.partition("=")[::2] for source in sources)
    if unknown := ", ".join(name for name in named if name not in benchmarks):
        raise ValueError(f"--source {unknown} is of none of {', '.join(benchmarks)}; give --source NAME=PATH")
    return {name: named.get(name) for name in benchmarks}


def _benchmarks(args: argparse.Namespace) -> None:
    """list the benchmarks that evaluate knows"""
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


def _own_benchmarks_option(add) -> None:
    add("--benchmark", action="append", default=[], metavar="MODULE:NAME", help="a benchmark of yours that runs used")


def _leaderboard_options(add) -> None:
    add("folders", nargs="+", metavar="DIR", help="--output folder of evaluate, or a folder above several")
    add("--html", metavar="FILE", help="write a page")
    add("--csv", metavar="FILE", help="write a table, fractions of 1")
    add("--markdown", metavar="FILE", help="write tables in Markdown")
    add("--published", metavar="CSV", help="published scores for context: columns model, benchmark, score")
    _own_benchmarks_option(add)
    add("--model-card", metavar="README", help="put the metrics of one model into its README.md and beside it")


def _leaderboard(args: argparse.Namespace) -> None:
    """put finished evaluations side by side"""
    from ..evaluation.benchmarks import get_benchmark
    from ..evaluation.leaderboard import build_leaderboard, find_runs
    from ..evaluation.report import update_model_card

    _refuse_equal_paths(args, ("html", "csv", "markdown", "model_card"), inputs=("published",))
    for name in args.benchmark:
        get_benchmark(name)
    board = build_leaderboard(args.folders, args.published)
    _write_forms(
        (args.html, lambda: board.to_html(args.html)), (args.csv, board.to_csv), (args.markdown, board.to_markdown)
    )
    if args.model_card:
        reports = [run.report for same in find_runs(args.folders).values() for run in same]
        names = sorted({report["model"]["name"] for report in reports})
        if len(names) > 1:
            raise ValueError(f"a model card is for one model, the folders have {', '.join(names)}; name one model's")
        for path in update_model_card(args.model_card, reports):
            print(path)
    if not (args.html or args.csv or args.markdown or args.model_card):
        board.overview().print()


def _compare_options(add) -> None:
    add("a", metavar="A", help="--output folder of evaluate, or a folder above several")
    add("b", metavar="B", help="the same for the other model")
    add("--html", metavar="FILE", help="write a page")
    add("--json", metavar="FILE", help="write all numbers")
    add("--csv", metavar="FILE", help="write a table by benchmark and subset, fractions of 1")
    _own_benchmarks_option(add)


def _compare(args: argparse.Namespace) -> None:
    """say whether the difference between two evaluated models is real"""
    from ..evaluation.benchmarks import get_benchmark
    from ..evaluation.leaderboard import compare_runs, comparisons_csv, comparisons_page, print_comparison

    _refuse_equal_paths(args, ("html", "json", "csv"))
    for name in args.benchmark:
        get_benchmark(name)
    results = compare_runs(args.a, args.b)
    for result in results:
        print_comparison(result)
    _write_forms(
        (args.html, lambda: comparisons_page(results)),
        (args.json, lambda: json.dumps(results, indent=1) + "\n"),
        (args.csv, lambda: comparisons_csv(results)),
    )


def _export_options(add) -> None:
    add("model", metavar="MODEL", help=MODEL_HELP)
    add("out", metavar="OUT", help="folder to write")
    add("--dtype", choices=DTYPES[1:], help="dtype of the weights; unchanged if absent")
    add("--revision", help="commit or branch on the hub")
    add("--check", metavar="URL", help="ask a server of OUT for this model's scores, and say what it does wrong")


def _export(args: argparse.Namespace) -> None:
    """write a merged standard checkpoint that transformers, vLLM and SGLang load"""
    from ..data.reference import read_reference

    if not (args.check and read_reference(args.out)):  # which a server may serve by now
        _write_export(args)
    if args.check:
        from ..scoring.remote import RemoteRewardScorer

        if faults := RemoteRewardScorer(args.check, args.out).faults():
            raise ValueError(f"{args.check}: {faults[0][0]}")
        print(f"{args.check} gives the scores of {args.out}")


def _write_export(args: argparse.Namespace) -> None:
    import torch

    from ..model.checkpoint import load_tokenizer
    from ..model.modeling import RewardModel

    kwargs = _given(args, ("revision",))
    if Path(args.out).exists() and any(Path(args.out).iterdir()):
        raise ValueError(f"{args.out} is not empty; name a new folder")
    with explained(f"{args.model} cannot be loaded"):
        model = RewardModel.from_pretrained(args.model, **kwargs)
        tokenizer = load_tokenizer(args.model, model.config, **kwargs)
    adapted = model.peft_model is not None
    model = model.export(args.out, tokenizer, args.dtype and getattr(torch, args.dtype))
    name = str(model.dtype).removeprefix("torch.")
    if adapted and name in ("bfloat16", "float16"):
        print(f"the adapters were rounded into {name} weights, which moves scores; --dtype float32 keeps them exact")
    print(f"exported to {args.out}; its README says how it is loaded")


COMMANDS = {
    "quickstart": (_quickstart, _quickstart_options),
    "train": (_train, _train_options),
    "plan": (_plan, _plan_options),
    "score": (_score, _score_options),
    "best-of-n": (_best_of_n, _best_of_n_options),
    "ppo": (_ppo, _ppo_options),
    "evaluate": (_evaluate, _evaluate_options),
    "benchmarks": (_benchmarks, lambda add: None),
    "leaderboard": (_leaderboard, _leaderboard_options),
    "compare": (_compare, _compare_options),
    "export": (_export, _export_options),
}


# --- helpers


def _scorer_options(add, truncation_mode: str = "error") -> None:
    """Options of every command that scores with a model; None where they are not given."""
    add("--dtype", choices=DTYPES, help="dtype of the weights (default auto: as saved)")
    add("--load-in-4bit", action="store_true", default=None, help="load the backbone in NF4")
    add("--revision", help="commit or branch on the hub")
    tokenizer = "folder of the tokenizer: needed where MODEL is the URL of a server, else the model's own"
    add("--tokenizer", metavar="DIR", dest="processing_class", help=tokenizer)
    add("--max-length", type=int, help="most tokens of a text; the model's context if absent")
    tokens = "token budget of one call of the model (default 16384), or auto: what fits the free memory of the GPU"
    add("--max-num-batched-tokens", type=whole_number_or_auto, metavar="N", help=tokens)
    over = f"for texts over max-length: error, drop (score null) or keep_end (default {truncation_mode})"
    add("--truncation-mode", help=over)


def _control_tokens_option(add) -> None:
    spelled = "how special tokens and turn markers inside a text are read: as_text, or parse (as in training)"
    add("--control-tokens", help=spelled)


def _given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def _options(names: Iterable[str]) -> str:
    return ", ".join(OPTION_NAMES.get(name, f"--{name.replace('_', '-')}") for name in names)


def _refuse_equal_paths(args: argparse.Namespace, outputs: Iterable[str], inputs: Iterable[str] = ()) -> None:
    """Refuse an output that would replace an input or another output."""
    seen: dict[Path, str] = {}
    for name in [*inputs, *outputs]:
        path = getattr(args, name)
        if path is None or (Path(path).exists() and not Path(path).is_file()):  # a pipe takes several
            continue
        other = seen.setdefault(Path(path).resolve(), name)
        if other != name:
            raise ValueError(f"{_options([other])} and {_options([name])} are the same file, {path}; name another one")


def _write_forms(*forms: tuple[str | None, Callable[[], str]]) -> None:
    """Write each text to its path, where one is given."""
    for path, text in forms:
        if path:
            write_atomically(path, text())
            print(path)


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
