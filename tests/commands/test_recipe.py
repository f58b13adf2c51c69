"""Recipes: each is parsed strictly and trains a tiny model of its architecture; TRL's own recipes run as they are."""

import json
import re
from pathlib import Path

import pytest
import torch
from models import tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM

from rm_plugin import PairwiseRewardConfig, RewardScorer
from rm_plugin.commands.cli import main
from rm_plugin.commands.recipe import load_split, parse_recipe, run_recipe, train
from rm_plugin.training.trainer import PairwiseRewardTrainer

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("ppo-"))

# recipe ► tiny stand-ins for its model (architecture, tokenizer) and whether it is loaded in 4 bits
STAND_INS = {
    "quickstart": ("llama", "plain", False),
    "qwen3.5-0.8b-lora-8gb": ("qwen3_5", "chatml", False),
    "qwen3.5-2b-qlora-8gb": ("qwen3_5", "chatml", True),
    "qwen3.5-4b-qlora-12gb": ("qwen3_5", "chatml", True),
    "qwen3.5-9b-qlora-16gb": ("qwen3_5", "chatml", True),
    "qwen3.5-9b-qlora-24gb": ("qwen3_5", "chatml", True),
    "smollm2-135m-lora-cpu": ("llama", "pad_is_eos", False),
}


def conversation(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def transcript(question: str, answer: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def write_rows(folder: Path, text) -> Path:
    """train.jsonl and test.jsonl as the hub's sets have them: chosen and rejected with the prompt inside."""
    folder.mkdir(exist_ok=True)
    for split, num in (("train", 20), ("test", 4)):
        rows = [{"chosen": text(f"{i} + 2?", "four"), "rejected": text(f"{i} + 2?", "penguins")} for i in range(num)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """`stand_in(architecture, tokenizer)` is the folder of a tiny causal model, made once."""
    made = {}

    def folder(architecture: str, tokenizer: str) -> Path:
        if (architecture, tokenizer) not in made:
            path = tmp_path_factory.mktemp(f"{architecture}-{tokenizer}")
            sizes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 64}
            sizes |= {"linear_value_head_dim": 16} if architecture == "qwen3_5" else {}  # 64 in all, as NF4 wants it
            config = tiny_config(architecture, **sizes)
            AutoModelForCausalLM.from_config(config).save_pretrained(path)
            tiny_tokenizer(tokenizer).save_pretrained(path)
            made[architecture, tokenizer] = path
        return made[architecture, tokenizer]

    return folder


def test_every_recipe_has_a_stand_in():
    assert [path.stem for path in RECIPES] == sorted(STAND_INS)


@pytest.mark.parametrize("name", STAND_INS)
def test_recipe_trains_a_tiny_model_of_its_architecture(name, stand_in, tmp_path):
    architecture, tokenizer, in_4bit = STAND_INS[name]
    path = FOLDER / f"{name}.yaml"
    # The defaults of TRL want a GPU for bf16; nothing else of the recipe is changed before it is read.
    as_written = parse_recipe(path, ["--use_cpu"])
    rows = write_rows(tmp_path / "rows", transcript if tokenizer in ("plain", "pad_is_eos") else conversation)
    overrides = {
        "model_name_or_path": stand_in(architecture, tokenizer),
        "dataset_name": rows,
        "output_dir": tmp_path / "output",
        "max_length": 200,
        "max_steps": 2,
        "save_steps": 2,
        "eval_steps": 2,
        "logging_steps": 1,
    }
    words = ["--use_cpu", *(word for field, value in overrides.items() for word in (f"--{field}", str(value)))]
    script_args, training_args, model_args, dataset_args = parse_recipe(path, words)
    assert model_args.load_in_4bit == as_written[2].load_in_4bit == in_4bit
    assert training_args.per_device_train_batch_size == as_written[1].per_device_train_batch_size
    training_args.gradient_accumulation_steps = 1
    trainer = train(script_args, training_args, model_args, dataset_args)
    assert trainer.state.global_step == 2
    assert trainer.reward_model.score.weight.dtype == torch.float32
    assert bool(getattr(trainer.reward_model, "is_loaded_in_4bit", False)) == in_4bit
    assert trainer.data_collator.form == ("sorted" if architecture == "qwen3_5" else "packed")
    assert trainer.args.learning_rate == as_written[1].learning_rate is not None, "recipes say their learning rate"
    (evaluation,) = (line for line in trainer.state.log_history if "eval_accuracy" in line and line["step"] == 2)
    assert evaluation["eval_num_pairs"] == 4
    scorer = RewardScorer(tmp_path / "output")
    assert scorer.reasoning == training_args.reasoning
    is_text = tokenizer in ("plain", "pad_is_eos")
    assert torch.isfinite(torch.tensor(scorer.score(["2?"], [" 4" if is_text else conversation("2?", "4")[1:]]))).all()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_says_its_command_and_its_seed(path):
    text = path.read_text(encoding="utf-8")
    assert f"rm-plugin {'ppo --config' if path.name.startswith('ppo') else ''}".strip() in text
    assert re.search(r"^seed: 0$", text, re.MULTILINE)


TRL_RECIPE = """\
# Model arguments
model_name_or_path: {model}
model_revision: main
dtype: bfloat16
attn_implementation: sdpa

# Data training arguments
{data}
dataset_num_proc: 1

# Reward trainer config
bf16: true
use_cpu: true
center_rewards_coefficient: 1e-2
disable_dropout: true
eval_strategy: no
gradient_accumulation_steps: 1
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
learning_rate: 1.0e-05
log_level: info
logging_steps: 1
logging_strategy: steps
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs:
  min_lr_rate: 0.1
max_length: 200
max_steps: 1
num_train_epochs: 1
output_dir: {output}
per_device_train_batch_size: 4
push_to_hub: false
report_to:
- none
save_strategy: no
seed: 42
use_peft: true
lora_r: 4
lora_target_modules: all-linear
lora_task_type: SEQ_CLS
lora_modules_to_save: [score]
warmup_steps: 0.1
env:
  RM_PLUGIN_TEST_VARIABLE: 3
"""


@pytest.fixture
def trl_recipe(stand_in, tmp_path, monkeypatch):
    """`trl_recipe(data)` writes a recipe as TRL's users have them, with all of its sections."""
    monkeypatch.setenv("RM_PLUGIN_TEST_VARIABLE", "unset")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(data: str, more: str = "") -> Path:
        path = tmp_path / "trl.yaml"
        text = TRL_RECIPE.format(model=stand_in("qwen3", "chatml"), data=data, output=tmp_path / "output")
        path.write_text(text + more)
        return path

    return write


@pytest.mark.trl112
def test_unmodified_recipe_of_trl_runs(trl_recipe, tmp_path):
    import os

    path = trl_recipe(f"dataset_name: {write_rows(tmp_path / 'rows', conversation)}\ndataset_train_split: train[:8]")
    assert run_recipe(path) == 0
    assert os.environ["RM_PLUGIN_TEST_VARIABLE"] == "3"
    assert (tmp_path / "output" / "adapter_model.safetensors").exists()
    assert json.loads((tmp_path / "output" / "trainer_state.json").read_text())["global_step"] == 1


def test_an_adapter_is_trained_on_in_its_own_dtype(stand_in, tmp_path):
    rows = write_rows(tmp_path / "rows", conversation)
    fields = {"dataset_name": rows, "max_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none"}

    def run(model, output, **more):
        options = {"model_name_or_path": model, "output_dir": output, **fields, **more}
        assert run_recipe(None, [word for name, value in options.items() for word in (f"--{name}", str(value))]) == 0
        return json.loads((output / "reward_model.json").read_text())["dtype"]

    first = tmp_path / "first"
    assert run(stand_in("qwen3", "chatml"), first, use_peft=True, dtype="bfloat16") == "bfloat16"
    assert run(first, tmp_path / "on") == "bfloat16"
    assert run(first, tmp_path / "other", dtype="float32") == "float32"
    assert run(first, tmp_path / "more", model_init_kwargs='{"dtype": "float16"}') == "float16"


def test_mixture_of_datasets_runs_and_its_card_names_them(trl_recipe, tmp_path, caplog, monkeypatch):
    pushed = []
    monkeypatch.setattr(PairwiseRewardTrainer, "init_hf_repo", lambda trainer, **options: None)
    monkeypatch.setattr(PairwiseRewardTrainer, "push_to_hub", lambda trainer, *_, **options: pushed.append(options))
    rows = write_rows(tmp_path / "rows", conversation)
    mixture = f"""\
dataset_name: ignored/as-by-trl
datasets:
  - path: json
    data_files: {rows / "train.jsonl"}
    split: train[:6]
  - path: json
    data_files: {rows / "test.jsonl"}
    split: train
test_split_size: 0.2"""
    assert run_recipe(trl_recipe(mixture), ["--eval_strategy", "epoch", "--push_to_hub", "true"]) == 0
    assert pushed[-1] == {"dataset_name": ["json", "json"]}
    assert "datasets and dataset_name are both set: datasets is used" in caplog.text
    state = json.loads((tmp_path / "output" / "trainer_state.json").read_text())
    (train_rows,) = (line["data_train_rows"] for line in state["log_history"] if "data_train_rows" in line)
    assert train_rows == 8 and [e["eval_num_pairs"] for e in state["log_history"] if "eval_num_pairs" in e] == [2]
    with pytest.raises(ValueError, match="the mixture has no test split; set test_split_size"):
        run_recipe(trl_recipe(mixture.replace("test_split_size: 0.2", "")), ["--eval_strategy", "epoch"])


def test_fields_of_accelerate_launch_go_to_it(trl_recipe, tmp_path, monkeypatch):
    launched = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", launched.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    path = trl_recipe("dataset_name: x", "num_processes: 2\naccelerate_config: multi_gpu\nuse_fsdp: false\n")
    assert run_recipe(path, ["--max_steps", "3", "--main-process-port", "29501"]) == 0
    (launch,) = launched
    assert (launch.num_processes, launch.main_process_port, launch.use_fsdp) == (2, 29501, False)
    assert launch.config_file.endswith("accelerate_configs/multi_gpu.yaml")
    assert launch.module and launch.training_script == "rm_plugin.commands.cli"
    words = ["--max_steps", "3", "--main-process-port", "29501"]
    assert launch.training_script_args == ["train", "--config", str(path), *words]
    sections = parse_recipe(path, words)  # as the launched process reads them
    assert isinstance(sections[1], PairwiseRewardConfig) and sections[1].max_steps == 3


@pytest.mark.parametrize("written, read", [("true", "True"), ('"true"', "true"), ("out/step-5", "out/step-5")])
def test_resume_may_be_a_word_or_a_folder(tmp_path, written, read):
    (tmp_path / "r.yaml").write_text(f"resume_from_checkpoint: {written}\nuse_cpu: true\n")
    assert str(parse_recipe(tmp_path / "r.yaml")[1].resume_from_checkpoint) == read


@pytest.fixture
def run(stand_in, tmp_path, capsys):
    """`run(field=value, …)` is (exit code, stdout, last line of stderr) of a tiny `rm-plugin train` into `output`."""
    rows = write_rows(tmp_path / "rows", transcript)
    fields = {
        "model_name_or_path": stand_in("llama", "plain"),
        "dataset_name": rows,
        "output_dir": tmp_path / "output",
        "max_length": 200,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "max_steps": 2,
        "save_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
    }

    def run(**more):
        words = [word for name, value in {**fields, **more}.items() for word in (f"--{name}", str(value))]
        code = main(["train", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err.strip().splitlines()[-1:]

    return run


@pytest.mark.parametrize(
    ("how", "times"),
    [
        ({"eval_steps": 2}, 1),
        ({"eval_steps": 1}, 2),
        ({"eval_steps": 3}, 1),
        ({"eval_strategy": "epoch", "max_steps": 3}, 1),  # an end within an epoch
        ({"eval_steps": 1, "load_best_model_at_end": True, "greater_is_better": False}, 3),  # of the best weights
    ],
)
def test_the_final_evaluation_is_computed_once(how, times, run, tmp_path, monkeypatch):
    evaluated, loop = [], PairwiseRewardTrainer.evaluation_loop

    def counting(self, *args, **kwargs):
        evaluated.append(self.state.global_step)
        return loop(self, *args, **kwargs)

    monkeypatch.setattr(PairwiseRewardTrainer, "evaluation_loop", counting)
    code, out, _ = run(**{"eval_strategy": "steps", **how})
    assert code == 0 and len(evaluated) == times
    assert out.count(" 4 pairs · loss ") == times  # a line for each
    assert json.loads((tmp_path / "output" / "eval_results.json").read_text())["eval_num_pairs"] == 4


def test_resuming_with_another_recipe_is_one_line_and_exit_code_2(run):
    assert run()[0] == 0
    of_another = "checkpoint-2 is of a run with other settings: "
    for changed, said in (
        ({"learning_rate": 2e-3}, "learning_rate was 0.001 and is now 0.002"),
        ({"max_steps": 3}, "max_steps was 2 and is now 3"),  # where a linear schedule ends
    ):
        code, _, (line,) = run(resume_from_checkpoint="true", **changed)
        assert code == 2 and of_another + said in line
    assert run(resume_from_checkpoint="true", save_steps=7, logging_steps=5)[0] == 0


def test_resuming_on_another_file_is_one_line_and_exit_code_2_for_a_stream_too(run, tmp_path):
    options = {"dataset_streaming": True, "lr_scheduler_type": "constant"}
    assert run(**options)[0] == 0
    data = tmp_path / "rows" / "train.jsonl"
    data.write_text(data.read_text().replace("penguins", "the sea"))
    code, _, (line,) = run(**options, resume_from_checkpoint="true", max_steps=3)
    assert code == 2 and re.search(r"data was \w{8} \(a stream's first [\d,]+ rows\) and is now \w{8}", line)
    assert re.search(r"data's files was \w{8} \(1 files, [\d,]+ bytes\) and is now", line)


def test_a_run_that_diverges_saves_nothing_and_exits_with_2(run, tmp_path):
    code, out, (line,) = run(learning_rate=1e35, save_strategy="no", lr_scheduler_type="constant", max_steps=4)
    assert code == 2 and re.search(r"the \w+ is not finite at step \d: training has diverged", line)
    assert "saved to" not in out
    assert not list((tmp_path / "output").rglob("*.safetensors"))


@pytest.mark.parametrize("saved", [True, False])
def test_ctrl_c_says_what_stays_of_a_training(saved, run, tmp_path, monkeypatch):
    step = PairwiseRewardTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == saved:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PairwiseRewardTrainer, "training_step", interrupted)
    code, _, (line,) = run()
    newest = tmp_path / "output" / "checkpoint-1"
    stays = f"{newest} is kept, the same command with --resume_from_checkpoint true resumes from it"
    assert (code, line) == (130, f"rm-plugin: interrupted; {stays if saved else 'no checkpoint is complete yet'}")


def test_a_tracker_that_is_not_installed_is_one_line_before_training(run, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    code, _, (line,) = run(report_to="wandb")
    assert code == 2 and "WandbCallback requires wandb to be installed" in line
    assert not (tmp_path / "output").exists()


def test_underscores_and_hyphens_are_alike_and_the_command_line_wins(tmp_path):
    (tmp_path / "r.yaml").write_text("use-cpu: true\nper-device-train-batch-size: 3\nmax_steps: 7\nlora-r: 5\n")
    _, training_args, model_args, _ = parse_recipe(tmp_path / "r.yaml", ["--max-steps", "9", "--lora_alpha=11"])
    assert (training_args.per_device_train_batch_size, training_args.max_steps) == (3, 9)
    assert (model_args.lora_r, model_args.lora_alpha) == (5, 11)


def test_bare_no_of_yaml_means_no(tmp_path):
    (tmp_path / "r.yaml").write_text("use_cpu: true\neval_strategy: no\nsave_strategy: no\n")
    training_args = parse_recipe(tmp_path / "r.yaml")[1]
    assert (training_args.eval_strategy, training_args.save_strategy) == ("no", "no")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: [1]", "learning_rate is a list; it takes one float"),
        ("lora_r: {a: 1}", "lora_r is a dict; it takes one int"),
        ("max_steps: 1.5", "argument --max_steps/--max-steps: invalid int value: '1.5'"),
        ("max_steps: true", "argument --max_steps/--max-steps: invalid int value: 'True'"),
        ("bf16: 3", "argument --bf16: Truthy value expected: got 3"),
        ("seed: null", "seed is null; it takes one int"),
        ("dtype: float8", "argument --dtype: invalid choice: 'float8' (choose from 'auto', 'bfloat16', 'float16', "),
        (
            "eval_strategy: daily",
            "argument --eval_strategy/--eval-strategy: invalid choice: 'daily' (choose from 'no', ",
        ),
        ("gradient_accumulation_steps: 0", "gradient_accumulation_steps=0, it must be at least 1"),
        ("per_device_train_batch_size: -1", "per_device_train_batch_size=-1, it must be at least 1"),
        ("learning_rate: .nan", "learning_rate is nan; it is a finite number"),
        ("center_rewards_coefficient: .inf", "center_rewards_coefficient is inf; it is a finite number"),
        ("truncation_mode: cut", "truncation_mode='cut' is not known"),
        ("max_steps: 1\nmax_steps: 2", "it is not YAML (max_steps appears twice"),
        ("max-steps: 1\nmax_steps: 2", "it is not YAML (max_steps appears twice"),
        ("model_init_kwargs: {a: 1, a: 2}", "it is not YAML (a appears twice"),
    ],
)
def test_a_bad_value_is_one_line_that_names_recipe_and_field(text, message, tmp_path):
    (tmp_path / "r.yaml").write_text(f"{text}\nuse_cpu: true\n")
    with pytest.raises(ValueError) as refused:
        parse_recipe(tmp_path / "r.yaml")
    assert str(refused.value).startswith(f"{tmp_path / 'r.yaml'}: {message}") and "\n" not in str(refused.value)
    name, value = text.split("\n")[0].split(": ", 1)
    if name != "seed" and not value.startswith(("{", "[")) and "twice" not in message:  # the same on the command line
        with pytest.raises(ValueError):
            parse_recipe(None, ["--use_cpu", "true", f"--{name}", value.removeprefix(".")])


def test_values_of_every_kind_are_read_as_they_are_meant(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "use_cpu: true\nlearning_rate: 1e-4\nnum_train_epochs: 2\nmax_length: null\nlora_target_modules: [a, b]\n"
        "model_init_kwargs: {a: 1}\nrun_name: 5\nlogging_steps: 0.1\ndataset_streaming: true\nreport_to: none\n"
    )
    script_args, training_args, model_args, _ = parse_recipe(tmp_path / "r.yaml", ["--seed", "3"])
    assert (training_args.learning_rate, training_args.num_train_epochs, training_args.seed) == (1e-4, 2.0, 3)
    assert (training_args.max_length, training_args.run_name, training_args.logging_steps) == (None, "5", 0.1)
    assert training_args.model_init_kwargs == {"a": 1} and model_args.lora_target_modules == ["a", "b"]
    assert training_args.report_to == [] and script_args.dataset_streaming is True


@pytest.mark.parametrize(
    "columns",
    [
        "{chosen: good, rejected: bad, prompt: q+r}",
        "[chosen=good, rejected=bad, prompt=q+r]",
        None,
    ],
)
def test_a_recipe_says_which_columns_hold_what(columns, tmp_path):
    rows = [{"q": "Add.", "r": "2 + 2", "good": "4", "bad": "5"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    lines = [f"dataset_name: {tmp_path / 'rows.jsonl'}", f"output_dir: {tmp_path}", "use_cpu: true"]
    (tmp_path / "recipe.yaml").write_text("\n".join([*lines, f"columns: {columns}"] if columns else lines))
    words = [] if columns else ["--columns", "chosen=good", "rejected=bad", "prompt=q+r"]
    script_args, *_ = parse_recipe(tmp_path / "recipe.yaml", words)
    assert list(load_split(script_args, "train")) == [{"prompt": "Add.\n2 + 2", "chosen": "4", "rejected": "5"}]
