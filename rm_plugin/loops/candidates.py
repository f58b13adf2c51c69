"""What goes into best-of-n and what comes out: ready candidates, and the curve, pairs and winners of scored ones.

groups = read_candidates([{"prompt": "2 + 2 =", "completions": ["4", "5"], "answer": "4"}])
summarize(results)["curve"]; to_preferences(results); to_sft(results)        # of a BestOfNSampler
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..data.comparison import LIST_COLUMNS, TEMPLATE_COLUMNS, Comparison, Text, fields_of, text_key, to_comparison
from ..evaluation.page import Table, number
from ..messages import located
from ..metrics.ranking import best_of_n_curve
from ..metrics.statistics import Bootstrap

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
        `list[Comparison]`: in `metadata` the `answer` and the lists `gold`, `truncated` and `systems`, with None for
            what is not known.

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
            first = groups.setdefault(key, group)
            if first is not group:
                _extend(first, group)
    if not groups:
        raise ValueError("there are no candidates; give at least one row with prompt and completions")
    return list(groups.values())


def _read_candidates(row: Any) -> Comparison:
    """The candidates of one row, without ranks, which become gold values."""
    if isinstance(row, Comparison):
        comparison, row = copy.copy(row), row.metadata or {}
    else:
        if not isinstance(row, Mapping) and hasattr(row, "outputs"):  # vLLM's RequestOutput
            row = {"prompt": row.prompt, "outputs": list(row.outputs)}
        comparison = to_comparison(row, candidates=True, allow_empty=True)
    if not comparison.prompt:
        raise ValueError("there is no prompt; give it a column prompt")
    known = {name: row.get(name) for name in PER_COMPLETION}
    outputs = next((row[name] for name in LIST_COLUMNS if row.get(name) is not None), [row.get("completion")])
    if any(reasons := [fields_of(output).get("finish_reason") for output in outputs]):
        known["truncated"] = [None if reason is None else reason == "length" for reason in reasons]
    if (ranks := comparison.ranks) is not None:  # whoever wrote them, they are no samples of one policy
        best = min(ranks) if len(set(ranks)) > 1 else 0  # four wrong solutions may all have rank 1
        known["systems"] = known["systems"] or ["chosen" if rank == best else "rejected" for rank in ranks]
        known["gold"] = [rank == best for rank in ranks]
    n = len(comparison.completions)
    for name, values in known.items():
        known[name] = [None] * n if values is None else values if isinstance(values, list) else [values]
        if len(known[name]) != n:
            raise ValueError(f"{len(known[name])} {name} for {n} completions; give one each")
    known["gold"] = [None if value is None else float(value) for value in known["gold"]]
    if not all(value is None or math.isfinite(value) for value in known["gold"]):
        raise ValueError(f"gold is {known['gold']}; give finite numbers")
    comparison.ranks, comparison.metadata = None, {"answer": row.get("answer"), **known}
    return comparison


def _extend(group: Comparison, more: Comparison) -> None:
    """Add the completions of a further row of the same prompt, and what it knows."""
    own, other = group.metadata, more.metadata
    if None not in (own["answer"], other["answer"]) and own["answer"] != other["answer"]:
        raise ValueError(
            f"the answer is {other['answer']!r}, that of an earlier row of its prompt {own['answer']!r}; give one"
        )
    own["answer"] = other["answer"] if own["answer"] is None else own["answer"]
    for name in PER_COMPLETION:
        own[name] += other[name]
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
    text = completion if isinstance(completion, str) else completion[-1]["content"]
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
    The numbers of a text: `1,234.5`, `-3`, `1e5`, `3/4` or `\\frac{3}{4}`; None for a division by 0. A hyphen
    after a word is no sign.
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
        results (list of [`BestOfN`]): from [`BestOfNSampler`].
        num_samples (`int`, *optional*, defaults to `10_000`): draws of the bootstrap over prompts.
        seed (`int`, *optional*, defaults to `0`): seed of the draws.

    Returns:
        `dict`: `num_prompts`, `num_completions`, `num_unscored`, `num_tied_prompts` (all scores equal),
        `duplicate_rate` (candidates equal to an earlier one of their prompt), `truncated_rate` (None if unknown) and

        - `curve` with lists `n`, `kl_bound` (nats), `reward`, and where gold values are known `gold`, `gold_low`,
          `gold_high` (95 %), `gain` (over n = 1), `oracle` (best of n by the gold value) and `regret` (oracle − gold);
        - or `best_of` with `n`, `reward`, `gold`, `gold_low`, `gold_high`, `random` (mean gold value), `gain`,
          `oracle`, `regret`.

        Both leave out prompts with an unscored candidate and, where some prompts have gold values, those without
        (`num_prompts_left_out`). The curve goes as far as the prompt with the fewest candidates. Intervals are
        over prompts, equal ones together.

    Source: Nakano et al. 2021 (WebGPT), appendix I; Beirami et al. 2024 for the bound.
    """

    def interval(values: Sequence[float]) -> list[float | None]:
        clusters = [text_key(result.prompt) for result in whole]
        mean = Bootstrap(values, clusters=clusters, num_samples=num_samples, seed=seed).estimate()
        return mean.share_interval() if is_share else mean.interval()

    scores = [score for result in results for score in result.scores]
    duplicates = sum(len(r.completions) - len(set(map(text_key, r.completions))) for r in results)
    truncated = [flag for result in results for flag in result.truncated or [] if flag is not None]
    has_gold = [r for r in results if r.gold is not None and None not in r.gold]
    whole = [r for r in has_gold or results if None not in r.scores]
    summary: dict[str, Any] = {
        "num_prompts": len(results),
        "num_completions": len(scores),
        "num_unscored": scores.count(None),
        "num_tied_prompts": sum(len(r.scores) > 1 and r.best is not None and set(r.ranks) == {0} for r in results),
        "duplicate_rate": duplicates / max(len(scores), 1),
        "truncated_rate": sum(truncated) / len(truncated) if truncated else None,
        "num_prompts_left_out": len(results) - len(whole),
    }
    if not whole:
        return summary
    proxy, gold = [result.scores for result in whole], [result.gold for result in whole]
    is_share = bool(has_gold) and {value for values in gold for value in values} <= {0.0, 1.0}
    of_one_policy = all(len(set(result.systems or [])) <= 1 for result in whole)
    ns = None if of_one_policy else [None]
    by_reward = best_of_n_curve(proxy, proxy, ns)
    table = {"n": by_reward["n"], "kl_bound": by_reward["kl_bound"], "reward": by_reward["value"]}
    if has_gold:
        random, oracle = best_of_n_curve(proxy, gold, [1])["value"], best_of_n_curve(gold, gold, ns)["value"]
        by_gold = best_of_n_curve(proxy, gold, ns)
        ends = zip(*map(interval, by_gold["per_prompt"]), strict=True)
        table |= {"gold": by_gold["value"], **dict(zip(("gold_low", "gold_high"), map(list, ends), strict=True))}
        table |= {} if of_one_policy else {"random": random}
        table |= {"gain": [value - random[0] for value in by_gold["value"]], "oracle": oracle}
        table["regret"] = [best - value for best, value in zip(oracle, by_gold["value"], strict=True)]
    if of_one_policy:
        return summary | {"curve": table}
    return summary | {"best_of": {name: column[0] for name, column in table.items() if name != "kl_bound"}}


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
    columns = summary.get("curve", {})
    if "best_of" in summary:
        print("not samples of one policy, so one number:")
        columns = {name: [value] for name, value in summary["best_of"].items()}
    if columns:
        names = ["KL ≤, nats" if name == "kl_bound" else name.replace("_", " ") for name in columns]
        Table(names, [[str(n), *map(number, row)] for n, *row in zip(*columns.values(), strict=True)]).print()


def to_preferences(results: Iterable[BestOfN]) -> list[dict[str, Any]]:
    """
    Best-versus-worst pairs, as DPO and reward trainers take them.

    A prompt whose candidates all score alike, or whose best and worst differ in white space only, gives no pair; equal
    pairs are given once; empty completions are left out.

    Args:
        results (list of [`BestOfN`]): from [`BestOfNSampler`].

    Returns:
        `list[dict]`: rows with `prompt`, `chosen`, `rejected`, `score_chosen`, `score_rejected`, and what of `tools`
            and `chat_template_kwargs` the prompt has.

    Example:
        >>> to_preferences([BestOfN(0, "2 + 2 =", ["4", "5"], [1.5, -0.5], [0, 1], best=0)])
        [{'prompt': '2 + 2 =', 'chosen': '4', 'rejected': '5', 'score_chosen': 1.5, 'score_rejected': -0.5}]
    """
    rows = []
    for result in results:
        texts = zip(result.scores, result.completions, strict=True)
        scored = [(score, -i) for i, (score, text) in enumerate(texts) if score is not None and _stripped(text)]
        if not scored:
            continue
        (high, first), (low, last) = max(scored), min(scored)
        chosen, rejected = result.completions[-first], result.completions[-last]
        if high > low and _stripped(chosen) != _stripped(rejected):
            row = {"prompt": result.prompt, "chosen": chosen, "rejected": rejected, **_template_columns(result)}
            rows.append((row, {"score_chosen": high, "score_rejected": low}))
    return _without_copies(rows)


def to_sft(results: Iterable[BestOfN]) -> list[dict[str, Any]]:
    """
    The winners, as SFT takes them (rejection sampling); empty and equal ones are left out.

    Args:
        results (list of [`BestOfN`]): from [`BestOfNSampler`].

    Returns:
        `list[dict]`: rows with `prompt`, `completion`, `score`, and what of `tools` and `chat_template_kwargs` the
            prompt has.
    """
    return _without_copies(
        ({"prompt": r.prompt, "completion": r.chosen, **_template_columns(r)}, {"score": r.scores[r.best]})
        for r in results
        if r.best is not None and _stripped(r.chosen)
    )


# --- helpers


def _without_copies(rows: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Texts with their scores, equal texts once."""
    first: dict[str, dict[str, Any]] = {}
    for texts, scores in rows:
        first.setdefault(text_key(list(texts.values())), {**texts, **scores})
    return list(first.values())


def _template_columns(result: BestOfN) -> dict[str, Any]:
    return {name: value for name in TEMPLATE_COLUMNS if (value := getattr(result, name)) is not None}


def _stripped(text: Text) -> Any:
    if isinstance(text, str):
        return text.strip()
    return [content for message in text if (content := message["content"].strip())]
