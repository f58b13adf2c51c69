"""What lies between raw rows and the loss: rows ► encoded rows (once, cached by `datasets`) ► micro-batches.

An encoded row holds one group: the token ids of each completion that was kept, and their ranks. A micro-batch holds
the arguments of the model's forward and the index tensors of the loss.

    encode_row = RowEncoder(tokenizer); microbatches = PackingCollator()([encode_row(row, 0)])["microbatches"]

Shapes: `N` completions of a micro-batch, `M` pairs, `G` groups.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, islice
from math import ceil
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState, accelerator
from datasets import Dataset, Features, IterableDataset, Value
from transformers import PreTrainedTokenizerBase

from ..data import comparison, control_tokens, conversations, encoding, templates
from ..data.comparison import BadRow, loss_margin, to_comparison
from ..data.encoding import EncodedGroup, encode, within_limit, without_trailing_pads
from ..messages import located
from ..model.packing import collate, cost, split_by_tokens
from ..processes import shares
from .losses import ranked_pairs

logger = logging.getLogger(__name__)

COUNTED = {  # of each row, and what the sums are called in the log
    "num_dropped": "completions_dropped",
    "num_truncated": "completions_truncated",
    "num_reasoning": "completions_with_reasoning",
    "num_control_tokens": "completions_with_control_tokens",
    "num_equal": "completions_equal_to_another",  # their ids are those of another completion of the row
}
COLUMNS = ["input_ids", "prefix_length", "ranks", "margin", "row", "length"]  # what training and its samplers read
FEATURES = Features(  # given, not guessed from the first rows: those may lack a margin, or be bad
    {
        "input_ids": [[Value("int32")]],
        "prefix_length": Value("int32"),
        "ranks": [Value("int32")],
        "margin": Value("float64"),
        "row": Value("int64"),
        "length": Value("int32"),  # tokens that the row costs, for samplers that group or balance by length
        "cause": Value("string"),  # why the row cannot be used; "" if it can
        **dict.fromkeys(COUNTED, Value("int32")),
    }
)
LEGACY = {"chosen_input_ids": "chosen_ids", "rejected_input_ids": "rejected_ids"}  # names of TRL's
NUM_COMPARED = 1000  # rows of a stream, when a run that it trained is resumed
OVER_LENGTH, NO_PREFERENCE = "over max_length", "without a preference"


@cache
def code_version() -> str:
    """Hash of the source that makes token ids of rows, so that `datasets` does not serve what older code made."""
    modules = (comparison, control_tokens, conversations, encoding, templates)
    sources = (Path(file).read_bytes() for file in (*(module.__file__ for module in modules), __file__))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]


@contextmanager
def read_by_all_processes() -> Iterator[None]:
    """Within, accelerate prepares data loaders of whole batches; its own would give each process another part."""
    prepare = accelerator.prepare_data_loader
    accelerator.prepare_data_loader = lambda *args, **kwargs: prepare(
        *args, **{**kwargs, "num_processes": 1, "process_index": 0}
    )
    try:
        yield
    finally:
        accelerator.prepare_data_loader = prepare


@dataclass
class RowEncoder:
    """
    A raw row ► an encoded row. Picklable and hashed by its fields, made for `datasets.map(with_indices=True)`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the reward model's.
        max_length (`int`, *optional*): the most tokens of prompt + completion.
        truncation_mode (`str`): `"drop"`, `"keep_end"` or `"error"`, see [`rm_plugin.data.encoding.encode`].
        reasoning (`str`): `"keep"`, `"strip"` or `"error"`.
        ties (`bool`): whether a row of completions of one rank is of use.
        on_bad_row (`str`): `"error"`, or `"skip"` to mark the row unusable.
        trailing_pad_id (`int`, *optional*): `RewardModelConfig.trailing_pad_id`, cut from the end of every text.
        code (`str`): identity of this code for the cache of `datasets`.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None = None
    truncation_mode: str = "drop"
    reasoning: str = "keep"
    ties: bool = False
    on_bad_row: str = "error"
    trailing_pad_id: int | None = None
    code: str = ""

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        names = ("max_length", "truncation_mode", "reasoning", "trailing_pad_id")
        row = {LEGACY[name]: row[name] for name in LEGACY if name in row} | row
        with located(f"row {index}"):
            try:
                if row.get("chosen_ids") is not None and row.get("rejected_ids") is not None:
                    group = self._tokenised(row)
                else:
                    group = encode(to_comparison(row), self.tokenizer, **{name: getattr(self, name) for name in names})
            except BadRow as bad_row:
                if self.on_bad_row == "error":
                    raise
                return _encoded_row(index, EncodedGroup([]), str(bad_row))
        ranks = group.ranks or []
        if len(ranks) > 1 and (self.ties or len(set(ranks)) > 1):
            return _encoded_row(index, group, "")
        return _encoded_row(index, group, OVER_LENGTH if group.num_dropped else NO_PREFERENCE)

    def _tokenised(self, row: dict[str, Any]) -> EncodedGroup:
        """TRL's `chosen_ids` and `rejected_ids`, under the over-length policy that text gets."""
        names = ("chosen_ids", "rejected_ids")
        if empty := [name for name in names if not row[name]]:
            raise BadRow(f"`{empty[0]}` is empty; give at least one token id")
        texts = {f"`{name}`": list(row[name]) for name in names}
        group = within_limit(texts, self.tokenizer, self.max_length, self.truncation_mode)
        group = without_trailing_pads(group, self.trailing_pad_id)
        return replace(group, ranks=group.kept, margin=loss_margin(row))


def _distinct_texts(row: dict[str, Any]) -> tuple[EncodedGroup, list[int]]:
    """The different texts of an encoded row, which the model computes, and each completion's index among them."""
    texts = [tuple(ids) for ids in row["input_ids"]]
    index = {ids: i for i, ids in enumerate(dict.fromkeys(texts))}
    return EncodedGroup([list(ids) for ids in index], row["prefix_length"]), [index[ids] for ids in texts]


def _encoded_row(index: int, group: EncodedGroup, cause: str) -> dict[str, Any]:
    dense = {rank: i for i, rank in enumerate(sorted(set(group.ranks or [])))}
    counts = {**vars(group), "num_equal": len(group.input_ids) - len(set(map(tuple, group.input_ids)))}
    return {
        "input_ids": group.input_ids,
        "prefix_length": group.prefix_length,
        "ranks": [dense[rank] for rank in group.ranks or []],  # of a source's own scale, maybe beyond int32
        "margin": group.margin,
        "row": index,
        "length": group.num_tokens,
        "cause": cause,
        **{name: counts[name] for name in COUNTED},
    }


def encode_dataset(dataset: Dataset, encoder: RowEncoder, name: str, num_proc: int | None = None) -> tuple:
    """
    Encode all rows and keep the usable ones; what is left out is counted and logged.

    Args:
        dataset (`Dataset`): raw rows.
        encoder ([`RowEncoder`]): the settings.
        name (`str`): `"train"`, `"eval"` or the name of an evaluation set, for messages.
        num_proc (`int`, *optional*): processes to encode with.

    Returns:
        `tuple[Dataset, dict[str, int]]`: encoded rows with the columns `COLUMNS`, and the counts.

    Raises:
        ValueError: no row can be used.
    """
    with PartialState().main_process_first():
        encoded = dataset.map(
            encoder,
            with_indices=True,
            remove_columns=dataset.column_names,
            features=FEATURES,
            num_proc=num_proc,
            desc=f"Encoding {name} dataset",
        )
    causes = encoded["cause"][:]
    usable = [i for i, cause in enumerate(causes) if not cause]
    bad = [(i, cause) for i, cause in enumerate(causes) if cause not in ("", OVER_LENGTH, NO_PREFERENCE)]
    counts = {
        "rows": len(encoded),
        "rows_used": len(usable),
        "rows_over_length": causes.count(OVER_LENGTH),
        "rows_without_preference": causes.count(NO_PREFERENCE),
        "rows_bad": len(bad),
        **{what: sum(encoded[name][:]) for name, what in COUNTED.items()},
    }
    notable = {what: n for what, n in counts.items() if n and what not in ("rows", "rows_used")}
    if notable:
        what = ", ".join(f"{what.replace('_', ' ')}: {n}" for what, n in notable.items())
        logger.warning("%s dataset: %d of %d rows are used (%s)", name, counts["rows_used"], counts["rows"], what)
    for index, cause in bad[:10]:
        logger.warning("%s dataset: skipped row %d: %s", name, index, cause)
    if not usable:
        raise ValueError(
            f"none of the {len(encoded)} rows of the {name} dataset can be used, row 0: {causes[0]}; "
            f"max_length is {encoder.max_length}"
        )
    return (encoded if len(usable) == len(encoded) else encoded.select(usable)).select_columns(COLUMNS), counts


def encode_stream(
    dataset: IterableDataset, columns: Collection[str], encoder: RowEncoder, name: str
) -> IterableDataset:
    """Encode a stream as it is read; what is left out is logged at the 1st, 10th, 100th, … such row."""
    encoded = dataset.map(encoder, with_indices=True, remove_columns=list(columns), features=FEATURES)
    return encoded.filter(_StreamFilter(name)).select_columns(COLUMNS)


def first_rows(stream: IterableDataset) -> tuple[IterableDataset, list[dict[str, Any]]]:
    """A stream that still has every row, also where it can be read only once, and its first rows."""
    first = list(islice(stream, NUM_COMPARED))
    second_try = list(islice(stream, 1))
    if not first:
        raise ValueError("the train dataset has no rows; give at least one")
    if repr(second_try) == repr(first[:1]):
        return stream, first
    begun = {"begun": deque([*first, *second_try]), "stream": stream}
    return IterableDataset.from_generator(_begun_rows, gen_kwargs=begun), first


def _begun_rows(begun: deque, stream: IterableDataset) -> Iterator[dict[str, Any]]:
    while begun:
        yield begun.popleft()
    yield from stream


@dataclass
class _StreamFilter:
    name: str
    num_left_out: int = 0

    def __call__(self, row: dict[str, Any]) -> bool:
        if row["cause"]:
            self.num_left_out += 1
            if str(self.num_left_out).strip("0") == "1":
                logger.warning(
                    "%s dataset: %d rows left out so far, the last is row %d: %s",
                    *(self.name, self.num_left_out, row["row"], row["cause"]),
                )
        return not row["cause"]


def cut_batch(
    groups: Sequence[EncodedGroup],
    num_processes: int,
    max_tokens: int | None = None,
    form: str = "packed",
    rope_switch: int | None = None,
) -> list[list[list[int]]]:
    """
    The batch of all processes as micro-batches of whole groups: few, within the budget, and so that processes compute
    about as many tokens, in all and in each micro-batch. It depends on the lengths alone, so all processes agree.

    Args:
        groups (`Sequence[EncodedGroup]`): of the whole batch.
        num_processes (`int`): how many share it.
        max_tokens (`int`, *optional*): token budget of one call; a larger group is computed alone.
        form, rope_switch: see [`rm_plugin.model.packing.split_by_tokens`].

    Returns:
        `list[list[list[int]]]`: by micro-batch and process, indices of groups; none where there is nothing left.

    Example:
        >>> cut_batch([EncodedGroup([[7] * n]) for n in (50, 10, 20, 40)], num_processes=2)
        [[[0, 1], [2, 3]]]
        >>> cut_batch([EncodedGroup([[7] * n]) for n in (50, 10, 20, 40)], num_processes=2, max_tokens=50)
        [[[0], [3]], [[1], [2]]]
    """
    cut, totals = [], [0] * num_processes
    for side in split_by_tokens(groups, None, form, rope_switch):
        costs = [cost([groups[i]], form) for i in side]
        fewest = 1
        if max_tokens is not None:
            fewest = ceil(sum(min(one, max_tokens) for one in costs) / (num_processes * max_tokens))
        for num_microbatches in count(fewest):
            parts = shares(costs, num_microbatches * num_processes)
            loads = [cost([groups[side[i]] for i in part], form) if part else 0 for part in parts]
            within = all(
                len(part) < 2 or max_tokens is None or load <= max_tokens
                for part, load in zip(parts, loads, strict=True)
            )
            if within or len(parts) >= len(side):
                break
        largest_first = sorted(range(len(parts)), key=lambda k: -loads[k])
        for start in range(0, len(parts), num_processes):
            of_processes: list[list[int]] = [[] for _ in range(num_processes)]
            ranks = sorted(range(num_processes), key=lambda rank: totals[rank])
            for rank, k in zip(ranks, largest_first[start : start + num_processes], strict=True):
                of_processes[rank] = [side[i] for i in parts[k]]
                totals[rank] += loads[k]
            cut.append(of_processes)
    return cut


@dataclass
class PackingCollator:
    """
    Encoded rows ► `{"microbatches": [...]}`. A micro-batch has:

    - `model` (`dict`): arguments of the model's forward, see [`rm_plugin.model.packing.collate`]; equal texts of a
      group are computed once, as by the scorer, so that they tie;
    - `text_of_completion` (N,) int64: for each completion the index of its text in the logits;
    - `pairs` (`dict`): arguments of [`rm_plugin.training.losses.comparison_loss`], from `better_M` to `tie_M`;
    - `rows`, `num_completions` (`list[int]` of G): for each group the index of its data-set row, and its completions;
    - `num_tokens` (`int`), `batch_size` (`float`): tokens of the texts; groups of the whole batch per process, by
      which losses are divided, since launchers take the mean over processes;
    - `is_filling` (`bool`): whether it only keeps a process in step that has nothing to compute, and counts nowhere.

    Each process gets the rows of the batch of all processes and takes its share, as [`cut_batch`] says.

    Args:
        form (`str`): one of `rm_plugin.model.packing.FORMS` that gradients flow through.
        max_tokens (`int`, *optional*): token budget of one micro-batch.
        rope_switch (`int`, *optional*): see `RewardModel.rope_switch`.
        ties (`bool`): whether pairs of equal rank are trained on, as ties.
        rank, num_processes (`int`): of this process, and how many share the batch.
    """

    form: str = "padded"
    max_tokens: int | None = None
    rope_switch: int | None = None
    ties: bool = False
    rank: int = 0
    num_processes: int = 1

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, list[dict]]:
        groups, text_indices = zip(*map(_distinct_texts, rows), strict=True)
        cut = cut_batch(groups, self.num_processes, self.max_tokens, self.form, self.rope_switch)
        shortest = min(range(len(rows)), key=lambda i: groups[i].num_tokens)
        microbatches = []
        for run in (of_processes[self.rank] for of_processes in cut):
            part = ([column[i] for i in run or [shortest]] for column in (rows, groups, text_indices))
            microbatches.append(self._microbatch(*part))
            microbatches[-1] |= {"batch_size": len(rows) / self.num_processes, "is_filling": not run}
        return {"microbatches": microbatches}

    def _microbatch(
        self, rows: list[dict], groups: list[EncodedGroup], text_indices: list[list[int]]
    ) -> dict[str, Any]:
        pairs, text_of_completion, num_texts = [], [], 0
        for g, (row, group, indices) in enumerate(zip(rows, groups, text_indices, strict=True)):
            start, margin = len(text_of_completion), row["margin"] or 0.0
            of_row = zip(*ranked_pairs(row["ranks"], ties=self.ties), strict=True)
            pairs += [(start + better, start + worse, g, margin, is_tie) for better, worse, is_tie in of_row]
            text_of_completion += [num_texts + i for i in indices]
            num_texts += len(group.input_ids)
        names = ("better_M", "worse_M", "group_M", "margin_M", "tie_M")
        columns = dict(zip(names, map(torch.tensor, zip(*pairs, strict=True)), strict=True))
        return {
            "model": collate(groups, self.form),
            "text_of_completion": torch.tensor(text_of_completion),
            "pairs": {**columns, "num_groups": len(rows), "tie_M": columns["tie_M"] if self.ties else None},
            "rows": [row["row"] for row in rows],
            "num_completions": [len(row["input_ids"]) for row in rows],
            "num_tokens": sum(len(ids) for row in rows for ids in row["input_ids"]),
        }


# --- what comes of a micro-batch; tensors stay on the device, so that no step waits for them


def metric_sums(
    scores_N: torch.Tensor, pairs: dict[str, Any], so_far: torch.Tensor | None, is_filling: bool = False
) -> torch.Tensor:
    """(8,) of micro-batches: pairs, wins + ties / 2, ties, Σ margin, completions, Σ score, −lowest, highest score."""
    margins_M = scores_N[pairs["better_M"]] - scores_N[pairs["worse_M"]]
    preferred_M = _preferred(pairs)
    ties_M = (margins_M == 0) & preferred_M
    right_M = ((margins_M > 0) & preferred_M) + ties_M / 2
    sums = [preferred_M.sum(), right_M.sum(), ties_M.sum(), (margins_M * preferred_M).sum()]
    here = torch.stack([*sums, torch.ones_like(scores_N).sum(), scores_N.sum(), -scores_N.min(), scores_N.max()])
    if is_filling:
        here = torch.cat([torch.zeros_like(here[:6]), torch.full_like(here[6:], -torch.inf)])
    if so_far is None:
        return here
    return torch.cat([so_far[:6] + here[:6], torch.maximum(so_far[6:], here[6:])])


def _preferred(pairs: dict[str, Any]) -> torch.Tensor:
    """(M,) bool, the pairs that are no ties."""
    return torch.ones_like(pairs["better_M"], dtype=torch.bool) if pairs["tie_M"] is None else ~pairs["tie_M"]


def metrics_of(sums: torch.Tensor, accelerator) -> dict[str, float]:
    """Metrics under TRL's names, over all processes, of `metric_sums`."""
    totals = accelerator.reduce(sums[:6], reduction="sum").tolist()
    lowest, highest = accelerator.gather(sums[None, 6:]).amax(dim=0).tolist()
    num_pairs, right, ties, margin, num_completions, score = totals
    num_pairs = max(num_pairs, 1)  # there may be ties only
    return {
        "min_reward": -lowest,
        "mean_reward": score / num_completions,
        "max_reward": highest,
        "accuracy": right / num_pairs,
        "tie_rate": ties / num_pairs,
        "margin": margin / num_pairs,
    }


def results_by_row(scores_N: torch.Tensor, losses_G: torch.Tensor, inputs: dict[str, Any]) -> dict[int, tuple]:
    """By row of the data set: its loss, scores (K,), scores of its pairs (P, 2), ties left out."""
    if inputs["is_filling"]:
        return {}
    pairs, preferred_M = inputs["pairs"], _preferred(inputs["pairs"])
    pairs_P2 = scores_N[torch.stack([pairs["better_M"], pairs["worse_M"]], dim=-1)[preferred_M]].cpu()
    num_pairs_G = torch.bincount(pairs["group_M"][preferred_M], minlength=len(losses_G)).tolist()
    scores = scores_N.cpu().split(inputs["num_completions"])
    rows = zip(inputs["rows"], losses_G.tolist(), scores, pairs_P2.split(num_pairs_G), strict=True)
    return {row: (loss, scores_K.numpy(), scores_P2.numpy()) for row, loss, scores_K, scores_P2 in rows}
