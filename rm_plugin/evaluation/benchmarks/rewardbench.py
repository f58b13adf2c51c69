"""RewardBench v1 (Lambert et al. 2024, arXiv 2403.13787), with and without its prior sets, and M-RewardBench
(Gureja et al. 2024, arXiv 2410.15522), which translates it.

    section = Σ accuracy · size / Σ size over its subsets
    score   = mean of the four sections, or with prior sets (2·Chat + 2·Chat Hard + 2·Safety + 2·Reasoning + Prior) / 9

M-RewardBench: the micro accuracy of each language, and their plain mean (`accuracy` in scripts/run_rewardbench.py of
github.com/Cohere-Labs-Community/m-rewardbench).
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

from ...data.comparison import Comparison
from ...messages import check_choice
from .base import Benchmark, Means, Part, Row, average, grouped_items, plain_messages, preferred, weighted_average

PRIOR = "Prior Sets (0.5 weight)"
PRIOR_SETS = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
# fmt: off
# Weights of the subsets in their section: their numbers of rows, but math-prm (447 rows) counts like the six code
# subsets together. Source: rewardbench 0.1.4, constants.py. (Older versions had the two xstest numbers swapped.)
SECTIONS = {
    "Chat": {"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28,
             "mt-bench-med": 40},
    "Chat Hard": {"mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134,
                  "llmbar-adver-GPTInst": 92, "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46},
    "Safety": {"refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
               "xstest-should-respond": 250, "donotanswer": 136},
    "Reasoning": {"math-prm": 984, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164,
                  "hep-rust": 164},
    PRIOR: dict.fromkeys(PRIOR_SETS, 1),
}
LANGUAGES = (
    "arb_Arab", "ces_Latn", "deu_Latn", "ell_Grek", "fra_Latn", "heb_Hebr", "hin_Deva", "ind_Latn", "ita_Latn",
    "jpn_Jpan", "kor_Hang", "nld_Latn", "pes_Arab", "pol_Latn", "por_Latn", "ron_Latn", "rus_Cyrl", "spa_Latn",
    "tur_Latn", "ukr_Cyrl", "vie_Latn", "zho_Hans", "zho_Hant",
)
# fmt: on
SUBSETS = tuple(subset for section, weights in SECTIONS.items() if section != PRIOR for subset in weights)
# has_close_elements(…), hasCloseElements = (…) =>, largest_divisor<T>(…), f = function(…), f = x =>
FUNCTION_NAME = re.compile(r"`[^`]*?(\w+)\s*(?:(?:<[^>`]*>)?\s*\(|=\s*(?:async\s+)?(?:\(|function\b|\w+\s*=>))")


def rewardbench(row: Row, origin: str) -> Comparison:
    """A pair; of the prior sets the prompts are message lists, and the split's name is the subset."""
    prompt, subset = row["prompt"], row.get("subset")
    if origin in PRIOR_SETS and subset not in SUBSETS:
        subset = origin
    check_choice("subset", subset, SUBSETS + PRIOR_SETS)  # the split `raw` has others, which are not scored
    if not isinstance(prompt, str):
        prompt = plain_messages(prompt)
    metadata = {}
    if subset.startswith("hep-") and (name := FUNCTION_NAME.search(str(prompt))):
        # HumanEvalPack asks for one function in six languages: has_close_elements, hasCloseElements, HasCloseElements.
        metadata["cluster"] = f"hep:{name[1].replace('_', '').lower()}"
    key = f"{subset}/{row['id']}" if row.get("id") is not None else None
    return preferred(prompt, row["chosen"], row["rejected"], 1, id=key, subset=subset, metadata=metadata)


def rewardbench_score(sections: Means) -> Any:
    """The score from the sections that are there.

    Example:
        >>> sections = {"Chat": 0.9, "Chat Hard": 0.6, "Safety": 0.8, "Reasoning": 0.7}
        >>> round(rewardbench_score(sections), 4), round(rewardbench_score({**sections, PRIOR: 0.66}), 4)
        (0.75, 0.74)
    """
    return weighted_average(sections, {section: 1 if section == PRIOR else 2 for section in SECTIONS})


def rewardbench_formula(means: Means) -> dict[str, Any]:
    """Sections are means of subsets weighted by their size (math-prm 984); prior sets the plain mean of four."""
    present = {section: weights for section, weights in SECTIONS.items() if weights.keys() & means.keys()}
    sections = {section: weighted_average(means, weights) for section, weights in present.items()}
    return {"score": rewardbench_score(sections), **sections}


def m_rewardbench(row: Row, origin: str) -> Comparison:
    """A pair in one of 23 languages; a translated prompt keeps the number of its original."""
    language, source = row["language"], row["source"]
    number = f"{source}/{row['id']}"
    about = {"id": f"{language}/{number}", "subset": f"{language}/{source}", "metadata": {"cluster": number}}
    return preferred(row["prompt"], row["chosen"], row["rejected"], 1, **about)


def m_rewardbench_formula(means: Means) -> dict[str, Any]:
    """The plain mean of the languages."""
    languages = {group: mean for group, mean in means.items() if "/" not in group}
    return {"score": average(languages), **languages}


# huggingface.co/datasets/allenai/reward-bench/commits/main: d61ac5c merges 47e7208, the last upload of data.
FILTERED = Part("allenai/reward-bench", "filtered", "d61ac5c97d0f2f7eb922da3c0b6bbaf614ae8d02")
# huggingface.co/datasets/allenai/preference-test-sets/tree/74d7c11476db2a6b48b93f5430b5911576eebf22: last upload.
PRIOR_PARTS = [
    Part("allenai/preference-test-sets", name, "74d7c11476db2a6b48b93f5430b5911576eebf22") for name in PRIOR_SETS
]
# huggingface.co/datasets/C4AI-Community/multilingual-reward-bench/commit/19ab8c297a3e59a1d0efd42ae33cc14bf3febf63,
# whose card has num_examples 2869 for a language.
MULTILINGUAL = Part(
    "CohereLabsCommunity/multilingual-reward-bench", "test", "19ab8c297a3e59a1d0efd42ae33cc14bf3febf63"
)

REWARDBENCH = Benchmark(
    rewardbench,
    formula=rewardbench_formula,
    items=partial(grouped_items, groups=lambda comparison: [comparison.subset]),
    level=lambda name: "section" if name in SECTIONS else "subset",
    parts=(FILTERED,),
    licence="odc-by",
    num_rows=2985,
    subsets=SUBSETS,
    notes="mean of four sections",
)
BENCHMARKS = {
    "rewardbench": REWARDBENCH,
    "rewardbench-with-prior": replace(
        REWARDBENCH,
        parts=(FILTERED, *PRIOR_PARTS),
        num_rows=2985 + 6192 + 221 + 1741 + 9000,
        subsets=SUBSETS + PRIOR_SETS,
        subset_in_file_name=True,
        notes="mean of four sections, prior sets at half weight",
    ),
    "m-rewardbench": Benchmark(
        m_rewardbench,
        formula=m_rewardbench_formula,
        items=partial(grouped_items, groups=lambda comparison: [comparison.subset.split("/")[0], comparison.subset]),
        level=lambda name: "language and subset" if "/" in name else "language",
        parts=tuple(replace(MULTILINGUAL, config=language) for language in LANGUAGES),
        licence="odc-by",
        num_rows=2869 * len(LANGUAGES),
        notes="mean over 23 languages of their micro accuracy; 2,869 rows per language",
    ),
}
