"""Tiny runs on two gloo processes under TRL's own DDP, FSDP2 and DeepSpeed configs, for test_sharded_training.py.

    PYTHONPATH=.cache/scale python sharded_runs.py FOLDER ["zero3 fp32 LoRA" …]

Each run is two forks of one process that has imported everything; what they found goes to FOLDER/results.json.
"""

import faulthandler
import gc
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
import trl
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, DistributedType, PartialState
from accelerate.utils import gather_object
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from datasets import Dataset
from models import tiny_backbone, tiny_tokenizer
from safetensors.torch import load_file
from training_runs import classifier, history, make_trainer, preference_rows
from transformers import AutoModelForSequenceClassification
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rm_plugin import EvaluationCallback, PairwiseRewardConfig, RewardScorer, lora_config
from rm_plugin.data.reference import read_reference

STRATEGIES = ("ddp", "fsdp2", "zero2", "zero3")
CASES = [f"{s} fp32 {m} {w}" for s in STRATEGIES for m in ("full", "LoRA") for w in ("in memory", "by name")]
CASES += [f"{s} bf16 {case}" for s in STRATEGIES for case in ("full in memory", "LoRA by name")]
CASES += [f"{s} fp32 full in memory, parts" for s in ("fsdp2", "zero3")]
IN_PARTS = {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false"}
LIMIT = 400  # seconds of one pair of processes, which take ten
HELD_OUT = preference_rows(7, seed=5)


def launch_environment(strategy: str, precision: str) -> dict[str, str]:
    """What `accelerate launch` sets for TRL's own config, as shipped but for device and precision."""
    path = Path(trl.__file__).parent / "accelerate_configs" / f"{strategy.replace('ddp', 'multi_gpu')}.yaml"
    mixed_precision = "no" if precision == "fp32" else precision
    words = ["--config_file", str(path), "--num_processes", "2", "--mixed_precision", mixed_precision, "script.py"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)  # as `launch_command` does
    environment = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    return {name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


def let_cpus_be_fsdp() -> None:
    """accelerate offers FSDP for accelerators only: on a CPU `ACCELERATE_USE_FSDP` is silently DDP."""
    init = AcceleratorState.__init__

    def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        begun = bool(AcceleratorState._shared_state)
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if not begun and fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = with_fsdp


def run(case: str, folder: Path) -> dict:
    """What a run found; every process calls it."""
    case, _, state = case.partition(", ")
    strategy, precision, method, source = case.split(" ", 3)
    os.environ.update(launch_environment(strategy, precision) | (IN_PARTS if state else {}))
    if strategy.startswith("zero"):
        import deepspeed

        deepspeed.init_distributed("gloo")
    if strategy == "fsdp2":
        let_cpus_be_fsdp()
    output, base = folder / "run", folder.parent / ("base" if source == "by name" else "classifier")
    options = {
        "bf16": precision == "bf16",
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 2,
        # in bf16 DeepSpeed would add up the gradients of micro-batches in 16 bits
        "max_tokens_per_microbatch": 60 if (precision, source) == ("fp32", "by name") else None,
        "max_steps": 3,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_dataset": Dataset.from_list(HELD_OUT),
        "peft_config": lora_config(r=4) if method == "LoRA" else None,
    }

    def trainer_of_model():
        """Of a model by name, or in memory: made before there are arguments or, for LoRA, after, as scripts do."""
        unset_hf_deepspeed_config()
        if source == "by name":
            return make_trainer(output, str(base), preference_rows(32), **options)
        arguments = PairwiseRewardConfig(str(folder), bf16=options["bf16"], use_cpu=True) if method == "LoRA" else None
        model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
        del arguments
        callback = EvaluationCallback(source=HELD_OUT, every_steps=2)
        return make_trainer(output, model, preference_rows(32), callbacks=[callback], **options)

    trainer = trainer_of_model()
    trainer.train()
    metrics = trainer.evaluate()
    batches = [batch["microbatches"] for batch in trainer.get_train_dataloader()]
    _, outputs = trainer.compute_loss(trainer.model_wrapped, batches[0][0], return_outputs=True)
    trainer.save_model()
    found = {
        "distributed_type": trainer.accelerator.distributed_type.name,
        "form": trainer.data_collator.form,
        "loss": history(trainer),
        "grad_norm": history(trainer, "grad_norm"),
        "callback": [entry for name in ("score", "margin") for entry in history(trainer, f"eval_preference_{name}")],
        "metrics": plain(metrics),
        "dtype of scores": str(outputs["logits"].dtype),
        "num_microbatches": gather_object([[len(batch) for batch in batches]]),
        "whole checkpoint": (output / "checkpoint-2" / "model.safetensors").exists(),
    }
    if torch.distributed.get_rank() == 0:  # the other process loads no scorer, and is not waited for
        texts = ([row[name] for row in HELD_OUT] for name in ("prompt", "chosen"))
        found["scores"] = RewardScorer(str(output)).score(*texts).tolist()
        found["reference"] = [text.get("score", 0) for text in read_reference(output)["texts"]]
        weights = load_file(next(output.glob("*model.safetensors")))
        found["saved head"] = [weight for name, weight in weights.items() if "score" in name][0].tolist()
    torch.distributed.barrier()
    del trainer
    gc.collect()
    resumed = trainer_of_model()
    resumed.train(resume_from_checkpoint=str(output / "checkpoint-2"))
    return found | {"resumed": history(resumed), "resumed_metrics": plain(resumed.evaluate())}


def plain(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if "second" not in name and "time" not in name}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def fork(case: str, folder: Path, rank: int, port: int) -> int:
    """The id of a process that is one of two."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(folder / f"log_{rank}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1)
        where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        os.environ |= {name: str(value) for name, value in {**where, "RANK": rank, "LOCAL_RANK": rank}.items()}
        found = run(case, folder)
        if rank == 0:
            (folder / "found.json").write_text(json.dumps(found))
        torch.distributed.destroy_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def run_pair(case: str, folder: Path) -> dict:
    """What process 0 found, or `error`: the last words of both."""
    folder.mkdir(parents=True)
    port, begun = free_port(), time.monotonic()
    running = {fork(case, folder, rank, port): rank for rank in (0, 1)}
    failed = False
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            failed = failed or os.waitstatus_to_exitcode(status) != 0
            running.pop(child)
        elif time.monotonic() - begun > LIMIT or failed:
            time.sleep(2)
            for pid in running:
                os.kill(pid, signal.SIGUSR1)
            time.sleep(0.5)
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            failed = True
            for pid in running:
                os.waitpid(pid, 0)
            running = {}
        else:
            time.sleep(0.02)
    if failed:
        return {"error": "\n".join((folder / f"log_{rank}.txt").read_text()[-4000:] for rank in (0, 1))}
    found = json.loads((folder / "found.json").read_text())
    found["seconds"] = time.monotonic() - begun
    shutil.rmtree(folder / "run")
    return found


def main(folder: Path, cases: list[str]) -> None:
    import deepspeed.ops  # before the forks; here, since pytest imports this file where there is no DeepSpeed

    deepspeed.ops.__compatible_ops__ = {}  # or an op for shared memory is compiled for minutes; gloo does the same
    torch.set_num_threads(1)
    tiny_backbone().save_pretrained(folder / "base")
    tiny_tokenizer("plain").save_pretrained(folder / "base")
    classifier().save_pretrained(folder / "classifier")
    results = {case: run_pair(case, folder / case) for case in cases}
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    wanted = sys.argv[2:]
    main(Path(sys.argv[1]), [case for case in CASES if not wanted or any(w in case for w in wanted)])
