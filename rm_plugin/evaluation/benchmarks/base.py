"""What a benchmark is: how a row becomes a `Comparison`, and how scored comparisons become the official score.

Every official score is arithmetic on means of items. An item is one credit (right 1, wrong 0, sometimes between), the
group whose mean it enters, and the comparison that it is of; one comparison may give several items, in several groups.
So intervals and paired differences of any official score are those that `metrics.statistics` gives for a function of
group means:

    items = benchmark.score_items(scored)                                           # credits, groups, clusters: (N,)
    benchmark.formula(items.means())["score"]
    Bootstrap(items.credits, benchmark.formula, clusters=items.clusters, subsets=items.groups).estimate("score")

Scores are an array (number of completions,) in the order of `comparison.completions`. A comparison with a NaN among
them is unscored: all its scores become NaN, which is never larger, so that all its credits are 0. Equal scores are
wrong too, unless a benchmark says otherwise.

`metadata["cluster"]` of a comparison names what a bootstrap draws together: equal prompts, the two prompts of a Ties
number, one HumanEvalPack problem in six languages, one translated prompt in all languages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...data.comparison import Comparison, Text

Scored = tuple[Comparison, np.ndarray]
Means = Mapping[str, Any]  # group to mean: a number, or an array over the resamples of a bootstrap


class Row(dict):
    """A row as row functions read it: a null cell counts as missing, since tables give every row all columns."""

    column = ""  # the last one that was read, which errors name

    def __getitem__(self, column: str) -> Any:
        self.column = column
        value = self.get(column)
        if value is None:
            found = ", ".join(name for name in self if self.get(name) is not None)
            raise ValueError(f"column {column!r} is missing (found: {found}); give the benchmark's original data")
        return value


# ── items: what one comparison adds to the score ─────────────────────────────────────────────────────────────────────


class Item(NamedTuple):
    """One credit of an official score: the comparison that it is of, the group whose mean it enters, the credit."""

    comparison: Comparison
    group: str
    credit: float


@dataclass(frozen=True)
class Items:
    """
    The N items of a scored benchmark, in the form that `metrics.statistics` takes.

    Args:
        credits (`np.ndarray`): (N,) float64, right 1, wrong 0.
        groups (`list[str]`): the group whose mean each enters.
        clusters (`list[str]`): the cluster that each is drawn with.
    """

    credits: np.ndarray
    groups: list[str]
    clusters: list[str]

    def counts(self) -> dict[str, int]:
        """Number of items of each group, in the order in which they appear."""
        return dict(Counter(self.groups))

    def means(self) -> dict[str, float]:
        """Mean credit of each group, in the same order."""
        sums = dict.fromkeys(self.groups, 0.0)
        for group, credit in zip(self.groups, self.credits.tolist(), strict=True):
            sums[group] += credit
        return {group: sums[group] / number for group, number in self.counts().items()}


def mark_unscored(scored: Sequence[Scored]) -> list[Scored]:
    """Scores as float arrays; one NaN makes all scores of its comparison NaN, which compare as False."""
    marked = []
    for comparison, scores in scored:
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != (len(comparison.completions),):
            raise ValueError(
                f"comparison {comparison.id!r} has {len(comparison.completions)} completions and scores of shape "
                f"{scores.shape}; give one score per completion"
            )
        marked.append((comparison, np.full_like(scores, np.nan) if np.isnan(scores).any() else scores))
    return marked


def cluster_of(comparison: Comparison) -> str:
    """What a comparison is drawn with: `metadata["cluster"]`, else nothing but itself."""
    return (comparison.metadata or {}).get("cluster") or f"id:{comparison.id}"


def pair_credit(comparison: Comparison, scores: np.ndarray) -> float:
    """Share of the pairs whose better completion scored strictly higher; 0 where there is no pair."""
    pairs, values = comparison.pairs(), scores.tolist()
    return sum(values[better] > values[worse] for better, worse in pairs) / max(1, len(pairs))


def best_beats_all(comparison: Comparison, scores: np.ndarray) -> float:
    """Whether the first completion, the best one, scored strictly higher than every other."""
    return float(scores[0] > scores[1:].max())


def grouped_items(
    scored: Sequence[Scored],
    groups: Callable[[Comparison], Iterable[str]],
    credit: Callable[[Comparison, np.ndarray], float] = pair_credit,
) -> list[Item]:
    """The credit of each comparison in each of its groups; for `items=partial(grouped_items, groups=…)`."""
    credits = [(comparison, credit(comparison, scores)) for comparison, scores in scored]
    return [Item(comparison, group, value) for comparison, value in credits for group in groups(comparison)]


def pair_items(scored: Sequence[Scored]) -> list[Item]:
    """Accuracy over all comparisons, and in each subset; of one with several pairs, the share of them."""
    return grouped_items(scored, lambda comparison: dict.fromkeys(filter(None, ("all", comparison.subset))))


# ── formulas: means of groups ► sections and score, elementwise ──────────────────────────────────────────────────────


def average(means: Means, groups: Iterable[str] | None = None) -> Any:
    """Mean over all groups, or over those of these that are there; NaN where none is."""
    return weighted_average(means, dict.fromkeys(means if groups is None else groups, 1.0))


def weighted_average(means: Means, weights: Mapping[str, float]) -> Any:
    """Weighted mean over those of the groups that are there; NaN where none is."""
    present = [(means[group], weight) for group, weight in weights.items() if group in means]
    total = sum(weight for _, weight in present)
    return sum(mean * weight for mean, weight in present) / total if present else float("nan")


def accuracy(means: Means) -> dict[str, Any]:
    """Micro accuracy."""
    return {"score": means["all"]}


def beside(means: Means) -> dict[str, Any]:
    """The groups other than `all`."""
    return {group: mean for group, mean in means.items() if group != "all"}


def accuracy_with_groups(means: Means) -> dict[str, Any]:
    """Micro accuracy, and the mean of every other group."""
    return {**accuracy(means), **beside(means)}


def subset_level(name: str) -> str | None:
    """Every group but `all` is of one level."""
    return None if name == "all" else "subset"


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_messages(turns: Any) -> list[dict[str, str]]:
    """Messages with role and content only."""
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def text_list(row: Row, column: str, length: int | None = None) -> list[str]:
    """A list of texts; a text alone, which Python would read as a list of characters, is refused."""
    texts = row[column]
    if isinstance(texts, str) or (length is not None and len(texts) != length):
        raise ValueError(f"{column!r} is no list of {length or 'texts'}; give the benchmark's original data")
    return list(texts)


def preferred(prompt: Text, first: Text, second: Text, by: float, **fields: Any) -> Comparison | None:
    """The first preferred to the second if `by` > 0, the second if `by` < 0; no comparison if it is 0."""
    better, worse = (first, second) if by > 0 else (second, first)
    return Comparison(prompt, chosen=[better], rejected=[worse], **fields) if by else None


# ── benchmarks ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Part:
    """
    One table of a benchmark on the hub: the arguments of `datasets.load_dataset`.

    Args:
        hub (`str`): id of the data set.
        split (`str`): its split.
        revision (`str`, *optional*): commit that a public source gives, or a branch other than main.
        config (`str`, *optional*): its configuration.
        data_dir (`str`, *optional*): folder in it.
    """

    hub: str
    split: str
    revision: str | None = None
    config: str | None = None
    data_dir: str | None = None

    @property
    def commit(self) -> str | None:
        """The revision where it is pinned; a branch is no pin."""
        return self.revision if re.fullmatch("[0-9a-f]{40}", self.revision or "") else None


@dataclass(frozen=True)
class Benchmark:
    """
    What the evaluation knows of one benchmark.

    Args:
        row (`Callable`):
            `(row, origin) -> Comparison | None`, where `origin` names the file, configuration or split of the row, and
            `None` means that it states no preference.
        formula (`Callable[[Mapping], dict]`, *optional*):
            The official score and its sections from means of groups, `"score"` among them; elementwise, so that it
            takes resamples. By default accuracy.
        items (`Callable[[Sequence], list[Item]]`, *optional*):
            Credits of scored comparisons, and their groups. By default whether the better completion scored higher, in
            the group `all` and the comparison's subset.
        parts (`tuple[Part, ...]`, *optional*):
            Its tables on the hub; empty where no loadable copy is known, so that a source must be given.
        files (`str`, *optional*):
            Where the original files are, for benchmarks without a hub copy.
        licence (`str`, *optional*):
            As the data set card or repository states it.
        num_rows (`int`, *optional*):
            Number of rows in the original.
        subsets (`tuple[str, ...]`, *optional*):
            Subsets that the official score needs; those missing are reported.
        components (`Mapping[str, Sequence[str]]`, *optional*):
            Groups that a subset's score is made of; those missing of a subset that is there are reported.
        subset_in_file_name (`bool`, *optional*, defaults to `False`):
            Rows do not say their subset: the name of their file does, or `subset=`.
        regroup (`Callable[[Iterable[Row]], Iterable[Row]]`, *optional*):
            Rows to rows, where a comparison is made of several rows.
        whole (`str`, *optional*):
            File of the original folder that repeats all its others, and is read alone where it is there.
        best_of_k (`bool`, *optional*, defaults to `False`):
            The completions are independent samples of one policy, so that a curve over n says what best-of-n brings.
        level (`Callable[[str], str | None]`, *optional*):
            The level of a section or group: tests of one level are corrected together. `None` is not tested: a
            constant, or another name of the score. By default every group but `all` is of one level.
        notes (`str`, *optional*):
            What a reader of the score must know.
    """

    row: Callable[[Row, str], Comparison | None]
    formula: Callable[[Means], dict[str, Any]] = accuracy
    items: Callable[[Sequence[Scored]], list[Item]] = pair_items
    parts: tuple[Part, ...] = ()
    files: str = ""
    licence: str = "not stated"
    num_rows: int | None = None
    subsets: tuple[str, ...] = ()
    components: Mapping[str, Sequence[str]] = field(default_factory=dict)
    subset_in_file_name: bool = False
    regroup: Callable[[Iterable[Row]], Iterable[Row]] = iter
    whole: str | None = None
    best_of_k: bool = False
    level: Callable[[str], str | None] = subset_level
    notes: str = ""

    @property
    def hub(self) -> str | None:
        """Id on the hub; `None` where a source must be given."""
        return self.parts[0].hub if self.parts else None

    @property
    def splits(self) -> list[str]:
        """Splits on the hub."""
        return list(dict.fromkeys(part.split for part in self.parts))

    def score_items(self, scored: Sequence[Scored]) -> Items:
        """The items of scored comparisons as columns, for `statistics`; an unscored one has credit 0 in all."""
        items = self.items(mark_unscored(scored))
        credits = np.array([item.credit for item in items], dtype=np.float64)
        return Items(credits, [item.group for item in items], [cluster_of(item.comparison) for item in items])

    def missing(self, present: Container[str | None], groups: Container[str]) -> list[str]:
        """What the official score needs and the data lack: subsets, and components of subsets that are there."""
        missing = [subset for subset in self.subsets if subset not in present]
        for subset, components in self.components.items():
            missing += [group for group in components if subset in present and group not in groups]
        return missing
