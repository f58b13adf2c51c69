"""Which model fits which card: the plan of every GPU recipe, into its header and into docs/which-card.md.

    python benchmarks/plan_recipes.py

Models that lie in benchmarks/configs are read from there, so that no hub is needed.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from rm_plugin.commands.plan import parse_gpu, plan_recipe, verdict
from rm_plugin.training.memory import CONTEXT, GB, MemoryPlan

ROOT = Path(__file__).resolve().parents[1]
HEADER = re.compile(r"^# [Pp]lanned[^\n]*\n(#   [^\n]*\n)?", re.MULTILINE)
PAGE = """\
# Which model fits my card

Made by `python benchmarks/plan_recipes.py`; nothing here was measured on a GPU. `rm-plugin plan --config RECIPE
--gpu 12GB` says the same of any recipe, with any field changed; it reads no weights.

| card | recipe | method | tokens per text | tokens per micro-batch | planned | most tokens that leave 10 % |
|---|---|---|---|---|---|---|
{rows}

The plan runs the trainer's own step on tensors without data and counts what lives at its peak, at the longest
micro-batch of pairs that the recipe allows; a row of K completions, which is computed whole, may need K/2 times the
tokens of a pair. To that it adds {context:.1f} GB for the CUDA context (0.3 to 0.4 GB in PyTorch's issues 107667 and
109888, the rest for workspaces of cuBLAS and bitsandbytes) and 5 % for fragmentation; the error bar is that of
these two. It counts a CPU's attention, which computes in float32, and
the reference form of linear attention: an upper bound of what a GPU with its own kernels uses. A card's GB are
2³⁰ bytes.

Where memory runs out, in this order: lower `max_tokens_per_microbatch` (the gradients stay the same) down to
the longest pair, then `max_length`, then take `load_in_4bit: true`, then a smaller model.
`gradient_checkpointing: true` is TRL's default; without it a step is faster and takes several times the memory.

`rm-plugin train` prints one line of the plan where it sees a GPU, and stops before any download where even the
lower end of the error bar is more than the card has (`--force` trains anyway).
"""


def main() -> None:
    rows = []
    for path in sorted(ROOT.glob("recipes/*gb.yaml"), key=lambda path: (card_of(path), path.name)):
        recipe, card = yaml.safe_load(path.read_text(encoding="utf-8")), card_of(path)
        local = ROOT / "benchmarks" / "configs" / recipe["model_name_or_path"]
        words = ["--model_name_or_path", str(local)] if local.exists() else []
        plan = plan_recipe(path, words)
        line = f"# Planned, not measured (benchmarks/plan_recipes.py):\n#   {said(plan, card)}\n"
        text = HEADER.sub(line, path.read_text(encoding="utf-8"), count=1)
        path.write_text(text, encoding="utf-8")
        method = "QLoRA (NF4)" if recipe.get("load_in_4bit") else "LoRA" if recipe.get("use_peft") else "full"
        total = f"{plan.total / GB:.1f} ± {plan.error / GB:.1f} GB"
        cells = [f"{card / GB:.0f} GB", f"[{path.stem}](../recipes/{path.name})", method, f"{recipe['max_length']:,}"]
        cells += [f"{plan.tokens:,}", total, f"{plan.max_tokens(card):,}"]
        rows.append(f"| {' | '.join(cells)} |")
        print(path.name, said(plan, card), flush=True)
    page = PAGE.format(rows="\n".join(rows), context=CONTEXT / GB)
    (ROOT / "docs" / "which-card.md").write_text(page, encoding="utf-8")


def card_of(path: Path) -> float:
    """Bytes of the card that a recipe is named after."""
    return parse_gpu(path.stem.rsplit("-", 1)[1])


def said(plan: MemoryPlan, card: float) -> str:
    return verdict(plan, card).removeprefix("planned: ")


if __name__ == "__main__":
    main()
