"""Best-of-n: the sampler, ready candidates, resumption, the command."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import CHATML, tiny_config, tiny_reward_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig

from rm_plugin.commands.cli import main
from rm_plugin.data.comparison import Comparison, to_comparison, to_prompt
from rm_plugin.evaluation.harness import evaluate
from rm_plugin.files import Journal
from rm_plugin.loops.best_of_n import BestOfNSampler, read_candidates, summarize, to_preferences, to_sft
from rm_plugin.loops.candidates import print_summary
from rm_plugin.loops.generation import PolicySampler
from rm_plugin.model.checkpoint import load_language_model
from rm_plugin.model.modeling import RewardModel
from rm_plugin.scoring.rewards import as_reward
from rm_plugin.scoring.scorer import RewardScorer


def sample_completions(policy, tokenizer, prompts, n, config=None, **options):
    return PolicySampler(policy, tokenizer, config).sample([to_prompt(prompt) for prompt in prompts], n, **options)


PLAIN = ["2 + 2 =", "Which country owns Antarctica?", "Hello world,", "2 + 2 ="]
CHAT = [[{"role": "user", "content": text}] for text in PLAIN]
SHORT = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def scorer(tokenizer):
    return RewardScorer(tiny_reward_model(), tokenizer)


def best_of_n(policy, prompts, scorer, n=16, *, candidates=None, output=None, **options):
    sampler = BestOfNSampler(policy, scorer=scorer, n=n, **options)
    return sampler.sample(prompts, output) if candidates is None else sampler.rank(candidates, output)


def length_reward(prompts, completions, **kwargs):
    return [float(len(text)) for text in completions]


# --- the sampler


def test_words_that_the_policy_continues_are_part_of_what_is_scored(tmp_path, policy, tokenizer, scorer):
    begun = [{"role": "user", "content": "2 + 2 ="}, {"role": "assistant", "content": "The answer is"}]
    output = tmp_path / "best.jsonl"
    [result] = run(policy, tokenizer, scorer, output, [begun])
    assert result.prompt == begun[:1]
    assert all(c[0]["content"].startswith("The answer is") and len(c) == 1 for c in result.completions)
    [without] = run(policy, tokenizer, scorer, None, [[*begun[:1], {"role": "assistant", "content": "The"}]])
    assert without.completions != result.completions
    np.testing.assert_allclose(result.scores, scorer.score([begun[:1]] * len(result.scores), result.completions))
    assert run(policy, tokenizer, scorer, output, [begun]) == [result]
    for other in ([*begun[:1], {"role": "assistant", "content": "The"}], begun[:1]):
        with pytest.raises(ValueError, match="prompts was .* and is now .*; name another output, or delete it"):
            run(policy, tokenizer, scorer, output, [other])
    parts = [*begun[:1], {**begun[1], "content": [{"type": "text", "text": "The answer is"}], "name": "me"}]
    tokenizer = copy.deepcopy(tokenizer)
    content = "{{ m.content if m.content is string else m.content[0].text }}"
    tokenizer.chat_template = "{% for m in messages %}" + content + "{% endfor %}"
    [in_parts] = sample_completions(policy, tokenizer, [parts], 1, SHORT)
    assert in_parts[0].completion[0]["content"].startswith("The answer is")
    assert in_parts[0].completion[0]["name"] == "me"
    assert set(map(len, (row["prompt"] for row in [*to_preferences([result]), *to_sft([result])]))) == {1}


@pytest.mark.parametrize("prompts", [PLAIN, CHAT], ids=["plain", "conversational"])
def test_candidates_have_the_scorers_scores_and_the_best_is_chosen(prompts, policy, tokenizer, scorer):
    results = best_of_n(policy, prompts, scorer, n=4, processing_class=tokenizer, generation_config=SHORT)
    assert [r.prompt for r in results] == prompts
    for r in results:
        expected = scorer.score([r.prompt] * 4, r.completions, allow_empty=True)
        assert r.scores == pytest.approx(expected.tolist(), abs=1e-5)
        assert sorted(r.ranks) == [0, 1, 2, 3] and r.ranks[r.best] == 0
        assert r.chosen == r.completions[int(np.argmax(expected))]
        assert len(r.truncated) == 4


def test_equal_scores_share_a_rank_and_a_text_without_a_score_comes_last(tokenizer):
    values = {"a": 1.0, "b": 2.0, "c": 2.0, "d": None}
    [r] = best_of_n(
        None,
        None,
        lambda prompts, completions: [values[text] for text in completions],
        candidates=[{"prompt": "p", "completions": ["a", "d", "b", "c"]}],
    )
    assert (r.ranks, r.best, r.scores) == ([2, 3, 0, 0], 2, [1.0, None, 2.0, 2.0])


def test_a_policy_that_says_nothing_is_scored_too(tokenizer, scorer):
    [r] = best_of_n(None, None, scorer, candidates=[{"prompt": "2 + 2 =", "completions": ["", " 4"]}])
    assert None not in r.scores


def test_callbacks_hear_every_candidate_once(policy, tokenizer, scorer):
    heard = []
    sampler = BestOfNSampler(
        policy,
        tokenizer,
        scorer,
        n=2,
        generation_config=SHORT,
        callbacks=[lambda prompts, completions, scores, completion_ids, truncated: heard.extend(completions)],
        batch_size=2,
    )
    results = sampler.sample(PLAIN)
    assert heard == [text for r in results for text in r.completions]
    assert not scorer.listeners


# --- output and resumption


class CountingPolicy:
    """A policy that counts the sequences it generates."""

    def __init__(self, policy):
        self.policy, self.count = policy, 0

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def generate(self, **kwargs):
        self.count += len(kwargs["input_ids"])
        return self.policy.generate(**kwargs)


def run(policy, tokenizer, scorer, output, prompts=PLAIN, **options):
    options = {"n": 4, "generation_config": SHORT, "batch_size": 4, **options}
    return best_of_n(policy, prompts, scorer, processing_class=tokenizer, output=output, **options)


class Killed(BaseException):
    pass


def test_a_killed_run_resumes_without_generating_twice(tmp_path, policy, tokenizer, scorer):
    expected = run(policy, tokenizer, scorer, tmp_path / "whole.jsonl")
    counting, output = CountingPolicy(policy), tmp_path / "best.jsonl"
    calls = iter([None, None, Killed()])

    def dies_at_the_third_prompt(prompts, completions, **kwargs):  # between generating and scoring it
        if error := next(calls):
            raise error
        return scorer(prompts=prompts, completions=completions)

    dies_at_the_third_prompt = as_reward(dies_at_the_third_prompt, scorer.__name__)
    with pytest.raises(Killed):
        run(counting, tokenizer, dies_at_the_third_prompt, output)
    assert counting.count == 12 and not output.exists()
    with (tmp_path / "best.jsonl.journal").open("a", encoding="utf-8") as file:
        file.write('0000 ["result 2", {"index": 2, "prom')  # cut off while it was written
    calls = iter([None] * 4)
    resumed = run(counting, tokenizer, dies_at_the_third_prompt, output)
    assert counting.count == 16  # the fourth prompt's only
    assert resumed == expected
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [json.loads(line)["index"] for line in output.read_text("utf-8").splitlines()] == [0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.glob("best*")) == ["best.jsonl", "best.jsonl.settings.json"]


def spoiled(path: Path, how: str) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if how == "torn":
        lines[-1] = lines[-1][:-5]
    elif how == "bit":
        lines[-1] = lines[-1].replace(b'"scores": [', b'"scores": [1', 1)
    elif how == "not JSON":
        lines[-1] = b"\xff{\n"
    elif how == "another object":
        lines[-1] = b'{"index": 3}\n'
    else:
        lines = [b"garbage\n"]
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("how", ["torn", "bit", "not JSON", "everything"])
def test_what_is_damaged_in_the_journal_is_done_again(how, tmp_path, policy, tokenizer):
    expected = run(policy, tokenizer, length_reward, tmp_path / "whole.jsonl")
    calls = iter([None, None, None, Killed()])

    def dies(prompts, completions):
        if error := next(calls):
            raise error
        return length_reward(prompts, completions)

    dies = as_reward(dies, "length_reward")
    with pytest.raises(Killed):
        run(policy, tokenizer, dies, tmp_path / "best.jsonl")
    spoiled(tmp_path / "best.jsonl.journal", how)
    calls = iter([None] * 4)
    assert run(policy, tokenizer, dies, tmp_path / "best.jsonl") == expected
    assert (tmp_path / "best.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "best.jsonl.journal").exists()


@pytest.mark.parametrize("how", ["torn", "not JSON", "another object"])
def test_a_line_of_a_whole_output_that_cannot_be_read_is_named(how, tmp_path, policy, tokenizer):
    output = tmp_path / "best.jsonl"
    run(policy, tokenizer, length_reward, output)
    spoiled(output, how)
    with pytest.raises(ValueError, match=f"{output} line 4"):
        run(policy, tokenizer, length_reward, output)


def test_a_line_that_is_missing_in_a_whole_output_is_done_again(tmp_path, policy, tokenizer):
    counting, output = CountingPolicy(policy), tmp_path / "best.jsonl"
    expected = run(counting, tokenizer, length_reward, output)
    content = output.read_bytes()
    output.write_bytes(content[: content.rindex(b'{"index": 3')])
    assert run(counting, tokenizer, length_reward, output) == expected and counting.count == 16 + 4
    assert output.read_bytes() == content


def test_more_prompts_need_another_output(tmp_path, policy, tokenizer):
    run(policy, tokenizer, length_reward, tmp_path / "best.jsonl", PLAIN[:2])
    with pytest.raises(ValueError, match="prompts was .* and is now .*; name another output, or delete it"):
        run(policy, tokenizer, length_reward, tmp_path / "best.jsonl")


def test_a_second_start_is_refused_while_the_first_runs(tmp_path, policy, tokenizer):
    output = tmp_path / "best.jsonl"

    def reward(prompts, completions):
        with pytest.raises(ValueError, match=r"best.jsonl is being made by another process, .* wait for it, or name"):
            run(policy, tokenizer, length_reward, output)
        return length_reward(prompts, completions)

    run(policy, tokenizer, as_reward(reward, "reward"), output)
    assert len(output.read_text("utf-8").splitlines()) == len(PLAIN)


SHARED_RUN = """
import os, sys
sys.path[:0] = {tests!r}
import test_best_of_n as t
import torch
from models import tiny_config, tiny_tokenizer
torch.manual_seed(0)
policy = t.AutoModelForCausalLM.from_config(tiny_config("llama"))
policy.load_state_dict(torch.load({policy!r}))
results = t.run(policy.eval(), tiny_tokenizer("chatml"), t.length_reward, {output!r}, t.PLAIN * 3, batch_size=8)
assert [result.index for result in results] == list(range(12))
import torch.distributed
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_the_prompts_and_write_each_once(tmp_path, policy, tokenizer):
    alone = run(policy, tokenizer, length_reward, tmp_path / "alone.jsonl", PLAIN * 3, batch_size=8)
    torch.save(policy.state_dict(), tmp_path / "policy.pt")
    folders = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    script = tmp_path / "run.py"
    options = {"tests": folders, "policy": str(tmp_path / "policy.pt"), "output": str(tmp_path / "shared.jsonl")}
    script.write_text(SHARED_RUN.format(**options))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "shared.jsonl").read_text("utf-8").splitlines()]
    assert [(line["index"], line["completions"], line["scores"]) for line in lines] == [
        (result.index, result.completions, result.scores) for result in alone
    ]
    assert sorted(path.name for path in tmp_path.glob("shared*")) == ["shared.jsonl", "shared.jsonl.settings.json"]


def test_a_finished_run_is_read_and_nothing_is_generated(tmp_path, policy, tokenizer, scorer):
    first = run(CountingPolicy(policy), tokenizer, scorer, tmp_path / "best.jsonl")
    counting = CountingPolicy(policy)
    assert run(counting, tokenizer, scorer, tmp_path / "best.jsonl") == first and counting.count == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 2}, "was made with other settings: n was 4 and is now 2; name another output, or delete it"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"generation_config": {"max_new_tokens": 9}}, "max_new_tokens was 8 and is now 9"),
        ({"prompts": ["another", *PLAIN[1:]]}, "prompts was .* and is now"),
    ],
)
def test_an_output_of_other_settings_is_not_continued(change, message, tmp_path, policy, tokenizer, scorer):
    run(policy, tokenizer, scorer, tmp_path / "best.jsonl")
    with pytest.raises(ValueError, match=message):
        run(policy, tokenizer, scorer, tmp_path / "best.jsonl", **change)


def another_model(tokenizer, folder):
    return RewardScorer(tiny_reward_model(seed=9), tokenizer)


def retrained_at_the_same_path(tokenizer, folder):
    tiny_reward_model(seed=9).save_pretrained(folder)
    return RewardScorer(folder, tokenizer)


def shorter(tokenizer, folder):
    return RewardScorer(tiny_reward_model(), tokenizer, max_length=128)


def in_bfloat16(tokenizer, folder):
    return RewardScorer(tiny_reward_model().to(torch.bfloat16), tokenizer)


def that_ends_otherwise(tokenizer, folder):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = "<|endoftext|>"
    return RewardScorer(folder, tokenizer)


def of_other_positions(tokenizer, folder):
    model = RewardScorer(folder, tokenizer).model
    model.config.backbone_config.rope_parameters = {"rope_type": "default", "rope_theta": 7.0}
    model.save_pretrained(folder)
    return RewardScorer(folder, tokenizer)


@pytest.mark.parametrize("role", ["scorer", "gold"])
@pytest.mark.parametrize(
    ("change", "setting"),
    [
        (another_model, "weights"),
        (of_other_positions, "weights"),
        (that_ends_otherwise, "tokenizer_hash"),
        (retrained_at_the_same_path, "weights"),
        (shorter, "max_length"),
        (in_bfloat16, "weights|dtype"),
    ],
)
def test_an_output_of_another_reward_is_not_continued(role, change, setting, tmp_path, tokenizer):
    tiny_reward_model().save_pretrained(tmp_path / "rm")
    rewards = {"scorer": length_reward, role: RewardScorer(tmp_path / "rm", tokenizer)}

    def rank(**rewards):
        rows = [{"prompt": "2 + 2 =", "completions": [" 4", " 5"]}]
        return best_of_n(None, None, candidates=rows, output=tmp_path / "best.jsonl", **rewards)

    first = rank(**rewards)
    assert rank(**rewards) == first
    shutil.copytree(tmp_path / "rm", tmp_path / "elsewhere")  # the same model
    same = RewardScorer(tmp_path / "elsewhere", tokenizer, max_num_batched_tokens=64)
    assert rank(**{**rewards, role: same}) == first
    with pytest.raises(ValueError, match=f"{'reward' if role == 'scorer' else 'gold'}_({setting}) was .* and is now"):
        rank(**{**rewards, role: change(tokenizer, tmp_path / "rm")})


def test_an_output_of_other_answers_or_of_another_policy_is_not_continued(tmp_path, policy, tokenizer):
    def sample(answer=4, model=policy):
        prompts = [{"prompt": "2 + 2 =", "answer": answer}]
        return run(model, tokenizer, length_reward, tmp_path / "best.jsonl", prompts)

    assert sample() == sample()
    with pytest.raises(ValueError, match="prompts was .* and is now"):
        sample(answer=5)
    other = AutoModelForCausalLM.from_config(tiny_config("llama"))  # trained on, say
    with pytest.raises(ValueError, match="policy_weights was .* and is now"):
        sample(model=other)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template += "Say it in rhyme."
    with pytest.raises(ValueError, match="policy_tokenizer was .* and is now"):
        sample()


def test_after_a_text_that_was_too_long_samples_are_scored_with_another_limit(tmp_path, policy, tokenizer):
    def sample(prompts=PLAIN, **limit):
        scorer = RewardScorer(tiny_reward_model(), tokenizer, **limit)
        return run(policy, tokenizer, scorer, tmp_path / "best.jsonl", prompts)

    with pytest.raises(ValueError, match="max_length is 12; raise max_length or"):
        sample(max_length=12)
    with Journal(tmp_path / "best.jsonl") as journal:
        [(key, kept), *_] = journal.items()
    calls = []
    hook = policy.register_forward_hook(lambda *_: calls.append(1))
    try:
        results = sample(max_length=12, truncation_mode="keep_end")  # as the message says
    finally:
        hook.remove()
    assert results[int(key.removeprefix("samples "))].completions == [one["completion"] for one in kept] and calls
    with pytest.raises(ValueError, match="reward_truncation_mode was keep_end and is now drop"):
        sample(max_length=12, truncation_mode="drop")  # some of the results were cut
    settings = (tmp_path / "best.jsonl.settings.json").read_bytes()
    with pytest.raises(ValueError, match="prompts was .* and is now"):
        sample(["another"], max_length=12, truncation_mode="keep_end")
    assert (tmp_path / "best.jsonl.settings.json").read_bytes() == settings
    (tmp_path / "best.jsonl").unlink()
    whole = sample(max_length=200)
    assert sample(max_length=250, truncation_mode="keep_end") == whole  # nothing was too long


def test_tools_and_template_arguments_reach_every_score(policy):
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = "{{ tools | tojson if tools }}{{ mode }}" + CHATML
    scorer = RewardScorer(tiny_reward_model(), tokenizer)
    ask = [{"role": "user", "content": "2 + 2 ="}]
    row = {"prompt": ask, "tools": '[{"name": "add"}]', "chat_template_kwargs": {"mode": "brief"}}
    texts = [[{"role": "assistant", "content": text}] for text in ("four", "five")]
    expected = evaluate(
        scorer, source=[{**row, "chosen": texts[0], "rejected": texts[1]}], num_samples=10, text_format="as-is"
    ).scores[0]
    assert abs(expected - scorer.score([ask] * 2, texts)).min() > 0.01
    columns = {name: [row[name]] * 2 for name in ("tools", "chat_template_kwargs")}
    np.testing.assert_allclose(scorer.score([ask] * 2, texts, **columns), expected, atol=1e-6)
    np.testing.assert_allclose(scorer(prompts=[ask] * 2, completions=texts, **columns), expected, atol=1e-6)
    ready = {**row, "completions": texts}
    for candidates in ([ready], read_candidates([ready])):
        [result] = best_of_n(None, None, scorer, candidates=candidates)
        np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    [pair] = to_preferences([result])
    assert (pair["tools"], pair["chat_template_kwargs"]) == ([{"name": "add"}], {"mode": "brief"})
    [sampled] = best_of_n(policy, [row], scorer, n=2, processing_class=tokenizer, generation_config=SHORT)
    [other] = best_of_n(policy, [ask], scorer, n=2, processing_class=tokenizer, generation_config=SHORT)
    assert sampled.completions != other.completions and sampled.tools == [{"name": "add"}]
    arguments = {"tools": [{"name": "add"}], "chat_template_kwargs": {"mode": "brief"}}
    assert list(scorer.rank(ask, texts, **arguments)) == list(np.argsort(-expected))
    assert (scorer.preference(ask, *texts, **arguments) > 0.5) == (expected[0] > expected[1])

    def add(a: int, b: int) -> int:
        """
        Adds.

        Args:
            a: one
            b: the other
        """

    [called] = best_of_n(None, None, lambda prompts, completions: [1.0, 2.0], candidates=[{**ready, "tools": [add]}])
    assert called.tools[0]["function"]["name"] == "add" and to_preferences([called])
    trainer = SimpleNamespace(chat_template_kwargs={"mode": "brief"}, processing_class=tokenizer)
    trainer.log = types.MethodType(lambda self, name, value: None, trainer)
    texts_of = {"prompts": [ask] * 2, "completions": texts}
    as_trl = scorer(**texts_of, log_metric=trainer.log, tools=[row["tools"]] * 2)
    np.testing.assert_allclose(as_trl, expected, atol=1e-6)
    plain = scorer.score([ask] * 2, texts).tolist()
    for odd in ("search", ["search"], 3):  # a column of the data's that means something else
        assert scorer(**texts_of, tools=[odd] * 2) == plain
    assert scorer(prompts=["2 + 2 ="], completions=[" 4"], tools=["search"]) == scorer(["2 + 2 ="], [" 4"])
    with pytest.raises(ValueError, match="2 prompts and 1 tools; give one of each per text"):
        scorer.score([ask] * 2, texts, tools=[None])


def test_an_output_of_other_candidates_is_not_continued(tmp_path):
    def rank(completions):
        rows = [{"prompt": "p", "completions": completions}]
        return best_of_n(None, None, length_reward, candidates=rows, output=tmp_path / "best.jsonl")

    assert rank(["a", "bb"])[0].chosen == rank(["a", "bb"])[0].chosen == "bb"
    with pytest.raises(ValueError, match="best.jsonl was made with other settings: prompts was .* and is now"):
        rank(["a", "ccc"])


def test_a_run_that_is_killed_while_it_writes_its_settings_can_be_started_again(tmp_path, monkeypatch):
    rows, output = [{"prompt": "p", "completions": ["a", "bb"]}], tmp_path / "best.jsonl"

    def killed(*paths):
        raise Killed

    first = best_of_n(None, None, length_reward, candidates=rows, output=output)
    settings = tmp_path / "best.jsonl.settings.json"
    written = settings.stat()
    assert best_of_n(None, None, length_reward, candidates=rows, output=output) == first
    assert settings.stat().st_ino == written.st_ino and settings.stat().st_mtime_ns == written.st_mtime_ns
    output.unlink()
    monkeypatch.setattr(Path, "replace", killed)  # written aside, not there yet
    with pytest.raises(Killed):
        best_of_n(None, None, length_reward, candidates=rows, output=output)
    monkeypatch.undo()
    assert json.loads(settings.read_text("utf-8"))["reward_function"].endswith(":length_reward")  # still whole
    assert best_of_n(None, None, length_reward, candidates=rows, output=output) == first


def test_a_file_that_is_no_output_is_not_touched(tmp_path, policy, tokenizer, scorer):
    (tmp_path / "mine.jsonl").write_text("precious\n", "utf-8")
    with pytest.raises(ValueError, match="is no output of best-of-n; name another file"):
        run(policy, tokenizer, scorer, tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text("utf-8") == "precious\n"


# --- ready candidates


def test_what_only_later_rows_of_a_prompt_know_is_kept():
    rows = [
        {"prompt": "p", "completion": "a"},
        {"prompt": "p", "completion": {"text": "b", "finish_reason": "length"}, "gold": True, "answer": "b"},
        {"prompt": "p", "completion": "c", "systems": "mine"},
    ]
    [group] = read_candidates(rows)
    assert group.metadata == {
        "gold": [None, 1.0, None],
        "truncated": [None, True, None],
        "systems": [None, None, "mine"],
        "answer": "b",
    }
    summary = summarize(best_of_n(None, None, length_reward, candidates=rows[:2]), num_samples=10)
    assert summary["truncated_rate"] == 1.0
    with pytest.raises(
        ValueError, match="row 3: the answer is 'c', that of an earlier row of its prompt 'b'; give one"
    ):
        read_candidates([*rows, {"prompt": "p", "completion": "d", "answer": "c"}])
    with pytest.raises(ValueError, match="candidates, row 0: `system` looks like a part of the prompt"):
        read_candidates([{"prompt": "p", "completion": "d", "system": "Be kind."}])


def test_a_conversations_candidates_become_messages(scorer):
    rows = [{"messages": CHAT[0], "outputs": [{"text": "4"}, {"text": "5"}]}]
    [r] = best_of_n(None, None, scorer, candidates=rows)
    assert r.completions == [[{"role": "assistant", "content": "4"}], [{"role": "assistant", "content": "5"}]]


def test_solutions_of_four_systems_give_best_of_4_as_one_number(shared_data):
    lines = (shared_data / "gsm8k_solutions/example_model_solutions.jsonl").read_text("utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    answers = [{s: row[s] for s in row if isinstance(row[s], dict)} for row in questions]
    correct = [[one["is_correct"] for one in row.values()] for row in answers]
    rows = [
        {"prompt": q["question"], "completions": [s["solution"] for s in a.values()], "gold": c, "systems": list(a)}
        for q, a, c in zip(questions, answers, correct, strict=True)
    ]
    summary = summarize(best_of_n(None, None, length_reward, candidates=rows), num_samples=200)
    best = summary["best_of"]
    assert "curve" not in summary
    assert (best["n"], summary["num_prompts"]) == (4, 1319)
    assert best["random"] == pytest.approx(np.mean(correct))
    assert best["oracle"] == pytest.approx(np.mean([any(one) for one in correct]))
    assert best["gold_low"] < best["gold"] < best["gold_high"] and best["regret"] == best["oracle"] - best["gold"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "long", "rejected": "no"},
        Comparison("p", ["long", "no"], ranks=[0, 1]),
    ],
    ids=["row", "comparison"],
)
def test_preference_rows_are_no_samples_of_a_policy_and_give_one_number(row, capsys):
    summary = summarize(best_of_n(None, None, length_reward, candidates=[row]))
    assert "curve" not in summary
    best = summary["best_of"]
    assert (best["n"], best["reward"], best["gold"], best["random"], best["gain"]) == (2, 4.0, 1.0, 0.5, 0.5)
    print_summary(summary)
    out = capsys.readouterr().out
    assert "not samples of one policy, so one number" in out and "KL" not in out


# --- what it is worth


def test_a_known_answer_gives_the_gold_values(policy, tokenizer):
    rows = [{"prompt": "2 + 2 =", "completions": ["it is 5", "it is 4.0"], "answer": "so #### 4"}]
    [r] = best_of_n(None, None, length_reward, candidates=rows)
    assert r.gold == [0.0, 1.0]
    prompts = [{"prompt": "2 + 2 =", "answer": 4}]
    [r] = best_of_n(policy, prompts, length_reward, n=2, processing_class=tokenizer, generation_config=SHORT)
    assert r.gold == [0.0, 0.0]


def test_a_gold_scorer_gives_gold_values(tokenizer, scorer):
    gold = RewardScorer(tiny_reward_model(seed=5), tokenizer)
    rows = [{"prompt": "2 + 2 =", "completions": [" 4", " 5", " four"]}]
    [r] = best_of_n(None, None, scorer, candidates=rows, gold=gold)
    assert r.gold == pytest.approx(gold.score(["2 + 2 ="] * 3, r.completions).tolist(), abs=1e-5)


# --- pairs and winners


@pytest.mark.parametrize("prompts", [PLAIN, CHAT], ids=["plain", "conversational"])
def test_dpo_and_our_trainer_take_the_pairs_and_sft_the_winners(prompts, tmp_path, policy, tokenizer, scorer):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    results = best_of_n(policy, prompts, scorer, n=4, processing_class=tokenizer, generation_config=SHORT)
    pairs, winners = to_preferences(results), to_sft(results)
    assert all(to_comparison(pair).chosen for pair in pairs)
    policy.save_pretrained(tmp_path / "policy")
    common = {"max_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no"}
    for trainer_class, config_class, rows in ((DPOTrainer, DPOConfig, pairs), (SFTTrainer, SFTConfig, winners)):
        args = config_class(output_dir=str(tmp_path), disable_tqdm=True, **common)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
        trainer = trainer_class(
            model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        assert np.isfinite(trainer.train().training_loss)


# --- the command


@pytest.fixture(scope="module")
def folders(tmp_path_factory, policy, tokenizer):
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("policy", policy), ("rm", tiny_reward_model()), ("gold", tiny_reward_model(seed=5))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in CHAT), "utf-8")
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_command_writes_candidates_pairs_winners_and_the_curve(folders, tmp_path, capsys):
    argv = ["best-of-n", str(folders / "policy"), "--reward-model", str(folders / "rm"), "-n", "4"]
    argv += ["--prompts", str(folders / "prompts.jsonl"), "--output", str(tmp_path / "best.jsonl")]
    argv += ["--to-preferences", str(tmp_path / "pairs.jsonl"), "--to-sft", str(tmp_path / "sft.jsonl")]
    argv += ["--summary", str(tmp_path / "summary.json"), "--max-new-tokens", "8", "--temperature", "0.9"]
    assert main([*argv, "--gold-model", str(folders / "gold")]) == 0
    out = capsys.readouterr().out
    assert "16 completions of 4 prompts" in out and "regret" in out
    assert [line.split()[1:4:2] for line in out.splitlines() if line.startswith("│")][2] == ["4", "0.636"]
    results, pairs, winners = (lines(tmp_path / f"{name}.jsonl") for name in ("best", "pairs", "sft"))
    assert [len(r["completions"]) for r in results] == [4] * 4
    assert pairs[0]["chosen"] == winners[0]["completion"] == results[0]["completions"][results[0]["best"]]
    assert json.loads((tmp_path / "summary.json").read_text("utf-8"))["curve"]["n"] == [1, 2, 4]
    # The lines are candidates again, for another reward model.
    again = ["best-of-n", "--reward-model", str(folders / "gold"), "--candidates", str(tmp_path / "best.jsonl")]
    assert main([*again, "--output", str(tmp_path / "again.jsonl")]) == 0
    rescored = lines(tmp_path / "again.jsonl")
    assert rescored[0]["scores"] == pytest.approx(results[0]["gold"], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["-n", "0"], "n=0, it must be at least 1"),
        (["--temperature", "0"], "temperature"),
        (["--candidates", "x.jsonl"], "give POLICY with --prompts, or --candidates"),
        (["--max-new-tokens", "300"], "over the policy's context of 256"),
        (["--batch-size", "0"], "batch_size=0, it must be at least 1"),
        (["--max-new-tokens", "0"], "`max_new_tokens` must be greater than 0, but is 0"),
    ],
)
def test_bad_usage_of_the_command_is_one_line(change, message, folders, tmp_path, capsys):
    argv = ["best-of-n", str(folders / "policy"), "--reward-model", str(folders / "rm")]
    argv += ["--prompts", str(folders / "prompts.jsonl"), "--output", str(tmp_path / "best.jsonl")]
    argv += ["--max-new-tokens", "8"]
    assert main([*argv, *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rm-plugin: ") and message in error


@pytest.mark.parametrize(
    "words",
    [
        ["-n", "8"],
        ["--seed", "0"],
        ["--batch-size", "4"],
        ["--max-new-tokens", "8"],
        ["--temperature", "0.5"],
        ["--top-p", "0.9"],
    ],
    ids=lambda words: words[0],
)
def test_options_of_sampling_are_refused_with_ready_candidates(words, tmp_path, capsys):
    argv = ["best-of-n", "--reward-model", "rm", "--candidates", "x.jsonl", "--output", str(tmp_path / "best.jsonl")]
    assert main([*argv, *words]) == 2
    expected = f"rm-plugin: {words[0]}: --candidates are ready, nothing is sampled; leave it out\n"
    assert capsys.readouterr().err == expected


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0, it must be at least 1"),
        ({"scorer": None}, "a NoneType gives no rewards; give a model, its name or a function"),
        ({"generation_config": {"do_sample": False}}, "do_sample=False gives 4 equal completions"),
        ({"generation_config": {"num_beams": 2}}, "num_beams=2"),
        ({"generation_config": {"max_length": 12}}, "max_length=12 counts the prompt too; give max_new_tokens"),
        ({"generation_config": GenerationConfig(max_length=12)}, "max_length=12 counts the prompt too"),
        ({"generation_config": {"temprature": 2}}, "generation_config has temprature"),
        ({"processing_class": None}, "processing_class is missing"),
    ],
)
def test_bad_settings_are_named(arguments, message, policy, tokenizer, scorer):
    good = {"policy": policy, "processing_class": tokenizer, "scorer": scorer, "n": 4}
    with pytest.raises(ValueError, match=message):
        BestOfNSampler(**{**good, **arguments})


@pytest.mark.parametrize("tied", [False, True])
def test_a_policy_whose_language_head_would_be_random_is_refused(tied, tmp_path):
    config = tiny_config("llama", tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "policy")
    assert torch.equal(load_language_model(tmp_path / "policy").lm_head.weight, model.lm_head.weight)
    RewardModel.from_backbone(tmp_path / "policy").save_pretrained(tmp_path / "reward-model")
    with pytest.raises(ValueError, match="so its language head is not trained; name a causal language model"):
        best_of_n(tmp_path / "reward-model", PLAIN, length_reward, processing_class=tiny_tokenizer("chatml"))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there are no prompts"),
        (["2 + 2 =", ""], "row 1: there is no prompt .found: nothing.; a policy needs words"),
        ([{"text": "2 + 2 ="}], "row 0: there is no prompt .found: text."),
        (["2 + 2 =", "too long " * 300], "prompt 1 has .* tokens, with max_new_tokens=8 that is over"),
    ],
)
def test_bad_prompts_are_named(prompts, message, policy, tokenizer, scorer):
    with pytest.raises(ValueError, match=message):
        BestOfNSampler(policy, tokenizer, scorer, n=2, generation_config=SHORT).sample(prompts)


def test_rewards_that_are_no_finite_numbers_are_refused_before_they_are_written(tmp_path):
    async def slowly(prompts):
        return [0.0] * len(prompts)

    def later(prompts, completions):
        return slowly(prompts)

    def infinite(prompts, completions):
        return [-math.inf] * len(prompts)

    for function, message in (
        (later, "later .* it gave a coroutine; define it with async def"),
        (infinite, "infinite gave the score -inf"),
    ):
        with pytest.raises(ValueError, match=message):
            rows = [{"prompt": "p", "completions": ["a", "b"]}]
            best_of_n(
                None, None, as_reward(function, function.__name__), candidates=rows, output=tmp_path / "best.jsonl"
            )
        assert not (tmp_path / "best.jsonl").exists()


def test_a_conversation_needs_a_chat_template(policy, scorer):
    with pytest.raises(ValueError, match="prompt 0: .* has no chat template, a conversation needs one"):
        BestOfNSampler(policy, tiny_tokenizer("plain"), scorer, n=2).sample(CHAT)


def test_without_a_policy_nothing_is_sampled(scorer):
    with pytest.raises(ValueError, match="policy is None, there is nothing to sample from"):
        BestOfNSampler(None, None, scorer).sample(["p"])
