"""What goes into best-of-n and what comes out: ready candidates, and the curve, pairs and winners of scored ones.

groups = read_candidates([{"prompt": "2 + 2 =", "completions": ["4", "5"], "answer": "4"}])
summarize(results)["curve"]; to_preferences(results); to_sft(results)        # results: of `best_of_n`
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from ..data.comparison import (
    LIST_COLUMNS,
    TEMPLATE_COLUMNS,
    Comparison,
    Text,
    text_key,
    to_comparison,
    to_prompt,
)
from ..messages import located

PER_COMPLETION = ("gold", "systems", "truncated")  # metadata with one value per completion
NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}])[-−])?[$€£¥]?(?P<number>(?:(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:(?:[eE]|\s?(?:×|\\times|\*)\s?10\^\{?)(?P<exponent>[+-]?\d{1,3})(?!\d))?(?:/(?P<divisor>\d+)(?![/\d]))?"
)
THIN_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,?\\[,!]|[\u2009\u202f])(?=\d{3}(?!\d))")  # LaTeX's, and narrow spaces
OF_A_LIST = re.compile(r"(?:[\s,;()\[\]{}$–-]|and|or|to)*")


@dataclass
class BestOfN:
    """One prompt with all its candidates.

    Args:
        index (`int`): position of the prompt in its list.
        prompt (`str` or `list[dict]`): the prompt.
        completions (`list`): (n,) the candidates.
        scores (`list[float]`): (n,) rewards; None for one that could not be scored.
        ranks (`list[int]`): (n,) 0 for the highest score, equal for equal scores, unscored ones last.
        best (`int`, *optional*): index of the chosen candidate, the first with rank 0; None if none is scored.
        gold (`list[float]`, *optional*): (n,) what each is truly worth, where that is known.
        truncated (`list[bool]`, *optional*): (n,) whether each was cut at the length limit, where that is known.
        systems (`list[str]`, *optional*): (n,) who wrote each, where they are not samples of one policy.
        tools (`list`, *optional*): schemas of the prompt's tools, for chat templates.
        chat_template_kwargs (`dict`, *optional*): more arguments for chat templates.
    """

    index: int
    prompt: Text
    completions: list[Text]
    scores: list[float | None]
    ranks: list[int]
    best: int | None
    gold: list[float] | None = None
    truncated: list[bool] | None = None
    systems: list[str] | None = None
    tools: list | None = None
    chat_template_kwargs: dict | None = None

    @property
    def chosen(self) -> Text | None:
        """The best candidate."""
        return None if self.best is None else self.completions[self.best]


# --- ready candidates


def read_candidates(rows: Iterable[Comparison | Mapping[str, Any]]) -> list[Comparison]:
    """
    Candidates of any generator as comparisons without ranks.

    Args:
        rows (list of `Comparison`, `dict` or vLLM's `RequestOutput`): each with a prompt (`prompt`, `messages` or
            `question`) and one of

            - `completions`, `outputs`, `choices` or `responses`: a list of texts, of message lists, or of what vLLM
              and OpenAI's protocol write (`{"text", "finish_reason"}`, `{"message": {"content"}, "finish_reason"}`);
            - `completion`: one of them; rows of one prompt (and equal tools and template variables) become one group;
            - `chosen` and `rejected`: any preference row, whose chosen ones are worth 1 and rejected ones 0 (they are
              not samples of one policy: their systems are "chosen" and "rejected").

            Besides: `gold` (list of numbers or booleans, one per candidate), `answer`, `systems` (who wrote each),
            `tools` and `chat_template_kwargs` (for the chat template).

    Returns:
        `list[Comparison]`: in `metadata` what is known of `gold`, `answer`, `truncated` and `systems` (with None for
            a completion of which it is not known).

    Raises:
        ValueError: there are no rows, one has no prompt or no completions, or rows of one prompt differ in `answer`.

    Example:
        >>> read_candidates([{"prompt": "1 + 1 =", "completion": c} for c in ("2", "3")])[0].completions
        ['2', '3']
    """
    groups: dict[str | int, Comparison] = {}
    for index, row in enumerate(rows):
        with located(f"candidates, row {index}"):
            group = _read_candidates(row)
            grows = isinstance(row, Mapping) and row.get("completion") is not None
            key = text_key([group.prompt, group.template_arguments]) if grows else index
            if key in groups:
                _extend(groups[key], group)
            else:
                groups[key] = group
    if not groups:
        raise ValueError("there are no candidates; give at least one row with prompt and completions")
    return list(groups.values())


def read_prompt(row: Text | Mapping[str, Any], index: int) -> Comparison:
    """A prompt that is still to be answered, and its answer in `metadata` where the row has one."""
    prompt = to_prompt(row, index)
    answer = row.get("answer") if isinstance(row, Mapping) else None
    prompt.metadata = {} if answer is None else {"answer": answer}
    return prompt


def _read_candidates(row: Any) -> Comparison:
    """The candidates of one row, without ranks: those are gold values."""
    if isinstance(row, Comparison):
        row, comparison = {}, copy.copy(row)
        comparison.metadata = dict(comparison.metadata or {})
    else:
        if not isinstance(row, Mapping) and hasattr(row, "outputs"):  # vLLM's RequestOutput
            row = {"prompt": row.prompt, "outputs": list(row.outputs)}
        comparison = to_comparison(row, candidates=True, allow_empty=True)
        comparison.metadata = _read_metadata(row)
    if not comparison.prompt:
        raise ValueError("there is no prompt; give it a column prompt")
    if (ranks := comparison.ranks) is not None:  # whoever wrote them, they are no samples of one policy
        best = min(ranks) if len(set(ranks)) > 1 else 0  # four wrong solutions may all have rank 1
        comparison.metadata.setdefault("systems", ["chosen" if rank == best else "rejected" for rank in ranks])
        comparison.metadata["gold"] = [float(rank == best) for rank in ranks]
        comparison.ranks = None
    n = len(comparison.completions)
    for name in PER_COMPLETION:
        values = comparison.metadata.get(name, [None] * n)
        if len(values) != n:
            raise ValueError(f"{len(values)} {name} for {n} completions; give one each")
    return comparison


def _read_metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row knows of its candidates."""
    metadata = {} if row.get("answer") is None else {"answer": row["answer"]}
    for name, column in (*zip(PER_COMPLETION, PER_COMPLETION, strict=True), ("systems", "models")):
        if (values := row.get(column)) is not None:
            metadata[name] = list(values) if isinstance(values, list) else [values]
    if "gold" in metadata:
        metadata["gold"] = [None if value is None else float(value) for value in metadata["gold"]]
    outputs = next((row[name] for name in LIST_COLUMNS if row.get(name) is not None), [row.get("completion")])
    outputs = [output if isinstance(output, Mapping) else getattr(output, "__dict__", {}) for output in outputs]
    reasons = [output.get("finish_reason") for output in outputs]
    if any(reasons):
        metadata["truncated"] = [None if reason is None else reason == "length" for reason in reasons]
    return metadata


def _extend(group: Comparison, more: Comparison) -> None:
    """Add the completions of a further row of the same prompt, and what it knows; None where a row does not know."""
    for name in (group.metadata | more.metadata).keys() & set(PER_COMPLETION):
        values = [one.metadata.get(name) or [None] * len(one.completions) for one in (group, more)]
        group.metadata[name] = values[0] + values[1]
    for name in more.metadata.keys() - set(PER_COMPLETION):
        own, other = group.metadata.setdefault(name, more.metadata[name]), more.metadata[name]
        if own != other:
            raise ValueError(f"the {name} is {other!r}, that of an earlier row of its prompt {own!r}; give one")
    group.completions += more.completions


# --- what results are worth


def answer_is_right(completion: Text, answer: Any) -> bool | None:
    """
    Whether a completion ends in the known answer: the same last number where the answer has one, the same last numbers
    where it is a list of them, else the same words; None where the answer has neither. Whole numbers are equal or not,
    others to six digits.

    Example:
        >>> answer_is_right("2 + 2 = 4, so the answer is $4.00.", "#### 4"), answer_is_right("It is Paris.", "paris")
        (True, True)
        >>> answer_is_right("from 2010-2014", "2014"), answer_is_right("2,3", "23"), answer_is_right("1e5", "5")
        (True, False, False)
    """
    text = completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
    numbers, truths = _numbers(text), _numbers(str(answer))
    if truths:
        is_list = OF_A_LIST.fullmatch(NUMBER.sub("", str(answer)))
        truths = truths if is_list else truths[-1:]
        numbers = numbers[-len(truths) :]
        return len(numbers) == len(truths) and all(map(_same_number, numbers, truths))
    words = _words(str(answer))
    return _words(text)[-len(words) :] == words if words else None


def _same_number(a: Decimal | None, b: Decimal | None) -> bool:
    if a is None or b is None:
        return False
    whole = a == a.to_integral_value() or b == b.to_integral_value()
    return a == b if whole else math.isclose(a, b, rel_tol=1e-6)


def _numbers(text: str) -> list[Decimal | None]:
    """
    The numbers of a text: `1,234.5`, `-3`, `1e5`, `3/4` or `\\frac{3}{4}`; None for a division by 0. No sign is a
    hyphen after a word.
    """
    text = re.sub(r"\\[dt]?frac(?:\{([^{}]*)\}\{([^{}]*)\}|(\d)(\d))", r"\1\3/\2\4", THIN_THOUSANDS.sub("", text))
    text = re.sub(r"\d+/\d+/(?=\d)", " ", text)  # of a date, the year
    numbers: list[Decimal | None] = []
    for match in NUMBER.finditer(text):
        value = Decimal(f"{match['number'].replace(',', '')}e{match['exponent'] or 0}")
        value = value.copy_negate() if match["sign"] else value
        divisor = Decimal(match["divisor"] or 1)
        numbers.append(value if divisor == 1 else value / divisor if divisor else None)
    return numbers


def _words(text: str) -> list[str]:
    """Words, and where a script writes no spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) characters."""
    alone = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
    return re.findall(rf"[{alone}]|[^\W{alone}]+", text.lower())


def summarize(results: Sequence[BestOfN], num_samples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """
    What choosing by the reward brings.

    For n independent samples of one policy this is a curve over n, unbiased (every subset of the samples counts). For
    candidates of several systems, or of preference rows, there is no policy and no KL: the best of all candidates is
    one number.

    Args:
        results (list of [`BestOfN`]): from [`best_of_n`].
        num_samples (`int`, *optional*, defaults to `10_000`): draws of the bootstrap over prompts.
        seed (`int`, *optional*, defaults to `0`): seed of the draws.

    Returns:
        `dict`: `num_prompts`, `num_completions`, `num_unscored`, `num_tied_prompts` (all scores equal),
        `duplicate_rate` (candidates equal to an earlier one of their prompt), `truncated_rate` (None if unknown) and

        - `curve` with lists `n`, `kl_bound` (nats), `reward`, and where gold values are known `gold`, `gold_low`,
          `gold_high` (95 %), `gain` (over n = 1), `oracle` (best of n by the gold value) and `regret` (oracle − gold);
        - or `best_of` with `n`, `reward`, `gold`, `gold_low`, `gold_high`, `random` (mean gold value), `gain`,
          `oracle`, `regret`.

        Left out of both (`num_prompts_left_out`) are prompts with an unscored candidate, and where gold values are
        known of some, those without. The curve goes as far as the prompt with the fewest candidates. Intervals are
        over prompts, equal ones together.

    Source: Nakano et al. 2021 (WebGPT), appendix I; Beirami et al. 2024 for the bound.
    """
    from ..metrics.ranking import best_of_n_curve, best_of_n_kl_bound
    from ..metrics.statistics import Bootstrap

    def interval(values: Sequence[float]) -> dict[str, float | None]:
        clusters = [text_key(result.prompt) for result in whole]
        mean = Bootstrap(values, clusters=clusters, num_samples=num_samples, seed=seed).estimate()
        is_right_or_wrong = set(values) <= {0.0, 1.0}
        low, high = mean.share_interval() if is_right_or_wrong else mean.interval()
        return {"gold_low": low, "gold_high": high}

    completions = [score for result in results for score in result.scores]
    duplicates = sum(len(r.completions) - len(set(map(text_key, r.completions))) for r in results)
    truncated = [flag for result in results for flag in result.truncated or [] if flag is not None]
    summary: dict[str, Any] = {
        "num_prompts": len(results),
        "num_completions": len(completions),
        "num_unscored": completions.count(None),
        "num_tied_prompts": sum(len(r.completions) > 1 and set(r.ranks) == {0} for r in results),
        "duplicate_rate": duplicates / max(len(completions), 1),
        "truncated_rate": sum(truncated) / len(truncated) if truncated else None,
    }
    with_gold = [r for r in results if r.gold is not None and None not in r.gold]
    has_gold = bool(with_gold)
    whole = [r for r in (with_gold if has_gold else results) if None not in r.scores]
    summary["num_prompts_left_out"] = len(results) - len(whole)
    if not whole:
        return summary
    proxy = [result.scores for result in whole]
    gold = [result.gold for result in whole] if has_gold else None
    if any(len(set(result.systems or [])) > 1 for result in whole):
        best = {"n": max(map(len, proxy)), "reward": float(np.mean([max(scores) for scores in proxy]))}
        if gold is not None:
            values = [_gold_of_best(scores, g) for scores, g in zip(proxy, gold, strict=True)]
            mean, random, oracle = (
                float(np.mean(v)) for v in (values, [np.mean(g) for g in gold], list(map(max, gold)))
            )
            best |= {"gold": mean, **interval(values), "random": random, "gain": mean - random}
            best |= {"oracle": oracle, "regret": oracle - mean}
        return summary | {"best_of": best}
    by_reward = best_of_n_curve(proxy, proxy)
    curve = {
        "n": by_reward["n"],
        "kl_bound": [best_of_n_kl_bound(n) for n in by_reward["n"]],
        "reward": by_reward["value"],
    }
    if gold is not None:
        by_gold, oracle = best_of_n_curve(proxy, gold, curve["n"]), best_of_n_curve(gold, gold, curve["n"])["value"]
        ends = [interval(values) for values in by_gold["per_prompt"]]
        curve["gold"] = by_gold["value"]
        curve |= {name: [one[name] for one in ends] for name in ("gold_low", "gold_high")}
        curve["gain"] = [value - by_gold["value"][0] for value in by_gold["value"]]
        curve["oracle"] = oracle
        curve["regret"] = [best - value for best, value in zip(oracle, by_gold["value"], strict=True)]
    return summary | {"curve": curve}


def print_summary(summary: Mapping[str, Any]) -> None:
    """The metrics of [`summarize`] in a few lines."""
    rates = [f"{100 * summary['duplicate_rate']:.1f} % duplicates"]
    if summary["truncated_rate"] is not None:
        rates.append(f"{100 * summary['truncated_rate']:.1f} % cut at the length limit")
    for name, words in (("num_unscored", "not scored"), ("num_tied_prompts", "prompts with equal scores only")):
        rates += [f"{summary[name]} {words}"] if summary[name] else []
    if summary["num_prompts_left_out"]:
        rates.append(f"{summary['num_prompts_left_out']} prompts left out of what follows")
    print(f"{summary['num_completions']} completions of {summary['num_prompts']} prompts: {', '.join(rates)}")
    if "best_of" in summary:
        best = summary["best_of"]
        print(f"best of {best['n']} (not samples of one policy, so one number): reward {best['reward']:.3f}")
        rows = [best]
    elif "curve" in summary:
        curve = summary["curve"]
        rows = [dict(zip(curve, values, strict=True)) for values in zip(*curve.values(), strict=True)]
    else:
        rows = []
    for row in rows:
        line = f"  n = {row['n']:<4d}"
        if "kl_bound" in row:
            line += f" KL ≤ {row['kl_bound']:.2f} nats, reward {row['reward']:.3f}" + ("," if "gold" in row else "")
        if "gold" in row:
            ends = "" if row["gold_low"] is None else f" [{row['gold_low']:.3f}, {row['gold_high']:.3f}]"
            line += f" gold {row['gold']:.3f}{ends}, gain {row['gain']:+.3f}, regret {row['regret']:.3f}"
        if "kl_bound" in row or "gold" in row:
            print(line)


def to_preferences(results: Iterable[BestOfN]) -> list[dict[str, Any]]:
    """
    Best-versus-worst pairs, as DPO and reward trainers take them.

    A prompt whose candidates all score alike, or whose best and worst differ in white space only, gives no pair; equal
    pairs are given once; empty completions are left out.

    Args:
        results (list of [`BestOfN`]): from [`best_of_n`].

    Returns:
        `list[dict]`: rows with `prompt`, `chosen`, `rejected`, `score_chosen`, `score_rejected`, and what of `tools`
            and `chat_template_kwargs` the prompt has.
    """
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        texts = zip(result.scores, result.completions, strict=True)
        scored = [(score, -i) for i, (score, text) in enumerate(texts) if score is not None and _stripped(text)]
        if not scored:
            continue
        (high, first), (low, last) = max(scored), min(scored)
        chosen, rejected = result.completions[-first], result.completions[-last]
        if high > low and _stripped(chosen) != _stripped(rejected):
            row = {"prompt": result.prompt, "chosen": chosen, "rejected": rejected, **_template_columns(result)}
            rows.setdefault(text_key([*row.values()]), {**row, "score_chosen": high, "score_rejected": low})
    return list(rows.values())


def to_sft(results: Iterable[BestOfN]) -> list[dict[str, Any]]:
    """
    The winners, as SFT takes them (rejection sampling); empty and equal ones are left out.

    Args:
        results (list of [`BestOfN`]): from [`best_of_n`].

    Returns:
        `list[dict]`: rows with `prompt`, `completion`, `score`, and what of `tools` and `chat_template_kwargs` the
            prompt has.
    """
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        if result.best is not None and _stripped(result.chosen):
            row = {"prompt": result.prompt, "completion": result.chosen, **_template_columns(result)}
            rows.setdefault(text_key([*row.values()]), {**row, "score": result.scores[result.best]})
    return list(rows.values())


# --- helpers


def _template_columns(result: BestOfN) -> dict[str, Any]:
    return {name: value for name in TEMPLATE_COLUMNS if (value := getattr(result, name)) is not None}


def _gold_of_best(scores: Sequence[float], gold: Sequence[float]) -> float:
    """Mean gold value of the candidates that share the highest score."""
    return float(np.mean([g for score, g in zip(scores, gold, strict=True) if score == max(scores)]))


def _stripped(text: Text) -> Any:
    if isinstance(text, str):
        return text.strip()
    contents = [message.get("content") for message in text]
    return [content.strip() if isinstance(content, str) else content for content in contents if content]
