"""Does vLLM give a reward model's own scores, by which route, and is every wrong route recognised?

    make test-vllm SMOLLM2=path/to/SmolLM2-135M-Instruct
    python benchmarks/serve_vllm.py --model SMOLLM2 --vllm .cache/vllm/bin/vllm

Exports two models with random heads (a tiny one, and the one given), with a tokenizer whose chat template writes a BOS
that the tokenizer adds too, as Llama 3's does. vLLM serves each in float32; 20 conversations are scored by
`RewardScorer` in this process and by every route, and what `fault_of_scores` says of each route is printed beside the
largest difference. A third model, tiny and trained with LoRA, is scored in plain transformers too, and served merged
and as an adapter beside its base. Exit code 1 where a right route is off by more than 1e-4 × max(1, standard deviation
of the scores), or a wrong one is not recognised under its own name.
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
ROUTES = [  # name, path, what is asked for one text, what is said of it: nothing where it gives the score
    ("ids, use_activation false", "/classify", lambda t: {"input": [t.ids], "use_activation": False}, None),
    ("messages, use_activation false", "/classify", lambda t: {"messages": t.messages, "use_activation": False}, None),
    (
        'ids, task "classify", use_activation false',
        "/pooling",
        lambda t: {"input": t.ids, "task": "classify", "use_activation": False},
        None,
    ),
    (
        "rendered text, add_special_tokens false",
        "/classify",
        lambda t: {"input": [t.text], "add_special_tokens": False, "use_activation": False},
        None,
    ),
    ("rendered text", "/classify", lambda t: {"input": [t.text], "use_activation": False}, "BOS twice"),
    ('ids, `"problem_type": "regression"` in config.json', "/classify", lambda t: {"input": [t.ids]}, None),
    ("two texts", "/score", lambda t: {"text_1": t.prompt, "text_2": t.answer}, "no chat template"),
    ("two texts", "/v1/score", lambda t: {"text_1": t.prompt, "text_2": t.answer}, "no chat template"),
    ("query and document", "/rerank", lambda t: {"query": t.prompt, "documents": [t.answer]}, "no chat template"),
    ("ids", "/v1/rewards", lambda t: {"input": [t.ids]}, "HTTP 404"),
    ("ids", "/reward", lambda t: {"input": [t.ids]}, "HTTP 404"),
    ("ids, more than --max-model-len", "/classify", lambda t: {"input": [[5] * 2049]}, "HTTP 400"),
    ("normalize", "/classify", lambda t: {"input": [t.ids], "normalize": False}, "HTTP 400"),
]
ON_BARE_CONFIG = [("ids, no problem_type in config.json", "/classify", lambda t: {"input": [t.ids]}, "activation")]
OF_ADAPTER = [
    (
        "ids, the adapter's name",
        "/classify",
        lambda t: {"input": [t.ids], "use_activation": False, "model": "adapter"},
        None,
    ),
    (
        "ids, its base's name",
        "/classify",
        lambda t: {"input": [t.ids], "use_activation": False},
        "an adapter that is not loaded",
    ),
]
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


def tiny_config(vocab_size: int):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaConfig(vocab_size=vocab_size, num_key_value_heads=2, max_position_embeddings=2048, **sizes)


def tiny_model(vocab_size: int):
    import torch
    from transformers import AutoModel

    torch.manual_seed(1)
    return AutoModel.from_config(tiny_config(vocab_size))


def trained_adapter(folder: Path, tokenizer_of: str) -> tuple[Path, Path]:
    """A tiny language model, and an adapter that trained a reward model from it on a few pairs."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM

    from rm_plugin import PairwiseRewardConfig, PairwiseRewardTrainer
    from rm_plugin.training.peft_configs import lora_config

    base, adapter = folder / "base", folder / "adapter"
    tokenizer = with_second_bos(AutoTokenizer.from_pretrained(tokenizer_of))
    torch.manual_seed(1)
    LlamaForCausalLM(tiny_config(len(tokenizer) + 8)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {n}."}],
            "chosen": [{"role": "assistant", "content": f"{n}, gladly."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        }
        for n in range(64)
    ]
    args = PairwiseRewardConfig(
        output_dir=str(adapter),
        max_steps=20,
        learning_rate=5e-3,
        report_to="none",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    data = Dataset.from_list(rows)
    trainer = PairwiseRewardTrainer(str(base), args=args, train_dataset=data, peft_config=lora_config(r=8))
    trainer.train()
    trainer.save_model()
    return base, adapter


class Server:
    """`vllm serve` of a folder, while the block runs."""

    def __init__(self, vllm: str, folder: Path, *more: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        words = [vllm, "serve", str(folder), "--runner", "pooling", "--dtype", "float32", "--enforce-eager"]
        words += ["--max-model-len", "2048", "--host", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        words += ["--served-model-name", "reward-model", "--max-num-seqs", "16", *more]
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


def measure(url: str, routes: list, texts: list[Text], scorer, folder: Path) -> list[dict]:
    """A row per route: largest difference to the scorer, and what the handshake says of it."""
    from rm_plugin.data.reference import TURNS, read_reference
    from rm_plugin.scoring.remote import fault_of_scores

    reference, rows = read_reference(folder)["texts"], []
    is_adapter = Path(folder, "adapter_config.json").is_file()
    for name, path, payload, wanted in routes:
        served, said = [asked(url, path, payload(text)) for text in texts], None
        if isinstance(served[0], int):
            said = f"HTTP {served[0]}"
        elif fault := fault_of_scores(reference, np.array(served[: len(TURNS)]), "float32", lacks_adapter=is_adapter):
            said = fault[0]
        row = compared(f"POST {path}", name, None if isinstance(served[0], int) else served, texts, scorer)
        is_close = row["as_expected"]
        row |= {"said": said, "as_expected": said is None and is_close}
        if wanted is not None:
            row["as_expected"] = said is not None and said.startswith(wanted)
        print(json.dumps(row, ensure_ascii=False), file=sys.stderr)
        rows.append(row)
    return rows


def compared(route: str, asked_for: str, given: list[float] | None, texts: list[Text], scorer) -> dict:
    """A row: the largest difference of scores to the scorer's, and whether it is small."""
    expected = scorer.score([text.messages[:-1] for text in texts], [text.messages[-1:] for text in texts])
    difference = None if given is None else float(np.abs(np.array(given) - expected).max())
    spread = float(np.std(expected))
    close = difference is not None and difference <= CLOSE * max(1, spread)
    return {"route": route, "asked": asked_for, "difference": difference, "std": spread, "as_expected": close}


def through_the_client(url: str, folder: Path, texts: list[Text], scorer, **options) -> dict:
    """What `RemoteRewardScorer` gives, which compares the reference scores when it is made."""
    from rm_plugin import RemoteRewardScorer

    client = RemoteRewardScorer(url, folder, **options)
    given = client.score([text.messages[:-1] for text in texts], [text.messages[-1:] for text in texts])
    row = compared("RemoteRewardScorer", str(options or "20 texts"), given, texts, scorer)
    faults = client.faults()  # a warning, such as of how a base renders messages, leaves scores right
    row["said"] = faults[0][0] if faults else None
    row["as_expected"] &= not any(is_serious for _, is_serious in faults)
    print(json.dumps(row, ensure_ascii=False), file=sys.stderr)
    return row


def in_plain_transformers(folder: Path, texts: list[Text], scorer) -> dict:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        given = [model(input_ids=torch.tensor([text.ids])).logits.item() for text in texts]
    return compared("plain transformers", "ids", given, texts, scorer)


def rows_of_trained(folder: Path, tokenizer_of: str, vllm: str, turns: list) -> list[dict]:
    """One trained model: in plain transformers, served merged, and served as an adapter beside its base."""
    from rm_plugin import RewardModel, RewardScorer

    base, adapter = trained_adapter(folder, tokenizer_of)
    scorer, merged = RewardScorer(adapter), folder / "merged"
    RewardModel.from_pretrained(adapter).export(merged, scorer.processing_class)
    texts = [Text(one, scorer.processing_class) for one in turns]
    rows = [in_plain_transformers(merged, texts, scorer)]
    with Server(vllm, merged) as url:
        rows.append(through_the_client(url, merged, texts, scorer))
    words = ["--convert", "classify", "--hf-overrides", '{"num_labels": 1}', "--enable-lora", "--max-lora-rank", "8"]
    with Server(vllm, base, *words, "--lora-modules", f"adapter={adapter}") as url:
        rows += measure(url, OF_ADAPTER, texts, scorer, adapter)
        rows.append(through_the_client(url, adapter, texts, scorer, model="adapter"))
    return rows


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
            rows = [in_plain_transformers(out, texts, scorer)]
            with Server(args.vllm, out) as url:
                rows += measure(url, ROUTES, texts, scorer, out)
                rows.append(through_the_client(url, out, texts, scorer))
            config = json.loads((out / "config.json").read_text())
            del config["problem_type"]
            (out / "config.json").write_text(json.dumps(config))
            with Server(args.vllm, out) as url:
                rows += measure(url, ON_BARE_CONFIG, texts, scorer, out)
            results[name] = rows
        results["trained"] = rows_of_trained(Path(folder), args.model, args.vllm, turns)
    version = subprocess.run([args.vllm, "--version"], capture_output=True, text=True).stdout.split()[-1]
    report({**conditions(args), "vllm": version, "rows": results}, args.save)
    return 0 if all(row["as_expected"] for rows in results.values() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
