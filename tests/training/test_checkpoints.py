"""A killed run that is resumed ends with the weights, to the last bit, of one that was never broken."""

import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_runs
from datasets import Dataset, IterableDataset, load_dataset
from models import tiny_tokenizer
from training_runs import KILLED, classifier, history, make_trainer, preference_rows, trained_weights
from transformers import SchedulerType, TrainerCallback, TrainerState, get_scheduler

from rm_plugin import RewardModel
from rm_plugin.data.sources import load_rows
from rm_plugin.training.checkpoints import (
    delete_old_checkpoints,
    newest_complete_checkpoint,
    training_settings,
    why_incomplete,
)
from rm_plugin.training.config import PairwiseRewardConfig
from rm_plugin.training.peft_configs import lora_config


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Every run of `KILLED`, all by one program, because its imports take longest."""
    folder = tmp_path_factory.mktemp("killed")
    program = Path(training_runs.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, program, "killed", folder], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_killed_and_resumed_run_has_the_weights_of_an_unbroken_one(name, killed):
    codes = json.loads((killed / "results.json").read_text())
    assert [codes[f"{name} {how}"] for how in ("unbroken", "killed", "resumed")] == [0, -9, 0]
    folder = killed / name
    resumed, unbroken = (json.loads((folder / f"{how}.json").read_text()) for how in ("resumed", "unbroken"))
    assert resumed["from"] == str(folder / "broken" / "checkpoint-4")
    assert resumed["loss"] == unbroken["loss"]
    expected = torch.load(folder / "unbroken.pt")
    for key, weight in torch.load(folder / "resumed.pt").items():
        assert torch.equal(weight, expected[key]), key


SAVING = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of three steps, its checkpoints of full weights, in shards, and of an adapter."""
    folder = tmp_path_factory.mktemp("finished")
    make_trainer(folder / "full", classifier(), preference_rows(), **SAVING).train()
    make_trainer(folder / "lora", classifier(), preference_rows(), peft_config=lora_config(r=2), **SAVING).train()
    shutil.copytree(folder / "full", folder / "shards")
    for step in (1, 2, 3):
        checkpoint = folder / "shards" / f"checkpoint-{step}"
        (checkpoint / "model.safetensors").unlink()
        whole = RewardModel.from_pretrained(folder / "full" / checkpoint.name)
        whole.save_pretrained(checkpoint, max_shard_size="20KB")
        assert len(list(checkpoint.glob("model-*-of-*.safetensors"))) > 2
    return folder


NEEDED = ["config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
PARTS = {
    "full": [*NEEDED, "model.safetensors"],
    "lora": ["adapter_config.json", "adapter_model.safetensors", *NEEDED[1:]],
    "shards": [*NEEDED, "model.safetensors.index.json", "model-00002-of-*.safetensors"],
}


@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
@pytest.mark.parametrize("kind", PARTS)
def test_a_checkpoint_counts_only_when_every_part_is_there_and_readable(kind, how, finished, tmp_path, caplog):
    for pattern in PARTS[kind]:
        output = tmp_path / pattern.replace("*", "n")
        shutil.copytree(finished / kind, output)
        assert newest_complete_checkpoint(output) == str(output / "checkpoint-3")
        (file,) = (output / "checkpoint-3").glob(pattern)
        if how == "missing":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-100] if how == "cut" else b"")
        caplog.clear()
        assert newest_complete_checkpoint(output) == str(output / "checkpoint-2"), pattern
        (line,) = [record.getMessage() for record in caplog.records]
        reason = f"{file.name} is missing" if "-of-" in pattern else "is missing"
        reason = reason if how == "missing" else f"{file.name} cannot be read"
        assert re.search(rf"checkpoint-3 is not complete \(.*{re.escape(reason)}\)", line) and "\n" not in line
        assert why_incomplete(output / "checkpoint-2") is None


def test_folders_that_are_no_checkpoints_do_not_count(finished, tmp_path):
    assert newest_complete_checkpoint(tmp_path / "nothing") is None
    shutil.copytree(finished / "full" / "checkpoint-2", tmp_path / "checkpoint-9")  # another step than it says
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_complete_checkpoint(tmp_path) is None


def test_resuming_from_a_folder_that_is_not_whole_is_refused(finished, tmp_path):
    shutil.copytree(finished / "full" / "checkpoint-3", tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-3" / "optimizer.pt").unlink()
    trainer = make_trainer(tmp_path, classifier(), preference_rows(), **SAVING)
    with pytest.raises(ValueError, match=r"checkpoint-3 cannot be resumed from: its optimizer is missing;"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_resuming_checkpoints_of_the_model_only_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, classifier(), preference_rows(), save_only_model=True, **SAVING)
    with pytest.raises(ValueError, match="resume_from_checkpoint=True with save_only_model=True"):
        trainer.train(resume_from_checkpoint=True)


def test_a_run_beside_a_whole_checkpoint_says_how_to_resume(finished, tmp_path, caplog):
    shutil.copytree(finished / "full", tmp_path / "out")
    make_trainer(tmp_path / "out", classifier(), preference_rows(), max_steps=1).train()
    lines = [record.getMessage() for record in caplog.records if "resume" in record.getMessage()]
    assert lines == [
        f"{tmp_path / 'out' / 'checkpoint-3'} is there, and training starts from the beginning: to resume, set "
        "resume_from_checkpoint to true (--resume_from_checkpoint true)"
    ]


# --- the settings that a run resumes with

OTHER = {  # ► the name in the error
    "seed": ({"seed": 7}, "seed was 42 and is now 7"),
    "learning rate": ({"learning_rate": 2e-3}, "learning_rate was 0.001 and is now 0.002"),
    "schedule": ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type was linear and is now cosine"),
    "warm-up": ({"warmup_steps": 2}, "warmup_steps was 0 and is now 2"),
    "batch": ({"per_device_train_batch_size": 8}, "batch was 4 and is now 8"),
    "optimizer": ({"weight_decay": 0.1}, "weight_decay was 0.0 and is now 0.1"),
    "centering": ({"center_rewards_coefficient": 0.1}, "center_rewards_coefficient was null and is now 0.1"),
    "smoothing": ({"label_smoothing_factor": 0.1}, "label_smoothing_factor was 0.0 and is now 0.1"),
    "ties": ({"tie_threshold": 0.5}, "tie_threshold was null and is now 0.5"),
    "adapter": ({"peft_config": lora_config(r=2)}, "PEFT's r was null and is now 2"),
}


@pytest.mark.parametrize("case", OTHER)
def test_resuming_with_other_settings_names_them(case, finished):
    options, said = OTHER[case]
    trainer = make_trainer(finished / "full", classifier(), preference_rows(), **{**SAVING, **options})
    with pytest.raises(ValueError, match="checkpoint-3 is of a run with other settings: ") as error:
        trainer.train(resume_from_checkpoint=True)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert history(trainer) == []


def test_resuming_with_other_data_or_another_model_names_them(finished):
    other = classifier()
    other.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1e-3
    changed = [*preference_rows()[:-1], preference_rows(1, seed=9)[0]]
    for model, rows, name in (
        (classifier(), preference_rows(47), r"data was \w{8} \(48 rows\) and is now \w{8} \(47 rows\)"),
        (classifier(), changed, r"data was (\w{8}) \(48 rows\) and is now (?!\1)\w{8} \(48 rows\)"),
        (classifier(), preference_rows()[::-1], "data was"),
        (classifier(), preference_rows(margin=lambda draw: 0.5), "data was"),
        (classifier(hidden_size=48), preference_rows(), r"model was \w{8} \(llama, .* weights\) and is now"),
        (classifier("qwen3"), preference_rows(), "model was"),
        (other, preference_rows(), r"model was (\w{8}) .* and is now (?!\1)"),
    ):
        trainer = make_trainer(finished / "full", model, rows, **SAVING)
        with pytest.raises(ValueError, match=f"other settings: [^;]*{name}"):
            trainer.train(resume_from_checkpoint=True)
    again = make_trainer(finished / "lora", classifier(), preference_rows(), peft_config=lora_config(r=4), **SAVING)
    with pytest.raises(ValueError, match=r"PEFT's r was 2 and is now 4; PEFT's lora_alpha was 4 and is now 8"):
        again.train(resume_from_checkpoint=True)


def test_logging_saving_reporting_and_the_split_of_a_batch_may_change(finished, tmp_path, caplog):
    shutil.copytree(finished / "full", tmp_path / "out")
    options = {**SAVING, "logging_steps": 7, "save_steps": 5, "save_total_limit": 9, "run_name": "again"}
    options |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_length": 999}
    trainer = make_trainer(tmp_path / "out", classifier(), preference_rows(), **options)
    assert trainer.train(resume_from_checkpoint=True).global_step == 3


@pytest.mark.parametrize(
    ("options", "may_be_longer"),
    [
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2}, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.9}, False),
        ({"lr_scheduler_type": "linear"}, False),
    ],
)
def test_a_run_may_be_made_longer_where_its_learning_rates_stay_the_same(options, may_be_longer, tmp_path):
    def run(steps, folder="out", **kwargs):
        options_then = {**SAVING, "logging_steps": 1, **options, "max_steps": steps}
        trainer = make_trainer(tmp_path / folder, classifier(), preference_rows(), **options_then)
        trainer.train(**kwargs)
        return history(trainer, "learning_rate")

    rates, of_longer = run(2), run(4, "longer")
    assert (rates == of_longer[:2]) == may_be_longer
    if may_be_longer:
        assert run(4, resume_from_checkpoint=True) == of_longer
    else:
        with pytest.raises(ValueError, match="max_steps was 2 and is now 4; .* lr_scheduler_type constant from its"):
            run(4, resume_from_checkpoint=True)


@pytest.mark.parametrize("schedule", [kind.value for kind in SchedulerType])
def test_the_length_of_a_run_is_among_its_settings_where_the_schedule_ends_with_it(schedule):
    rows = Dataset.from_list([{"input_ids": [[5], [6]], "ranks": [0, 1], "margin": None}])

    def settings(**options):
        options |= {"eval_strategy": "epoch", "lr_scheduler_type": schedule}
        args = PairwiseRewardConfig("out", use_cpu=True, bf16=False, **options)
        return training_settings(args, rows, {})

    def rates(steps):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        kwargs = {"num_decay_steps": 2} if schedule == "warmup_stable_decay" else {}
        kwargs = {"min_lr_rate": 0.1} if "min_lr" in schedule else kwargs
        scheduler = get_scheduler(schedule, optimizer, 1, steps, kwargs)
        seen = []
        for _ in range(5):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step(*([0.0] if schedule in ("reduce_lr_on_plateau", "greedy") else []))
        return seen

    ends = rates(5) != rates(10)
    assert settings(max_steps=5).get("max_steps") == (5 if ends else None)
    assert settings(num_train_epochs=2).get("num_train_epochs") == (2 if ends else None)
    if schedule in ("constant_with_warmup", "inverse_sqrt"):
        assert settings(max_steps=5, warmup_steps=0.2)["max_steps"] == 5


# --- the data of a run that is resumed, where it is a stream


def stream_rows(n=48, **kwargs):
    return [{**row, "kept": i % 2} for i, row in enumerate(preference_rows(n, **kwargs))]


def streams_of(folder: Path) -> dict:
    """name ► (the stream of a run, the same once more, others by name)"""

    def file(name, rows):
        Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        Path(folder, name).write_text("\n".join(map(json.dumps, rows)))
        return str(Path(folder, name))

    rows = stream_rows()
    edited = [*rows[:-1], {**rows[-1], "chosen": rows[-1]["rejected"], "rejected": rows[-1]["chosen"]}]
    swapped = file("edited.jsonl", edited)
    a, copy, b = file("a.jsonl", rows), file("elsewhere/c.jsonl", rows), file("b.jsonl", stream_rows(seed=1))
    assert Path(a).stat().st_size == Path(swapped).stat().st_size
    file("splits/train.jsonl", rows)
    file("splits/test.jsonl", stream_rows(seed=2))

    def ours(source, split=None):
        return load_rows(source, split, streaming=True)

    def theirs(path):
        return load_dataset("json", data_files=path, split="train", streaming=True)

    def generated(path, **kwargs):
        return IterableDataset.from_generator(lines_of, gen_kwargs={"path": path, **kwargs})

    columns = {"chosen": "rejected", "rejected": "chosen"}
    return {
        "files": (ours(a), ours(copy), {"other": ours(b), "edited": ours(swapped)}),
        "splits": (ours(f"{folder}/splits", "train"), None, {"other split": ours(f"{folder}/splits", "test")}),
        "part": (
            ours(a, "train[1:]"),
            ours(copy, "train[1:]"),
            {"other": ours(a, "train[2:]"), "edited": ours(swapped, "train[1:]")},
        ),
        "columns": (ours(a), None, {"swapped": load_rows(a, streaming=True, columns=columns)}),
        "of datasets": (theirs(a), theirs(copy), {"other": theirs(b), "edited": theirs(swapped)}),
        "generator": (generated(a), generated(copy), {"its file": generated(swapped), "less": generated(a, skip=1)}),
        "filter": (
            ours(a).filter(lambda row: row["kept"]),
            ours(a).filter(lambda row: row["kept"] == 1),
            {"other": ours(a).filter(lambda row: not row["kept"]), "none": ours(a)},
        ),
        "in memory": (
            Dataset.from_list(rows).to_iterable_dataset(),
            Dataset.from_list(rows).to_iterable_dataset(num_shards=1),
            {"other": Dataset.from_list(edited).to_iterable_dataset(), "a table": Dataset.from_list(rows)},
        ),
        "shuffled": (ours(a).shuffle(seed=1), ours(a).shuffle(seed=1), {"otherwise": ours(a).shuffle(seed=2)}),
    }


def lines_of(path, skip=0):
    yield from map(json.loads, Path(path).read_text().splitlines()[skip:])


STREAMS = ["files", "splits", "columns", "of datasets", "generator", "filter", "in memory", "shuffled"]


@pytest.mark.parametrize(
    ("kind", "num_compared"), [*((kind, 1000) for kind in STREAMS), ("files", 10), ("of datasets", 10)]
)
def test_a_run_resumes_with_the_stream_that_it_began_with_and_names_another(kind, num_compared, tmp_path, monkeypatch):
    monkeypatch.setattr("rm_plugin.training.batches.NUM_COMPARED", num_compared)
    stream, same, others = streams_of(tmp_path)[kind]

    def trainer(data, steps=3):
        options = {**SAVING, "max_steps": steps, "lr_scheduler_type": "constant"}
        return make_trainer(tmp_path / "out", classifier(), data, **options)

    trainer(stream).train()
    for name, other in others.items():
        with pytest.raises(ValueError, match="other settings: data('s files)? was") as error:
            trainer(other).train(resume_from_checkpoint=True)
        assert "\n" not in str(error.value), name
    assert trainer(stream if same is None else same, 4).train(resume_from_checkpoint=True).global_step == 4


def test_a_stream_that_can_be_read_only_once_loses_no_row(tmp_path, caplog, monkeypatch):
    rows = [{"prompt": "hello", "chosen": "", "rejected": " b"}, *preference_rows(7)]
    for num_compared in (3, 8, 100):
        monkeypatch.setattr("rm_plugin.training.batches.NUM_COMPARED", num_compared)
        once = iter(rows)
        stream = IterableDataset.from_generator(lambda once=once: once)
        options = {"max_steps": 1, "per_device_train_batch_size": 7, "on_bad_row": "skip"}
        caplog.clear()
        trainer = make_trainer(tmp_path, classifier(), stream, **options)
        assert "left out" not in caplog.text  # which counts what is read to train
        read = [row["row"] for row in trainer.train_dataset]
        assert read == [1, 2, 3, 4, 5, 6, 7], num_compared
        left_out = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        assert len(left_out) == 1 and "1 rows left out so far, the last is row 0: `chosen` is empty" in left_out[0]


def test_a_stream_without_rows_is_named(tmp_path):
    with pytest.raises(ValueError, match="the train dataset has no rows"):
        make_trainer(tmp_path, classifier(), IterableDataset.from_generator(lambda: iter([])), max_steps=1)


def test_a_checkpoint_of_an_earlier_run_in_the_folder_keeps_its_own_settings(finished, tmp_path):
    shutil.copytree(finished / "full", tmp_path / "out")
    options = {"max_steps": 1, "learning_rate": 1e-4}
    make_trainer(tmp_path / "out", classifier(), preference_rows(), **options).train()  # without a checkpoint
    again = make_trainer(tmp_path / "out", classifier(), preference_rows(), **options)
    with pytest.raises(ValueError, match="checkpoint-3 is of a run with other settings: learning_rate was 0.001"):
        again.train(resume_from_checkpoint=True)


def test_a_checkpoint_without_settings_is_resumed_from_and_said_to_be_unknown(finished, tmp_path, caplog):
    shutil.copytree(finished / "full", tmp_path / "out")
    (tmp_path / "out" / "checkpoint-3" / "training_run.json").unlink()
    trainer = make_trainer(tmp_path / "out", classifier(), preference_rows(), **{**SAVING, "max_steps": 5})
    output = trainer.train(resume_from_checkpoint=True)
    of_these_steps = sum(history(trainer)[3:])  # whose mean it is, or as of transformers 5.17, divided by all five
    assert any(output.training_loss == pytest.approx(of_these_steps / steps, abs=1e-4) for steps in (2, 5))
    assert (
        "checkpoint-3 has no training_run.json: whether its settings are those of this run is unknown" in caplog.text
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_tokens_and_the_mean_loss_continue_after_a_resume(accumulation, tmp_path):
    options = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2}
    options |= {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    unbroken, resumed = (make_trainer(tmp_path, classifier(), preference_rows(), **options) for _ in range(2))
    whole = unbroken.train()
    shutil.rmtree(tmp_path / "checkpoint-7")
    shutil.rmtree(tmp_path / "checkpoint-6")
    part = resumed.train(resume_from_checkpoint=True)  # from step 3, which no log was written at
    assert part.training_loss == part.metrics["train_loss"] == history(resumed, "train_loss")[-1]
    assert part.training_loss == pytest.approx(whole.training_loss, abs=1e-6)
    last = [history(trainer, "num_tokens")[-1] for trainer in (unbroken, resumed)]
    assert last[0] == last[1] > 0
    assert history(resumed, "num_tokens") == sorted(history(resumed, "num_tokens"))
    every_step = make_trainer(tmp_path / "log", classifier(), preference_rows(), **{**options, "logging_steps": 1})
    every_step.train()
    assert whole.training_loss == pytest.approx(sum(history(every_step)) / 7, abs=1e-4)


# --- what is written and what is deleted


def test_the_state_is_written_when_all_else_is_on_the_disk(tmp_path, monkeypatch):
    synced, written = [], []
    fsync, save = os.fsync, TrainerState.save_to_json

    def spy(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def save_to_json(self, path):
        written.append(set(synced))
        save(self, path)

    monkeypatch.setattr(os, "fsync", spy)
    monkeypatch.setattr(TrainerState, "save_to_json", save_to_json)
    make_trainer(tmp_path, classifier(), preference_rows(), **{**SAVING, "max_steps": 1}).train()
    needed = {"config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "checkpoint-1"}
    assert needed <= written[0] and "trainer_state.json" not in written[0]
    assert synced[::-1].index("trainer_state.json") < len(synced)


def test_checkpoints_rotate_by_step_whatever_the_clock_says(tmp_path):
    class ClockJump(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            then = time.time() - 1000 * state.global_step  # the newest looks oldest
            os.utime(tmp_path / f"checkpoint-{state.global_step}", (then, then))

    def kept():
        return sorted(path.name for path in tmp_path.glob("checkpoint-*"))

    options = {**SAVING, "save_total_limit": 2, "callbacks": [ClockJump()]}
    make_trainer(tmp_path, classifier(), preference_rows(), **{**options, "max_steps": 5}).train()
    assert kept() == ["checkpoint-4", "checkpoint-5"]
    make_trainer(tmp_path, classifier(), preference_rows(), **{**options, "max_steps": 2}).train()  # a new run
    assert kept() == ["checkpoint-1", "checkpoint-2"]


def test_the_best_checkpoint_is_not_rotated_away(tmp_path):
    for step in (1, 2, 3, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    delete_old_checkpoints(tmp_path / "checkpoint-4", limit=2, best=str(tmp_path / "checkpoint-1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-4"]
    delete_old_checkpoints(tmp_path / "checkpoint-4", limit=1, best=str(tmp_path / "checkpoint-1"))
    delete_old_checkpoints(tmp_path / "checkpoint-4", limit=None, best=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-4"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_disk_that_is_full_is_named_in_one_line(file, tmp_path):
    sizes = {"model.safetensors": 10_000, "optimizer.pt": 100_000}  # of one file, all that the kernel lets be written
    trainer = make_trainer(tmp_path, classifier(), preference_rows(), **{**SAVING, "max_steps": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[file], hard))
    try:
        with pytest.raises(OSError, match=r"checkpoint-1 cannot be written, its disk has [\d,]+ MB left: ") as error:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert newest_complete_checkpoint(tmp_path) is None


# --- training that has diverged


def diverging(folder, what, **options):
    trainer = make_trainer(folder, classifier(), preference_rows(), **{**SAVING, "logging_steps": 100, **options})

    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1 and what in ("loss", "head"):
                trainer.reward_model.score.weight.data[0, 0] = math.nan if what == "loss" else 0

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 1 and what == "head":
                trainer.reward_model.score.weight.grad[0, 0] = math.inf

    if what == "gradient norm":
        weight = trainer.reward_model.model.layers[0].mlp.up_proj.weight
        weight.register_hook(lambda grad: grad * math.inf if trainer.state.global_step == 1 else grad)
    trainer.add_callback(Break())
    return trainer


@pytest.mark.parametrize("what", ["loss", "gradient norm", "head"])
@pytest.mark.parametrize("saving", [{}, {"save_strategy": "no"}, {"save_strategy": "no", "logging_steps": 1}])
def test_a_run_that_diverges_stops_before_it_saves_or_logs(what, saving, tmp_path):
    trainer = diverging(tmp_path, what, **saving)
    named = what if len(saving) != 1 else "loss|gradient norm|head"  # looked at after three steps, all are
    with pytest.raises(ValueError, match=rf"the ({named}) is not finite at step \d: training has diverged") as error:
        trainer.train()
    assert "\n" not in str(error.value)
    assert [Path(p).name for p in tmp_path.glob("checkpoint-*")] == ([] if saving else ["checkpoint-1"])
    assert len(history(trainer)) == (saving.get("logging_steps") == 1)


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    model = RewardModel.from_sequence_classifier(classifier())
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = math.inf
    with pytest.raises(ValueError, match=r"1 weights are not finite \(model.layers.0.mlp.up_proj.weight"):
        model.export(tmp_path / "out", tiny_tokenizer("plain"))
    assert not (tmp_path / "out").exists()


# --- resuming


def test_resuming_without_a_checkpoint_starts_from_the_beginning(tmp_path, caplog):
    trainer = make_trainer(tmp_path, classifier(), preference_rows(), max_steps=1)
    trainer.train(resume_from_checkpoint=True)
    assert len(history(trainer)) == 1
    assert "no complete checkpoint" in caplog.text


def test_a_run_that_had_ended_is_not_trained_on_by_resuming(tmp_path):
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    first, again = (make_trainer(tmp_path, classifier(), preference_rows(), **options) for _ in range(2))
    first.train()
    assert again.train(resume_from_checkpoint=True).global_step == 3
    expected = trained_weights(first)
    assert all(torch.equal(weight, expected[name]) for name, weight in trained_weights(again).items())


@pytest.mark.trl112
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_the_best_checkpoint_is_loaded_at_the_end(lora, tmp_path):
    options = {"peft_config": lora_config(r=4)} if lora else {}
    trainer = make_trainer(
        tmp_path,
        classifier("llama" if lora else "gpt2"),  # gpt2 calls its backbone "transformer"
        preference_rows(),
        eval_dataset=make_trainer(tmp_path, classifier(), preference_rows(12, seed=1)).train_dataset,
        max_steps=3,
        learning_rate=0.05,  # so that it gets worse
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_mean_reward",
        greater_is_better=False,
        **options,
    )
    trainer.train()
    rewards = history(trainer, "eval_mean_reward")
    best = min(range(3), key=lambda i: rewards[i])
    assert trainer.state.best_global_step == best + 1
    assert trainer.reward_model.config.reward_mean == pytest.approx(rewards[best])
    assert trainer.evaluate()["eval_mean_reward"] == pytest.approx(rewards[best], abs=1e-6)
    assert trained_weights(trainer)  # it can be trained on
