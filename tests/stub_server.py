"""A server that answers as vLLM 0.32 and SGLang 0.5 were seen to (recorded shapes), with their faults on request."""

import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch


def model_scores(model):
    """Scores of ids by a model in this process, one row each."""

    def score(ids):
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits.item()

    return score


class Stub:
    """What a server knows and does: `score(ids)`, its API, and faults by route."""

    def __init__(self, score, api="vllm", tokenizer=None, key=None):
        self.score, self.api, self.tokenizer, self.key = score, api, tokenizer, key
        self.change = lambda score: score  # activation, softmax, another head …
        self.read = lambda ids: ids  # what the server makes of ids: cut, BOS …
        self.adapters = {}  # name ► scores of ids with it
        self.max_model_len = 256
        self.fail: list = []  # of the next answers: a status, "drop", "half", or what is answered
        self.seen: list[dict] = []
        self.now = self.most_at_once = 0
        self.lock, self.pause = threading.Lock(), threading.Event()

    def answer(self, path, payload):
        if path == "/v1/models":
            one = {"id": "my-model", "object": "model", "owned_by": self.api, "root": "/m", "parent": None}
            adapters = [{**one, "id": name, "parent": "my-model", "max_model_len": None} for name in self.adapters]
            return 200, {"object": "list", "data": [{**one, "max_model_len": self.max_model_len}, *adapters]}
        if path != "/classify":
            return 404, {"detail": "Not Found"}
        model = payload.get("model")
        if model not in (None, "my-model", *self.adapters):
            return 404, {"error": {"message": f"The model `{model}` does not exist.", "code": 404}}
        if "messages" in payload:
            rows = [self.tokenizer.apply_chat_template(payload["messages"], return_dict=True)["input_ids"]]
        else:
            rows = payload["input" if self.api == "vllm" else "input_ids"]
        if max(map(len, rows)) > self.max_model_len:
            return 400, {"error": {"message": "This model's maximum context length is 256 tokens.", "code": 400}}
        score = self.adapters.get(model, self.score)
        scores = [self.change(score(self.read(ids))) for ids in rows]
        if self.api == "sglang":
            return 200, [
                {"embedding": [score], "meta_info": {"prompt_tokens": len(ids)}}
                for score, ids in zip(scores, rows, strict=True)
            ]
        items = [
            {"index": i, "label": "LABEL_0", "probs": [score], "num_classes": 1} for i, score in enumerate(scores)
        ]
        return 200, {
            "id": "classify-1",
            "object": "list",
            "created": 1,
            "model": "my-model",
            "data": items,
            "usage": {},
        }


@contextmanager
def serving(stub):
    """Its URL, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.do_GET()

        def do_GET(self):
            length = int(self.headers.get("Content-Length") or 0)
            payload = json.loads(self.rfile.read(length)) if length else {}
            with stub.lock:
                stub.seen.append({"path": self.path, **payload})
                stub.now += 1
                stub.most_at_once = max(stub.most_at_once, stub.now)
                failure = stub.fail.pop(0) if stub.fail else None
            try:
                if failure == "drop":
                    self.close_connection = True
                    self.connection.close()
                    return
                stub.pause.wait(0.02)
                if failure == "half":
                    self.send_response(200)
                    self.send_header("Content-Length", "100")
                    self.end_headers()
                    self.wfile.write(b'{"data": [')
                    self.close_connection = True
                    return
                if stub.key is not None and self.headers.get("Authorization") != f"Bearer {stub.key}":
                    status, body = 401, {"error": "Unauthorized"}
                elif isinstance(failure, int):
                    status, body = failure, {"error": {"message": "out of luck"}}
                elif failure is not None:
                    status, body = 200, failure
                else:
                    status, body = stub.answer(self.path, payload)
            finally:
                with stub.lock:
                    stub.now -= 1
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if 300 <= status < 400:
                self.send_header("Location", "http://elsewhere:1/classify")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sigmoid(score):
    return 1 / (1 + math.exp(-score))


def bfloat16(score):
    return float(np.float32(torch.tensor(score).to(torch.bfloat16).float().item() * 1.01))
