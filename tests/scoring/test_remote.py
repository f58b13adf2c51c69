"""`RemoteRewardScorer`: one score over the wire, every fault of a server named, no torch, pickled as settings."""

import asyncio
import copy
import importlib.metadata
import json
import logging
import pickle
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from models import tiny_reward_model, tiny_tokenizer
from stub_server import Stub, bfloat16, model_scores, serving, sigmoid
from transformers import AutoTokenizer

from rm_plugin import AsyncRemoteRewardScorer, Comparison, RemoteRewardScorer
from rm_plugin.commands.cli import main
from rm_plugin.data.reference import FILE, TURNS, read_reference
from rm_plugin.evaluation.harness import evaluate
from rm_plugin.loops.best_of_n import BestOfNSampler
from rm_plugin.scoring import remote
from rm_plugin.scoring.corpus import score_dataset
from rm_plugin.scoring.remote import fault_of_scores
from rm_plugin.scoring.rewards import as_reward, scorer_from_env

PROMPTS = ["Which country owns Antarctica?", "2 + 2 =", "Hello"] * 20
COMPLETIONS = [f" answer {i} of mine" + " indeed" * (i % 7) for i in range(60)]


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def stub(exported):
    folder, local = exported
    made = Stub(model_scores(local.model), tokenizer=AutoTokenizer.from_pretrained(folder))
    made.max_model_len = 4096
    return made


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that the client would have waited."""
    waited = []
    monkeypatch.setattr(remote.time, "sleep", waited.append)
    return waited


# --- one score


@pytest.mark.parametrize("api", ["vllm", "sglang"])
@pytest.mark.parametrize("form", ["plain", "conversational"])
def test_a_served_model_gives_the_scores_of_one_in_this_process(exported, stub, api, form):
    folder, local = exported
    stub.api = api
    prompts = PROMPTS if form == "plain" else [user(prompt) for prompt in PROMPTS]
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder)
        assert one.api == api and one.name == "my-model" and one.max_length == 4096
        np.testing.assert_allclose(one.score(prompts, COMPLETIONS), local.score(prompts, COMPLETIONS), atol=1e-5)
        assert one.rank(prompts[0], COMPLETIONS[:5]).tolist() == local.rank(prompts[0], COMPLETIONS[:5]).tolist()
        preference = local.preference(prompts[0], *COMPLETIONS[:2])
        assert one.preference(prompts[0], *COMPLETIONS[:2]) == pytest.approx(preference, abs=1e-5)
        assert one(prompts=prompts[:2], completions=COMPLETIONS[:2], step=1) == pytest.approx(
            local(prompts=prompts[:2], completions=COMPLETIONS[:2]), abs=1e-5
        )


def test_completions_of_a_prompt_are_adjacent_in_requests_and_requests_are_bounded(exported, stub):
    folder, local = exported
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder, max_concurrency=3)
        stub.seen.clear()
        stub.most_at_once = 0
        prompts = [f"{prompt} {i % 6}" for i, prompt in enumerate(PROMPTS * 5)]
        scores = one.score(prompts, COMPLETIONS * 5)
        np.testing.assert_allclose(scores, local.score(prompts, COMPLETIONS * 5), atol=1e-5)
    requests = [seen["input"] for seen in stub.seen]
    assert max(map(len, requests)) <= 32 and 1 < stub.most_at_once <= 3
    texts = [one.processing_class.decode(ids) for request in requests for ids in request]
    switches = sum(a.split("answer")[0] != b.split("answer")[0] for a, b in zip(texts, texts[1:], strict=False))
    assert switches < len(set(prompts)) + len(requests)


def test_listeners_normalisation_and_texts_over_the_limit_are_as_in_the_scorer(exported, stub):
    folder, local = exported
    stub.max_model_len = 40
    heard = []
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder, truncation_mode="drop", normalize=True, name="mine")
        one.listeners.append(lambda prompts, completions, scores, **kwargs: heard.extend(scores))
        scores = one.score(["Hi"] * 2, [" four", " four" * 60])
    assert one.max_length == 40 and one.__name__ == "mine" and np.isnan(scores).tolist() == [False, True]
    assert scores[0] == pytest.approx((local.score(["Hi"], [" four"])[0] - 0.5) / 2, abs=1e-5)
    assert heard[0] == scores[0]


def test_a_served_model_goes_wherever_a_reward_goes(exported, stub, tmp_path):
    folder, local = exported
    rows = [{"prompt": "Hi", "chosen": f" four {i}", "rejected": f" five {i}"} for i in range(5)]
    candidates = [{"prompt": "Hi", "completions": COMPLETIONS[:4]}]
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder)
        ours = BestOfNSampler(None, None, one).rank(candidates, tmp_path / "best.jsonl")
        options = {"source": rows, "num_samples": 10}
        served = evaluate(url, processing_class=str(folder), output=tmp_path / "run", **options)
        assert as_reward(one).score_comparisons([]) == []
    assert ours[0].best == BestOfNSampler(None, None, local).rank(candidates)[0].best
    assert served.score == evaluate(local, **options).score
    assert served.report["model"]["kind"] == "served by vllm" and served.report["model"]["weights"]


def test_a_url_stands_where_a_model_stands_on_the_command_line_and_in_the_environment(
    exported, stub, tmp_path, capsys, monkeypatch
):
    folder, local = exported
    stub.key = "secret"
    rows = tmp_path / "pairs.jsonl"
    rows.write_text(json.dumps({"prompt": "Hi", "chosen": " four", "rejected": " five"}) + "\n")
    monkeypatch.setenv("RM_PLUGIN_REWARD_API_KEY", "secret")
    with serving(stub) as url:
        words = ["evaluate", url, "--data", str(rows), "--output", str(tmp_path / "run")]
        words += ["--max-num-batched-tokens", "auto"]  # no limit of memory here
        assert main(words) == 2
        assert "give its folder as processing_class or --tokenizer" in capsys.readouterr().err
        assert main([*words, "--tokenizer", str(folder), "--dtype", "float32"]) == 2
        assert "dtype cannot be applied to a served model; give it to the server" in capsys.readouterr().err
        assert main([*words, "--tokenizer", str(folder)]) == 0
        scored = tmp_path / "scored.jsonl"
        words_of_score = ["score", url, "--tokenizer", str(folder), "--data", str(rows), "--output", str(scored)]
        assert main(words_of_score) == 0
        margin = json.loads(scored.read_text())["margin"]
        assert margin == pytest.approx(np.subtract(*local.score(["Hi"] * 2, [" four", " five"])), abs=1e-5)
        monkeypatch.setenv("RM_PLUGIN_REWARD_MODEL", url)
        monkeypatch.setenv("RM_PLUGIN_REWARD_TOKENIZER", str(folder))
        scorer_from_env.cache_clear()
        assert scorer_from_env()(["Hi"], [" four"]) == pytest.approx(local(["Hi"], [" four"]), abs=1e-5)
        scorer_from_env.cache_clear()
        monkeypatch.delenv("RM_PLUGIN_REWARD_API_KEY")
        with pytest.raises(ValueError, match="refuses the request .HTTP 401"):
            RemoteRewardScorer(url, folder)
    apart = shutil.copytree(folder, tmp_path / "apart", ignore=shutil.ignore_patterns("tokenizer*", "*.jinja"))
    words = ["evaluate", str(apart), "--data", str(rows), "--output", str(tmp_path / "again")]
    assert main([*words, "--tokenizer", str(folder)]) == 0  # also where the tokenizer lies apart from its model


def test_export_checks_a_server_of_what_it_wrote(exported, stub, tmp_path, capsys):
    folder, local = exported
    words = ["export", str(folder), str(tmp_path / "out")]
    assert main(words) == 0 and read_reference(tmp_path / "out") is not None
    with serving(stub) as url:
        assert main([*words, "--check", url]) == 0
        assert f"{url} gives the scores of {tmp_path / 'out'}" in capsys.readouterr().out
        for change, said in ((bfloat16, "rounding"), (sigmoid, "activation")):
            stub.change = change
            assert main([*words, "--check", url]) == 2
            assert capsys.readouterr().err.splitlines()[-1].startswith(f"rm-plugin: {url}: {said}")


# --- faults of the wire


def test_a_server_that_fails_is_asked_again_with_growing_pauses(exported, stub, pauses):
    folder, local = exported
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder)
        stub.fail = [503, "drop", 500, 502, 503, 503, 503]
        assert one.score(["Hi"], [" four"])[0] == pytest.approx(local.score(["Hi"], [" four"])[0], abs=1e-5)
        assert pauses == [1, 2, 4, 8, 16, 30, 30]
        stub.fail = [503] * 16
        with pytest.raises(
            ValueError, match=r"/classify gives no answer in 16 tries \(HTTP 503\); is the server up\?"
        ):
            one.score(["Hi"], [" four"])
    with pytest.raises(ValueError, match=r"gives no answer in 2 tries \(Connect.*\); is the server up"):
        RemoteRewardScorer(url, folder, max_tries=2)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429])
def test_a_request_that_is_refused_is_no_second_time_made(exported, stub, pauses, status):
    folder, _ = exported
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder)
        stub.fail = [status]
        with pytest.raises(ValueError, match=f"refuses the request .HTTP {status}.: .*out of luck") as error:
            one.score(["Hi"], [" four"])
    assert pauses == [] and "\n" not in str(error.value)


@pytest.mark.parametrize("status", [401, 404, 503])
def test_an_outage_stops_a_corpus_and_the_same_command_resumes(exported, stub, pauses, tmp_path, status):
    rows = [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(24)]
    answer, asked = stub.answer, []
    with serving(stub) as url:
        one = RemoteRewardScorer(url, exported[0], truncation_mode="drop", max_tries=3)
        stub.answer = lambda *given: asked.append(1) or ((status, {}) if len(asked) > 2 else answer(*given))
        with pytest.raises(ValueError, match=f"HTTP {status}"):
            score_dataset(rows, one, tmp_path / "out.jsonl", rows_per_chunk=4)
        assert not (tmp_path / "out.jsonl").exists()
        stub.answer, before = answer, len(stub.seen)
        counts = score_dataset(rows, one, tmp_path / "out.jsonl", rows_per_chunk=4)
    assert counts == {"rows": 24, "completions": 24, "unscored": 0}
    assert len(stub.seen) - before == 4, "the two chunks that were finished are not asked for again"


def test_a_text_that_a_server_refuses_is_null_among_others(exported, stub, tmp_path):
    rows = [{"prompt": "Hello", "completion": f" {n}" * (40 if n == 5 else 1)} for n in range(8)]
    with serving(stub) as url:
        one = RemoteRewardScorer(url, exported[0])
        stub.max_model_len = 30
        found = score_dataset(rows, one)
    assert [row["score"] is None for row in found] == [n == 5 for n in range(8)]
    assert "refuses the request (HTTP 400)" in found[5]["score_reason"]


def test_a_server_that_sends_elsewhere_or_breaks_off_is_one_line(exported, stub, pauses):
    folder, local = exported
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder, max_tries=2)
        stub.fail = [307]
        with pytest.raises(
            ValueError, match=r"refuses the request \(HTTP 307\): it is at http://elsewhere:1/classify"
        ):
            one.score(["Hi"], [" four"])
        assert pauses == []
        stub.fail = ["half", "half"]
        with pytest.raises(
            ValueError, match=r"gives no answer in 2 tries \(RemoteProtocolError .*\); is the server up"
        ):
            one.score(["Hi"], [" four"])
        stub.fail = ["half"]
        assert one.score(["Hi"], [" four"])[0] == pytest.approx(local.score(["Hi"], [" four"])[0], abs=1e-5)


NO_URLS = ["localhost:8000", "ftp://localhost:8000", "http://", "http:///x", "http://[::1", "http://a:0", 5, None]


@pytest.mark.parametrize("url", [*NO_URLS, "http://a:99999", "http://a?key=1"])
def test_what_names_no_server_is_refused_without_a_request(exported, url, pauses):
    with pytest.raises(ValueError, match="is no URL of a server; write http://host:port"):
        RemoteRewardScorer(url, exported[0])
    assert pauses == []


@pytest.mark.parametrize(
    "listed",
    [[], {}, {"data": []}, {"data": [None]}, {"data": "x"}, {"data": [{"id": None, "owned_by": "vllm"}]}, "null"],
)
def test_a_list_of_models_that_says_nothing_asks_for_the_api(exported, stub, listed):
    folder, local = exported
    with serving(stub) as url:
        stub.fail = [listed or "[]"]
        with pytest.raises(ValueError, match="give api='vllm' or 'sglang'"):
            RemoteRewardScorer(url, folder)
        stub.fail = [listed or "[]"]
        one = RemoteRewardScorer(url, folder, api="vllm")
        assert one.score(["Hi"], [" four"])[0] == pytest.approx(local.score(["Hi"], [" four"])[0], abs=1e-5)


def items(*scores, indices=None):
    return {"data": [{"index": i, "probs": [s]} for i, s in zip(indices or range(9), scores, strict=False)]}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<html>gateway\x1b[2J</html>", "does not answer in JSON"),
        (items(1.0), "gives 1 scores for 2 texts"),
        (items(1.0, 2.0, 3.0), "gives 3 scores for 2 texts"),
        (items(1.0, 2.0, indices=[0, 0]), r"answers for the texts \[0, 0\]"),
        (items([1.0], [2.0]), "a reward model one number"),
        ({"data": [{"embedding": [1.0, 2.0]}] * 2}, "a reward model one number"),
        ({"data": [{"index": 0}, {"index": 1}]}, "gives null for a text"),
        ({"scores": [1.0, 2.0]}, "no list of scores"),
        ([1.0, 2.0], "no list of scores"),
        (items(None, 1.0), "1 of 2 scores are not finite"),
        ('{"data": [{"index": 0, "probs": [NaN]}, {"index": 1, "probs": [1.0]}]}', "1 of 2 scores are not finite"),
        (items(10**400, 1.0), "1 of 2 scores are not finite"),
        (items(1e39, 1.0), "1 of 2 scores are not finite"),
        (items(True, 1.0), "a reward model one number"),
        (items(1.0, 2.0, indices=["a", None]), r'answers for the texts \["a", null\]'),
        (items(1.0, 2.0, indices=[0.0, 1.0]), r"answers for the texts \[0.0, 1.0\]"),
        ([{"embedding": [1.0]}, None], "no list of scores"),
        ({"error": {"message": "out of memory"}}, "no list of scores"),
        ("null", "no list of scores"),
        ("", "does not answer in JSON"),
        ("[" * 100_000, "does not answer in JSON"),
    ],
)
def test_an_answer_that_is_no_score_for_each_text_is_one_line(exported, stub, answer, said):
    folder, _ = exported
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder)
        stub.fail = [answer]
        with pytest.raises(ValueError, match=said) as error:
            one.score(["Hi"] * 2, [" four", " five"])
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_scores_in_another_order_are_put_by_their_index(exported, stub):
    folder, _ = exported
    with serving(stub) as url:
        one = RemoteRewardScorer(url, folder)
        stub.fail = [items(2.0, 1.0, indices=[1, 0])]
        (batch,) = one.plan([Comparison("Hi", [" four", " five"])])
        assert one.run(batch).tolist() == [1.0, 2.0]


def test_what_is_served_is_asked_for_by_name(exported, stub):
    folder, _ = exported
    with serving(stub) as url:
        assert RemoteRewardScorer(url + "/classify", folder, model="my-model").url == url
        assert RemoteRewardScorer(url + "/v1/", folder, api="vllm").url == url
        with pytest.raises(ValueError, match="serves my-model, not other; give one of them as model"):
            RemoteRewardScorer(url, folder, model="other")
        stub.api = "llama.cpp"
        with pytest.raises(ValueError, match="give api='vllm' or 'sglang'"):
            RemoteRewardScorer(url, folder)
    for route in ("/score", "/v1/score", "/rerank", "/v1/rewards", "/reward"):
        with pytest.raises(
            ValueError, match=f"{route.rpartition('/')[2]} .*; give the server alone, as http://host:port"
        ):
            RemoteRewardScorer(url + route, folder)
    with pytest.raises(ValueError, match="api='tgi' is not known"):
        RemoteRewardScorer(url, folder, api="tgi")
    with pytest.raises(ValueError, match="revision cannot be applied to a served model"):
        RemoteRewardScorer(url, folder, revision="main")
    with pytest.raises(ValueError, match="not-here/at-all is no folder here, nor on the hub"):
        RemoteRewardScorer(url, "not-here/at-all")
    for option in ({"max_tries": 0}, {"max_concurrency": "4"}, {"timeout": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}=.*, nothing would be asked"):
            RemoteRewardScorer(url, folder, **option)
    for api_key in ("a\nb", "schlüssel"):
        with pytest.raises(ValueError, match="api_key holds a character that no key has") as error:
            RemoteRewardScorer(url, folder, api_key=api_key)
        assert api_key not in str(error.value)
    for given in (exported[1].model, exported[1], 5):
        with pytest.raises(ValueError, match="processing_class is a .*; give the reward model's tokenizer, or its fo"):
            RemoteRewardScorer(url, given)


def test_a_folder_without_a_tokenizer_is_named(stub, tmp_path):
    with serving(stub) as url, pytest.raises(ValueError, match=f"the tokenizer of {tmp_path} cannot be loaded"):
        RemoteRewardScorer(url, tmp_path)


# --- the handshake

FAULTS = {
    "activation": ({"change": sigmoid}, "activation: it gives the sigmoid of the score"),
    "softmax": ({"change": lambda score: 1.0}, "1.0 for every text: a softmax over one score"),
    "bias": ({"change": lambda score: score + 0.37}, r"another head, or one with a bias: it gives 1 · score \+0.37"),
    "scale": ({"change": lambda score: 3 * score - 1}, "another head, or one with a bias: it gives 3 · score -1"),
    "not finite": ({"change": lambda score: None}, "scores that are not finite"),
    "first tokens": ({"read": lambda ids: ids[:200]}, "cut on the wrong side: only the longest text"),
    "last tokens": ({"read": lambda ids: ids[-200:]}, "cut on the wrong side: only the longest text"),
    "bos": ({"read": lambda ids: [ids[0], *ids]}, "BOS twice: the server adds a second one"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_server_is_named_when_the_scorer_is_made(exported, stub, fault):
    folder, _ = exported
    wrong, said = FAULTS[fault]
    vars(stub).update(wrong)
    with serving(stub) as url, pytest.raises(ValueError, match=f"^{url}: {said}") as error:
        RemoteRewardScorer(url, folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [0.01, 0.03, 1.0, 30.0])
def test_faults_are_named_whatever_the_scale_of_the_scores_and_rounding_is_none(exported, scale, dtype, tmp_path):
    _, local = exported
    served = []
    for seed in (0, 5):
        model = tiny_reward_model("llama", seed=seed, max_position_embeddings=4096)
        with torch.no_grad():
            model.score.weight.mul_(scale)
        served.append(model_scores(model.to(getattr(torch, dtype)).float()))
        if seed == 0:
            model = model.export(tmp_path, local.processing_class, getattr(torch, dtype))
            served[0] = model_scores(copy.deepcopy(model).float())
    reference = read_reference(tmp_path)
    ids = [text["input_ids"] for text in reference["texts"]]
    assert reference["dtype"] == dtype

    def fault(scores):
        return fault_of_scores(reference["texts"], np.array(scores, dtype=float), dtype)

    honest, other = ([score(text) for text in ids] for score in served)
    assert fault(honest) is None
    rounded = fault(torch.tensor(honest).to(torch.bfloat16).tolist())
    assert rounded is None if dtype == "bfloat16" else rounded[0].startswith("rounding") and not rounded[1]
    for scores in (other, honest[::-1]):
        assert fault(scores)[0].startswith("another head, or an adapter that is not loaded") and fault(scores)[1]
    for name, (wrong, said) in FAULTS.items():
        unit = scale if name in ("bias", "scale") else 1.0  # of another head, whose scores are of that size
        read, change = wrong.get("read", list), wrong.get("change", float)
        scores = [change(served[0](read(text)) / unit) for text in ids]
        found = fault([None if score is None else score * unit for score in scores])
        assert found is not None and found[1] and re.match(said.partition(":")[0], found[0]), (name, found)


def test_a_server_that_joins_prompt_and_answer_by_itself_is_named(exported, stub):
    """As vLLM's /score and /rerank do."""
    folder, local = exported
    ids = [tuple(text["input_ids"]) for text in read_reference(folder)["texts"]]
    pairs = [local.processing_class("\n".join(turns[:-1]), turns[-1])["input_ids"] for turns in TURNS]
    stub.read = lambda text: dict(zip(ids, pairs, strict=True))[tuple(text)]
    with serving(stub) as url, pytest.raises(ValueError, match="no chat template: it joins prompt and answer by itse"):
        RemoteRewardScorer(url, folder)


def test_an_adapter_is_asked_for_by_its_name_and_its_base_alone_is_named(exported, stub, tmp_path):
    folder, local = exported
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "adapter_config.json").write_text("{}")
    other = model_scores(tiny_reward_model("llama", seed=5, max_position_embeddings=4096))
    with serving(stub) as url:
        stub.adapters = {"mine": stub.score, "not-mine": other}
        stub.score = other
        one = RemoteRewardScorer(url, tmp_path, model="mine")
        assert one.max_length == 4096 and one.name == "mine"
        assert one.score(["Hi"], [" four"])[0] == pytest.approx(local.score(["Hi"], [" four"])[0], abs=1e-5)
        with pytest.raises(ValueError, match=f"^{url}: an adapter that is not loaded .* give its name as model"):
            RemoteRewardScorer(url, tmp_path)
        with pytest.raises(ValueError, match=f"^{url}: another head, or an adapter that is not loaded"):
            RemoteRewardScorer(url, tmp_path, model="not-mine")


def test_the_check_asks_for_texts_that_the_server_reads_whatever_length_is_asked_of_the_scorer(exported, stub, caplog):
    folder, _ = exported
    stub.change = sigmoid
    with serving(stub) as url:
        with pytest.raises(ValueError, match="activation"):
            RemoteRewardScorer(url, folder, max_length=2)
        stub.max_model_len = 2
        RemoteRewardScorer(url, folder)
    assert "it reads 2 tokens, no text for a check is that short; not checked" in caplog.text


def test_another_model_is_named_and_16_bits_are_warned_of(exported, stub, caplog):
    folder, local = exported
    with serving(stub) as url:
        stub.score = model_scores(tiny_reward_model("llama", seed=5, max_position_embeddings=4096))
        with pytest.raises(ValueError, match="another head, or an adapter that is not loaded .largest difference"):
            RemoteRewardScorer(url, folder)
        stub.score, stub.change = model_scores(local.model), bfloat16
        assert not [record for record in caplog.records if record.name.startswith("rm_plugin")]
        RemoteRewardScorer(url, folder)
    assert "rounding (largest difference" in caplog.text and "--dtype float32" in caplog.text


def test_ids_are_compared_before_scores(exported, stub, tmp_path):
    folder, _ = exported
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in ("config.json", FILE):
        (tmp_path / name).write_text((folder / name).read_text())
    tokenizer.chat_template = tokenizer.chat_template.replace("<|eot_id|>", "<|end_header_id|>")
    tokenizer.save_pretrained(tmp_path)
    with (
        serving(stub) as url,
        pytest.raises(ValueError, match="another template: the tokenizer given makes other ids"),
    ):
        RemoteRewardScorer(url, tmp_path)
    assert remote.fault_of_ids([1, 1, 2], [1, 2]).startswith("BOS twice")


def test_a_server_that_renders_otherwise_is_warned_of_since_ids_are_sent(exported, stub, caplog):
    folder, _ = exported
    stub.tokenizer.chat_template = "{{ bos_token }}{{ bos_token }}" + tiny_tokenizer("chatml").chat_template
    with serving(stub) as url:
        RemoteRewardScorer(url, folder)
    assert "asked with messages instead of ids, it gives another score: another template" in caplog.text


def test_without_reference_scores_a_line_says_that_nothing_was_checked(exported, stub, tmp_path, caplog):
    folder, local = exported
    local.processing_class.save_pretrained(tmp_path)
    with serving(stub) as url:
        RemoteRewardScorer(url, tmp_path)
        assert "no reference scores lie beside the tokenizer" in caplog.text
        stub.change = lambda score: 1.0
        with pytest.raises(ValueError, match="it gives 1 for every text; a softmax over one score"):
            RemoteRewardScorer(url, tmp_path)


def test_a_served_model_that_nothing_identifies_resumes_no_run(exported, stub, tmp_path):
    exported[1].processing_class.save_pretrained(tmp_path / "bare")
    rows = [{"prompt": "Hi", "chosen": f" four {i}", "rejected": f" five {i}"} for i in range(5)]
    candidates = [{"prompt": "Hi", "completions": COMPLETIONS[:4]}]
    with serving(stub) as url:
        one = RemoteRewardScorer(url, tmp_path / "bare")
        for run in (
            lambda: evaluate(one, source=rows, output=tmp_path / "run", num_samples=10),
            lambda: score_dataset(rows, one, tmp_path / "scored.jsonl"),
            lambda: BestOfNSampler(None, None, one).rank(candidates, tmp_path / "best.jsonl"),
        ):
            with pytest.raises(ValueError, match=f"no reference scores say which model {url} serves, .* a name"):
                run()
        named = RemoteRewardScorer(url, tmp_path / "bare", name="mine")
        assert score_dataset(rows, named, tmp_path / "scored.jsonl")["rows"] == 5
        assert named.settings("model") == as_reward(one, "mine").settings("model")
        assert named.settings("model") != as_reward(one, "another").settings("model")
        assert evaluate(one, source=rows, num_samples=10).metrics["pairwise"]["num_pairs"] == 5  # nothing is kept


@pytest.mark.parametrize("login", ["user:pass", "pass", "user:pa/ss"])
def test_a_password_in_a_url_is_refused_and_not_shown(exported, login):
    for folder in (exported[0], None):
        with pytest.raises(ValueError, match="http://…@host:1 holds a user or a password, .* as api_key or") as error:
            RemoteRewardScorer(f"http://{login}@host:1", folder)
        assert f"{login}@" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_how_close_is_equal_depends_on_the_dtype_of_the_weights(dtype):
    texts = [{"input_ids": [1], "score": score} for score in (-1.0, 0.0, 1.0)]
    fault = fault_of_scores(texts, np.array([-1.01, 0.01, 1.0]), dtype)
    assert (fault is None) == (dtype == "bfloat16")


# --- elsewhere


def test_it_is_pickled_as_its_settings_and_awaited_by_trl(exported, stub):
    folder, local = exported
    expected = local(["Hi"] * 3, COMPLETIONS[:3])
    with serving(stub) as url:
        one = AsyncRemoteRewardScorer(url, str(folder), truncation_mode="drop", name="served")
        one.listeners.append(lambda *args, **kwargs: None)
        pickled = pickle.dumps(one)
        other = pickle.loads(pickled)
        assert len(pickled) < 2000 and not other.listeners
        assert (type(other), other.truncation_mode, other.__name__) == (type(one), "drop", "served")

        async def both():
            return await asyncio.gather(*(one(["Hi"] * 3, COMPLETIONS[:3]) for one in (one, other)))

        for rewards in asyncio.run(both()):
            assert rewards == pytest.approx(expected, abs=1e-5)


def test_the_async_scorer_says_which_trl_awaits_it(exported, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.14.0")
    with pytest.raises(ValueError, match="TRL 1.14.0 does not await a reward, 1.15 and newer do; use RemoteReward"):
        AsyncRemoteRewardScorer("http://localhost:1", exported[0])


def test_asyncgrpo_pickles_it_and_awaits_it(exported, stub, monkeypatch):
    async_rollout_worker = pytest.importorskip("trl.experimental.async_grpo.async_rollout_worker")
    from trl.trainer import utils

    folder, _ = exported
    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda: True)
    monkeypatch.setattr(async_rollout_worker, "is_aiohttp_available", lambda: True)
    with serving(stub) as url:
        one = AsyncRemoteRewardScorer(url, str(folder))
        worker = async_rollout_worker.AsyncRolloutWorker(reward_funcs=[one])
        started = []
        worker._mp_ctx = type("Context", (), {"Process": lambda self, **kwargs: started.append(kwargs) or 1 / 0})()
        with pytest.raises(ZeroDivisionError):  # behind the check that everything can be pickled
            worker.start()
        (reward,) = pickle.loads(pickle.dumps(started[0]["args"][1]))["reward_funcs"]
        assert utils.is_async_callable(reward) and not utils.is_async_callable(RemoteRewardScorer(url, folder))
        assert utils.get_callable_name(reward) == "my-model"
        assert asyncio.run(reward(prompts=["Hi"], completions=[" four"], step=1)) == pytest.approx(
            exported[1](["Hi"], [" four"]), abs=1e-5
        )


def test_it_is_used_without_torch(exported, stub):
    folder, local = exported
    script = """
        import sys
        from transformers import PreTrainedTokenizerFast
        tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[2])
        from rm_plugin import RemoteRewardScorer
        one = RemoteRewardScorer(sys.argv[1], tokenizer)
        scores = one.score(["Hi", [{"role": "user", "content": "Hi"}]], [" four", "four"])
        assert one.reference is not None and "torch" not in sys.modules, "torch"
        print(*scores.tolist())
    """
    with serving(stub) as url:
        words = [sys.executable, "-c", textwrap.dedent(script), url, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = local.score(["Hi", user("Hi")], [" four", "four"])
    np.testing.assert_allclose(list(map(float, done.stdout.split())), expected, atol=1e-5)


def test_a_missing_client_says_what_to_install(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ImportError, match=r"pip install 'rm-plugin\[remote\]'"):
        RemoteRewardScorer("http://localhost:1", exported[0])


def test_requests_are_no_lines_in_the_log(exported, stub, caplog):
    caplog.set_level(logging.INFO, "rm_plugin")
    with serving(stub) as url:
        RemoteRewardScorer(url, exported[0])
    assert [record for record in caplog.records if record.name.startswith("rm_plugin")] == []
