"""The command `ppo`: its recipes, prompts, policy and value model, beside TRL 1.12."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from models import tiny_reward_model, tiny_tokenizer
from ppo_runs import PROMPTS, logged_scores, needs_ppo, tiny_policy
from stub_server import Stub, model_scores, serving
from transformers import AutoModelForCausalLM

from rm_plugin.commands.cli import main
from rm_plugin.commands.ppo_recipe import prompt_rows
from rm_plugin.scoring.scorer import RewardScorer

pytestmark = [pytest.mark.trl112, pytest.mark.usefixtures("silent_experimental")]


@pytest.fixture(scope="module")
def ppo_folders(tmp_path_factory):
    """Policy, reward model and prompts on disk, as `rm-plugin ppo` wants them."""
    folder = tmp_path_factory.mktemp("ppo")
    tokenizer = tiny_tokenizer("plain")
    tiny_policy().save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    tiny_reward_model("llama", seed=1).save_pretrained(folder / "reward-model")
    tokenizer.save_pretrained(folder / "reward-model")
    prompts = [f"{text} {i}" for i in range(8) for text in PROMPTS]
    rows = [{"prompt": prompt, "chosen": "a", "rejected": "b"} for prompt in prompts]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(f"""\
sft_model_path: {folder}/policy
reward_model_path: {folder}/reward-model
dataset_name: {folder}/prompts.jsonl
output_dir: {folder}/trained
total_episodes: 960
response_length: 4
temperature: 1.0
stop_token: eos
learning_rate: 1.0e-2
lr_scheduler_type: constant
kl-coef: 0.0
num_ppo_epochs: 4
num_mini_batches: 1
per_device_train_batch_size: 32
gradient_accumulation_steps: 1
bf16: false
gradient_checkpointing: false
use_cpu: true
num_sample_generations: 0
save_strategy: "no"
report_to: none
disable_tqdm: true
seed: 0
""")
    return folder


@needs_ppo
def test_the_command_raises_the_mean_reward_and_saves_the_policy(ppo_folders, monkeypatch, capsys):
    from rm_plugin.commands import ppo_recipe

    trainers = []
    train = ppo_recipe.train_ppo
    monkeypatch.setattr(ppo_recipe, "train_ppo", lambda *sections: trainers.append(train(*sections)))
    assert main(["ppo", "--config", str(ppo_folders / "recipe.yaml")]) == 0
    rewards = logged_scores(trainers[0])
    assert len(rewards) == 30
    first, last = rewards[:5], rewards[-5:]
    standard_error = np.sqrt((np.var(first, ddof=1) + np.var(last, ddof=1)) / 5)
    assert np.mean(last) - np.mean(first) > max(0.5, 4 * standard_error)
    assert "policy saved to" in capsys.readouterr().out
    AutoModelForCausalLM.from_pretrained(ppo_folders / "trained")


@needs_ppo
def test_a_served_reward_model_gives_ppo_the_rewards_of_one_in_this_process(ppo_folders, tmp_path, monkeypatch):
    from rm_plugin.commands import ppo_recipe

    local, trainers, train = RewardScorer(ppo_folders / "reward-model"), [], ppo_recipe.train_ppo
    local.model.export(tmp_path / "exported", local.processing_class)
    monkeypatch.setattr(ppo_recipe, "train_ppo", lambda *sections: trainers.append(train(*sections)))
    words = ["ppo", "--config", str(ppo_folders / "recipe.yaml"), "--total_episodes", "64"]
    with serving(Stub(model_scores(local.model))) as url:
        assert main([*words, "--reward_model_path", url, "--reward_tokenizer", str(tmp_path / "exported")]) == 0
    assert main(words) == 0
    served, alone = map(logged_scores, trainers)
    assert served == pytest.approx(alone, abs=1e-4) and len(alone) == 2


@needs_ppo
def test_a_4_bit_policy_with_lora_and_a_test_split_reach_the_trainer(ppo_folders, monkeypatch, capsys):
    from bitsandbytes.nn import Linear4bit

    from rm_plugin.commands import ppo_recipe

    trainers = []
    train = ppo_recipe.train_ppo
    monkeypatch.setattr(ppo_recipe, "train_ppo", lambda *sections: trainers.append(train(*sections)))
    fields = {
        "total_episodes": 32,
        "load_in_4bit": True,
        "use_peft": True,
        "dataset_train_split": "train[8:]",
        "dataset_test_split": "train[:8]",
        "eval_strategy": "steps",
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_sample_generations": 1,
    }
    words = [str(word) for name, value in fields.items() for word in (f"--{name}", value)]
    words += ["--lora_target_modules", "q_proj", "v_proj"]
    assert main(["ppo", "--config", str(ppo_folders / "recipe.yaml"), *words]) == 0
    [trainer] = trainers
    assert isinstance(trainer.policy_model.base_model.model.model.layers[0].mlp.up_proj, Linear4bit)
    assert not any(isinstance(module, Linear4bit) for module in trainer.value_model.modules())
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (24, 8)
    assert len(logged_scores(trainer)) == 4


@needs_ppo
def test_the_policys_tokenizer_is_of_the_policys_revision(ppo_folders, monkeypatch):
    from transformers import AutoTokenizer

    from rm_plugin.commands import ppo_recipe

    seen = []
    for auto in (AutoTokenizer, AutoModelForCausalLM):
        load = auto.from_pretrained
        monkeypatch.setattr(
            auto, "from_pretrained", lambda *a, load=load, **k: seen.append(k["revision"]) or load(*a, **k)
        )
    _, training_args, model_args, _ = ppo_recipe.parse_ppo_recipe(
        ppo_folders / "recipe.yaml", ["--model_revision", "v2"]
    )
    ppo_recipe._load_policy(training_args, model_args)
    assert seen == ["v2", "v2"]


@needs_ppo
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kl_coeff", "0.1"], "unknown field 'kl_coeff' (did you mean kl_coef?)"),
        (["--reward_model_path", "nowhere"], "reward_model_path: nowhere is no folder here, "),
        (["--reward_model_path", "http://a:1"], "reward_tokenizer is unset; name the folder of the model that http:/"),
        (["--resume_from_checkpoint", "true"], "resume_from_checkpoint is set, and TRL's PPOTrainer cannot resume"),
        (["--per_device_train_batch_size", "64"], "32 prompts do not fill one batch of 64"),
        (
            ["--dataset_test_split", "validation"],
            "dataset_test_split='validation' has no effect without an evaluation",
        ),
        (["--load_in_4bit", "true"], "load_in_4bit=True, a quantised policy is trained by adapters"),
        (
            ["--load_in_8bit", "true", "--use_peft", "true", "--sft_model_path", "quickstart"],
            "load_in_8bit=True, a quantised policy is trained by adapters and loaded from an sft_model_path",
        ),
        (["--eval_strategy", "steps"], "test"),
    ],
)
def test_bad_fields_get_one_line_and_exit_code_2(words, message, ppo_folders, capsys):
    assert main(["ppo", "--config", str(ppo_folders / "recipe.yaml"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and "Traceback" not in error


@needs_ppo
@pytest.mark.parametrize("recipe", sorted(Path("recipes").glob("ppo-*.yaml")), ids=lambda path: path.stem)
def test_recipes_hold_known_fields(recipe):
    from rm_plugin.commands.ppo_recipe import parse_ppo_recipe

    arguments = ["--bf16", "false", "--use_cpu", "true"]
    script_args, training_args, *_ = parse_ppo_recipe(recipe, arguments)
    assert script_args.dataset_name and training_args.stop_token == "eos" and training_args.total_episodes > 1000


def test_prompts_of_ppo_keep_their_tools_and_are_given_once(tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = "{{ tools | tojson if tools }}{{ mode }}" + tokenizer.chat_template
    ask, tools = [{"role": "user", "content": "2 + 2 ="}], [{"name": "add"}]
    rows = [{"prompt": ask}, {"prompt": ask, "tools": tools, "chat_template_kwargs": {"mode": "x"}}, {"prompt": ask}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = SimpleNamespace(
        dataset_name=str(tmp_path / "rows.jsonl"), dataset_config=None, dataset_streaming=False, columns=None
    )
    plain, with_tools = prompt_rows(arguments, tokenizer, "train")
    assert plain["tools"] is None and (with_tools["tools"], with_tools["chat_template_kwargs"]) == (
        tools,
        {"mode": "x"},
    )
    assert tokenizer.decode(with_tools["input_ids"]) == '[{"name": "add"}]x' + tokenizer.decode(plain["input_ids"])
    (tmp_path / "rows.jsonl").write_text('{"prompt": "", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(ValueError, match="rows.jsonl row 0: there is no prompt .found: chosen, rejected."):
        prompt_rows(arguments, tokenizer, "train")
