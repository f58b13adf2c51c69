"""Benchmarks: rows in their original schema ► `Comparison`, and the official score of the scored comparisons.

One data set, one small function `row -> Comparison`, which keeps the quirks of its schema to itself. Where the
official score is more than an accuracy, its items and formula stand in `official.py`.

    data = load_benchmark("llmbar", source="LLMBar/Dataset/LLMBar")      # without a source: from the hub
    scored = [(comparison, my_model(comparison)) for comparison in data.comparisons]
    data.benchmark.aggregate(scored)["score"]

`metadata["cluster"]` of a comparison names what a bootstrap draws together: equal prompts, the two prompts of a Ties
number, one HumanEvalPack problem in six languages, one translated prompt in all languages.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.comparison import Comparison, Text, same_text, to_comparison
from ..data.sources import load_rows
from . import official
from .official import Item, Items, Means

Row = Mapping[str, Any]
Scored = tuple[Comparison, np.ndarray]

HH_REPLY = "\n\nAssistant:"
RM_BENCH_DOMAINS = tuple(official.RM_BENCH_DOMAINS)
REWARDBENCH_SUBSETS = tuple(subset for section in official.REWARDBENCH_WEIGHTS.values() for subset in section)
JUDGEBENCH_CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
GSM8K_SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
# has_close_elements(…), hasCloseElements = (…) =>, largest_divisor<T>(…), f = function(…), f = x =>
FUNCTION_NAME = re.compile(r"`[^`]*?(\w+)\s*(?:(?:<[^>`]*>)?\s*\(|=\s*(?:async\s+)?(?:\(|function\b|\w+\s*=>))")
# fmt: off
LANGUAGES = (
    "arb_Arab", "ces_Latn", "deu_Latn", "ell_Grek", "fra_Latn", "heb_Hebr", "hin_Deva", "ind_Latn", "ita_Latn",
    "jpn_Jpan", "kor_Hang", "nld_Latn", "pes_Arab", "pol_Latn", "por_Latn", "ron_Latn", "rus_Cyrl", "spa_Latn",
    "tur_Latn", "ukr_Cyrl", "vie_Latn", "zho_Hans", "zho_Hant",
)
# fmt: on


# ── what a benchmark is ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Part:
    """
    One table of a benchmark on the hub: the arguments of `datasets.load_dataset`.

    Args:
        hub (`str`): id of the data set.
        split (`str`): its split.
        config (`str`, *optional*): its configuration.
        data_dir (`str`, *optional*): folder in it.
        revision (`str`, *optional*): commit, or a branch other than main.
    """

    hub: str
    split: str
    config: str | None = None
    data_dir: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """
    What the evaluation knows of one benchmark.

    Args:
        row (`Callable`):
            `(row, origin) -> Comparison | None`, where `origin` names the file, configuration or split of the row, and
            `None` means that it states no preference.
        formula (`Callable[[Mapping], dict]`, *optional*):
            The official figures from means of groups, `"score"` among them; elementwise, so that it takes resamples.
            By default accuracy, a plain mean.
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
        regroup (`Callable[[Iterable[Row]], Iterable[Row]]`, *optional*):
            Rows to rows, where a comparison is made of several rows.
        whole (`str`, *optional*):
            File of the original folder that repeats all its others, and is read alone where it is there.
        plain_mean (`bool`, *optional*, defaults to `False`):
            The score is the plain mean of the group `all`: those items alone are tested, McNemar's test exactly.
        best_of_k (`bool`, *optional*, defaults to `False`):
            The completions are independent samples of one policy, so that a curve over n says what best-of-n brings.
        level (`Callable[[str], str | None]`, *optional*):
            The level of a section or group: tests of one level are corrected together. `None` is not tested: a
            constant, or another name of the score. By default every group but `all` is of one level.
        components (`Mapping[str, Sequence[str]]`, *optional*):
            Groups that a subset's score is made of; those missing of a subset that is there are reported.
        notes (`str`, *optional*):
            What a reader of the score must know.
    """

    row: Callable[[Row, str], Comparison | None]
    formula: Callable[[Means], dict[str, Any]] | None = None
    items: Callable[[Sequence[Scored]], list[Item]] = official.pair_items
    parts: tuple[Part, ...] = ()
    files: str = ""
    licence: str = "not stated"
    num_rows: int | None = None
    subsets: tuple[str, ...] = ()
    regroup: Callable[[Iterable[Row]], Iterable[Row]] | None = None
    whole: str | None = None
    plain_mean: bool = False
    best_of_k: bool = False
    level: Callable[[str], str | None] = official.subset_level
    components: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: str = ""

    def __post_init__(self) -> None:
        if self.formula is None:
            object.__setattr__(self, "formula", official.accuracy_formula)
            object.__setattr__(self, "plain_mean", True)

    @property
    def hub(self) -> str | None:
        """Id on the hub; `None` where a source must be given."""
        return self.parts[0].hub if self.parts else None

    @property
    def split(self) -> str | None:
        """Split on the hub (`+` between several)."""
        return "+".join(dict.fromkeys(part.split for part in self.parts)) or None

    @property
    def revision(self) -> str | None:
        """Pinned commit of the (first) hub data set; `None` = unpinned. A branch is no pin."""
        revision = self.parts[0].revision if self.parts else None
        return revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else None

    def score(self, means: Means) -> Any:
        """The official score from means of groups: the `aggregate` of `statistics.bootstrap_interval`."""
        return self.formula(means)["score"]

    def score_items(self, scored: Sequence[Scored]) -> Items:
        """The items of scored comparisons as columns, for `statistics`; an unscored one has credit 0 in all."""
        return Items.from_list(self.items(official.mark_unscored(scored)))

    def missing(self, present: Container[str | None], groups: Container[str]) -> list[str]:
        """What the official score needs and the data lack: subsets, and components of subsets that are there."""
        missing = [subset for subset in self.subsets if subset not in present]
        for subset, components in self.components.items():
            missing += [group for group in components if subset in present and group not in groups]
        return missing

    def aggregate(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """
        The official score of scored comparisons, and what it is made of.

        Args:
            scored (`Sequence[tuple[Comparison, np.ndarray]]`):
                Each comparison with the scores of its completions, floats (number of completions,), NaN = unscored.

        Returns:
            `dict`: `score`, a fraction of 1; `sections`, the official figures between subsets and score; `subsets`,
            `{name: {"accuracy", "num_items"}}`; `missing`, the subsets that the official score needs and the data lack
            (then `score` is over the others, and not the official one); `num_comparisons`; `num_unscored`.

        Raises:
            ValueError: if there are no comparisons, or the scores do not fit their completions.

        Example:
        ```python
        >>> pairs = [Comparison("2+2=", chosen="4", rejected=wrong) for wrong in ("5", "22")]
        >>> results = BENCHMARKS["preference"].aggregate([(pairs[0], [1.0, 0.5]), (pairs[1], [1.0, float("nan")])])
        >>> results["score"], results["subsets"], results["num_unscored"]
        (0.5, {'all': {'accuracy': 0.5, 'num_items': 2}}, 1)

        ```
        """
        if not scored:
            raise ValueError("0 comparisons, a score needs at least 1; check the source and the limit")
        items = self.score_items(scored)
        means = items.means()
        figures = {name: float(value) for name, value in self.formula(means).items()}
        return {
            "score": figures.pop("score"),
            "sections": {name: value for name, value in figures.items() if not np.isnan(value)},
            "subsets": {
                group: {"accuracy": means[group], "num_items": number} for group, number in items.counts().items()
            },
            "missing": self.missing({comparison.subset for comparison, _ in scored}, means),
            "num_comparisons": len(scored),
            "num_unscored": sum(bool(np.isnan(scores).any()) for _, scores in scored),
        }


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class LoadedBenchmark:
    """
    The comparisons of a benchmark, and where they come from.

    Args:
        name (`str`): name in `BENCHMARKS`.
        benchmark (`Benchmark`): its entry there.
        source (`str`): hub id, file or folder.
        revision (`str`, *optional*): pinned commit of the hub data; `None` if unpinned or local.
        comparisons (`list[Comparison]`): with unique ids, and `metadata["cluster"]`.
        num_rows (`int`): rows read.
        no_preference (`list[int]`): indices of rows that state no preference.
        bad_rows (`list[str]`): index and cause of rows that `on_bad_row="skip"` left out.
        split (`str`, *optional*): split that was read (`+` between several); `None` where the source names none.
        limit (`int`, *optional*): how many comparisons reading stopped at, if it was told to.
    """

    name: str
    benchmark: Benchmark
    source: str
    revision: str | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    num_rows: int = 0
    no_preference: list[int] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)
    split: str | None = None
    limit: int | None = None

    @property
    def fingerprint(self) -> str:
        """
        SHA-256 of every field of every comparison, in their order: scores and metrics depend on nothing else of the
        data. Equal data have an equal fingerprint, wherever they come from and in whatever form a text is given.
        """
        digest = hashlib.sha256()
        for comparison in self.comparisons:
            values = {
                **vars(comparison),
                "prompt": same_text(comparison.prompt),
                "completions": [same_text(text) for text in comparison.completions],
                # Looked up by name; what is inside keeps its order, in which templates write it out.
                "chat_template_kwargs": sorted((comparison.chat_template_kwargs or {}).items()),
                "metadata": sorted((comparison.metadata or {}).items()),
            }
            digest.update(json.dumps(values, default=_plain).encode())
        return digest.hexdigest()


def _plain(value: Any) -> Any:
    """What a table may hold besides JSON, for a digest: arrays and numpy's numbers as lists, all else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def load_benchmark(
    name: str,
    source: Any = None,
    *,
    split: str | None = None,
    config: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    on_bad_row: str = "error",
) -> LoadedBenchmark:
    """
    Read a benchmark, from the hub or from a local copy in its original schema.

    Args:
        name (`str`):
            A name in `BENCHMARKS`; `"preference"` takes any preference data.
        source (`str`, `Path`, `Dataset`, `DatasetDict` or `list[dict]`, *optional*):
            A local copy: a file or a folder of files (jsonl, json, parquet, text maybe with .gz), a folder of
            `save_to_disk`, an object; or the id of another copy on the hub. Left out: the benchmark's hub data set.
        split (`str`, *optional*):
            Split to read. By default the benchmark's.
        config (`str`, *optional*):
            Configuration of the hub data set.
        subset (`str`, *optional*):
            Name of the part that `source` holds, for schemas whose rows do not say it (RM-Bench's domain, LLMBar's
            set). By default the name of the file.
        limit (`int`, *optional*):
            Stop after so many comparisons.
        on_bad_row (`str`, *optional*, defaults to `"error"`):
            `"skip"` leaves bad rows out, and lists them; a row that lacks a column or has null in it is one of them.

    Returns:
        [`LoadedBenchmark`]

    Raises:
        ValueError: for an unknown name, a missing source, another schema (naming the missing column and those found),
            a split or configuration that is not there, a bad row, or no comparisons.

    Example:
    ```python
    >>> rows = [{"input": "2+2?", "output_1": "5", "output_2": "4", "label": 2}]
    >>> comparison = load_benchmark("llmbar", rows, subset="Natural").comparisons[0]
    >>> comparison.chosen, comparison.rejected, comparison.subset
    (['4'], ['5'], 'Natural')

    ```
    """
    benchmark = get_benchmark(name)
    if source is None and not benchmark.parts:
        get_files = f"get the files from {benchmark.files} and " if benchmark.files else ""
        raise ValueError(f"{name} has no loadable copy on the hub; {get_files}give their place with --source PATH")
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"on_bad_row={on_bad_row!r} is unknown; use one of error, skip")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}, it must be at least 1; leave it out for all")
    if source is None:
        benchmark = replace(benchmark, parts=_choose_parts(name, benchmark.parts, split, config))
        data = LoadedBenchmark(
            name, benchmark, " + ".join(dict.fromkeys(part.hub for part in benchmark.parts)), benchmark.revision
        )
    else:
        data = LoadedBenchmark(
            name, benchmark, str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"
        )
    data.limit = limit
    seen: Counter[str] = Counter()
    misfit: ValueError | None = None
    for index, (origin, row) in enumerate(_iterate_rows(data, source, split, config)):
        try:
            comparison = benchmark.row(row, subset or origin)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            misfit = misfit or _wrong_schema(data, error, index, row, origin)
            if on_bad_row == "error":
                raise misfit from error
            cause = f"column {error} is missing" if isinstance(error, KeyError) else f"another schema ({error})"
            data.bad_rows.append(f"row {index}: {cause}")
            continue
        except ValueError as error:
            if on_bad_row == "error":
                raise ValueError(f"{name}: row {index}: {error}") from None
            data.bad_rows.append(f"row {index}: {error}")
            continue
        if comparison is None:
            data.no_preference.append(index)
            continue
        key = str(index if comparison.id is None else comparison.id)
        seen[key] += 1
        comparison.id = key if seen[key] == 1 else f"{key}#{seen[key]}"
        comparison.metadata = {"cluster": _digest(comparison.prompt or comparison.id), **(comparison.metadata or {})}
        data.comparisons.append(comparison)
        if len(data.comparisons) == limit:
            break
    if misfit and not data.comparisons and not data.no_preference:
        raise misfit
    if not data.comparisons:
        raise ValueError(
            f"{name}: no comparisons in {data.source} ({data.num_rows} rows, {len(data.no_preference)} without a "
            f"preference, {len(data.bad_rows)} bad); check the source"
        )
    return data


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of this name; an unknown name is a `ValueError` that lists the known ones."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


class _Row(dict):
    """A row whose null cells count as missing: tables give every row all columns."""

    def __getitem__(self, column: str) -> Any:
        value = super().__getitem__(column)
        if value is None:
            raise KeyError(column)
        return value


def _wrong_schema(data: LoadedBenchmark, error: Exception, index: int, row: Row, origin: str) -> ValueError:
    """A row without a column; or with text where a list is expected, and the like."""
    if not isinstance(error, KeyError):
        return ValueError(
            f"{data.name}: row {index} does not have the benchmark's schema ({error}); give the original data"
        )
    found = ", ".join(column for column in row if row.get(column) is not None)
    return ValueError(
        f"{data.name}: row {index}: column {error} is missing in {origin or data.source} (found: {found}); "
        "give the data in the benchmark's original schema"
    )


def _choose_parts(name: str, parts: tuple[Part, ...], split: str | None, config: str | None) -> tuple[Part, ...]:
    """The tables of this split and configuration; of a benchmark of one table, any split and configuration of it."""
    chosen = tuple(part for part in parts if split in (None, part.split) and config in (None, part.config))
    if not chosen and len(parts) == 1:
        return (replace(parts[0], split=split or parts[0].split, config=config or parts[0].config),)
    if not chosen:
        known = ", ".join(dict.fromkeys(" ".join(filter(None, (part.config, part.split))) for part in parts))
        asked = ", ".join(f"{key}={value!r}" for key, value in (("config", config), ("split", split)) if value)
        raise ValueError(f"{name} has no table of {asked}; it has {known}: choose one of these, or leave it out")
    return chosen


def _iterate_rows(
    data: LoadedBenchmark, source: Any, split: str | None, config: str | None
) -> Iterator[tuple[str, Row]]:
    """Every row with its origin; counts the rows read."""
    regroup = data.benchmark.regroup
    for origin, rows in _tables(data, source, split, config):

        def read(rows: Iterable[Row] = rows) -> Iterator[Row]:
            for row in rows:
                data.num_rows += 1
                yield _Row(row)

        for row in regroup(read()) if regroup else read():
            yield origin, row


def _tables(
    data: LoadedBenchmark, source: Any, split: str | None, config: str | None
) -> Iterator[tuple[str, Iterable[Row]]]:
    """
    The tables of a benchmark, each with its origin: the name of its file, configuration or split. Notes in `data` what
    split they are.
    """
    benchmark = data.benchmark
    path = Path(source).expanduser() if isinstance(source, str | Path) else None
    on_hub = path is not None and not path.exists()
    data.split = split
    if config is not None and source is not None and not on_hub:
        raise ValueError(f"config={config!r} is for hub data sets, which {data.source} is not; leave it out")
    if source is None:
        data.split = benchmark.split
        for part in benchmark.parts:
            yield part.config or part.split, _load_part(data.name, part)
    elif isinstance(source, list) and split is None:
        yield "", source
    elif path is not None and path.is_file():
        named = _named_splits(Path(path.name), benchmark, split)
        data.split = split or "+".join(named) or None
        yield _origin_of(path), load_rows(path, split=None if named else split)
    elif path is not None and path.is_dir() and _has_origins(path, benchmark):
        files, data.split = _data_files(path, benchmark, split)
        for file in files:
            yield _origin_of(file), load_rows(file)
    else:  # an object, any preference data, a folder of save_to_disk, or an id on the hub
        there = _splits_on_disk(path) if path is not None else list(getattr(source, "keys", list)())
        wanted = [part.split for part in benchmark.parts if on_hub or part.split in there]
        splits = [split] if split else list(dict.fromkeys(wanted))
        data.split = "+".join(splits) or None
        for one in splits or [None]:
            yield one or "", load_rows(source, split=one, name=config)


def _load_part(name: str, part: Part) -> Iterable[Row]:
    """One table from the hub, or one line that says why not."""
    import datasets

    more = {key: value for key, value in vars(part).items() if key in ("data_dir", "revision") and value}
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # offline it writes a dozen lines about its retries before the error that counts
    try:
        return datasets.load_dataset(part.hub, part.config, split=part.split, **more)
    except Exception as error:  # some ten types, of datasets, huggingface_hub, fsspec and pyarrow
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{name}: {part.hub} did not come from the hub ({cause}); "
            "check the connection, or give a local copy with --source PATH"
        ) from error
    finally:
        logger.setLevel(level)


def _splits_on_disk(folder: Path) -> list[str]:
    """Splits of a `DatasetDict` that `save_to_disk` wrote; empty for any other folder."""
    names = folder / "dataset_dict.json"
    return json.loads(names.read_text())["splits"] if names.exists() else []


def _has_origins(folder: Path, benchmark: Benchmark) -> bool:
    """Whether the names of a folder's files matter: not those of `save_to_disk`, nor of any preference data."""
    saved = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
    return not saved and benchmark.row is not preference


def _named_splits(file: Path, benchmark: Benchmark, split: str | None) -> list[str]:
    """Which of the splits wanted, `split` or else the benchmark's, the name of a file or its folder says."""
    wanted = [split] if split else list(dict.fromkeys(part.split for part in benchmark.parts))
    path = file.as_posix()
    return [w for w in wanted if re.search(f"(?:^|[^a-z0-9]){re.escape(w)}(?:[^a-z0-9]|$)", path, re.IGNORECASE)]


def _data_files(folder: Path, benchmark: Benchmark, split: str | None) -> tuple[list[Path], str | None]:
    """
    The data files of a folder; where some are named after the benchmark's folder, configuration or split, those. And
    the split that their names say.
    """
    kinds = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.name.lower().endswith(kinds)}
    files = {inside: path for inside, path in files.items() if not any(part[0] == "." for part in inside.parts)}
    if not files:
        raise ValueError(f"{folder} has no data file in it; it needs files of {', '.join(kinds)}")
    places = {name for part in benchmark.parts for name in (part.data_dir, part.config) if name}
    files = {inside: path for inside, path in files.items() if places & {*inside.parts[:-1]}} or files
    whole = [path for path in files.values() if path.name == benchmark.whole]
    if whole and not split:
        return whole, None
    named = {inside: names for inside in files if (names := _named_splits(inside, benchmark, split))}
    if split and not named:
        found = ", ".join(map(str, list(files)[:5])) + ", …" * (len(files) > 5)
        raise ValueError(f"split {split!r} is in no file name of {folder} ({found}); name another, or leave it out")
    read = "+".join(dict.fromkeys(name for names in named.values() for name in names)) or None
    return [files[inside] for inside in named or files], read


def _origin_of(file: Path) -> str:
    """What a file is called: `chat_filtered.json` ► chat_filtered, `Adversarial/Neighbor/dataset.json` ► Neighbor."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", file.name.split(".")[0])
    return file.absolute().parent.name if stem in ("dataset", "data", "train", "validation", "test") else stem


def _digest(prompt: Text) -> str:
    """Equal prompts, equal digest."""
    return hashlib.blake2b(json.dumps(same_text(prompt), sort_keys=True).encode(), digest_size=8).hexdigest()


# ── plain text and messages ──────────────────────────────────────────────────────────────────────────────────────────


def as_messages(comparison: Comparison) -> Comparison:
    """
    The same comparison as message lists, for a tokenizer with a chat template.

    A plain prompt becomes the user's message and a plain completion the assistant's; HH-RLHF transcripts
    (`"\\n\\nHuman: ...\\n\\nAssistant: ..."`) become their turns, neighbouring turns of one speaker joined.

    Args:
        comparison ([`Comparison`]): Plain text, or messages (returned as they are).

    Returns:
        [`Comparison`]: A copy with `prompt` and `completions` replaced.

    Example:
    ```python
    >>> as_messages(Comparison("\\n\\nHuman: Hi\\n\\nAssistant:", [" Hello", ""])).completions
    [[{'role': 'assistant', 'content': 'Hello'}], [{'role': 'assistant', 'content': ''}]]

    ```
    """
    if comparison.conversational:
        return comparison
    prompt, completions = comparison.prompt, comparison.completions
    if prompt.endswith(HH_REPLY) and (turns := _split_turns(prompt.removesuffix(HH_REPLY))):
        prompt, replies = turns, [[{"role": "assistant", "content": text.strip()}] for text in completions]
    elif not prompt and all(_split_turns(text) for text in completions):  # differing prompts: whole transcripts
        prompt, replies = [], [_split_turns(text) for text in completions]
    else:
        prompt = [{"role": "user", "content": prompt}] if prompt else []
        replies = [[{"role": "assistant", "content": text}] for text in completions]
    converted = copy.copy(comparison)
    converted.prompt, converted.completions = prompt, replies
    return converted


def _split_turns(transcript: str) -> list[dict[str, str]]:
    """Turns of an HH-RLHF transcript as messages; empty for any other text."""
    if not transcript.startswith(("\n\nHuman:", "\n\nAssistant:")):
        return []
    turns: list[dict[str, str]] = []
    pieces = re.split(r"\n\n(Human|Assistant):", transcript)[1:]
    for speaker, text in zip(pieces[::2], pieces[1::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{text.strip()}".strip()
        else:
            turns.append({"role": role, "content": text.strip()})
    return turns


def _reply(prompt: Text, text: str) -> Text:
    """A reply in the kind of its prompt: text after text, an assistant's message after messages."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _messages(turns: Any) -> list[dict[str, str]]:
    """Messages with role and content only."""
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


# ── row functions: one data set, one small function; its quirks stay here ────────────────────────────────────────────


def rewardbench(row: Row, origin: str) -> Comparison:
    """RewardBench v1; and its prior sets, whose prompts are message lists and whose subset is the split's name."""
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    subset = origin if origin in official.PRIOR_SETS else row["subset"]
    if subset not in REWARDBENCH_SUBSETS + official.PRIOR_SETS:
        raise ValueError(f"subset is {subset!r}, which RewardBench does not score; give the split 'filtered'")
    if not isinstance(prompt, str):
        prompt = _messages(prompt)
    metadata = {}
    if subset.startswith("hep-") and (name := FUNCTION_NAME.search(str(prompt))):
        # HumanEvalPack asks for one function in six languages: has_close_elements, hasCloseElements, HasCloseElements.
        metadata["cluster"] = f"hep:{name[1].replace('_', '').lower()}"
    return Comparison(
        prompt,
        chosen=[_reply(prompt, chosen)],
        rejected=[_reply(prompt, rejected)],
        id=f"{subset}/{row['id']}" if row.get("id") is not None else None,
        subset=subset,
        metadata=metadata,
    )


def rewardbench2(row: Row, origin: str) -> Comparison:
    """RewardBench 2: `num_correct` right completions, then the wrong ones. Ties come in twos, `ref:N` and `tied:N`."""
    completions = [*row["chosen"], *row["rejected"]]
    right, subset, metadata = row["num_correct"], row["subset"], {}
    subset = "Ties" if subset.lower() == "ties" else subset
    if subset not in official.REWARDBENCH2_SUBSETS:
        raise ValueError(f"subset is {subset!r}, RewardBench 2 has {', '.join(official.REWARDBENCH2_SUBSETS)}")
    if subset == "Ties":
        kind, _, number = str(row["id"]).partition(":")
        if kind not in ("ref", "tied") or not number:
            raise ValueError(f"id is {row['id']!r}, the Ties subset needs 'ref:N' or 'tied:N'; give the original ids")
        metadata = {"cluster": f"ties:{number}", "ties": kind}
    if not 0 < right < len(completions):
        raise ValueError(f"num_correct is {right} of {len(completions)} completions; both right and wrong are needed")
    ranks = [int(i >= right) for i in range(len(completions))]
    return Comparison(row["prompt"], completions, ranks, id=f"{subset}/{row['id']}", subset=subset, metadata=metadata)


def rm_bench(row: Row, origin: str) -> Comparison:
    """RM-Bench: three styles right, three wrong. Only total_dataset.json has a domain, else the file name says it."""
    domain = row.get("domain") or origin.removesuffix("_filtered")
    if domain not in RM_BENCH_DOMAINS:
        raise ValueError(
            f"there is no 'domain', and {origin or 'the source'!r} is none of {', '.join(RM_BENCH_DOMAINS)}; "
            "keep the original file name, or give the domain as subset="
        )
    for column in ("chosen", "rejected"):
        if isinstance(row[column], str) or len(row[column]) != 3:
            raise ValueError(
                f"'{column}' is no list of 3 ({', '.join(official.RM_BENCH_STYLES)}); give RM-Bench's rows"
            )
    return Comparison(
        row["prompt"], chosen=row["chosen"], rejected=row["rejected"], id=f"{domain}/{row['id']}", subset=domain
    )


def judgebench(row: Row, origin: str) -> Comparison:
    """JudgeBench: the label says which response is right; the four categories of the paper are the subsets."""
    label, source = row["label"], row["source"]
    if label not in ("A>B", "B>A"):
        raise ValueError(f"label is {label!r}, JudgeBench has 'A>B' and 'B>A'; correct it")
    better, worse = label[0], label[2]
    category = next((name for prefix, name in JUDGEBENCH_CATEGORIES.items() if source.startswith(prefix)), source)
    return Comparison(
        row["question"],
        chosen=[row[f"response_{better}"]],
        rejected=[row[f"response_{worse}"]],
        id=row["pair_id"],
        subset=category,
        metadata={"source": source},
    )


def ppe_human(row: Row, origin: str) -> Comparison | None:
    """PPE human preference: Chatbot Arena votes; `tie` and `tie (bothbad)` are no preference."""
    ranks = {"model_a": [0, 1], "model_b": [1, 0]}.get(row["winner"])
    completions = [row["response_1"], row["response_2"]]
    if ranks is None:
        return None
    return Comparison(row["prompt"], completions, ranks, id=row.get("question_id"), subset=row.get("language"))


def ppe_best_of_k(row: Row, origin: str) -> Comparison:
    """PPE best-of-k: 32 responses, right or wrong. Its official pairs are a sample of those that differ."""
    right = [bool(score) for score in row["scores"]]
    completions = [row[f"response_{i + 1}"] for i in range(len(right))]
    pairs = row.get("sampled_conflict_pairs") or row.get("conflict_pairs")
    metadata = {}
    if pairs:
        metadata["pairs"] = [(i, j) if right[i] else (j, i) for i, j in pairs if right[i] != right[j]]
    ranks = [int(not one) for one in right]
    return Comparison(row["prompt"], completions, ranks, id=row.get("question_id"), metadata=metadata)


def rmb(row: Row, origin: str) -> Comparison:
    """RMB: pairwise rows (`chosen`, `reject`) and best-of-n rows (`bon_best`, `loser_list`)."""
    prompt, path = _messages(row["conversation_input"]), row["category_path"]
    if path.count("/") < 1 or path.split("/")[0] not in official.RMB_SETS:
        raise ValueError(f"category_path is {path!r}, RMB has 'Pairwise_set/...' and 'BoN_set/...'; give its files")
    if row.get("bon_best"):
        best, losers, key = row["bon_best"], row["loser_list"], f"bon/{row.get('bon_uid')}"
    else:
        best, losers, key = row["chosen"], [row["reject"]], f"pair/{row.get('pair_uid')}"
    return Comparison(
        prompt,
        chosen=[_reply(prompt, best["answer"])],
        rejected=[_reply(prompt, loser["answer"]) for loser in losers],
        id=key,
        subset=path,
    )


def m_rewardbench(row: Row, origin: str) -> Comparison:
    """M-RewardBench: RewardBench in 23 languages; a translated prompt keeps the number of its original."""
    language = row.get("language") or origin
    return Comparison(
        row["prompt"],
        chosen=[row["chosen"]],
        rejected=[row["rejected"]],
        id=f"{language}/{row['source']}/{row['id']}",
        subset=f"{language}/{row['source']}",
        metadata={"cluster": f"{row['source']}/{row['id']}"},
    )


def hh_rlhf(row: Row, origin: str) -> Comparison:
    """
    HH-RLHF: two transcripts, split at the last reply. Where the prompts differ there is no prompt, and the completions
    are the whole transcripts. An empty reply is compared like any other.
    """
    prompts, replies = [], []
    for column in ("chosen", "rejected"):
        before, marker, reply = row[column].rpartition(HH_REPLY)
        if not marker:
            raise ValueError(f"'{column}' has no {HH_REPLY!r}; give HH-RLHF transcripts")
        prompts.append(before + marker)
        replies.append(reply)
    if prompts[0] != prompts[1]:
        return Comparison("", chosen=[row["chosen"]], rejected=[row["rejected"]])
    return Comparison(prompts[0], chosen=[replies[0]], rejected=[replies[1]])


def ultrafeedback(row: Row, origin: str) -> Comparison | None:
    """UltraFeedback binarized: whole conversations; equal scores are no preference."""
    chosen, rejected = _messages(row["chosen"]), _messages(row["rejected"])
    if row["score_chosen"] == row["score_rejected"]:
        return None
    shared = chosen[:-1] if chosen[:-1] == rejected[:-1] else []
    start = len(shared)
    return Comparison(shared, chosen=[chosen[start:]], rejected=[rejected[start:]], id=row.get("prompt_id"))


def pair_up(rows: Iterable[Row]) -> Iterator[Row]:
    """HelpSteer2's rows are single responses; two neighbours with one prompt are a pair, `second` in the first."""
    waiting = None
    for row in rows:
        prompt = row.get("prompt")
        if waiting is None:
            waiting = row
        elif prompt is not None and waiting.get("prompt") == prompt:
            yield _Row(waiting, second=row)
            waiting = None
        else:
            yield _Row(waiting, second=None)
            waiting = row
    if waiting is not None:
        yield _Row(waiting, second=None)


def helpsteer2(row: Row, origin: str) -> Comparison | None:
    """HelpSteer2: the more helpful of the two responses; equally helpful is no preference."""
    prompt, second = row["prompt"], row.get("second")
    if second is None:
        raise ValueError("no neighbour has the same prompt, HelpSteer2's rows come in twos; give the whole file")
    by = row["helpfulness"] - second["helpfulness"]
    return _preferred(prompt, row["response"], second["response"], by)


def helpsteer3(row: Row, origin: str) -> Comparison | None:
    """HelpSteer3: `overall_preference` from -3 (response 1 much better) to 3; 0 is no preference."""
    prompt = row["context"]
    prompt = prompt if isinstance(prompt, str) else _messages(prompt)
    first, second = _reply(prompt, row["response1"]), _reply(prompt, row["response2"])
    return _preferred(prompt, first, second, -row["overall_preference"], subset=row.get("domain"))


def _preferred(prompt: Text, first: Text, second: Text, by: float, **fields: Any) -> Comparison | None:
    """The first preferred to the second if `by` > 0, the second if `by` < 0."""
    if by == 0:
        return None
    better, worse = (first, second) if by > 0 else (second, first)
    return Comparison(prompt, chosen=[better], rejected=[worse], **fields)


def shp(row: Row, origin: str) -> Comparison | None:
    """
    SHP: two comments on a Reddit post; label 1 means that A is preferred. Less than twice the votes is no preference:
    the filter that the card recommends and SteamSHP used.
    """
    by = 1 if row["labels"] == 1 else -1
    return _preferred(
        row["history"],
        row["human_ref_A"],
        row["human_ref_B"],
        by if row["score_ratio"] >= 2 else 0,
        id="/".join(str(row[key]) for key in ("post_id", "c_root_id_A", "c_root_id_B") if row.get(key)) or None,
        subset=row["domain"].removesuffix("_test").removesuffix("_validation").removesuffix("_train"),
    )


def summarize_from_feedback(row: Row, origin: str) -> Comparison:
    """
    Summarize from feedback, `comparisons`: two summaries of a Reddit post (or a news article), and the choice. The
    prompts are those of the paper's code.
    """
    info, (first, second) = _Row(row["info"]), (summary["text"] for summary in row["summaries"])
    if info.get("post"):
        subset = "tldr"
        prompt = f"SUBREDDIT: r/{info['subreddit']}\n\nTITLE: {info['title']}\n\nPOST: {info['post']}\n\nTL;DR:"
    else:
        subset, prompt = "cnndm", f"Article:\n{info['article']}\n\nTL;DR:\n"
    if row["choice"] not in (0, 1):
        raise ValueError(f"choice is {row['choice']!r}, it must be 0 or 1; correct it")
    return _preferred(prompt, first, second, 1 if row["choice"] == 0 else -1, subset=subset)


def pku_better(row: Row, origin: str) -> Comparison | None:
    """PKU-SafeRLHF by helpfulness."""
    return _pku(row, "better_response_id")


def pku_safer(row: Row, origin: str) -> Comparison | None:
    """PKU-SafeRLHF by harmlessness, which may prefer the other response than helpfulness does."""
    return _pku(row, "safer_response_id")


def _pku(row: Row, column: str) -> Comparison | None:
    by = {0: 1, 1: -1}.get(row[column], 0)
    comparison = _preferred(row["prompt"], row["response_0"], row["response_1"], by)
    if comparison is not None:
        comparison.metadata = {"conflict": row["better_response_id"] != row["safer_response_id"]}
    return comparison


def llmbar(row: Row, origin: str) -> Comparison:
    """LLMBar: label 1 or 2 is the better output; the file or its folder names the set."""
    label = row["label"]
    if label not in (1, 2):
        raise ValueError(f"label is {label!r}, LLMBar has 1 and 2; correct it")
    by = 1 if label == 1 else -1
    return _preferred(
        row["input"], row["output_1"], row["output_2"], by, subset=origin.removeprefix("Adversarial_") or "LLMBar"
    )


def gsm8k_solutions(row: Row, origin: str) -> Comparison:
    """GSM8K solutions of four systems, right or wrong. Questions with four right or four wrong count in best-of-4."""
    solutions = [row[system] for system in GSM8K_SYSTEMS]
    return Comparison(
        row["question"],
        [solution["solution"] for solution in solutions],
        [int(not solution["is_correct"]) for solution in solutions],
    )


def preference(row: Row, origin: str) -> Comparison | None:
    """Any preference row that `data.to_comparison` reads."""
    comparison = to_comparison(dict(row))
    return comparison if comparison.pairs() else None


# ── items: what one comparison adds to the score ─────────────────────────────────────────────────────────────────────

# ── the benchmarks ───────────────────────────────────────────────────────────────────────────────────────────────────

# Revisions: full commit hashes that a public source gives; everything else is unpinned.
# huggingface.co/datasets/allenai/reward-bench/commits/main: d61ac5c merges 47e7208, the last upload of data.
REWARD_BENCH = Part("allenai/reward-bench", "filtered", revision="d61ac5c97d0f2f7eb922da3c0b6bbaf614ae8d02")
# huggingface.co/datasets/allenai/preference-test-sets/tree/74d7c11476db2a6b48b93f5430b5911576eebf22: last upload.
PRIOR_PARTS = tuple(
    Part("allenai/preference-test-sets", name, revision="74d7c11476db2a6b48b93f5430b5911576eebf22")
    for name in official.PRIOR_SETS
)
# huggingface.co/datasets/C4AI-Community/multilingual-reward-bench/commit/19ab8c297a3e59a1d0efd42ae33cc14bf3febf63,
# whose card has num_examples 2869 for a language.
M_REWARDBENCH_PARTS = tuple(
    Part(
        "CohereLabsCommunity/multilingual-reward-bench",
        "test",
        config=language,
        revision="19ab8c297a3e59a1d0efd42ae33cc14bf3febf63",
    )
    for language in LANGUAGES
)
# huggingface.co/datasets/Anthropic/hh-rlhf/tree/09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa
HH_REVISION = "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa"
# huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized/resolve/3949bf5f8c17c394422ccfab0c31ea9c20bdeb85
ULTRAFEEDBACK_REVISION = "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85"
# huggingface.co/datasets/nvidia/HelpSteer2/tree/990b2711a36180dd19d9c94b8627844866f8982a
HELPSTEER2_REVISION = "990b2711a36180dd19d9c94b8627844866f8982a"
# huggingface.co/datasets/nvidia/HelpSteer3/tree/f6d145777bcbde96137596340fab89793acd1031
HELPSTEER3_REVISION = "f6d145777bcbde96137596340fab89793acd1031"
# huggingface.co/datasets/stanfordnlp/SHP/tree/0f0687d3379d3ac0c7dbd5020c9472fae0cb5cca: the one upload of data.
SHP_REVISION = "0f0687d3379d3ac0c7dbd5020c9472fae0cb5cca"
# The original is a loading script, which datasets >= 4 refuses; the hub's own conversion is on this branch.
SUMMARIZE_BRANCH = "refs/convert/parquet"


def _ppe(name: str, num_rows: int) -> Benchmark:
    # Source: benchmarks/base.py of the PPE repository: split train, 32 responses, sampled_conflict_pairs.
    return Benchmark(
        ppe_best_of_k,
        formula=official.ppe_formula,
        items=official.best_of_k_items,
        best_of_k=True,
        level=official.ppe_level,
        parts=(Part(f"lmarena-ai/PPE-{name}-Best-of-K", "train"),),
        num_rows=num_rows,
        notes="score: accuracy on the conflict pairs; AUC is within each question",
    )


def _rewardbench(with_prior: bool) -> Benchmark:
    return Benchmark(
        rewardbench,
        formula=official.rewardbench_formula,
        level=official.rewardbench_level,
        items=official.subset_items,
        parts=(REWARD_BENCH, *PRIOR_PARTS) if with_prior else (REWARD_BENCH,),
        licence="odc-by",
        num_rows=2985 + (6192 + 221 + 1741 + 9000) * with_prior,
        subsets=(*REWARDBENCH_SUBSETS, *official.PRIOR_SETS) if with_prior else REWARDBENCH_SUBSETS,
        notes="mean of four sections" + ", prior sets at half weight" * with_prior,
    )


BENCHMARKS: dict[str, Benchmark] = {
    "rewardbench": _rewardbench(with_prior=False),
    "rewardbench-with-prior": _rewardbench(with_prior=True),
    "rewardbench-2": Benchmark(
        rewardbench2,
        formula=official.rewardbench2_formula,
        items=official.rewardbench2_items,
        level=official.rewardbench2_level,
        components={"Ties": tuple(official.TIES_WEIGHTS)},
        parts=(Part("allenai/reward-bench-2", "test"),),
        licence="odc-by",
        num_rows=1865,
        subsets=official.REWARDBENCH2_SUBSETS,
        notes="mean of six subsets; one right of four, 1/k where the right one ties k ways",
    ),
    "rm-bench": Benchmark(
        rm_bench,
        formula=official.rm_bench_formula,
        level=official.rm_bench_level,
        items=official.rm_bench_items,
        parts=(Part("THU-KEG/RM-Bench", "train"),),
        licence="odc-by",
        num_rows=1327,
        subsets=RM_BENCH_DOMAINS,
        whole="total_dataset.json",
        notes="mean over chat, code, math and safety of hard, normal and easy",
    ),
    "judgebench": Benchmark(
        judgebench,
        formula=official.judgebench_formula,
        plain_mean=True,
        level=official.judgebench_level,
        parts=(Part("ScalerLab/JudgeBench", "gpt"),),
        licence="mit",
        num_rows=350,
        subsets=tuple(JUDGEBENCH_CATEGORIES.values()),
        notes="micro accuracy over pairs of GPT-4o responses; macro beside it",
    ),
    "judgebench-claude": Benchmark(
        judgebench,
        formula=official.judgebench_formula,
        plain_mean=True,
        level=official.judgebench_level,
        parts=(Part("ScalerLab/JudgeBench", "claude"),),
        licence="mit",
        num_rows=270,
        subsets=tuple(JUDGEBENCH_CATEGORIES.values()),
        notes="micro accuracy over pairs of Claude 3.5 Sonnet responses; macro beside it",
    ),
    "ppe-human-preference": Benchmark(
        ppe_human,
        parts=(Part("lmarena-ai/PPE-Human-Preference-V1", "test"),),
        num_rows=16038,
        notes="votes for a tie are no preference",
    ),
    "ppe-mmlu-pro": _ppe("MMLU-Pro", 512),
    "ppe-math": _ppe("MATH", 512),
    "ppe-gpqa": _ppe("GPQA", 512),
    "ppe-mbpp-plus": _ppe("MBPP-Plus", 507),
    "ppe-ifeval": _ppe("IFEval", 512),
    "rmb": Benchmark(
        rmb,
        formula=official.rmb_formula,
        level=official.rmb_level,
        items=official.rmb_items,
        files="github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark (folder RMB_dataset)",
        num_rows=17131 + 3786,  # pairs + best-of-n: huggingface.co/datasets/dd101bb/RMB_dataset/commit/8ca9894
        notes="mean of pairwise and best-of-n, helpfulness and harmlessness",
    ),
    "m-rewardbench": Benchmark(
        m_rewardbench,
        formula=official.m_rewardbench_formula,
        level=official.m_rewardbench_level,
        items=official.m_rewardbench_items,
        parts=M_REWARDBENCH_PARTS,
        licence="odc-by",
        num_rows=2869 * len(LANGUAGES),
        notes="mean over 23 languages of their micro accuracy; 2,869 rows a language",
    ),
    "hh-rlhf-helpful": Benchmark(
        hh_rlhf,
        parts=(Part("Anthropic/hh-rlhf", "test", data_dir="helpful-base", revision=HH_REVISION),),
        licence="mit",
        num_rows=2354,
    ),
    "hh-rlhf-harmless": Benchmark(
        hh_rlhf,
        parts=(Part("Anthropic/hh-rlhf", "test", data_dir="harmless-base", revision=HH_REVISION),),
        licence="mit",
        num_rows=2312,
        notes="5 prompts differ (whole transcripts are compared), 4 replies are empty",
    ),
    "ultrafeedback-binarized": Benchmark(
        ultrafeedback,
        parts=(Part("HuggingFaceH4/ultrafeedback_binarized", "test_prefs", revision=ULTRAFEEDBACK_REVISION),),
        licence="mit",
        num_rows=2000,
        notes="equal scores are no preference",
    ),
    "helpsteer2": Benchmark(
        helpsteer2,
        parts=(Part("nvidia/HelpSteer2", "validation", revision=HELPSTEER2_REVISION),),
        licence="cc-by-4.0",
        num_rows=1038,
        regroup=pair_up,
        notes="two neighbouring rows are one pair; equal helpfulness is no preference",
    ),
    "helpsteer3": Benchmark(
        helpsteer3,
        parts=(Part("nvidia/HelpSteer3", "validation", config="preference", revision=HELPSTEER3_REVISION),),
        licence="cc-by-4.0",
        num_rows=2017,
        notes="an overall preference of 0 is no preference",
    ),
    "shp": Benchmark(
        shp,
        parts=(Part("stanfordnlp/SHP", "test", revision=SHP_REVISION),),
        num_rows=18409,
        notes="a score_ratio below 2 is no preference",
    ),
    "summarize-from-feedback": Benchmark(
        summarize_from_feedback,
        parts=(
            Part("openai/summarize_from_feedback", "validation", data_dir="comparisons", revision=SUMMARIZE_BRANCH),
        ),
        num_rows=86086,
    ),
    "pku-saferlhf-better": Benchmark(
        pku_better,
        parts=(Part("PKU-Alignment/PKU-SafeRLHF", "test"),),
        licence="cc-by-nc-4.0",
        num_rows=8211,
        notes="by helpfulness",
    ),
    "pku-saferlhf-safer": Benchmark(
        pku_safer,
        parts=(Part("PKU-Alignment/PKU-SafeRLHF", "test"),),
        licence="cc-by-nc-4.0",
        num_rows=8211,
        notes="by harmlessness, which may contradict helpfulness",
    ),
    "llmbar": Benchmark(
        llmbar,
        formula=official.llmbar_formula,
        level=official.llmbar_level,
        # The copy on the hub (princeton-nlp/LLMBar) is a loading script, which datasets >= 4 refuses.
        files="github.com/princeton-nlp/LLMBar (folder Dataset/LLMBar)",
        licence="mit",
        num_rows=419,
        subsets=("Natural", "Neighbor", "GPTInst", "GPTOut", "Manual"),
        notes="mean of five sets",
    ),
    "gsm8k-solutions": Benchmark(
        gsm8k_solutions,
        formula=official.gsm8k_formula,
        items=official.best_of_k_items,
        files="github.com/openai/grade-school-math (example_model_solutions.jsonl)",
        licence="mit",
        num_rows=1319,
        notes="best of four solutions by four systems: one number, not a curve",
    ),
    "preference": Benchmark(preference, notes="any preference data: file, folder or hub id as the source"),
}
