"""What goes into best-of-n and what comes out: ready candidates, and the curve, pairs and winners of scored ones.

groups = read_candidates([{"prompt": "2 + 2 =", "completions": ["4", "5"], "answer": "4"}])
summarize(results)["curve"]; to_preferences(results); to_sft(results)        # results: of `best_of_n`
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.comparison import TEMPLATE_COLUMNS, BadRow, Comparison, Text, template_arguments, to_comparison
from ..messages import shorten
from .generation import text_key

PROMPT_COLUMNS = ("prompt", "messages", "question", "instruction", "query")
PER_COMPLETION = ("gold", "systems", "truncated")  # metadata with one value per completion
COMPLETION_COLUMNS = ("completions", "outputs", "choices", "responses")


@dataclass
class BestOfN:
    """One prompt with all its candidates.

    Args:
        index (`int`): place of the prompt in its list.
        prompt (`str` or `list[dict]`): the prompt.
        completions (`list`): (n,) the candidates.
        scores (`list[float]`): (n,) rewards; None for one that could not be scored.
        ranks (`list[int]`): (n,) 0 for the highest score, equal for equal scores, unscored ones last.
        best (`int`, *optional*): place of the chosen candidate, the first with rank 0; None if none is scored.
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

            Besides: `gold` (list of numbers or booleans, one a candidate), `answer`, `systems` (who wrote each),
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
    for place, row in enumerate(rows):
        try:
            group, grows = _read_candidate_row(row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            cause = error.cause if isinstance(error, BadRow) else error
            raise ValueError(f"candidates, row {place}: {cause}") from None
        key = text_key([group.prompt, group.template_arguments]) if grows else place
        if key in groups:
            _extend(groups[key], group)
        else:
            groups[key] = group
    if not groups:
        raise ValueError("there are no candidates; give at least one row with prompt and completions")
    for group in groups.values():
        for name in PER_COMPLETION:
            values = group.metadata.get(name)
            if values is not None and len(values) != len(group.completions):
                raise ValueError(
                    f"candidates of {shorten(group.prompt, 40)!r}: {len(values)} {name} for {len(group.completions)} "
                    "completions; give one each"
                )
    return list(groups.values())


def _extend(group: Comparison, more: Comparison) -> None:
    """Add the completions of a further row of the same prompt, and what it knows; None where a row does not know."""
    for name in (group.metadata | more.metadata).keys() & set(PER_COMPLETION):
        values = [one.metadata.get(name) or [None] * len(one.completions) for one in (group, more)]
        group.metadata[name] = values[0] + values[1]
    for name in more.metadata.keys() - set(PER_COMPLETION):
        if group.metadata.setdefault(name, more.metadata[name]) != more.metadata[name]:
            raise ValueError(
                f"candidates of {shorten(group.prompt, 40)!r} have the {name} {group.metadata[name]!r} and "
                f"{more.metadata[name]!r}; give one"
            )
    group.completions += more.completions


def _read_candidate_row(row: Any) -> tuple[Comparison, bool]:
    """The row's candidates, and whether rows of an equal prompt belong to the same group."""
    if isinstance(row, Comparison):
        return _from_comparison(row, dict(row.metadata or {})), False
    if not isinstance(row, Mapping):
        if not hasattr(row, "outputs"):
            raise ValueError(f"a row is a dict, not {type(row).__name__}")
        row = {"prompt": row.prompt, "outputs": list(row.outputs)}
    row = {name: value for name, value in row.items() if value is not None}
    if "chosen" in row and "rejected" in row:
        return _from_comparison(to_comparison(row), {}), False
    prompt = next((row[name] for name in PROMPT_COLUMNS if name in row), None)
    if not prompt:
        raise ValueError(f"there is no prompt (found: {', '.join(row) or 'nothing'}); give it a column prompt")
    column = next((name for name in COMPLETION_COLUMNS if name in row), None)
    if column is None and "completion" not in row:
        raise ValueError(f"there are no completions (found: {', '.join(row)}); give a list completions or outputs")
    values = [row["completion"]] if column is None else row[column]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{column} is empty or no list; give at least one completion")
    completions, reasons = zip(*map(_read_output, values), strict=True)
    if not isinstance(prompt, str):
        completions = [[{"role": "assistant", "content": c}] if isinstance(c, str) else c for c in completions]
    elif not isinstance(completions[0], str):
        prompt = [{"role": "user", "content": prompt}]
    metadata: dict[str, Any] = {}
    if None not in reasons:
        metadata["truncated"] = [reason == "length" for reason in reasons]
    if (gold := row.get("gold")) is not None:
        metadata["gold"] = [float(value) for value in (gold if isinstance(gold, list) else [gold])]
    if (systems := row.get("systems", row.get("models", row.get("system")))) is not None:
        metadata["systems"] = list(systems) if isinstance(systems, list) else [systems]
    if "answer" in row:
        metadata["answer"] = row["answer"]
    return Comparison(prompt, list(completions), **template_arguments(row), metadata=metadata), column is None


def _from_comparison(comparison: Comparison, metadata: dict[str, Any]) -> Comparison:
    """
    A labelled comparison as candidates: the best rank is worth 1, the others 0; where all are equal, rank 0 is.

    Whoever wrote them, they are no samples of one policy, so they get systems.
    """
    if comparison.ranks is not None:
        best = min(comparison.ranks) if len(set(comparison.ranks)) > 1 else 0  # all wrong have rank 1
        metadata["gold"] = [float(rank == best) for rank in comparison.ranks]
        metadata.setdefault("systems", ["chosen" if rank == best else "rejected" for rank in comparison.ranks])
    arguments = template_arguments(comparison.template_arguments)
    return Comparison(comparison.prompt, comparison.completions, **arguments, metadata=metadata)


def _read_output(value: Any) -> tuple[Text, str | None]:
    """Text and finish reason of one output: a text, a message list, or an object of vLLM or OpenAI's protocol."""
    if isinstance(value, str) or (isinstance(value, list) and value):
        return value, None
    read = value.get if isinstance(value, Mapping) else lambda name: getattr(value, name, None)
    message = read("message")
    text = message.get("content") if isinstance(message, Mapping) else getattr(message, "content", read("text"))
    if not isinstance(text, str):
        raise ValueError(f"a completion is {str(value)[:60]!r}; it is text, a message list or has text in it")
    return text, read("finish_reason")


# --- what results are worth


def answer_is_right(completion: Text, answer: Any) -> bool | None:
    """
    Whether a completion ends in the known answer: the same last number where the answer has one, else the same words;
    None where the answer has neither.

    Example:
        >>> answer_is_right("2 + 2 = 4, so the answer is $4.00.", "#### 4"), answer_is_right("It is Paris.", "paris")
        (True, True)
    """
    text = completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
    number, truth = _last_number(text), _last_number(str(answer))
    if truth is not None:
        return number is not None and math.isclose(number, truth, rel_tol=1e-6)
    words = _words(str(answer))
    return _words(text)[-len(words) :] == words if words else None


def _last_number(text: str) -> float | None:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+", text)
    return float(numbers[-1].replace(",", "")) if numbers else None


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
    from ..metrics.statistics import bootstrap_interval, wilson_interval

    def interval(values: Sequence[float]) -> dict[str, float | None]:
        clusters = [text_key(result.prompt) for result in whole]
        ends = bootstrap_interval(values, clusters=clusters, num_samples=num_samples, seed=seed)
        low, high, n = ends["low"], ends["high"], ends["num_clusters"]
        if low is not None and low == high and set(values) in ({0.0}, {1.0}):  # all right or all wrong
            low, high = wilson_interval(ends["estimate"] * n, n)
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
    """The figures of [`summarize`] in a few lines."""
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
