"""`RemoteRewardScorer`: a reward model that vLLM or SGLang serves, with the scores that it has in this process.

    texts ► token ids, by the one `encode` ► POST /classify, completions of a prompt side by side ► r(x, y)

Ids go over the wire, so the server neither renders nor tokenises. What else a server can do wrong (an activation, a
softmax, another head, texts that it cuts) shows in the scores of the eight texts that training and export leave
beside the weights ([`rm_plugin.data.reference`]): the scorer asks for them when it is made, and says what is wrong.

    vllm serve my-reward-model --runner pooling --dtype float32
    RemoteRewardScorer("http://localhost:8000", "my-reward-model").score(["2 + 2 ="], [" 4"])

No torch is loaded where the tokenizer is given as an object.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.metadata
import json
import logging
import math
import os
import re
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from scipy.special import expit

from ..data.encoding import EncodedGroup
from ..data.reference import TURNS, read_facts, read_reference, reference_ids
from ..messages import check_choice, explained, printable, shorten
from .base import OPTIONS, NoAnswer, Scorer, ScoringBatch, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

APIS = ("auto", "vllm", "sglang")
KEY_VARIABLE = "RM_PLUGIN_REWARD_API_KEY"
TEXTS_PER_REQUEST = 32
WRONG_ROUTES = {  # the last word of a URL ► why it is not asked
    "score": "knows no chat template and joins texts in its own way",
    "rerank": "knows no chat template and joins texts in its own way",
    "rewards": "is a route of neither server",
    "reward": "is a route of neither server",
    "embeddings": "gives hidden states",
    "completions": "gives texts",
}
LONGEST_WAIT = 30.0  # seconds between two tries
OF_TEXTS = (400, 413, 422)  # what servers answer where a text is at fault, such as one that is too long


class RemoteRewardScorer(Scorer):
    """
    Rewards of completions, from a reward model behind a URL; everything else is as in [`RewardScorer`].

    It loads no model, can be used from several threads, and is pickled as its settings, so that it works in the child
    process of TRL's AsyncGRPOTrainer. A server that does not answer is asked again, with pauses of 1, 2, 4 … 30 s;
    a request that it refuses (HTTP 4xx) is an error at once.

    Args:
        url (`str`): where the server answers, such as `http://localhost:8000`.
        processing_class (`str`, `os.PathLike` or `PreTrainedTokenizerBase`):
            The reward model's folder, of which the tokenizer, the config and the reference scores are read, or its
            tokenizer; then these are looked for where the tokenizer came from.
        api (`str`, *optional*, defaults to `"auto"`): `"vllm"`, `"sglang"`, or `"auto"` to ask the server.
        model (`str`, *optional*): the served name, such as that of a LoRA adapter; the first that it serves if absent.
        api_key (`str`, *optional*): sent as bearer token; `RM_PLUGIN_REWARD_API_KEY` of the environment if absent.
        max_concurrency (`int`, *optional*, defaults to `16`): most requests at once, of 32 texts each.
        max_tries (`int`, *optional*, defaults to `16`): of one request.
        timeout (`float`, *optional*, defaults to `600.0`): seconds that one answer may take.
        options: `max_length`, `truncation_mode`, `reasoning`, `control_tokens`, `normalize`, `on_nonfinite`,
            `progress`, `name`, as for [`RewardScorer`]; `max_length` is the least that model and server say if absent.

    Raises:
        ValueError: nothing answers, the server gives other scores than the model (saying why), or options for a model
            that is loaded here.

    Example:

    ```python
    scorer = RemoteRewardScorer("http://localhost:8000", "my-reward-model")
    scorer.rank("Which country owns Antarctica?", ["Sweden.", "None: the Antarctic Treaty System governs it."])
    GRPOTrainer(model, reward_funcs=scorer, ...)
    ```
    """

    def __init__(
        self,
        url: str,
        processing_class: str | os.PathLike | PreTrainedTokenizerBase,
        *,
        api: str = "auto",
        model: str | None = None,
        api_key: str | None = None,
        max_concurrency: int = 16,
        max_tries: int = 16,
        timeout: float = 600.0,
        **options,
    ):
        if unknown := [name for name in options if name not in OPTIONS]:
            raise ValueError(f"{', '.join(unknown)} cannot be applied to a served model; give it to the server")
        check_choice("api", api, APIS)
        least = {"max_concurrency": (max_concurrency, 1), "max_tries": (max_tries, 1), "timeout": (timeout, 0.001)}
        for option, (value, at_least) in least.items():
            if not isinstance(value, int | float) or not value >= at_least:
                raise ValueError(f"{option}={value!r}, nothing would be asked; give at least {at_least}")
        super().__init__(**options)
        self.url = self.device = _server_of(url)
        if processing_class is None:
            raise ValueError(
                f"{self.url} needs the reward model's tokenizer; give its folder as processing_class or --tokenizer"
            )
        if isinstance(processing_class, (str, os.PathLike)):
            folder = processing_class = _folder_of(os.fspath(processing_class))
        settings = {"api": api, "model": model, "api_key": api_key, "max_concurrency": max_concurrency}
        settings |= {"max_tries": max_tries, "timeout": timeout}
        self._made_from = {"url": url, "processing_class": processing_class, **settings}
        self.max_concurrency, self.max_tries = max_concurrency, max_tries
        self._connection = _Connection(api_key or os.environ.get(KEY_VARIABLE), timeout, max_concurrency)
        if isinstance(processing_class, str):
            from transformers import AutoTokenizer

            with explained(f"the tokenizer of {folder} cannot be loaded"):
                tokenizer = AutoTokenizer.from_pretrained(folder)
        elif hasattr(processing_class, "chat_template"):
            folder, tokenizer = processing_class.name_or_path, copy.deepcopy(processing_class)
        else:
            given = type(processing_class).__name__
            raise ValueError(f"processing_class is a {given}; give the reward model's tokenizer, or its folder")
        facts = dict.fromkeys(("reasoning", "reward_mean", "reward_std", "template_hash", "trailing_pad_id"))
        self.config = SimpleNamespace(**{**facts, **read_facts(folder)})
        self.reference = read_reference(folder)
        self._ask(api, model, Path(folder, "adapter_config.json").is_file())
        lengths = [length for length in (self._served_length, getattr(self.config, "max_length", None)) if length]
        self._begin(self.model or self.url, tokenizer, min(lengths, default=None))
        for fault, is_serious in self.faults():
            if is_serious:
                raise ValueError(f"{self.url}: {fault}")
            logger.warning("%s: %s", self.url, fault)

    # --- the wire

    def _ask(self, api: str, model: str | None, is_adapter: bool) -> None:
        """Note what serves, the name of the model there, how many tokens it reads, and whether it is a base only."""
        listed = self._request("GET", "/v1/models", may_be_missing=api != "auto")
        listed = listed.get("data") if isinstance(listed, dict) else None
        listed = [one for one in (listed if isinstance(listed, list) else []) if isinstance(one, dict)]
        served = {str(one["id"]): one for one in listed if one.get("id")}
        if model is not None and served and model not in served:
            raise ValueError(
                f"{self.url} serves {printable(', '.join(served))}, not {model}; give one of them as model"
            )
        one = served.get(model) or next(iter(served.values()), {})
        if api == "auto":
            api = one.get("owned_by")
            if api not in APIS[1:]:
                raise ValueError(
                    f"{self.url} does not say whether vLLM or SGLang answers; give api='vllm' or 'sglang'"
                )
        self.api, self.model = api, model or next(iter(served), None)
        base = served.get(str(one.get("parent")))  # of an adapter
        longest = one.get("max_model_len") or (base or {}).get("max_model_len")
        self._served_length = longest if isinstance(longest, int) else None
        self._lacks_adapter = is_adapter and base is None

    def _request(self, method: str, route: str, payload: Any = None, may_be_missing: bool = False) -> Any:
        """The JSON that the server answers; None for a refusal where `may_be_missing`."""
        import httpx2

        for tried in range(1, self.max_tries + 1):
            try:
                answer = self._connection.client.request(method, self.url + route, json=payload)
                if answer.status_code < 500:
                    break
                fault = f"HTTP {answer.status_code}"
            except httpx2.RequestError as error:
                fault = f"{type(error).__name__} {error}".strip()
            except httpx2.InvalidURL as error:
                raise ValueError(f"{self.url} is no URL ({error}); write http://host:port") from None
            if tried == self.max_tries:
                raise NoAnswer(f"{self.url}{route} gives no answer in {tried} tries ({fault}); is the server up?")
            wait = min(LONGEST_WAIT, 2.0 ** (tried - 1))
            logger.warning("%s%s: %s, trying again in %.0f s", self.url, route, fault, wait)
            time.sleep(wait)
        if answer.status_code >= 300:
            if may_be_missing:
                return None
            moved = answer.headers.get("location")
            said = f"it is at {moved}; give that URL" if moved else " ".join(answer.text.split())
            said = printable(shorten(said, 300))
            kind = ValueError if answer.status_code in OF_TEXTS else NoAnswer
            raise kind(f"{self.url}{route} refuses the request (HTTP {answer.status_code}): {said}")
        try:
            return json.loads(answer.text)
        except (ValueError, RecursionError):
            said = printable(shorten(" ".join(answer.text.split())))
            raise NoAnswer(f"{self.url}{route} does not answer in JSON ({said}); name the server itself") from None

    def _scores_of(self, texts: list[list[int]] | None, messages: list[dict] | None = None) -> np.ndarray | None:
        """Scores of one request, of ids or of a conversation that the server renders, if it does."""
        payload: dict[str, Any] = {"model": self.model} if self.model is not None else {}
        if messages is not None:
            payload["messages"] = messages
        else:
            payload["input" if self.api == "vllm" else "input_ids"] = texts
        if self.api == "vllm":
            payload["use_activation"] = False
        answer = self._request("POST", "/classify", payload, may_be_missing=messages is not None)
        if answer is None and messages is not None:
            return None
        return self.read_answer(answer, 1 if texts is None else len(texts))

    def read_answer(self, answer: Any, num_texts: int) -> np.ndarray:
        """
        The scores in an answer of vLLM (`/classify`, `/pooling`) or SGLang (`/classify`).

        Args:
            answer (JSON value): what the server answered.
            num_texts (`int`): number of texts N that it was asked for.

        Returns:
            `np.ndarray` (N,) float64, NaN for null.

        Raises:
            NoAnswer: another shape, another number of texts, or several numbers for one of them.
        """
        items = answer.get("data") if isinstance(answer, dict) else answer
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise NoAnswer(
                f"{self.url} answers {shorten(answer)}, no list of scores; is it a server of a reward model?"
            )
        if all("index" in item for item in items):
            indices = [item["index"] for item in items]
            if {type(index) for index in indices} - {int} or sorted(indices) != list(range(len(items))):
                raise NoAnswer(f"{self.url} answers for the texts {shorten(indices)}; one each")
            items = sorted(items, key=lambda item: item["index"])
        if len(items) != num_texts:
            raise NoAnswer(f"{self.url} gives {len(items)} scores for {num_texts} texts; one each")
        scores = []
        for item in items:
            found = next((item[name] for name in ("probs", "embedding", "data") if name in item), None)
            if not isinstance(found, list) or len(found) != 1 or type(found[0]) not in (int, float, type(None)):
                raise NoAnswer(
                    f"{self.url} gives {shorten(found)} for a text, a reward model one number; serve a one-label "
                    "classifier (vllm serve --runner pooling, sglang --is-embedding)"
                )
            scores.append(math.nan if found[0] is None else float(repr(found[0])))  # 400 digits are inf
        return np.array(scores)

    # --- as a scorer

    def _calls(self, groups: list[EncodedGroup]) -> Iterator[list[int]]:
        call, num_texts = [], 0
        for index, group in enumerate(groups):
            if call and num_texts + len(group.input_ids) > TEXTS_PER_REQUEST * self.max_concurrency:
                yield call
                call, num_texts = [], 0
            call.append(index)
            num_texts += len(group.input_ids)
        if call:
            yield call

    def _compute(self, batch: ScoringBatch) -> np.ndarray:
        texts = batch.texts
        requests = [texts[start : start + TEXTS_PER_REQUEST] for start in range(0, len(texts), TEXTS_PER_REQUEST)]
        with ThreadPoolExecutor(self.max_concurrency) as pool, np.errstate(over="ignore"):
            return np.concatenate(list(pool.map(self._scores_of, requests))).astype(np.float32)

    def check_can_resume(self) -> None:
        """Another model may be served by the same name tomorrow."""
        if self.about["weights"] is None:
            raise ValueError(
                f"no reference scores say which model {self.url} serves, so its scores could not be resumed by the "
                "same model alone; give the folder that rm-plugin export writes as processing_class or --tokenizer, "
                "or in Python a name (name=…)"
            )

    def _about_model(self) -> dict[str, Any]:
        if self.reference is not None:
            weights = digest(json.dumps(self.reference["texts"]).encode())
        else:
            weights = None if self.name in (self.model, self.url) else self.name
        return {"kind": f"served by {self.api}", "served_model": self.model, "weights": weights}

    # --- whether it is the model

    def faults(self) -> list[tuple[str, bool]]:
        """
        Check what the server does differently from the model.

        It is asked for the eight texts of [`rm_plugin.data.reference`]: as ids, and one as messages, where the server
        renders them.

        Returns:
            `list[tuple[str, bool]]`: each fault in words, and whether it makes scores wrong.
        """
        ids = reference_ids(self.processing_class, self.config.trailing_pad_id)
        longest = self._served_length or math.inf
        if self.reference is None:
            short = [text for text in ids if len(text) < longest]
            served = self._scores_of(short)
            if np.ptp(served) == 0:
                return [(f"it gives {served[0]:g} for every text; {SOFTMAX}", True)]
            return [
                ("no reference scores lie beside the tokenizer (rm-plugin export writes them); not checked", False)
            ]
        texts = self.reference["texts"]
        for own, text in zip(ids, texts, strict=True):
            if own != text["input_ids"]:
                return [(fault_of_ids(own, text["input_ids"]), True)]
        texts = [text for text in texts if "score" in text]
        how = {"dtype": self.reference["dtype"], "spread": float(np.std([text["score"] for text in texts]))}
        texts = [text for text in texts if len(text["input_ids"]) <= longest]
        if not texts:
            return [(f"it reads {longest} tokens, no text for a check is that short; not checked", False)]
        served = self._scores_of([text["input_ids"] for text in texts])
        if fault := fault_of_scores(texts, served, lacks_adapter=self._lacks_adapter, **how):
            return [fault]
        if self.api == "vllm" and self.processing_class.chat_template is not None:
            messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(TURNS[0])]
            rendered = self._scores_of(None, messages)
            if rendered is not None and (fault := fault_of_scores(texts[:1], rendered, **how)):
                return [(f"asked with messages instead of ids, it gives another score: {fault[0]}", False)]
        return []


class AsyncRemoteRewardScorer(RemoteRewardScorer):
    """
    A [`RemoteRewardScorer`] whose call is awaited, so that GRPO's and AsyncGRPO's other work continues meanwhile.

    TRL awaits such objects since 1.15.

    Args:
        args, kwargs: as for [`RemoteRewardScorer`].

    Raises:
        ValueError: an older TRL, or as [`RemoteRewardScorer`].

    Example:

    ```python
    AsyncGRPOTrainer(model, reward_funcs=AsyncRemoteRewardScorer("http://localhost:8000", "my-reward-model"), ...)
    ```
    """

    def __init__(self, *args, **kwargs):
        version = importlib.metadata.version("trl")
        if tuple(map(int, version.split(".")[:2])) < (1, 15):
            raise ValueError(f"TRL {version} does not await a reward, 1.15 and newer do; use RemoteRewardScorer")
        super().__init__(*args, **kwargs)

    async def __call__(self, *args, **kwargs) -> list[float | None]:
        """As [`RewardScorer.__call__`], in a thread of its own."""
        return await asyncio.to_thread(super().__call__, *args, **kwargs)


def is_url(given: Any) -> bool:
    """Whether a reward is given as the URL of a server."""
    return isinstance(given, str) and given.strip().lower().startswith(("http://", "https://"))


def _server_of(url: Any) -> str:
    """The server that a URL names, without a route; logs, reports and cards show it, so it holds no password."""
    try:
        parts = urlsplit(url.strip() if is_url(url) else "")
        is_whole = bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:  # of a port, or of brackets
        is_whole = False
    if is_url(url) and "@" in url:
        raise ValueError(
            f"the URL {url.partition('//')[0]}//…@{url.rpartition('@')[2]} holds a user or a password, which logs and "
            f"reports would show; give it without them, and the key as api_key or in {KEY_VARIABLE}"
        )
    if not is_whole:
        raise ValueError(f"{url!r} is no URL of a server; write http://host:port")
    server = re.sub(r"(/v1)?(/classify|/pooling|/models)?/*$", "", url.strip())
    if (last := server.rpartition("/")[2]) in WRONG_ROUTES:
        raise ValueError(f"{url}: /{last} {WRONG_ROUTES[last]}; give the server alone, as http://host:port")
    return server


def _folder_of(name: str) -> str:
    """A model's folder, wherever another process starts; of a hub id that of its small files."""
    if Path(name).is_dir():
        return str(Path(name).resolve())
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.model", "*.txt"])
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} is no folder here, nor on the hub; give the folder of the served model") from error


class _Connection:
    """A client that is closed with the last scorer that holds it; copies of a scorer share it."""

    def __init__(self, api_key: str | None, timeout: float, max_concurrency: int):
        try:
            import httpx2
        except ImportError as error:
            raise ImportError("httpx2 is missing, which asks servers; pip install 'rm-plugin[remote]'") from error
        api_key = (api_key or "").strip()
        if not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key holds a character that no key has, such as a line break; copy it again")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx2.Limits(max_connections=max_concurrency)
        self.client = httpx2.Client(headers=headers, timeout=httpx2.Timeout(timeout, pool=None), limits=limits)
        weakref.finalize(self, self.client.close)


# --- what is wrong

SOFTMAX = "a softmax over one score (SGLang's /v1/classify does that; its /classify does not)"
# How close is equal, by the dtype of the weights: relative to the standard deviation of the reference scores, and to
# the largest of them, since a score itself is rounded. The head is linear, so its scale is no matter. Of bf16 weights
# a server in float32 and one in bf16 were off by up to 0.16 and 0.03 standard deviations (medians 0.035 and 0.007)
# over three models of each of 29 architectures of tests/models.py; a second BOS moves most of them by 0.1 to 1.9.
CLOSE = {"float64": (1e-4, 1e-6), "float32": (1e-4, 1e-6)}
CLOSE_16_BIT = (0.2, 2**-8)
ACTIVATION = (
    "activation: it gives the sigmoid of the score; ask /classify with use_activation=false, or write "
    '"problem_type": "regression" into config.json'
)
OTHER_IDS = {  # scores that are kept of ids that a server may make by itself
    "bos_twice": "BOS twice: the server adds a second one; ask with ids, or with add_special_tokens=false",
    "as_pair": "no chat template: it joins prompt and answer by itself, as /score and /rerank do; ask /classify",
}


def fault_of_ids(own: list[int], reference: list[int]) -> str:
    """Why the tokenizer gives other ids than the one that the model was saved with."""
    if own[1:] == reference or reference[1:] == own:
        return (
            "BOS twice, or missing: the tokenizer given differs in its first token from the model's; give the model's"
        )
    return "another template: the tokenizer given makes other ids than the model's; give the tokenizer of its folder"


def fault_of_scores(
    texts: list[dict[str, Any]],
    served: np.ndarray,
    dtype: str,
    *,
    spread: float | None = None,
    lacks_adapter: bool = False,
) -> tuple[str, bool] | None:
    """
    Why a server gives other scores than the model, and whether they are wrong for it; None where they are equal.

    Args:
        texts (`list[dict]`): of [`rm_plugin.data.reference.read_reference`]: `input_ids` and scores.
        served (`np.ndarray`): (N,) what the server gives for them.
        dtype (`str`): of the weights, which decides how close is equal.
        spread (`float`, *optional*): standard deviation of the model's scores; of those of `texts` if absent.
        lacks_adapter (`bool`, *optional*, defaults to `False`): the model is an adapter, and its base was asked for.

    Example:
        >>> texts = [{"input_ids": [5] * 9, "score": score} for score in (-2.0, 0.0, 2.0)]
        >>> fault_of_scores(texts, np.array([0.119, 0.5, 0.881]), "float32")[0][:10]
        'activation'
    """
    scores = np.array([text["score"] for text in texts])
    sizes = np.std(scores) if spread is None else spread, np.abs(scores).max()
    close, rounding = (float(np.dot(limits, sizes)) for limits in (CLOSE.get(dtype, CLOSE_16_BIT), CLOSE_16_BIT))
    if not np.isfinite(served).all():
        return "scores that are not finite; serve in float32 or bfloat16", True

    def are_rather(others: np.ndarray, within: float | np.ndarray) -> bool:
        """Whether the server gives these: they are near, and twice as near as the model's."""
        is_nearer = np.linalg.norm(served - others) < np.linalg.norm(served - scores) / 2
        return bool(is_nearer and np.all(np.abs(served - others) <= within))

    if are_rather(np.ones_like(scores), 1e-6):
        return f"1.0 for every text: {SOFTMAX}", True
    if are_rather(expit(scores), expit(scores + rounding) - expit(scores - rounding) + 2**-8):
        return ACTIVATION, True
    for name, said in OTHER_IDS.items():
        if are_rather(np.array([text.get(name, math.nan) for text in texts], dtype=float), rounding):
            return said, True
    differences = np.abs(served - scores)
    if differences.max() <= close:
        return None
    largest = f"largest difference {differences.max():.2g}"
    lengths = np.array([len(text["input_ids"]) for text in texts])
    long = lengths == lengths.max()
    if len(texts) > 2 and lengths.max() > 2 * np.median(lengths):
        of_others = differences[~long].max()
        if of_others <= rounding and differences[long].min() > max(close, 10 * of_others):
            return (
                f"cut on the wrong side: only the longest text ({lengths.max()} tokens) differs; serve without "
                "truncate_prompt_tokens, with room for whole texts",
                True,
            )
    if differences.max() <= rounding:
        return f"rounding ({largest}): the server computes in 16 bits; start it with --dtype float32", False
    if len(texts) > 2 and abs(np.corrcoef(served, scores)[0, 1]) > 0.999:
        slope, offset = np.polyfit(scores, served, 1)
        return f"another head, or one with a bias: it gives {slope:.3g} · score {offset:+.3g}; serve this model", True
    if len(texts) == 1:
        return f"another template ({largest}): it renders the conversation in another way", True
    if lacks_adapter:
        return f"an adapter that is not loaded ({largest}); serve it beside its base, and give its name as model", True
    return f"another head, or an adapter that is not loaded ({largest}); serve this model, or name it as model", True
