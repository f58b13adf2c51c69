"""RM-Bench (Liu et al. 2024, arXiv 2410.16184): three styles of a right answer against three styles of a wrong one.

matrix[i, j] = share of prompts whose right answer in style i scores higher than the wrong one in style j
hard = mean above the diagonal (plain right answer against fancy wrong one), normal = diagonal, easy = below
score = mean over four domains of the mean of hard, normal and easy
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...data.comparison import Comparison
from .base import Benchmark, Item, Means, Part, Row, Scored, average, text_list

STYLES = ("concise", "detailed", "markdown")
DOMAINS = {
    "chat": "chat",
    "code": "code",
    "math": "math",
    "safety-refuse": "safety",  # both halves together
    "safety-response": "safety",
}
CELLS = [(i, j) for i in range(3) for j in range(3)]
DIFFICULTIES = {
    "hard": [(i, j) for i, j in CELLS if i < j],
    "normal": [(i, j) for i, j in CELLS if i == j],
    "easy": [(i, j) for i, j in CELLS if i > j],
}


def rm_bench(row: Row, origin: str) -> Comparison:
    """Three styles right, three wrong. Only total_dataset.json has a domain, else the file name says it."""
    domain = row.get("domain") or origin.removesuffix("_filtered")
    if domain not in DOMAINS:
        found = f"there is no 'domain', and {origin or 'the source'!r} is none of {', '.join(DOMAINS)}"
        raise ValueError(f"{found}; keep the original file name, or give the domain as subset=")
    chosen, rejected = (text_list(row, column, len(STYLES)) for column in ("chosen", "rejected"))
    return Comparison(row["prompt"], chosen=chosen, rejected=rejected, id=f"{domain}/{row['id']}", subset=domain)


def cell(domain: str, i: int, j: int) -> str:
    """Group of one cell of a domain's matrix."""
    return f"{domain}/{STYLES[i]}>{STYLES[j]}"


def rm_bench_items(scored: Sequence[Scored]) -> list[Item]:
    """Nine items per comparison, one for each cell of the matrix."""
    return [
        Item(comparison, cell(DOMAINS[comparison.subset], i, j), float(scores[i] > scores[len(STYLES) + j]))
        for comparison, scores in scored
        for i, j in CELLS
    ]


def rm_bench_formula(means: Means) -> dict[str, Any]:
    """Each domain at each difficulty, each domain, each difficulty, and the mean of the domains."""
    domains = [domain for domain in dict.fromkeys(DOMAINS.values()) if cell(domain, 0, 0) in means]
    sections: dict[str, Any] = {}
    for domain in domains:
        for difficulty, cells in DIFFICULTIES.items():
            sections[f"{domain}/{difficulty}"] = average(means, [cell(domain, i, j) for i, j in cells])
        sections[domain] = average(sections, [f"{domain}/{difficulty}" for difficulty in DIFFICULTIES])
    for difficulty in DIFFICULTIES:
        sections[difficulty] = average(sections, [f"{domain}/{difficulty}" for domain in domains])
    return {"score": average(sections, domains), **sections}


def level(name: str) -> str:
    if ">" in name:
        return "styles"
    return "domain and difficulty" if "/" in name else "difficulty" if name in DIFFICULTIES else "domain"


BENCHMARKS = {
    "rm-bench": Benchmark(
        rm_bench,
        formula=rm_bench_formula,
        items=rm_bench_items,
        level=level,
        parts=(Part("THU-KEG/RM-Bench", "train"),),
        licence="odc-by",
        num_rows=1327,
        subsets=tuple(DOMAINS),
        subset_in_file_name=True,
        whole="total_dataset.json",
        notes="mean over chat, code, math and safety of hard, normal and easy",
    ),
}
