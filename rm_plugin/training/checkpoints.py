"""Checkpoints of a training run: which are whole, what they depend on, how they reach the disk, which are deleted.

    newest_complete_checkpoint("my-reward-model")          # "my-reward-model/checkpoint-500", or None

Beside what transformers writes, a checkpoint holds `training_run.json`: the settings that training depends on, and the
sum of its losses so far. The output folder holds the settings of its latest run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from peft import PeftConfig
from pyarrow.compute import list_value_length
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, SchedulerType
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from trl import RewardConfig

from ..files import differences, write_atomically
from ..messages import one_line
from ..model.sharding import gathered

logger = logging.getLogger(__name__)

RUN_FILE = "training_run.json"
STATE_FILE = "trainer_state.json"  # transformers writes it last
FSDP, DEEPSPEED = "pytorch_model_fsdp*", "global_step*"  # weights, and of DeepSpeed all else, as launchers save them
PARTS = {  # of a checkpoint, and the files that hold each, any of them
    "config": ("config.json", "adapter_config.json", "*/adapter_config.json", FSDP),
    "weights": (
        *("model.safetensors", "model.safetensors.index.json", FSDP, DEEPSPEED),
        *("adapter_model.safetensors", "*/adapter_model.safetensors"),
    ),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", DEEPSPEED),
    "scheduler": ("scheduler.pt", DEEPSPEED),
    "random state": ("rng_state.pth", "rng_state_0.pth"),
    "trainer's state": (STATE_FILE,),
}
TRAINING_FIELDS = (  # what training depends on; data, model and batch are settings of their own
    *("seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last"),
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("max_grad_norm", "bf16", "fp16", "neftune_noise_alpha", "disable_dropout"),
    *("tie_threshold", "label_smoothing_factor", "center_rewards_coefficient"),
)
SURROUNDINGS = (  # of an adapter
    *("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "runtime_config", "inference_mode"),
)
LENGTHS = ("max_steps", "num_train_epochs")  # the second counts where the first is not positive
COMPARED = ("input_ids", "ranks", "margin")  # of an encoded row


# --- which are whole


def newest_complete_checkpoint(output_dir: str | Path) -> str | None:
    """
    The newest `checkpoint-N` folder that can be resumed from, or `None`; each newer one that cannot is logged.

    Args:
        output_dir (`str` or `Path`): the run's folder.

    Returns:
        `str` or `None`: the checkpoint's folder.
    """
    for folder in sorted(_checkpoints(output_dir), key=_step, reverse=True):
        reason = why_incomplete(folder)
        if reason is None:
            return str(folder)
        logger.warning("%s is not complete (%s): an older checkpoint is used, if there is one", folder, reason)
    return None


def why_incomplete(folder: str | Path) -> str | None:
    """
    What a checkpoint lacks to be resumed from, or `None`.

    It needs config, every shard of the weights (or the adapter), optimizer, scheduler, random states and the trainer's
    state, each of them readable.
    """
    folder = Path(folder)
    for name, patterns in PARTS.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            return f"its {name} is missing"
    file = folder
    try:
        for file in folder.rglob("*.json"):
            content = json.loads(file.read_text(encoding="utf-8"))
            shards = content.get("weight_map", {}) if file.name.endswith(".index.json") else {}
            if lost := [name for name in shards.values() if not (folder / name).exists()]:
                return f"{lost[0]} is missing"
        for file in folder.rglob("*.safetensors"):
            with safe_open(file, framework="pt"):  # checks the length that the header promises
                pass
        for file in (file for pattern in ("*.pt", "*.pth", "*.bin") for file in folder.rglob(pattern)):
            if not zipfile.is_zipfile(file):  # what torch.save writes, its table of contents last
                return f"{file.name} cannot be read"
        step = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["global_step"]
    except Exception:  # whatever a half-written file makes its reader say
        return f"{file.name} cannot be read"
    return None if folder.name in (f"checkpoint-{step}", "last-checkpoint") else f"{STATE_FILE} is of step {step}"


def _checkpoints(output_dir: str | Path) -> list[Path]:
    folders = Path(output_dir).glob("checkpoint-*")
    return [folder for folder in folders if folder.name.removeprefix("checkpoint-").isdigit()]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


# --- what they depend on


def training_settings(
    args: RewardConfig, data: Dataset | tuple[IterableDataset, list[dict[str, Any]]], model: dict[str, Any]
) -> dict[str, Any]:
    """
    What training depends on, by name; fields of logging, saving and reporting are not in it.

    The length of a run is in it where the learning rate depends on it: a constant one lets a run be made longer.

    Args:
        args ([`PairwiseRewardConfig`]): the config.
        data (`Dataset` or `tuple`): encoded rows, or a stream and its first rows, encoded.
        model (`dict`): [`model_settings`], as they were before training.
    """
    settings = {name: getattr(args, name) for name in TRAINING_FIELDS if hasattr(args, name)}
    schedule = inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(args.lr_scheduler_type)]).parameters
    warms_up_by_share = "num_warmup_steps" in schedule and 0 < args.warmup_steps < 1
    if "num_training_steps" in schedule or warms_up_by_share:
        length = LENGTHS[args.max_steps <= 0]
        settings[length] = getattr(args, length)
    settings["batch"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    settings |= _of_stream(*data) if isinstance(data, tuple) else _of_rows(data)
    plain = json.dumps({**settings, **model}, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    return json.loads(plain)


def _of_stream(stream: IterableDataset, first: list[dict[str, Any]]) -> dict[str, str]:
    """What identifies a stream without reading it: its first rows, encoded, and the local files that it reads from."""
    texts = json.dumps([[row[name] for name in COMPARED] for row in first])
    digest, num_bytes, files = hashlib.sha256(), 0, dict.fromkeys(_local_files(stream))
    for path in files:
        with Path(path).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                num_bytes += len(chunk)
    settings = {"data": f"{hashlib.sha256(texts.encode()).hexdigest()[:8]} (a stream's first {len(first):,} rows)"}
    if files:
        settings["data's files"] = f"{digest.hexdigest()[:8]} ({len(files):,} files, {num_bytes:,} bytes)"
    return settings


def _local_files(source: Any) -> Iterator[str]:
    """The files that a stream reads. `datasets` has no public name for them: they are among its steps' arguments."""
    if isinstance(source, str) and os.path.isfile(source):  # noqa: PTH113, as Path's refuses a text that is too long
        yield os.path.realpath(source)
    elif isinstance(source, IterableDataset):
        yield from _local_files(source._ex_iterable)
    elif type(source).__module__ == IterableDataset.__module__:
        yield from _local_files(vars(source))
    elif isinstance(source, Mapping):
        yield from _local_files(list(source.values()))
    elif isinstance(source, Sequence) and not isinstance(source, str | bytes):
        for part in source:
            yield from _local_files(part)


def _of_rows(dataset: Dataset) -> dict[str, str]:
    """What identifies encoded rows."""
    digest = hashlib.sha256()
    for table in dataset.select_columns(list(COMPARED)).with_format("arrow").iter(batch_size=1000):
        texts = table["input_ids"].combine_chunks().flatten()
        digest.update(texts.flatten().to_numpy().tobytes())
        digest.update(repr([list_value_length(texts).to_pylist(), table["ranks"].to_pylist()]).encode())
        digest.update(repr(table["margin"].to_pylist()).encode())
    return {"data": f"{digest.hexdigest()[:8]} ({len(dataset):,} rows)"}


def model_settings(backbone: PreTrainedModel) -> dict[str, Any]:
    """
    What identifies the model that training starts from, whatever path it was loaded by, for [`training_settings`].

    Its head is not in it: a fresh one follows from the seed.
    """
    digest = hashlib.sha256()
    num_weights = 0
    for name, parameter in backbone.named_parameters():
        with gathered([parameter]):
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            if parameter.is_floating_point() and not parameter.is_meta:  # which those of 4 bits are not
                digest.update(repr(parameter.detach().flatten()[:64].float().tolist()).encode())
        num_weights += getattr(parameter, "ds_numel", 0)
    size = f"{backbone.config.model_type}, {num_weights or backbone.num_parameters():,} weights"
    return {"model": f"{digest.hexdigest()[:8]} ({size})", "dtype": str(backbone.dtype).removeprefix("torch.")}


def peft_settings(peft_config: PeftConfig) -> dict[str, Any]:
    """The fields of a PEFT configuration that are set, except those of its surroundings."""
    fields = peft_config.to_dict().items()
    return {f"PEFT's {name}": value for name, value in fields if value and name not in SURROUNDINGS}


def write_run(folder: str | Path, settings: Mapping[str, Any], total_loss: float | None = 0.0) -> None:
    """Write `training_run.json`: the settings, and the sum of the losses of all steps so far."""
    text = json.dumps({"settings": settings, "total_loss": total_loss}, indent=2)
    write_atomically(Path(folder, RUN_FILE), text + "\n")


def resumed_loss(checkpoint: str | Path, settings: Mapping[str, Any]) -> float | None:
    """
    The sum of the losses of the steps up to a checkpoint; `None` for one of another trainer, which does not say.

    Raises:
        ValueError: it was trained with other settings; all that differ are named.
    """
    file = Path(checkpoint, RUN_FILE)
    if not file.exists():
        logger.warning("%s has no %s: whether its settings are those of this run is unknown", checkpoint, RUN_FILE)
        return None
    run = json.loads(file.read_text(encoding="utf-8"))
    if found := differences(run["settings"], settings):
        constant = "; a run that may be made longer has lr_scheduler_type constant from its beginning"
        has_other_length = any(run["settings"].get(name) != settings.get(name) for name in LENGTHS)
        raise ValueError(
            f"{checkpoint} is of a run with other settings: {'; '.join(found)}; resume with those that it began with, "
            f"or name another output_dir{constant if has_other_length else ''}"
        )
    return run["total_loss"]


# --- how they reach the disk, and which are deleted


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """What libraries say when they cannot write becomes one `OSError` that names the folder and its disk's space."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        parent = next(path for path in (Path(folder), *Path(folder).resolve().parents) if path.exists())
        free = shutil.disk_usage(parent).free // 2**20
        raise OSError(f"{folder} cannot be written, its disk has {free:,} MB left: {one_line(error)}") from error


def sync_to_disk(folder: str | Path) -> None:
    """Wait until all that a folder holds would survive a crash of the machine."""
    folder = Path(folder)
    for path in (*folder.rglob("*"), folder, folder.parent):
        with suppress(FileNotFoundError):  # a file that another process has renamed
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def delete_old_checkpoints(newest: str | Path, limit: int | None, best: str | None) -> None:
    """
    Keep `limit` checkpoints, those of the highest steps up to `newest`; `newest` and `best` always stay.

    Steps beyond `newest` are of an earlier run. transformers goes by modification time, which a clock may turn back.
    """
    newest = Path(newest)
    kept = {path.resolve() for path in (newest, *([Path(best)] if best else []))}
    others = [folder for folder in _checkpoints(newest.parent) if folder.resolve() not in kept]
    others.sort(key=lambda folder: (_step(folder) <= _step(newest), _step(folder)))
    if limit is not None and limit > 0:
        for folder in others[: max(0, len(others) + len(kept) - max(limit, len(kept)))]:
            shutil.rmtree(folder, ignore_errors=True)
