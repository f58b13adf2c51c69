"""Does vLLM give a reward model's own scores, by which route, and is every wrong route recognised?

    make test-vllm SMOLLM2=path/to/SmolLM2-135M-Instruct
    python benchmarks/serve_vllm.py --model SMOLLM2 --vllm .cache/vllm/bin/vllm

Exports two models with random heads (a tiny one, and the one given), with a tokenizer whose chat template writes a BOS
that the tokenizer adds too, as Llama 3's does. vLLM serves each in float32; 20 conversations are scored by
`RewardScorer` in this process and by every route, and what `fault_of_scores` says of each route is printed beside the
largest difference. Exit code 1 where a right route is off by more than 1e-4 × max(1, standard deviation of the
scores), or a wrong one is not recognised.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import numpy as np
from common import ROOT, conditions, parser, quiet, report

CLOSE = 1e-4
ROUTES = [  # name, path, what is asked for one text, whether it gives the score
    ("ids, use_activation false", "/classify", lambda t: {"input": [t.ids], "use_activation": False}, True),
    ("messages, use_activation false", "/classify", lambda t: {"messages": t.messages, "use_activation": False}, True),
    (
        'ids, task "classify", use_activation false',
        "/pooling",
        lambda t: {"input": t.ids, "task": "classify", "use_activation": False},
        True,
    ),
    (
        "rendered text, add_special_tokens false",
        "/classify",
        lambda t: {"input": [t.text], "add_special_tokens": False, "use_activation": False},
        True,
    ),
    ("rendered text", "/classify", lambda t: {"input": [t.text], "use_activation": False}, False),
    ('ids, `"problem_type": "regression"` in config.json', "/classify", lambda t: {"input": [t.ids]}, True),
    ("two texts", "/score", lambda t: {"text_1": t.prompt, "text_2": t.answer}, False),
    ("two texts", "/v1/score", lambda t: {"text_1": t.prompt, "text_2": t.answer}, False),
    ("query and document", "/rerank", lambda t: {"query": t.prompt, "documents": [t.answer]}, False),
    ("ids", "/v1/rewards", lambda t: {"input": [t.ids]}, False),
    ("ids", "/reward", lambda t: {"input": [t.ids]}, False),
]
ON_BARE_CONFIG = [("ids, no problem_type in config.json", "/classify", lambda t: {"input": [t.ids]}, False)]
QUESTIONS = ["Name a colour.", "What is 7 times 6?", "Who wrote Faust?", "Say hello in French."]
ANSWERS = ["Blue.", "42", "Goethe, and Marlowe before him, and Mann after him."]


class Text:
    """One conversation in every form that a route takes."""

    def __init__(self, turns: list[str], tokenizer):
        from rm_plugin import Comparison, encode

        self.messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        self.prompt, self.answer = "\n".join(turns[:-1]), turns[-1]
        (self.ids,) = encode(Comparison(self.messages[:-1], [self.messages[-1:]]), tokenizer).input_ids
        self.text = tokenizer.apply_chat_template(self.messages, tokenize=False)


def with_second_bos(tokenizer):
    """As Llama 3's: the tokenizer adds a BOS to text, and the chat template writes one."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    processing = TemplateProcessing(single=f"{bos}:0 $A:0", special_tokens=[(bos, tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = processing
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    return tokenizer


def exported(model, folder: Path, tokenizer_of: str):
    """Export a model with a head wide enough that a wrong route moves the scores, and its scorer."""
    import torch
    from transformers import AutoTokenizer

    from rm_plugin import RewardModel, RewardScorer
    from rm_plugin.data.encoding import ensure_pad_token
    from rm_plugin.data.templates import trim_template_tail

    torch.manual_seed(0)
    tokenizer = with_second_bos(AutoTokenizer.from_pretrained(tokenizer_of))
    trim_template_tail(tokenizer)
    reward_model = RewardModel.from_backbone(model).float().eval()
    torch.nn.init.normal_(reward_model.score.weight)
    ensure_pad_token(tokenizer, reward_model)
    reward_model.export(folder, tokenizer, torch.float32)
    return RewardScorer(folder)


def tiny_model(vocab_size: int):
    import torch
    from transformers import AutoModel, LlamaConfig

    torch.manual_seed(1)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=vocab_size, num_key_value_heads=2, max_position_embeddings=2048, **sizes)
    return AutoModel.from_config(config)


class Server:
    """`vllm serve` of a folder, while the block runs."""

    def __init__(self, vllm: str, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        words = [vllm, "serve", str(folder), "--runner", "pooling", "--dtype", "float32", "--enforce-eager"]
        words += ["--max-model-len", "2048", "--host", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        words += ["--served-model-name", "reward-model", "--max-num-seqs", "16"]
        self.words, self.log = words, folder.with_suffix(".log")

    def __enter__(self) -> str:
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment.pop("PYTHONPATH", None)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.words, stdout=log, stderr=subprocess.STDOUT, env=environment)
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"vllm ended:\n{self.log.read_text()[-3000:]}")
            try:
                if httpx2.get(f"{self.url}/health").status_code == 200:
                    return self.url
            except httpx2.TransportError:
                pass
            time.sleep(1)
        raise SystemExit(f"vllm does not answer:\n{self.log.read_text()[-3000:]}")

    def __exit__(self, *args) -> None:
        self.process.terminate()
        self.process.wait(60)


def asked(url: str, path: str, payload: dict) -> float | int:
    """The score that a route gives for a text, or the status (`int`) with which it refuses."""
    answer = httpx2.post(url + path, json={"model": "reward-model", **payload}, timeout=120)
    if answer.status_code != 200:
        return answer.status_code
    body = answer.json()
    one = (body.get("data") or body.get("results"))[0]
    for name in ("probs", "data", "score", "relevance_score"):
        if name in one:
            return float(one[name][0] if isinstance(one[name], list) else one[name])
    raise SystemExit(f"{path} answers {body}")


def measure(url: str, routes: list, texts: list[Text], scorer) -> list[dict]:
    """A row per route: largest difference to the scorer, and what the handshake says of it."""
    from rm_plugin.data.reference import TURNS
    from rm_plugin.scoring.remote import fault_of_scores

    expected = scorer.score([text.messages[:-1] for text in texts], [text.messages[-1:] for text in texts])
    bos = scorer.processing_class.bos_token_id
    reference = [
        {"input_ids": text.ids, "score": float(score), "bos_twice": score_of_ids(scorer, [bos, *text.ids])}
        for text, score in zip(texts[: len(TURNS)], expected, strict=False)
    ]
    rows = []
    for name, path, payload, is_right in routes:
        served = [asked(url, path, payload(text)) for text in texts]
        row = {"route": f"POST {path}", "asked": name, "is_right": is_right}
        if isinstance(served[0], int):
            row |= {"difference": None, "said": f"HTTP {served[0]}"}
        else:
            fault = fault_of_scores(reference, np.array(served[: len(TURNS)]), "float32")
            difference = float(np.abs(np.array(served) - expected).max())
            row |= {"difference": difference, "said": None if fault is None else fault[0]}
        close = row["difference"] is not None and row["difference"] <= CLOSE * max(1, float(np.std(expected)))
        row["as_expected"] = (row["said"] is None and close) if is_right else bool(row["said"])
        print(json.dumps(row, ensure_ascii=False), file=sys.stderr)
        rows.append(row)
    return rows


def score_of_ids(scorer, ids: list[int]) -> float:
    import torch

    with torch.no_grad():
        return scorer.model(input_ids=torch.tensor([ids])).logits.item()


def through_the_client(url: str, folder: Path, texts: list[Text], scorer) -> list[dict]:
    """What `RemoteRewardScorer` gives, and how a text over the server's limit is refused."""
    from rm_plugin import RemoteRewardScorer

    client = RemoteRewardScorer(url, folder)
    prompts, answers = [text.messages[:-1] for text in texts], [text.messages[-1:] for text in texts]
    expected = scorer.score(prompts, answers)
    difference = float(np.abs(client.score(prompts, answers) - expected).max())
    faults = client.faults()
    too_long = asked(url, "/classify", {"input": [[5] * 2049], "use_activation": False})
    normalize = asked(url, "/classify", {"input": [[5] * 9], "normalize": False})
    close = difference <= CLOSE * max(1, float(np.std(expected)))
    fine = {"is_right": True, "as_expected": close and not faults, "std": float(np.std(expected))}
    return [
        {"route": "RemoteRewardScorer", "asked": "20 texts", "difference": difference, "said": None, **fine},
        {"route": "POST /classify", "asked": "2,049 ids of 2,048", "said": f"HTTP {too_long}", "as_expected": True},
        {"route": "POST /classify", "asked": "normalize", "said": f"HTTP {normalize}", "as_expected": True},
    ]


def main() -> int:
    arguments = parser(__doc__, rounds=None)
    arguments.add_argument("--vllm", default=str(ROOT / ".cache" / "vllm" / "bin" / "vllm"), help="its command")
    args = arguments.parse_args()
    quiet()
    from transformers import AutoTokenizer

    from rm_plugin.data.reference import TURNS

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        vocab_size = len(AutoTokenizer.from_pretrained(args.model)) + 8
        for name, model in {"tiny": tiny_model(vocab_size), Path(args.model).name: args.model}.items():
            out = Path(folder, f"export-{name}")
            scorer = exported(model, out, args.model)
            turns = [*TURNS, *[[question, answer] for question in QUESTIONS for answer in ANSWERS]]
            texts = [Text(one, scorer.processing_class) for one in turns]
            with Server(args.vllm, out) as url:
                rows = measure(url, ROUTES, texts, scorer) + through_the_client(url, out, texts, scorer)
            config = json.loads((out / "config.json").read_text())
            del config["problem_type"]
            (out / "config.json").write_text(json.dumps(config))
            with Server(args.vllm, out) as url:
                rows += measure(url, ON_BARE_CONFIG, texts, scorer)
            results[name] = rows
    version = subprocess.run([args.vllm, "--version"], capture_output=True, text=True).stdout.split()[-1]
    report({**conditions(args), "vllm": version, "rows": results}, args.save)
    return 0 if all(row["as_expected"] for rows in results.values() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
