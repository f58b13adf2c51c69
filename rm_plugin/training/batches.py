"""What lies between raw rows and the loss: rows ► encoded rows (once, cached by `datasets`) ► micro-batches.

An encoded row holds one group: the token ids of each completion that was kept, and their ranks. A micro-batch holds
the arguments of the model's forward and the index tensors of the loss.

    encode_row = RowEncoder(tokenizer); microbatches = PackingCollator()([encode_row(row, 0)])["microbatches"]

Shapes: `N` completions of a micro-batch, `M` pairs, `G` groups.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, Features, IterableDataset, Value
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..data import comparison, control_tokens, conversations, encoding, templates
from ..data.comparison import BadRow, to_comparison
from ..data.encoding import EncodedGroup, common_prefix_length, cut_start, encode, without_trailing_pads
from ..model.packing import collate, cost, split_by_tokens
from .losses import ranked_pairs

logger = logging.getLogger(__name__)

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
        "num_dropped": Value("int32"),
        "num_truncated": Value("int32"),
        "num_reasoning": Value("int32"),
        "num_control_tokens": Value("int32"),
        "num_equal": Value("int32"),  # completions whose ids another completion of the row has too
    }
)
OVER_LENGTH, NO_PREFERENCE = "over max_length", "without a preference"


@cache
def code_version() -> str:
    """Hash of the source that makes token ids of rows, so that `datasets` does not serve what older code made."""
    modules = (comparison, control_tokens, conversations, encoding, templates)
    sources = (Path(file).read_bytes() for file in (*(module.__file__ for module in modules), __file__))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]


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
        try:
            tokenised = row.get("chosen_ids") is not None and row.get("rejected_ids") is not None
            group = self._tokenised(row, index) if tokenised else self._encoded(row, index)
        except BadRow as bad_row:
            if self.on_bad_row == "error":
                raise
            return _encoded_row(index, EncodedGroup([], 0, ranks=[]), f"{bad_row.cause}; {bad_row.fix}")
        group = without_trailing_pads(group, self.trailing_pad_id)
        ranks = group.ranks or []
        if len(ranks) > 1 and (self.ties or len(set(ranks)) > 1):
            return _encoded_row(index, group, "")
        return _encoded_row(index, group, OVER_LENGTH if group.num_dropped else NO_PREFERENCE)

    def _encoded(self, row: dict[str, Any], index: int) -> EncodedGroup:
        comparison = to_comparison(row, index)
        try:
            return encode(
                comparison,
                self.tokenizer,
                max_length=self.max_length,
                truncation_mode=self.truncation_mode,
                reasoning=self.reasoning,
            )
        except TemplateError as error:  # such as "roles must alternate"
            raise BadRow(f"the chat template refuses it: {error}", "fix the row or the template", index) from None
        except ValueError as error:
            raise ValueError(f"row {index}: {error}") from None

    def _tokenised(self, row: dict[str, Any], index: int) -> EncodedGroup:
        """TRL's `chosen_ids` and `rejected_ids`, under the over-length policy that text gets."""
        sequences, kept, num_truncated = [], [], 0
        for i, name in enumerate(("chosen_ids", "rejected_ids")):
            ids = list(row[name])
            if not ids:
                raise BadRow(f"`{name}` is empty", "give at least one token id", index)
            if self.max_length is not None and len(ids) > self.max_length:
                if self.truncation_mode == "error":
                    raise ValueError(
                        f"row {index}: `{name}` has {len(ids)} tokens, max_length is {self.max_length}; raise "
                        "max_length or use truncation_mode='drop' or 'keep_end'"
                    )
                if self.truncation_mode == "drop":
                    continue
                ids, num_truncated = cut_start(ids, self.max_length, self.tokenizer), num_truncated + 1
            sequences.append(ids)
            kept.append(i)
        return EncodedGroup(
            sequences,
            common_prefix_length(sequences),
            kept=kept,
            ranks=kept,
            margin=row.get("margin"),
            num_dropped=2 - len(kept),
            num_truncated=num_truncated,
        )


def _distinct_texts(row: dict[str, Any]) -> tuple[EncodedGroup, list[int]]:
    """The different texts of an encoded row, which the model computes, and each completion's index among them."""
    texts = [tuple(ids) for ids in row["input_ids"]]
    index = {ids: i for i, ids in enumerate(dict.fromkeys(texts))}
    return EncodedGroup([list(ids) for ids in index], row["prefix_length"]), [index[ids] for ids in texts]


def _encoded_row(index: int, group: EncodedGroup, cause: str) -> dict[str, Any]:
    dense = {rank: i for i, rank in enumerate(sorted(set(group.ranks or [])))}
    return {
        "input_ids": group.input_ids,
        "prefix_length": group.prefix_length,
        "ranks": [dense[rank] for rank in group.ranks or []],  # of a source's own scale, maybe beyond int32
        "margin": group.margin,
        "row": index,
        "length": group.num_tokens,
        "cause": cause,
        "num_dropped": group.num_dropped,
        "num_truncated": group.num_truncated,
        "num_reasoning": group.num_reasoning,
        "num_control_tokens": group.num_control_tokens,
        "num_equal": len(group.input_ids) - len(set(map(tuple, group.input_ids))),
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
        "completions_dropped": sum(encoded["num_dropped"][:]),
        "completions_truncated": sum(encoded["num_truncated"][:]),
        "completions_with_reasoning": sum(encoded["num_reasoning"][:]),
        "completions_with_control_tokens": sum(encoded["num_control_tokens"][:]),
        "completions_equal_to_another": sum(encoded["num_equal"][:]),
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


def encode_stream(dataset: IterableDataset, encoder: RowEncoder, name: str) -> IterableDataset:
    """Encode a stream as it is read; what is left out is logged at the 1st, 10th, 100th, … such row."""
    columns = dataset.column_names or list(next(iter(dataset)))
    encoded = dataset.map(encoder, with_indices=True, remove_columns=columns, features=FEATURES)
    return encoded.filter(_StreamFilter(name)).select_columns(COLUMNS)


class _StreamFilter:
    def __init__(self, name: str):
        self.name, self.num_left_out = name, 0

    def __call__(self, row: dict[str, Any]) -> bool:
        if row["cause"]:
            self.num_left_out += 1
            if str(self.num_left_out).strip("0") == "1":
                logger.warning(
                    "%s dataset: %d rows left out so far, the last is row %d: %s",
                    *(self.name, self.num_left_out, row["row"], row["cause"]),
                )
        return not row["cause"]


class PackingCollator:
    """
    Encoded rows ► `{"microbatches": [...]}`. A micro-batch has:

    - `model` (`dict`): arguments of the model's forward, see [`rm_plugin.model.packing.collate`]; equal texts of a
      group are computed once, as by the scorer, so that they tie;
    - `text_of_completion` (N,) int64: for each completion the index of its text in the logits, or `None` for 0 … N−1;
    - `better`, `worse`, `group` (M,) int64, `tie` (M,) bool, `margin` (M,) float32: arguments of
      [`rm_plugin.training.losses.comparison_loss`];
    - `rows` (`list` of G tuples): for each group the index of its data-set row, its number of completions, and the
      indices of its pairs among them (ties left out), `(better, worse)`;
    - `num_pairs`, `num_tokens`, `num_computed_tokens` (`int`): pairs that are no ties, tokens of the texts, tokens
      that the model computes for them; `batch_size` (`int`): groups of the whole batch.

    Args:
        shared_prefix (`bool`): whether the model takes packed rows.
        max_tokens (`int`, *optional*): token budget of one micro-batch.
        rope_switch (`int`, *optional*): see `RewardModel.rope_switch`.
        ties (`bool`): whether pairs of equal rank are trained on, as ties.
    """

    def __init__(
        self,
        shared_prefix: bool = False,
        max_tokens: int | None = None,
        rope_switch: int | None = None,
        ties: bool = False,
    ):
        self.shared_prefix = shared_prefix
        self.max_tokens = max_tokens
        self.rope_switch = rope_switch
        self.ties = ties

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, list[dict]]:
        groups, text_indices = zip(*map(_distinct_texts, rows), strict=True)
        runs = split_by_tokens(groups, self.max_tokens, self.shared_prefix, self.rope_switch)
        parts = (([part[i] for i in run] for part in (rows, groups, text_indices)) for run in runs)
        return {"microbatches": [self._microbatch(*part, len(rows)) for part in parts]}

    def _microbatch(
        self, rows: list[dict], groups: list[EncodedGroup], text_indices: list[list[int]], batch_size: int
    ) -> dict[str, Any]:
        better, worse, tie, of_group, margin, row_pairs, text_of_completion = [], [], [], [], [], [], []
        start = num_texts = 0
        for g, (row, group) in enumerate(zip(rows, groups, strict=True)):
            pairs = list(zip(*ranked_pairs(row["ranks"], ties=self.ties), strict=True))
            better += [start + b for b, _, _ in pairs]
            worse += [start + w for _, w, _ in pairs]
            tie += [is_tie for _, _, is_tie in pairs]
            of_group += [g] * len(pairs)
            margin += [row["margin"] or 0.0] * len(pairs)
            preferred = [(b, w) for b, w, is_tie in pairs if not is_tie]
            row_pairs.append((row["row"], len(row["input_ids"]), preferred))
            text_of_completion += [num_texts + i for i in text_indices[g]]
            start += len(row["input_ids"])
            num_texts += len(group.input_ids)
        return {
            "model": collate(groups, self.shared_prefix),
            "text_of_completion": None if num_texts == start else torch.tensor(text_of_completion),
            "better": torch.tensor(better, dtype=torch.int64),
            "worse": torch.tensor(worse, dtype=torch.int64),
            "tie": torch.tensor(tie, dtype=torch.bool),
            "group": torch.tensor(of_group, dtype=torch.int64),
            "margin": torch.tensor(margin, dtype=torch.float32),
            "rows": row_pairs,
            "batch_size": batch_size,
            "num_pairs": len(tie) - sum(tie),
            "num_tokens": sum(len(ids) for row in rows for ids in row["input_ids"]),
            "num_computed_tokens": cost(groups, self.shared_prefix),
        }
