"""Ray Data: a scorer per actor, for corpora that outgrow one machine.

    rows = ray.data.read_parquet("s3://corpus")
    score_dataset(rows, "my-reward-model", num_actors=8).write_parquet("s3://scored")

Rows of one prompt that follow each other are computed together where they lie in one batch. An actor that dies is
started again by Ray, and its batches with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..data.layouts import read_columns
from .rows import NUM_KNOWN, REASON, annotate, columns_to_add, fault_of, load_reward, refuse_taken

if TYPE_CHECKING:
    import pyarrow
    import ray.data


class ScorerActor:
    """
    A class for `map_batches(…, batch_format="pyarrow")`: a batch of rows comes back with the columns of its scores.

    Args:
        model (`str` or what [`as_reward`] takes): a name is loaded in every actor; a scorer that was loaded by name
            travels as its name.
        added (`dict[str, bool]`): the columns of the scores, and whether each holds lists.
        columns (`dict[str, str]`, *optional*): columns of other names, see [`read_columns`].
        on_bad_row (`str`, *optional*, defaults to `"null"`): or `"error"`, which ends the job.
        known (`list[dict]`, *optional*): rows that are asked for again where a whole batch fails.
        scorer_kwargs: handed to [`RewardScorer`].
    """

    def __init__(
        self,
        model: Any,
        added: Mapping[str, bool],
        columns: Mapping[str, str] | None = None,
        on_bad_row: str = "null",
        known: Sequence[dict[str, Any]] = (),
        **scorer_kwargs: Any,
    ):
        self.reward = load_reward(model, on_bad_row, scorer_kwargs)
        self.added = added
        self.columns = dict(columns or {})
        self.on_bad_row, self.known = on_bad_row, known

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Args: batch (`pyarrow.Table`): N rows. Returns: the same with the columns of their scores."""
        import pyarrow

        refuse_taken(batch.column_names, self.added, "the data set")
        rows = batch.to_pylist()
        results = annotate(rows, self.reward, self.columns)
        if fault := fault_of(self.reward, rows, results, self.known, self.columns):
            raise ValueError(fault)
        reasons = [reason for _, reason in results]
        for i, (found, reason) in enumerate(results):
            if reason is not None and self.on_bad_row == "error":
                raise ValueError(f"row {i} of a batch: {reason}")
            if found.keys() - self.added.keys():
                reasons[i] = "it is a row of another kind than the first ones"
        for name, is_list in self.added.items():
            values = [found.get(name) for found, _ in results]
            kind = pyarrow.list_(pyarrow.float64()) if is_list else pyarrow.float64()
            if is_list:
                values = [value if value is None or isinstance(value, list) else [value] for value in values]
            batch = batch.append_column(name, pyarrow.array(values, type=kind))
        return batch.append_column(REASON, pyarrow.array(reasons, type=pyarrow.string()))


def score_ray(
    dataset: ray.data.Dataset,
    model: Any,
    *,
    columns: Mapping[str, str] | Sequence[str] | None,
    on_bad_row: str,
    rows_per_chunk: int,
    num_actors: int | None,
    **scorer_kwargs: Any,
) -> ray.data.Dataset:
    """[`score_dataset`] of a Ray data set: lazily, the same rows with their scores."""
    import ray

    columns = read_columns(columns)
    added: dict[str, bool] = {}
    first, known = dataset.take_batch(100, batch_format="pyarrow"), []
    for row in first.to_pylist():
        with suppress(ValueError):
            found = columns_to_add(row, columns)
            added |= {name: added.get(name, False) or isinstance(value, list) for name, value in found.items()}
            known.append(row)
    if not added:
        raise ValueError("none of the first rows is one of texts; give rows of prompts and completions, or pairs")
    refuse_taken(first.column_names, added, "the data set")
    options = {"added": added, "columns": columns, "on_bad_row": on_bad_row, "known": known[:NUM_KNOWN]}
    options |= scorer_kwargs
    there, number = ray.cluster_resources(), num_actors or 1
    # One CPU is left to the tasks that read and write, without which the actors would wait for ever.
    per_actor = min(1.0, (there.get("CPU", 1) - 1) / number)
    share = {"num_gpus": 1} if there.get("GPU") else {"num_cpus": per_actor}
    return dataset.map_batches(
        ScorerActor,
        batch_format="pyarrow",
        batch_size=rows_per_chunk,
        compute=ray.data.ActorPoolStrategy(size=number),
        **share,
        fn_constructor_args=(model,),
        fn_constructor_kwargs=options,
    )
