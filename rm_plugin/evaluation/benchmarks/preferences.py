"""Human (and GPT-4) preferences with a test split, scored by accuracy over their pairs; and any preference data.

HH-RLHF (Bai et al. 2022), UltraFeedback binarized (Tunstall et al. 2023), HelpSteer2 and 3 (Wang et al. 2024, 2025),
SHP (Ethayarajh et al. 2022), Summarize from feedback (Stiennon et al. 2020), PKU-SafeRLHF (Ji et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby, zip_longest

from ...data.comparison import HH_ASSISTANT, Comparison, to_comparison
from ...messages import check_choice
from .base import Benchmark, Part, Row, plain_messages, preferred


def hh_rlhf(row: Row, origin: str) -> Comparison:
    """
    HH-RLHF: two transcripts, split at the last reply. Where the prompts differ there is no prompt, and the completions
    are the whole transcripts. An empty reply is compared like any other.
    """
    columns = ("chosen", "rejected")
    for column in columns:
        if row[column].find(HH_ASSISTANT) < 0:
            raise ValueError(f"{column!r} has no {HH_ASSISTANT!r}; give HH-RLHF transcripts")
    return to_comparison({column: row[column] for column in columns}, allow_empty=True)


def ultrafeedback(row: Row, origin: str) -> Comparison | None:
    """UltraFeedback binarized: whole conversations; equal scores are no preference."""
    sides = {column: plain_messages(row[column]) for column in ("chosen", "rejected")}
    if row["score_chosen"] == row["score_rejected"]:
        return None
    return to_comparison({**sides, "id": row.get("prompt_id")}, allow_empty=True)


def pair_up(rows: Iterable[Row]) -> Iterator[Row]:
    """HelpSteer2's rows are single responses; two neighbours with one prompt are a pair, `second` in the first."""
    for _, neighbours in groupby(rows, key=lambda row: row.get("prompt") or object()):
        responses = list(neighbours)
        for first, second in zip_longest(responses[::2], responses[1::2]):
            yield Row(first, second=second)


def helpsteer2(row: Row, origin: str) -> Comparison | None:
    """HelpSteer2: the more helpful of the two responses; equally helpful is no preference."""
    prompt, second = row["prompt"], row.get("second")
    if second is None:
        raise ValueError("no neighbour has the same prompt, HelpSteer2's rows come in twos; give the whole file")
    return preferred(prompt, row["response"], second["response"], row["helpfulness"] - second["helpfulness"])


def helpsteer3(row: Row, origin: str) -> Comparison | None:
    """HelpSteer3: `overall_preference` from -3 (response 1 much better) to 3; 0 is no preference."""
    prompt = row["context"]
    prompt = prompt if isinstance(prompt, str) else plain_messages(prompt)
    by = -row["overall_preference"]
    return preferred(prompt, row["response1"], row["response2"], by, subset=row.get("domain"))


def shp(row: Row, origin: str) -> Comparison | None:
    """
    SHP: two comments on a Reddit post; label 1 means that A is preferred. Less than twice the votes is no preference:
    the filter that the card recommends and SteamSHP used.
    """
    check_choice("labels", row["labels"], (0, 1))
    by = 0 if row["score_ratio"] < 2 else 1 if row["labels"] == 1 else -1
    key = "/".join(str(row[key]) for key in ("post_id", "c_root_id_A", "c_root_id_B") if row.get(key)) or None
    subset = re.sub("_(train|validation|test)$", "", row["domain"])
    return preferred(row["history"], row["human_ref_A"], row["human_ref_B"], by, id=key, subset=subset)


def summarize_from_feedback(row: Row, origin: str) -> Comparison:
    """
    Summarize from feedback, `comparisons`: two summaries of a Reddit post (or a news article), and the choice. The
    prompts are those of the paper's code.
    """
    info, (first, second) = Row(row["info"]), (summary["text"] for summary in row["summaries"])
    if info.get("post"):
        subset = "tldr"
        prompt = f"SUBREDDIT: r/{info['subreddit']}\n\nTITLE: {info['title']}\n\nPOST: {info['post']}\n\nTL;DR:"
    else:
        subset, prompt = "cnndm", f"Article:\n{info['article']}\n\nTL;DR:\n"
    check_choice("choice", row["choice"], (0, 1))
    return preferred(prompt, first, second, 1 if row["choice"] == 0 else -1, subset=subset)


def pku_saferlhf(row: Row, origin: str, column: str) -> Comparison | None:
    """PKU-SafeRLHF by helpfulness, or by harmlessness, which may prefer the other response."""
    check_choice(column, row[column], (0, 1))
    by = 1 if row[column] == 0 else -1
    conflict = {"conflict": row["better_response_id"] != row["safer_response_id"]}
    return preferred(row["prompt"], row["response_0"], row["response_1"], by, metadata=conflict)


def preference(row: Row, origin: str) -> Comparison | None:
    """Any preference row that `data.comparison` reads."""
    comparison = to_comparison(dict(row), allow_empty=True)
    return comparison if comparison.pairs() else None


# Revisions: full commit hashes that a public source gives; everything else is unpinned.
# huggingface.co/datasets/Anthropic/hh-rlhf/tree/09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa
HH = Part("Anthropic/hh-rlhf", "test", "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa")
# huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized/resolve/3949bf5f8c17c394422ccfab0c31ea9c20bdeb85
ULTRAFEEDBACK = "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85"
# huggingface.co/datasets/nvidia/HelpSteer2/tree/990b2711a36180dd19d9c94b8627844866f8982a
HELPSTEER2 = "990b2711a36180dd19d9c94b8627844866f8982a"
# huggingface.co/datasets/nvidia/HelpSteer3/tree/f6d145777bcbde96137596340fab89793acd1031
HELPSTEER3 = "f6d145777bcbde96137596340fab89793acd1031"
# huggingface.co/datasets/stanfordnlp/SHP/tree/0f0687d3379d3ac0c7dbd5020c9472fae0cb5cca: the one upload of data.
SHP = "0f0687d3379d3ac0c7dbd5020c9472fae0cb5cca"
# The original is a loading script, which datasets >= 4 refuses; the hub's own conversion is on this branch.
SUMMARIZE = Part("openai/summarize_from_feedback", "validation", "refs/convert/parquet", data_dir="comparisons")

PKU = Benchmark(
    partial(pku_saferlhf, column="better_response_id"),
    parts=(Part("PKU-Alignment/PKU-SafeRLHF", "test"),),
    licence="cc-by-nc-4.0",
    num_rows=8211,
    notes="by helpfulness",
)
BENCHMARKS = {
    "hh-rlhf-helpful": Benchmark(hh_rlhf, parts=(replace(HH, data_dir="helpful-base"),), licence="mit", num_rows=2354),
    "hh-rlhf-harmless": Benchmark(
        hh_rlhf,
        parts=(replace(HH, data_dir="harmless-base"),),
        licence="mit",
        num_rows=2312,
        notes="5 prompts differ (whole transcripts are compared), 4 replies are empty",
    ),
    "ultrafeedback-binarized": Benchmark(
        ultrafeedback,
        parts=(Part("HuggingFaceH4/ultrafeedback_binarized", "test_prefs", ULTRAFEEDBACK),),
        licence="mit",
        num_rows=2000,
        notes="equal scores are no preference",
    ),
    "helpsteer2": Benchmark(
        helpsteer2,
        parts=(Part("nvidia/HelpSteer2", "validation", HELPSTEER2),),
        licence="cc-by-4.0",
        num_rows=1038,
        regroup=pair_up,
        notes="two neighbouring rows are one pair; equal helpfulness is no preference",
    ),
    "helpsteer3": Benchmark(
        helpsteer3,
        parts=(Part("nvidia/HelpSteer3", "validation", HELPSTEER3, config="preference"),),
        licence="cc-by-4.0",
        num_rows=2017,
        notes="an overall preference of 0 is no preference",
    ),
    "shp": Benchmark(
        shp,
        parts=(Part("stanfordnlp/SHP", "test", SHP),),
        num_rows=18409,
        notes="a score_ratio below 2 is no preference",
    ),
    "summarize-from-feedback": Benchmark(summarize_from_feedback, parts=(SUMMARIZE,), num_rows=86086),
    "pku-saferlhf-better": PKU,
    "pku-saferlhf-safer": replace(
        PKU,
        row=partial(pku_saferlhf, column="safer_response_id"),
        notes="by harmlessness, which may contradict helpfulness",
    ),
    "preference": Benchmark(preference),
}
