"""Rewards of functions and judges: scores of texts, or verdicts between two; plain, or several waiting at once.

    def right(prompts, completions, answer): ...                  # lists in; a number per completion, or None
    async def judge(prompts, completions, rubric): ...            # an answer that is no number is None
    async def compare(prompts, completions_a, completions_b): ... # "A", "B", "tie", or P(A is better)

Functions get those columns of the rows that they have parameters for. A judge that compares is asked in both orders.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import math
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from ..data.comparison import Comparison, text_key
from ..files import json_number, read_jsonl
from ..messages import check_at_least, one_line, shorten
from .base import Member, Reward, digest

log = logging.getLogger(__name__)

CALLS_OF = 64  # completions in one call of a plain function
CONCURRENCY = 16  # calls of an asynchronous function that wait at once
DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
COMPARED = ("completions_a", "completions_b")  # parameters of a judge that compares
TEXTS = ("prompts", "completions", *COMPARED)
SHOWN = 3  # unreadable answers that are logged one by one


@dataclass
class Call:
    """One call of a function: for each text its row of arguments, and the completions that it is."""

    texts: list[dict[str, Any]] = field(default_factory=list)
    members: list[list[Member]] = field(default_factory=list)
    tokens = None


class FunctionReward(Reward):
    """
    The rewards of a function.

    It is called as TRL calls reward functions, with the lists `prompts` and `completions`, and gets those columns of
    the row (`answer`, `rubric`, …), `tools` and `chat_template_kwargs` that it has parameters for. It returns one
    finite number per completion, or None for a text that cannot be scored.

    An asynchronous function is called with the completions of one comparison; `CONCURRENCY` calls wait at once, or as
    many as its attribute `concurrency` says. It asks others, who may answer anything: what is no finite number counts
    as None.

    Args:
        function (`Callable`): the function, or an object that can be called.
        name (`str`, *optional*): what reports call it, and what it is known by where no dotted path leads to it.
        dotted (`str`, *optional*): `module:name` that it was given by.
    """

    kind = "function"  # in reports
    words: Mapping[str, float] = {}  # answers that stand for a number
    least, most = -math.inf, math.inf
    may_answer_anything = False  # what is no number counts as none
    why_unscored = "of each, an answer could not be read or was None; see what the function returns"

    def __init__(self, function: Callable, name: str | None = None, dotted: str | None = None):
        self.function = function
        self.dotted = dotted = dotted or _dotted_path(function)
        self.name = name or getattr(function, "__name__", type(function).__name__)
        file = dotted and getattr(sys.modules[dotted.partition(":")[0]], "__file__", None)  # None: built into Python
        source_hash = digest(Path(file).read_bytes()) if file and Path(file).is_file() else None
        about = {"kind": self.kind, "function": dotted or name, "source_hash": source_hash}
        self.about = {"name": self.name, **about}
        called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        self.waits = inspect.iscoroutinefunction(called)
        self.may_answer_anything = self.may_answer_anything or self.waits
        self.num_unreadable = 0

    def check_can_resume(self) -> None:
        """Scores of another function must not be taken for this one's."""
        if self.about["function"] is None:
            raise ValueError(
                f"no dotted path leads to {self.name}, so its scores could not be resumed by the same function alone; "
                "define it at the top of a module, or give it a name (name=…, or as_reward(function, name=…))"
            )

    def plan(self, comparisons: list[Comparison], together: bool = False) -> list[Call]:
        """Whole comparisons in the order of the data, some `CALLS_OF` completions per call; one if calls wait."""
        calls: list[Call] = []
        for c, comparison in enumerate(comparisons):
            texts = self._texts(comparison)
            if not calls or len(calls[-1].texts) + len(texts) > (1 if self.waits else CALLS_OF):
                calls.append(Call())
            calls[-1].texts += texts
            calls[-1].members += [[(c, k)] for k in range(len(texts))]
        return [call for call in calls if call.texts]

    def run_all(self, calls: Sequence[Call]) -> Iterator[tuple[Call, np.ndarray]]:
        """Each call with its scores, as they come; asynchronous calls wait together."""
        before = self.num_unreadable
        run = self._run_waiting if self.waits else self._run_in_turn
        yield from run(calls)
        if self.num_unreadable > max(before, SHOWN):
            number = self.num_unreadable - before
            log.warning("%s: %d answers cannot be read, and count as none", self.name, number)

    def _run_in_turn(self, calls: Sequence[Call]) -> Iterator[tuple[Call, np.ndarray]]:
        for call in calls:
            yield call, self._scores(call, partial(self._called, call))

    def _run_waiting(self, calls: Sequence[Call]) -> Iterator[tuple[Call, np.ndarray]]:
        limit = getattr(self.function, "concurrency", CONCURRENCY)
        check_at_least(1, concurrency=limit)
        with _event_loop() as loop:
            waiting, todo = {}, iter(calls)
            while True:
                for call in islice(todo, limit - len(waiting)):
                    waiting[asyncio.run_coroutine_threadsafe(self._awaited(call), loop)] = call
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    call = waiting.pop(future)
                    yield call, self._scores(call, future.result)

    def _texts(self, comparison: Comparison) -> list[dict[str, Any]]:
        """What one comparison is asked for: a row of arguments per completion."""
        columns = self._columns(comparison)
        return [
            {"prompts": comparison.prompt, "completions": completion, **columns}
            for completion in comparison.completions
        ]

    def _columns(self, comparison: Comparison) -> dict[str, Any]:
        metadata = comparison.metadata or {}
        row = metadata.get("row") or {}
        named = {name: row.get(name) for name in _parameters(self.function) if name in row and name not in TEXTS}
        return {**named, "answer": metadata.get("answer", row.get("answer")), **comparison.template_arguments}

    def _called(self, call: Call) -> Any:
        names = dict.fromkeys(name for text in call.texts for name in text)
        lists, by_name = _arguments(self.function, {name: [text.get(name) for text in call.texts] for name in names})
        return self.function(*lists, **by_name)

    async def _awaited(self, call: Call) -> Any:
        return await self._called(call)

    def _scores(self, call: Call, answered: Callable[[], Any]) -> np.ndarray:
        try:
            answers = answered()
            if inspect.iscoroutine(answers):
                answers.close()
                raise TypeError("it gave a coroutine; define it with async def")
            if isinstance(answers, str | bytes | bytearray | Mapping | Set):  # Python would list characters, or keys
                raise TypeError(f"it gave {shorten(repr(answers))}, which is no list")
            answers = list(answers)
        except Exception as error:  # anything: it is not our code
            raise ValueError(
                f"{self.name} failed on {len(call.texts)} completions ({type(error).__name__}: {error}); it is called "
                "with lists, prompts and completions, and returns a list of scores"
            ) from error
        if len(answers) != len(call.texts):
            raise ValueError(f"{self.name} gave {len(answers)} scores for {len(call.texts)} completions; one each")
        return np.array([self._as_float(answer) for answer in answers])

    def _as_float(self, answer: Any) -> float:
        """The number that an answer is, NaN for none."""
        if answer is None:
            return math.nan
        with suppress(TypeError, ValueError):
            is_word = self.words and isinstance(answer, str)
            number = float(self.words.get(answer.strip().lower(), math.nan) if is_word else answer)
            if math.isfinite(number) and self.least <= number <= self.most:
                return number
        if not self.may_answer_anything:
            raise ValueError(
                f"{self.name} gave the score {shorten(repr(answer))}; a score is a finite number, or None for a text "
                "that cannot be scored"
            )
        self.num_unreadable += 1
        if self.num_unreadable <= SHOWN:
            log.warning("%s: the verdict %s cannot be read, and counts as none", self.name, shorten(repr(answer)))
        return math.nan


class PairwiseReward(FunctionReward):
    """
    The verdicts of a judge that compares two completions, asked for each pair of different ranks in both orders.

    Its function takes the lists `prompts`, `completions_a` and `completions_b`, and gives for each `"A"`, `"B"`,
    `"tie"`, or the probability that A is better; anything else is no verdict. Which completion is shown first in the
    first of the two orders is drawn from the texts. The score of a completion is the share of verdicts that it wins,
    so two orders that contradict each other tie; one missing verdict leaves the comparison unscored.

    Source: Zheng et al. 2023 (arXiv 2306.05685), section 3.4: swapped positions; a verdict counts if both agree.
    """

    kind = "pairwise judge"
    words = {"a": 1.0, "b": 0.0, "tie": 0.5}
    least, most = 0.0, 1.0
    may_answer_anything = True

    def _texts(self, comparison: Comparison) -> list[dict[str, Any]]:
        columns, texts = self._columns(comparison), comparison.completions
        shown = [(texts[a], texts[b]) for a, b in orders(comparison)]
        return [{"prompts": comparison.prompt, COMPARED[0]: a, COMPARED[1]: b, **columns} for a, b in shown]

    def scores_of(
        self, comparisons: list[Comparison], values: Mapping[Member, float], one_order: bool = False
    ) -> list[np.ndarray]:
        """The share of its verdicts that each completion wins, or of those of the first order alone."""
        scores = []
        for c, comparison in enumerate(comparisons):
            won, asked = np.zeros(len(comparison.completions)), np.zeros(len(comparison.completions))
            for m, (a, b) in list(enumerate(orders(comparison)))[:: 1 + one_order]:
                verdict = values.get((c, m), math.nan)
                won[[a, b]] += verdict, 1 - verdict
                asked[[a, b]] += 1
            scores.append(np.divide(won, asked, out=np.full_like(won, np.nan), where=asked > 0))
        return scores

    def verdict_rows(self, comparisons: list[Comparison], values: Mapping[Member, float]) -> list[dict[str, Any]]:
        """All verdicts as rows: which completions were A and B, and P(A is better), null for none."""
        return [
            {"id": comparison.id, "a": a, "b": b, "verdict": json_number(values.get((c, m), math.nan))}
            for c, comparison in enumerate(comparisons)
            for m, (a, b) in enumerate(orders(comparison))
        ]

    def read_verdicts(self, path: str | os.PathLike, comparisons: list[Comparison]) -> dict[Member, float]:
        """What [`verdict_rows`] gave."""
        found = {(row["id"], row["a"], row["b"]): row["verdict"] for _, row in read_jsonl(path)}
        return {
            (c, m): math.nan if (verdict := found.get((comparison.id, a, b))) is None else verdict
            for c, comparison in enumerate(comparisons)
            for m, (a, b) in enumerate(orders(comparison))
        }


def orders(comparison: Comparison) -> list[tuple[int, int]]:
    """
    Which two completions each question shows, A before B: every pair of different ranks (where nothing is ranked,
    every pair) in both orders. The first of the two is drawn from the texts: the better one is A in half of them.
    """
    shown = []
    for i, j in comparison.pairs() or combinations(range(len(comparison.completions)), 2):
        key = text_key([comparison.prompt, comparison.completions[i], comparison.completions[j]])
        a, b = (i, j) if int(key, 16) % 2 else (j, i)
        shown += [(a, b), (b, a)]
    return shown


def function_reward(function: Callable, name: str | None = None, dotted: str | None = None) -> FunctionReward:
    """The rewards of a function, or of a judge that compares."""
    kind = PairwiseReward if set(COMPARED) <= set(_parameters(function)) else FunctionReward
    return kind(function, name, dotted)


# --- calls


def _signature(function: Callable) -> list[inspect.Parameter]:
    """The parameters of a function; none where it is not in Python."""
    with suppress(TypeError, ValueError):
        return list(inspect.signature(function).parameters.values())
    return []


def _parameters(function: Callable) -> list[str]:
    """Names by which a function can be given something."""
    return [one.name for one in _signature(function) if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def _arguments(function: Callable, columns: dict[str, list]) -> tuple[list[list], dict[str, list]]:
    """What a function is called with: the columns that it has parameters for, and its texts by name or first."""
    texts = {name: columns[name] for name in TEXTS if name in columns}
    parameters, named = _signature(function), _parameters(function)
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    taken = {name: column for name, column in columns.items() if takes_all or name in named}
    if len(parameters) == 1 or {"completions", COMPARED[1]} & set(named):
        return [], taken
    return list(texts.values()), {name: column for name, column in taken.items() if name not in texts}


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own, since the caller may run in one (a notebook); what still waits is cancelled."""

    async def cancel_all() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


# --- module:name


def is_dotted_path(given: Any) -> bool:
    """Whether something is given as `module:name`, such as a reward function."""
    return isinstance(given, str) and bool(DOTTED.fullmatch(given)) and not Path(given).exists()


def import_dotted(dotted: str) -> Any:
    """What `module:name` names, of a module here or installed."""
    module_name, _, attribute = dotted.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:  # as with `python -m`; a console script leaves it out
        sys.path.insert(0, folder)
    try:
        importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{dotted}: {error}; start where {module_name}.py is, or install it") from error
    except (Exception, SystemExit) as error:  # anything: it is not our code
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{dotted}: {module_name} cannot be imported ({what}); correct it") from error
    try:
        return pkgutil.resolve_name(dotted)
    except AttributeError:
        raise ValueError(f"{dotted}: {module_name} has no {attribute}; write module:name") from None


def import_function(dotted: str) -> Callable:
    """The callable that `module:name` names; a class is called once, without arguments, to make it."""
    found = import_dotted(dotted)
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        raise ValueError(
            f"{dotted} is a {type(found).__name__}; it must be callable: (prompts, completions) -> scores"
        )
    return found


def _dotted_path(function: Callable) -> str | None:
    """`module:name` where it leads to this very function, else None."""
    dotted = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', '')}"
    try:
        return dotted if pkgutil.resolve_name(dotted) is function else None
    except (ImportError, AttributeError, ValueError):
        return None
