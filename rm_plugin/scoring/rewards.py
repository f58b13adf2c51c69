"""What is measured: a reward model or a function, both as something that plans its calls and runs them.

ruler = as_ruler("my-reward-model")       # or "my_module:my_judge", a RewardScorer, a model, a function
for batch in ruler.plan(comparisons):     # depends on the comparisons alone
    ruler.run(batch)                      # scores of the batch's texts; batch.members says whose they are
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.comparison import TEMPLATE_COLUMNS, Comparison

if TYPE_CHECKING:
    from .scorer import RewardScorer

CALLS_OF = 64  # completions in one call of a function
DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Member = tuple[int, int]  # (comparison, completion)


class ModelRuler:
    """A [`RewardScorer`] as the harness sees it."""

    def __init__(self, scorer: RewardScorer, name: str | None):
        self.scorer = scorer
        model, config = scorer.model, scorer.model.config
        template = self.template
        quantization = getattr(config, "quantization_config", None)
        if quantization is not None and not isinstance(quantization, dict):
            quantization = quantization.to_dict()
        self.device = str(model.device)
        self.about = {
            "name": name or getattr(config, "_name_or_path", "") or scorer.__name__,
            "kind": type(model).__name__,
            "revision": getattr(config, "_commit_hash", None),
            "base_revision": getattr(config, "base_revision", None),
            "weights": weights_digest(model),
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": quantization and {k: v for k, v in quantization.items() if "load_in" in k or "4bit" in k},
            "template_hash": None if template is None else hashlib.sha256(template.encode()).hexdigest()[:16],
            "max_length": scorer.max_length,
            "truncation_mode": scorer.truncation_mode,
            "reasoning": scorer.reasoning,
            "control_tokens": scorer.control_tokens,
            "normalize": scorer.normalize,
            "on_nonfinite": scorer.on_nonfinite,
            "max_num_batched_tokens": scorer.max_num_batched_tokens,
        }
        if scorer.normalize:
            self.about |= {"reward_mean": config.reward_mean, "reward_std": config.reward_std}
        self.about["quantization"] = json.loads(json.dumps(self.about["quantization"], default=str))

    @property
    def template(self) -> str | None:
        template = getattr(self.scorer.processing_class, "chat_template", None)
        return json.dumps(template, sort_keys=True) if isinstance(template, dict) else template

    def plan(self, comparisons: list[Comparison]) -> list[Any]:
        return self.scorer.plan(comparisons)

    def run(self, batch: Any) -> np.ndarray:
        return self.scorer.run(batch)

    def tokens(self, batch: Any) -> int:
        from ..model.packing import packed_tokens

        return sum(map(packed_tokens, batch.groups))

    @property
    def num_control_tokens(self) -> int:
        """Completions of the plans made that spell a control token."""
        return self.scorer.num_control_tokens

    def num_at_limit(self, plan: list[Any]) -> int:
        """Completions that fill the length limit to the last token: with `keep_end`, those that were cut."""
        limit = self.scorer.max_length
        lengths = ((len(ids), len(m)) for b in plan for ids, m in zip(_texts(b), b.members, strict=True))
        return sum(number for length, number in lengths if length == limit)


@dataclass
class Call:
    """One call of a function: its texts, and for each the completions that it is."""

    prompts: list[Any]
    completions: list[Any]
    members: list[list[Member]] = field(default_factory=list)
    tools: list[Any] = field(default_factory=list)
    chat_template_kwargs: list[Any] = field(default_factory=list)


class FunctionRuler:
    """A function `(prompts, completions) -> scores` as the harness sees it."""

    template = None
    device = None
    num_control_tokens = 0

    def __init__(self, function: Callable, name: str, dotted: str | None = None):
        self.function = function
        self.about = {"name": name, "kind": "function", **_identity(function, dotted)}

    def plan(self, comparisons: list[Comparison]) -> list[Call]:
        """Whole comparisons in the order of the data, some `CALLS_OF` completions a call."""
        calls = [Call([], [])]
        for index, comparison in enumerate(comparisons):
            if len(calls[-1].members) + len(comparison.completions) > CALLS_OF and calls[-1].members:
                calls.append(Call([], []))
            for k, completion in enumerate(comparison.completions):
                calls[-1].prompts.append(comparison.prompt)
                calls[-1].completions.append(completion)
                calls[-1].tools.append(comparison.tools)
                calls[-1].chat_template_kwargs.append(comparison.chat_template_kwargs)
                calls[-1].members.append([(index, k)])
        return calls

    def run(self, call: Call) -> np.ndarray:
        name = self.about["name"]
        columns = {column: getattr(call, column) for column in accepted(self.function, TEMPLATE_COLUMNS)}
        try:
            result = list(self.function(call.prompts, call.completions, **columns))
        except Exception as error:  # anything: it is not our code
            raise ValueError(
                f"{name} failed on {len(call.completions)} completions ({type(error).__name__}: {error}); it "
                "is called with two lists, prompts and completions, and returns a list of scores"
            ) from error
        if len(result) != len(call.completions):
            raise ValueError(f"{name} gave {len(result)} scores for {len(call.completions)} completions; one each")
        values = np.array([np.nan if value is None else _as_float(value, name) for value in result])
        bad = [value for value in result if value is not None and not math.isfinite(float(value))]
        if bad:
            raise ValueError(
                f"{name} gave {len(bad)} of {len(result)} scores that are not finite ({float(bad[0])}); a score is a "
                "finite number, or None for a text that cannot be scored"
            )
        return values

    def tokens(self, call: Call) -> None:
        return None

    def num_at_limit(self, plan: list[Call]) -> int:
        return 0


def as_ruler(model: Any, name: str | None, scorer_kwargs: dict[str, Any]) -> ModelRuler | FunctionRuler:
    """The model as something that plans and runs. Over-long texts are left out, not an error."""
    if is_function(model):
        if scorer_kwargs:
            raise ValueError(f"{', '.join(scorer_kwargs)} cannot be applied to the function {model}; leave it out")
        return FunctionRuler(_import(model), name or model, model)
    from .scorer import RewardScorer

    if callable(model) and not isinstance(model, RewardScorer) and not hasattr(model, "parameters"):
        if scorer_kwargs:
            raise ValueError(f"{', '.join(scorer_kwargs)} cannot be applied to a function; leave it out")
        return FunctionRuler(model, name or getattr(model, "__name__", type(model).__name__))
    if isinstance(model, RewardScorer):
        if scorer_kwargs:
            raise ValueError(f"{', '.join(scorer_kwargs)} cannot be applied to a scorer; give it to RewardScorer")
        scorer = copy.copy(model)  # the same model, with an evaluation's settings and counts of its own
        scorer.control_tokens, scorer.num_control_tokens = "parse", 0
    else:
        name = name or (os.fspath(model) if isinstance(model, str | os.PathLike) else None)
        scorer = RewardScorer(model, **{"control_tokens": "parse", **scorer_kwargs})  # an evaluation parses
    if scorer.truncation_mode == "error":
        scorer.truncation_mode = "drop"
    return ModelRuler(scorer, name)


def accepted(function: Callable, columns: Iterable[str]) -> list[str]:
    """Those of the data's columns that a reward function takes, by name or by `**kwargs`."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not in Python
        return []
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return [name for name in columns if takes_all or name in parameters]


def is_function(model: Any) -> bool:
    """Whether a model is given as `module:callable`."""
    return isinstance(model, str) and bool(DOTTED.fullmatch(model)) and not Path(model).exists()


def _import(dotted: str) -> Callable:
    """The callable that `module:name` names; a class is called once, without arguments, to make the judge."""
    module_name, _, attribute = dotted.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:  # as `python -m` has it; the console script has not
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{dotted}: {error}; start where {module_name}.py is, or install it") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{dotted}: {module_name} has no {attribute}; write module:function")
        found = getattr(found, part)
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        raise ValueError(
            f"{dotted} is a {type(found).__name__}; it must be callable: (prompts, completions) -> scores"
        )
    return found


def _identity(function: Callable, dotted: str | None) -> dict[str, Any]:
    """What tells one judge from another: where it is, and a hash of its source; for a dotted path its module's."""
    if dotted is None:
        held = []
        while isinstance(function, functools.partial):
            held += [function.args, function.keywords]
            function = function.func
        named = function if hasattr(function, "__qualname__") else type(function)
        if inspect.isfunction(named):
            held.append(inspect.getclosurevars(named).nonlocals)
        return {"function": f"{named.__module__}.{named.__qualname__}", "source_hash": _source_hash(named, held)}
    file = getattr(sys.modules[dotted.partition(":")[0]], "__file__", None)  # None: built into Python
    digest = file and hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return {"function": dotted, "source_hash": digest}


def _source_hash(named: Any, held: list[Any]) -> str | None:
    """Of a function or class in memory and the plain values that it holds; globals and attributes are not seen."""
    try:
        source = inspect.getsource(named)
    except (OSError, TypeError):  # written at a prompt, or not in Python
        code = getattr(named, "__code__", None)
        if code is None:
            return None
        source = repr(_described(code))
    try:
        values = json.dumps(held, sort_keys=True, default=lambda value: type(value).__qualname__)
    except (TypeError, ValueError):  # keys of several types, a list in itself
        values = ""
    return hashlib.sha256(f"{source}{values}".encode(errors="replace")).hexdigest()[:16]


def _described(code: Any) -> list[Any]:
    def one(const: Any) -> Any:
        return sorted(map(repr, const)) if isinstance(const, frozenset) else const  # whose order changes by process

    return [code.co_code, code.co_names, [_described(c) if inspect.iscode(c) else one(c) for c in code.co_consts]]


def _as_float(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} gave the score {repr(value)[:60]}; a score is a finite number, or None for a text that cannot be "
            "scored"
        ) from None


def weights_digest(model: Any) -> str:
    """A hash of names, shapes and some 4096 values of each tensor: another training, another digest; cheap at 70B."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not hasattr(tensor, "reshape"):
            continue
        flat = tensor.detach().reshape(-1)
        flat = flat[:: max(1, flat.numel() // 4096)]
        if flat.is_floating_point():
            flat = flat.double()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(flat.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _texts(batch: Any) -> list[list[int]]:
    return [ids for group in batch.groups for ids in group.input_ids]


def plan_digest(plan: list[Any]) -> str:
    """
    A hash of everything that a score is computed from, and of which completions it is the score, however they are
    batched: token ids for a model; prompt, completion, tools and template arguments for a function.
    """
    lines = []
    for batch in plan:
        texts = _calls_texts(batch) if isinstance(batch, Call) else _texts(batch)
        for text, members in zip(texts, batch.members, strict=True):
            lines.append(hashlib.sha256(json.dumps([text, members], default=str).encode()).digest())
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()[:16]


def _calls_texts(call: Call) -> list[list[Any]]:
    columns = zip(call.prompts, call.completions, call.tools, call.chat_template_kwargs, strict=True)
    return [
        [prompt, completion, tools, sorted((arguments or {}).items())]
        for prompt, completion, tools, arguments in columns
    ]
