"""The words of each command, by argparse: TRL's configs take seconds to import, and `--help` must not.

parser, commands = build_parser()
commands["score"].print_help()
"""

from __future__ import annotations

import argparse

from ..messages import nearest

MODEL_HELP = "reward model: folder or hub id, adapters included"


class UsageError(Exception):
    """Words that the command line does not take."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see {self.prog} --help")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command and its options; `fields` holds the `--field value` words of a recipe."""
    parser, commands = build_parser()
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        close = nearest(argv[0], commands)
        raise UsageError(f"unknown command {argv[0]!r}{close}; the commands are {', '.join(commands)}")
    args, args.fields = parser.parse_known_args(argv)
    if args.fields and args.command not in ("train", "ppo"):
        known = [word.removeprefix("--") for word in commands[args.command]._option_string_actions]
        close = nearest(args.fields[0].split("=")[0].removeprefix("--"), known)
        raise UsageError(f"unknown argument {args.fields[0]!r}{close}; see rm-plugin {args.command} --help")
    return args


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of everything, and that of each command by name."""
    parser = _Parser(
        prog="rm-plugin",
        description="Reward models beside TRL: train on preferences, score, evaluate, export.",
        epilog="Every command takes --debug, which shows the traceback of an error.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (help, add_arguments) in COMMANDS.items():
        own_help = name == "train"  # it shows the fields of a recipe
        one = commands.add_parser(name, help=help, description=help, allow_abbrev=False, add_help=not own_help)
        add_arguments(one.add_argument)
    return parser, commands.choices


def _quickstart(add) -> None:
    add("--output", default="quickstart-reward-model", metavar="DIR", help="folder for model and page")
    add("--seed", type=int, help="seed of data, model and training")


def _train(add) -> None:
    add("--config", metavar="RECIPE", help="YAML file with the names of TRL's fields")
    add("-h", "--help", action="store_true", dest="show_help", help="show all fields")


def _score(add) -> None:
    add("model", metavar="MODEL", help=MODEL_HELP)
    rows = '{"prompt", "completion"} or {"prompt", "completions": […]}'
    add("--input", required=True, metavar="FILE", help=f"lines {rows}")
    add("--output", required=True, metavar="FILE", help="the same lines with score or scores added")
    _scorer(add)
    _control_tokens(add)


def _best_of_n(add) -> None:
    add("policy", metavar="POLICY", nargs="?", help="language model: folder or hub id; not with --candidates")
    add("--reward-model", required=True, metavar="MODEL", help="reward model: folder or hub id")
    add("--prompts", metavar="FILE", help='file or data set with a column "prompt", and perhaps "answer"')
    add(
        "--candidates",
        metavar="FILE",
        help='ready completions instead of POLICY and --prompts: lines {"prompt", "completions": […]}, '
        '{"prompt", "outputs": […]} as vLLM writes them, or {"prompt", "completion"}; perhaps with "gold" or "answer"',
    )
    add("-n", type=int, help="completions per prompt (default 16)")
    add("--output", required=True, metavar="FILE", help="all candidates with scores; the same command resumes")
    add("--to-preferences", metavar="FILE", help="best-versus-worst pairs for DPO or rm-plugin train")
    add("--to-sft", metavar="FILE", help="the winners, for SFT")
    add("--summary", metavar="FILE", help="best-of-n curve and counts as JSON")
    add("--gold-model", metavar="MODEL", help="a better reward model, for true gain and regret")
    add("--max-new-tokens", type=int, help="most tokens of a completion (the policy's setting, else 256)")
    add("--temperature", type=float, help="of the samples (the policy's setting if absent)")
    add("--top-p", type=float, help="of the samples (the policy's setting if absent)")
    add("--seed", type=int, help="seed of the samples (default 0)")
    add("--batch-size", type=int, help="sequences generated at once (default 16)")
    _scorer(add)
    _control_tokens(add)


def _ppo(add) -> None:
    add("--config", required=True, metavar="RECIPE", help="YAML file with the names of TRL's fields")


def _evaluate(add) -> None:
    add("model", nargs="?", metavar="MODEL", help=f"{MODEL_HELP}; or module:callable")
    add("--benchmark", action="append", default=[], metavar="NAME", help="see rm-plugin benchmarks; may be repeated")
    add("--data", metavar="FILE_OR_ID", help="any preference data instead: file, folder or hub id")
    add(
        "--source",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="local copy of the benchmark; with several benchmarks one each, as NAME=PATH or in their order",
    )
    add("--split", help="split of the data, where it has several")
    add("--config", help="configuration of a hub data set")
    add("--subset", help="name of the part that the source holds, such as RM-Bench's domain")
    add("--limit", type=int, metavar="N", help="take the first N comparisons only")
    add("--on-bad-row", default="error", choices=("error", "skip"), help="skip counts and lists them")
    add(
        "--text-format",
        default="auto",
        choices=("auto", "messages", "as-is"),
        help="plain text as messages for the chat template, or as it is; auto: messages, but --data as it is",
    )
    add("--scores", metavar="FILE", help="scores.jsonl to measure instead of running a model")
    add("--name", help="name of the model in the report")
    add("--output", metavar="DIR", help="folder of the run; the same command resumes where it stopped")
    _scorer(add, truncation_mode="drop")


def _benchmarks(add) -> None:
    pass


def _leaderboard(add) -> None:
    add("folders", nargs="+", metavar="DIR", help="--output folder of evaluate, or a folder above several")
    add("--html", metavar="FILE", help="write a page")
    add("--csv", metavar="FILE", help="write a table, fractions of 1")
    add("--markdown", metavar="FILE", help="write tables in Markdown")
    add("--published", metavar="CSV", help="published scores for context: columns model, benchmark, score")
    add("--model-card", metavar="README", help="put the metrics of one model into its README.md and beside it")


def _compare(add) -> None:
    add("a", metavar="A", help="--output folder of evaluate, or a folder above several")
    add("b", metavar="B", help="the same of the other model")


def _export(add) -> None:
    add("model", metavar="MODEL", help=MODEL_HELP)
    add("out", metavar="OUT", help="folder to write")
    add("--dtype", help="dtype of the weights, such as bfloat16; unchanged if absent")
    add("--revision", help="commit or branch on the hub")


def _scorer(add, truncation_mode: str = "error") -> None:
    """Options of every command that scores with a model."""
    add("--dtype", default="auto", help="dtype of the weights: auto (as saved), float32, bfloat16, float16")
    add("--load-in-4bit", action="store_true", help="load the backbone in NF4")
    add("--revision", help="commit or branch on the hub")
    add("--max-length", type=int, help="most tokens of a text; the model's context if absent")
    add("--max-num-batched-tokens", type=int, default=16384, help="token budget of one call of the model")
    over = "for texts over max-length: error, drop (score null) or keep_end"
    add("--truncation-mode", default=truncation_mode, help=over)


def _control_tokens(add) -> None:
    spelled = "special tokens and turn markers that a text spells: as_text, or parse as evaluate and training do"
    add("--control-tokens", default="as_text", help=spelled)


COMMANDS = {
    "quickstart": ("train, evaluate and score a tiny model on generated preferences (3 minutes)", _quickstart),
    "train": ("train a reward model from a YAML recipe; any field can be given as --field value", _train),
    "score": ("score prompts and completions of a JSON lines file", _score),
    "best-of-n": ("sample n completions per prompt, or take ready ones, and choose by the reward", _best_of_n),
    "ppo": ("train a policy with PPO against a reward model, from a YAML recipe (TRL 1.12)", _ppo),
    "evaluate": ("measure a reward model on benchmarks or on any preference data", _evaluate),
    "benchmarks": ("list the benchmarks that evaluate knows", _benchmarks),
    "leaderboard": ("put finished evaluations side by side", _leaderboard),
    "compare": ("say whether the difference between two evaluated models is real", _compare),
    "export": ("write a merged standard checkpoint that transformers, vLLM and SGLang load", _export),
}
