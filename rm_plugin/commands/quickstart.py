"""The embedded default: a tiny decoder and its tokenizer, made here without download, and the main job run on them.

run("quickstart-reward-model")      # trains, evaluates, scores and writes a page, with the code of any recipe
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from ..evaluation import figures
from ..evaluation.harness import evaluate
from ..evaluation.page import Link, Section, Table, render_page
from ..evaluation.report import EvaluationReport
from ..files import write_atomically, write_jsonl
from ..scoring.scorer import RewardScorer
from .quickstart_data import ANTARCTICA, preference_data
from .recipe import parse_recipe, train

MAX_LENGTH = 128  # tokens; the longest text of the preference set has 26
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """
    Build the tokenizer: one token for each word and mark of the preference set, whatever its seed.

    Other words are spelled in characters, and what is not ASCII becomes `<unk>`. Spaces only separate words, so a
    prompt and its completion have the same tokens joined with or without one, and so has a conversation, whose
    template puts the messages one after another. `<pad>` is not `<eos>`.

    Returns:
        `PreTrainedTokenizerFast`: about 550 tokens, right padding.

    Example:

    ```python
    >>> tokenizer = build_tokenizer()
    >>> tokenizer.tokenize("Which country owns Antarctica?")
    ['Which', 'country', 'owns', 'Antarctica', '?']

    ```
    """
    characters = [chr(code) for code in range(33, 127)]
    tokens = ["<pad>", "<eos>", "<unk>", *characters, *(f"##{character}" for character in characters)]
    train, heldout = preference_data(seed=0, num_train=3600, num_heldout=900)
    words = {word for row in train + heldout for word in re.findall(r"\w+", f"{row['prompt']} {row['chosen']}")}
    tokens += sorted(words - set(tokens))
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=True), decoders.Replace(" :", ":")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> PreTrainedModel:
    """
    Build the tiny decoder with random weights: a backbone for `RewardModel.from_backbone`, without any head.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): gives the size of the vocabulary and the special tokens.
        seed (`int`, *optional*, defaults to `0`): equal seeds give equal weights, whatever the random state is.

    Returns:
        `Qwen3Model`: float32, 400 thousand parameters.
    """
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=16,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,  # 0.02 suits wide models; this one is narrow and learns faster so
        use_cache=False,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3Model(config)


def run(output: str | Path = "quickstart-reward-model", seed: int | None = None) -> EvaluationReport:
    """
    Train, evaluate and score the embedded default; `rm-plugin quickstart`.

    Args:
        output (`str` or `Path`, *optional*, defaults to `"quickstart-reward-model"`):
            Folder of the reward model; its page is `quickstart.html` in there, the evaluation lies in `evaluation/`.
        seed (`int`, *optional*): of data, model and training; the recipe's if absent.

    Returns:
        [`EvaluationReport`]: of the held-out comparisons.
    """
    start, output = time.perf_counter(), Path(output)
    if output.exists() and any(output.iterdir()) and not (output / "quickstart.html").exists():
        raise ValueError(f"{output} is not empty and no earlier quickstart; name a new folder with --output")
    for part in ("start", "data", "evaluation"):
        shutil.rmtree(output / part, ignore_errors=True)
    recipe = _recipe_path()
    fields = [] if seed is None else ["--seed", str(seed)]
    seed = parse_recipe(recipe, fields)[1].seed
    (output / "data").mkdir(parents=True, exist_ok=True)
    (output / "quickstart.html").touch()
    train_rows, heldout = preference_data(seed)
    for split, rows in (("train", train_rows), ("test", heldout)):
        write_jsonl(output / "data" / f"{split}.jsonl", rows)
    tokenizer = build_tokenizer()
    build_model(tokenizer, seed).save_pretrained(output / "start")
    tokenizer.save_pretrained(output / "start")

    paths = {"model_name_or_path": output / "start", "dataset_name": output / "data", "output_dir": output}
    fields += [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    trainer = train(*parse_recipe(recipe, fields))
    history = [log for log in trainer.state.log_history if "eval_accuracy" in log]

    scorer = RewardScorer(str(output))
    rows = str(output / "data" / "test.jsonl")
    report = evaluate(scorer, source=rows, output=output / "evaluation", name="quickstart")
    examples = [ANTARCTICA, *{row["kind"]: row for row in heldout if row["kind"] != ANTARCTICA["kind"]}.values()][:6]
    happened = _what_happened(output, history, report, scorer, time.perf_counter() - start)
    write_atomically(output / "quickstart.html", _page(output, happened, history, _ranked(scorer, examples)))
    print("", *happened, "", "Next:", *(f"  {command}" for command in _next_commands(output)), sep="\n")
    return report


def _recipe_path() -> Path:
    """`quickstart.yaml` in the installed package, or at the top of the repository."""
    here = Path(__file__).resolve().parents[1]
    return next(p for p in (here / "recipes", here.parent / "recipes") if p.is_dir()) / "quickstart.yaml"


def _ranked(scorer: RewardScorer, rows: list[dict[str, Any]]) -> Table:
    """Both completions of each row with their rewards, the one that the model prefers first, and Δ of the chosen."""
    lines = []
    for row in rows:
        completions, labels = [row["chosen"], row["rejected"]], ["chosen", "rejected"]
        rewards = scorer.score([row["prompt"]] * 2, completions)
        first, second = scorer.rank(row["prompt"], completions)
        margin = f"{rewards[0] - rewards[1]:+.2f}", f"{scorer.preference(row['prompt'], *completions):.3f}"
        lines.append([row["prompt"], completions[first], labels[first], f"{rewards[first]:+.2f}", *margin])
        lines.append(["", completions[second], labels[second], f"{rewards[second]:+.2f}", "", ""])
    return Table(["prompt", "answer", "label", "r", "Δ", "σ(Δ)"], lines, num_text_columns=3)


def _what_happened(
    output: Path, history: list[dict[str, Any]], report: EvaluationReport, scorer: RewardScorer, seconds: float
) -> list[str]:
    """The run in five lines."""
    num_rows, (low, high) = len(report.results.margins), report.interval
    good, bad = scorer.score([ANTARCTICA["prompt"]] * 2, [ANTARCTICA["chosen"], ANTARCTICA["rejected"]])
    return [
        f"Trained a tiny decoder for {history[-1]['step']} steps on pairs of a chosen and a rejected answer, "
        f"{seconds:.0f} s in all: held-out loss {history[0]['eval_loss']:.3f} before (ln 2 is chance), "
        f"{history[-1]['eval_loss']:.3f} after.",
        f"On {num_rows:,} pairs with prompts not trained on, accuracy {history[0]['eval_accuracy']:.3f} before, "
        f"{report.score:.3f} [{low:.3f}, {high:.3f}] after (95 % interval).",
        f'{ANTARCTICA["prompt"]} {good:+.2f} for "{ANTARCTICA["chosen"]}", {bad:+.2f} for "{ANTARCTICA["rejected"]}"',
        f"The reward model is in {output}; rm_plugin, transformers, TRL and vLLM open it.",
        f"Its page is {output / 'quickstart.html'}, the whole report {output / 'evaluation' / 'report.html'}.",
    ]


def _next_commands(output: Path) -> list[str]:
    return [
        "rm-plugin train --config recipes/smollm2-135m-lora-cpu.yaml --dataset_name my-pairs.jsonl",
        f"rm-plugin evaluate {output} --data my-pairs.jsonl --output runs/my-pairs",
        f"rm-plugin score {output} --data texts.jsonl --output scored.jsonl",
    ]


def _page(output: Path, happened: list[str], history: list[dict[str, Any]], ranked: Table) -> str:
    steps, accuracies, losses = ([log[key] for log in history] for key in ("step", "eval_accuracy", "eval_loss"))
    accuracy = figures.line_plot(steps, accuracies, "step", "held-out accuracy", references={"chance": 0.5})
    loss = figures.line_plot(steps, losses, "step", "held-out loss", references={"chance": 0.693})
    plots = [
        (accuracy, "Held-out pairwise accuracy over training steps; 0.5 is chance."),
        (loss, "Held-out loss −log σ(Δ); ln 2 = 0.693 is chance."),
        (
            figures.bradley_terry_curve(losses),
            "The loss of one pair over its margin; dots: those of the held-out pairs.",
        ),
    ]
    what_it_is = (
        "A reward model reads a prompt and a completion and gives one number, the higher the better. It is trained on "
        "pairs of which people preferred one: with Δ = r(chosen) − r(rejected), σ(Δ) is the probability that the "
        "chosen one wins, and the loss is −log σ(Δ). Its scores choose the best of several answers, and are the "
        "reward of PPO, GRPO and RLOO."
    )
    report_link = Table(["more"], [[Link("the whole report of the held-out pairs", "evaluation/report.html")]])
    commands = Table(["command"], [[command] for command in _next_commands(output)])
    sections = [
        Section("What happened", paragraphs=[(line, "") for line in happened], tables=[report_link]),
        Section("What a reward model is", paragraphs=[(what_it_is, "")]),
        Section("What it learned", plots=plots),
        Section("Held-out answers, ranked", tables=[ranked]),
        Section("Next", tables=[commands]),
    ]
    return render_page("Quickstart: a reward model in three minutes", sections)
