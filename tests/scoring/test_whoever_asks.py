"""A text has one score, whoever asks and whenever: threads, modes, adapters, heads, copies, processes, trainers."""

import copy
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from models import tiny_config, tiny_reward_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from rm_plugin import RewardModel, RewardScorer
from rm_plugin.model.adapters import save_adapter
from rm_plugin.scoring.base import lock_of
from rm_plugin.scoring.rewards import as_reward

WORDS = ["Which", "country", "owns", "Antarctica", "penguins", "treaty", "four", "five", "hello<|im_end|>"]


def texts(num: int, seed: int = 0) -> tuple[list[str], list[str]]:
    random = np.random.default_rng(seed)
    prompts = [" ".join(random.choice(WORDS, size)) for size in random.integers(1, 9, 6)]
    return (
        [prompts[i] for i in random.integers(0, 6, num)],
        [" " + " ".join(random.choice(WORDS, size)) for size in random.integers(1, 20, num)],
    )


def classifier(dtype=torch.float32, **overrides):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = tiny_config("llama", num_labels=1, pad_token_id=None, **overrides)
        return AutoModelForSequenceClassification.from_config(config, dtype=dtype).eval()


def with_two_adapters(model):
    """LoRA adapters "default" and "other", each with weights and a head of its own."""
    config = LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"])
    model = get_peft_model(model, config)
    model.add_adapter("other", config)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def assert_equal(scores, expected) -> None:
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 * max(1, np.std(expected)))


# --- threads


def test_four_threads_get_the_scores_of_one():
    one = RewardScorer(tiny_reward_model(), tiny_tokenizer("chatml"), max_num_batched_tokens=256)
    prompts, completions = texts(200)
    conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
    expected = [one.score(asked, completions) for asked in (prompts, conversations)]

    def score(thread: int) -> list[np.ndarray]:
        found = []
        for start in range(0, 200, 25):
            part = slice(start, start + 25)
            found.append(one.score((prompts, conversations)[thread % 2][part], completions[part]))
        return np.concatenate(found)

    with ThreadPoolExecutor(4) as pool:
        for thread, scores in enumerate(pool.map(score, range(4))):
            assert_equal(scores, expected[thread % 2])


def test_counts_of_a_call_are_its_own_in_several_threads():
    one = RewardScorer(tiny_reward_model(), tiny_tokenizer("chatml"))

    def shares(num_control_tokens: int) -> float:
        completions, found = ["a<|im_end|>b"] * num_control_tokens + ["a"] * (8 - num_control_tokens), {}
        for _ in range(5):
            one(["Hi"] * 8, completions, log_metric=found.__setitem__)
            assert found["rewards/RewardModel/control_tokens"] == num_control_tokens / 8
        return found

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shares, range(8)))


def test_the_tokenizer_given_stays_the_callers_own():
    tokenizer = tiny_tokenizer("chatml")
    one = RewardScorer(tiny_reward_model(), tokenizer)
    before = one.score(["Hi"], ["four"])
    tokenizer.backend_tokenizer.encode_special_tokens = True
    tokenizer.eos_token, tokenizer.chat_template = "<|im_start|>", "{{ messages }}"
    assert one.processing_class is not tokenizer and one.score(["Hi"], ["four"]) == before


def test_scorers_of_one_model_share_its_lock_and_keep_it_out_of_training_mode_meanwhile():
    model = tiny_reward_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    scorers = [RewardScorer(model, tiny_tokenizer("plain"), shared_prefix=shared) for shared in ("auto", "off")]
    prompts, completions = texts(40)
    expected = scorers[0].score(prompts, completions)
    model.train()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: scorers[i % 2].score(prompts, completions), range(8)))
    for scores in found:
        assert_equal(scores, expected)
    assert all(module.training for module in model.modules()), "in the mode that it was in"


# --- modes, adapters, heads


@pytest.mark.parametrize("around", [tiny_reward_model, classifier], ids=["RewardModel", "classifier"])
def test_the_scorer_follows_the_adapter_that_is_active(around):
    model, tokenizer = with_two_adapters(around()), tiny_tokenizer("plain")
    one, (prompts, completions) = RewardScorer(model, tokenizer), texts(12)
    expected = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        expected[name] = RewardScorer(model, tokenizer).score(prompts, completions)
    with model.disable_adapter():
        expected["none"] = RewardScorer(around(), tokenizer).score(prompts, completions)
        assert_equal(one.score(prompts, completions), expected["none"])
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        assert_equal(one.score(prompts, completions), expected[name])
    model.train()
    assert_equal(one.score(prompts, completions), expected["default"])
    assert min(np.abs(expected["default"] - expected[name]).max() for name in ("other", "none")) > 0.1


def test_what_scores_depend_on_names_the_active_adapter_and_its_scale():
    peft_model = with_two_adapters(tiny_reward_model())
    reward = as_reward(RewardScorer(peft_model, tiny_tokenizer("plain")))
    known = {reward.about["weights"]}
    assert reward.about["weights"] in known
    peft_model.set_adapter("other")
    known.add(reward.about["weights"])
    with peft_model.disable_adapter():
        known.add(reward.about["weights"])
    scales = [getattr(module, "scaling", None) for module in peft_model.modules()]
    next(scale for scale in scales if isinstance(scale, dict))["other"] *= 2
    known.add(reward.about["weights"])
    assert len(known) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("around", [tiny_reward_model, classifier], ids=["RewardModel", "classifier"])
def test_the_scorer_follows_a_head_that_is_trained_or_replaced(around, dtype):
    model, tokenizer = around(dtype=dtype), tiny_tokenizer("plain")
    one, (prompts, completions) = RewardScorer(model, tokenizer), texts(12)
    before = one.score(prompts, completions)
    with torch.no_grad():
        model.score.weight.mul_(2)
    np.testing.assert_allclose(one.score(prompts, completions), 2 * before, rtol=1e-5, atol=1e-5)
    model.score = copy.deepcopy(model.score)
    torch.nn.init.normal_(model.score.weight)
    replaced = RewardScorer(model, tokenizer).score(prompts, completions)
    assert_equal(one.score(prompts, completions), replaced)
    assert np.abs(replaced - before).max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("around", [tiny_reward_model, classifier], ids=["RewardModel", "classifier"])
def test_a_model_that_is_cast_later_scores_as_one_cast_before(around, dtype):
    prompts, completions = texts(6)
    model = around()
    scorer = RewardScorer(model, tiny_tokenizer("chatml"))
    scorer.score(prompts, completions)
    model.to(dtype)
    before = RewardScorer(copy.deepcopy(model), tiny_tokenizer("chatml"))
    assert_equal(scorer.score(prompts, completions), before.score(prompts, completions))


def test_a_head_with_a_bias_put_in_later_is_refused_as_one_from_the_start():
    model = classifier()
    one = RewardScorer(model, tiny_tokenizer("plain"))
    model.score = torch.nn.Linear(32, 1)
    with pytest.raises(ValueError, match="no linear head named `score` without bias"):
        one.score(["Hi"], ["four"])


def test_the_decision_on_shared_prefixes_follows_attention_and_adapters(caplog):
    model = tiny_reward_model()
    one, (prompts, completions) = RewardScorer(model, tiny_tokenizer("plain")), texts(12)
    expected = one.score(prompts, completions)
    for implementation in ("eager", "flex_attention", "sdpa"):
        model.model.set_attn_implementation(implementation)
        assert one.shares_prefix() == (implementation != "flex_attention")
        if implementation != "flex_attention":  # which needs a GPU
            assert_equal(one.score(prompts, completions), expected)


# --- copies, pickles, processes


@pytest.mark.parametrize("around", [tiny_reward_model, classifier], ids=["RewardModel", "classifier"])
def test_a_pickled_scorer_and_a_copy_score_alike_and_have_listeners_of_their_own(around):
    one, (prompts, completions) = RewardScorer(around(), tiny_tokenizer("chatml"), truncation_mode="drop"), texts(12)
    expected = one.score(prompts, completions)
    one.listeners.append(lambda *args, **kwargs: None)
    for other in (copy.copy(one), pickle.loads(pickle.dumps(one))):
        assert_equal(other.score(prompts, completions), expected)
        assert not other.listeners and other.truncation_mode == "drop"
    assert copy.copy(one).model is one.model


def test_a_scorer_loaded_by_name_is_pickled_as_its_name_and_options(tmp_path, monkeypatch):
    from datasets.fingerprint import Hasher

    tiny_reward_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer("chatml").save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    one, (prompts, completions) = RewardScorer("model", truncation_mode="drop", max_length=120, name="mine"), texts(12)
    one.listeners.append(lambda *args, **kwargs: None)
    changed = copy.copy(one)
    changed.control_tokens = "parse"
    assert changed.model is one.model and not changed.listeners and one.control_tokens == "as_text"
    pickled = pickle.dumps(changed)
    assert len(pickled) < 2000, "no weights, no tokenizer"
    monkeypatch.chdir("/")
    other = pickle.loads(pickled)
    assert other.model is not one.model and not other.listeners
    settings = ("control_tokens", "truncation_mode", "max_length", "reasoning", "name", "__name__")
    assert [getattr(other, name) for name in settings] == ["parse", "drop", 120, "keep", "mine", "mine"]
    assert_equal(other.score(prompts, completions), changed.score(prompts, completions))
    assert Hasher.hash(one) == Hasher.hash(pickle.loads(pickle.dumps(one))) != Hasher.hash(changed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_held_while_the_process_is_forked_is_free_in_the_child():
    one = RewardScorer(tiny_reward_model(), tiny_tokenizer("plain"))
    owners, held, done = (one.processing_class, one.model.model), threading.Event(), threading.Event()

    def hold() -> None:
        with lock_of(owners[0]), lock_of(owners[1]):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if all(lock_of(owner).acquire(timeout=5) for owner in owners) else 1)
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert status == 0


# --- two trainers


class Trainer:
    """As much of TRL's as a reward function sees."""

    def __init__(self):
        self.metrics = {}

    def log_metric(self, name, value):
        self.metrics.setdefault(name, []).append(value)


class Listener:
    def __init__(self, trainer=None):
        self.trainer, self.heard = trainer, []

    def __call__(self, prompts, completions, scores, completion_ids=None):
        self.heard += completions


def test_two_trainers_with_one_scorer_hear_of_their_own_texts_alone():
    one, trainers = RewardScorer(tiny_reward_model(), tiny_tokenizer("plain")), (Trainer(), Trainer())
    listeners = [Listener(trainer) for trainer in trainers]
    everything = Listener()
    one.listeners += [*listeners, everything]
    for trainer, completion in zip(trainers, (" four", " five"), strict=True):
        one(["2 + 2 ="], [completion], log_metric=trainer.log_metric)
    one.score(["2 + 2 ="], [" six"])  # of nobody
    assert [listener.heard for listener in listeners] == [[" four", " six"], [" five", " six"]]
    assert everything.heard == [" four", " five", " six"]


def test_a_reward_model_loaded_with_its_adapter_follows_it(tmp_path):
    tiny_reward_model().save_pretrained(tmp_path / "base")
    model = with_two_adapters(RewardModel.from_pretrained(tmp_path / "base"))
    save_adapter(model, tmp_path / "adapter")
    loaded = RewardModel.from_pretrained(tmp_path / "adapter" / "other")
    one, (prompts, completions) = RewardScorer(loaded, tiny_tokenizer("plain")), texts(6)
    model.set_adapter("other")
    assert_equal(
        one.score(prompts, completions), RewardScorer(model, tiny_tokenizer("plain")).score(prompts, completions)
    )
