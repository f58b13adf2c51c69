"""`PairwiseRewardTrainer`: TRL's RewardTrainer on packed shared-prefix batches, exact metrics, heads that are kept.

    loss = mean over groups of the mean over pairs of  −log σ(z_better − z_worse)

A drop-in: same constructor, fields and data formats as `trl.RewardTrainer`, and with equal data, seed, batch and
tokenizer (pad ≠ EOS) the same loss trajectory in fp32.

    PairwiseRewardTrainer("Qwen/Qwen3-0.6B", args, train_dataset=rows, peft_config=lora_config(r=16)).train()

The methods of upstream that it overrides, those with an underscore because nothing public is called there:

    _prepare_dataset                 rows of every format, encoded as groups; stays
    _set_signature_columns_if_needed the columns of our rows; stays
    _get_dataloader                  evaluation keeps the last batch; goes with an option of transformers for that
    _run_epoch                       resumed at the last step, trains no more; goes when transformers looks before it
    training_step                    one backward per micro-batch; stays
    compute_loss                     the loss of a micro-batch; stays
    floating_point_ops               counts the tokens of packed rows; stays
    _track_num_input_tokens          the same, for include_num_input_tokens_seen; stays
    log                              metrics since the last log; stays
    predict                          rows of every format; goes when transformers prepares what `predict` is given
    evaluation_loop                  every row once, exact over processes; goes when its gather takes rows of any width
    train                            resumes from a whole checkpoint; goes when transformers finds one
    _load_from_checkpoint            names and extras of our format; goes when transformers loads by `from_pretrained`
    _load_best_model                 the same
    _save                            the model's card beside its weights; stays
    _push_from_checkpoint            reward_model.json goes to the hub, too; goes when transformers copies all files
    create_model_card                our card; stays

Shapes: `N` completions of a micro-batch, `M` pairs, `G` groups.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.integrations.deepspeed import deepspeed_init
from transformers.integrations.liger import apply_liger_kernel
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, HubStrategy, denumpify_detensorize
from trl import RewardConfig, RewardTrainer

from ..data.encoding import REASONING_MODES, TRUNCATION_MODES, ensure_pad_token
from ..data.sources import load_rows
from ..data.templates import template_hash, trim_template_tail
from ..messages import check_choice
from ..model.adapters import SIDE_FILE, is_quantized, with_side_file
from ..model.cards import model_card
from ..model.checkpoint import WHERE_ON_HUB, load_tokenizer
from ..model.modeling import RewardModel
from .adoption import (
    TrainedValues,
    as_reward_model,
    attention_dropout,
    check_optimizer,
    disable_attention_dropout,
    load_to_train,
)
from .batches import COLUMNS, PackingCollator, RowEncoder, code_version, encode_dataset, encode_stream
from .checkpoints import newest_complete_checkpoint
from .config import PairwiseRewardFields
from .losses import check_eta, check_label_smoothing, comparison_loss
from .peft_configs import reward_peft_config

logger = logging.getLogger(__name__)

LEARNING_RATES = {"LoRA": 1e-4, "full": 5e-6}


@dataclass
class PairwiseRewardConfig(PairwiseRewardFields, RewardConfig):
    """
    [`trl.RewardConfig`] and what shared-prefix preference training needs besides.

    Fields of TRL's keep their names, defaults and meaning, but for `learning_rate`: unset, it is 1e-4 for LoRA and
    5e-6 for full training, and the log says so. `label_smoothing_factor` is the ε of the pairwise loss.
    """

    def __post_init__(self):
        if self.deepspeed and self.learning_rate is None:
            raise ValueError(
                "learning_rate is unset, and DeepSpeed's config is filled in before it is chosen; set it, such as "
                f"{LEARNING_RATES['LoRA']:g} for LoRA or {LEARNING_RATES['full']:g} for full training"
            )
        super().__post_init__()
        check_choice("truncation_mode", self.truncation_mode, TRUNCATION_MODES)
        check_choice("reasoning", self.reasoning, REASONING_MODES)
        check_choice("on_bad_row", self.on_bad_row, ("error", "skip"))
        check_choice("shared_prefix", self.shared_prefix, ("auto", "off"))
        check_label_smoothing(self.label_smoothing_factor)
        for name in ("max_length", "max_tokens_per_microbatch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} leaves no token; give at least 1, or null for no limit")
        if self.tie_threshold is not None:
            check_eta(self.tie_threshold)
            if self.label_smoothing_factor:
                raise ValueError(
                    f"label_smoothing_factor={self.label_smoothing_factor} with tie_threshold, the loss with ties has "
                    "no smoothing; set one of them"
                )

    @classmethod
    def from_reward_config(cls, args: RewardConfig) -> PairwiseRewardConfig:
        """A copy of a config; of TRL's own, with the fields that it lacks at their defaults."""
        ours = cls.__new__(cls)
        ours.__dict__.update({f.name: f.default for f in fields(cls) if f.default is not MISSING} | args.__dict__)
        return ours


def pairwise_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """
    Accuracy and margin distribution over all pairs of an evaluation; the trainer's default `compute_metrics`.

    Args:
        prediction (`EvalPrediction`):
            `predictions` (M, 2) float32, scores of the better and the worse completion of each pair.
    """
    from ..metrics.preference import MarginDistribution, PairwiseAccuracy

    better_M, worse_M = prediction.predictions[:, 0], prediction.predictions[:, 1]
    metrics = PairwiseAccuracy().compute(predictions=better_M, references=worse_M)
    margins = MarginDistribution().compute(predictions=better_M, references=worse_M)
    metrics["margin"] = margins.pop("mean")
    metrics |= {f"margin_{name}": margins[name] for name in ("std", "q05", "q25", "q50", "q75", "q95")}
    metrics["margin_share_negative"] = margins["share_negative"]
    return metrics


class PairwiseRewardTrainer(RewardTrainer):
    """
    Trainer of reward models on preference data: [`trl.RewardTrainer`] with each token computed once.

    Takes TRL's arguments. What differs:

    - models are [`RewardModel`]s, with a float32 head that LoRA always trains and saves; NF4 keeps adapters float32;
    - rows may be ranked lists or hold several chosen and rejected; the loss of a row is the mean over its pairs;
    - evaluation is exact over all pairs and processes, with ties counted apart;
    - `resume_from_checkpoint=True` resumes from the newest *complete* checkpoint.

    Args:
        model (`str`, `PreTrainedModel` or `PeftModel`):
            Hub id or folder (causal model: fresh head; reward model or adapter: trained on), or a model in memory.
        args ([`PairwiseRewardConfig`] or [`trl.RewardConfig`], *optional*): hyper-parameters.
        data_collator: not taken; batches are packed here.
        train_dataset (`Dataset` or `IterableDataset`): rows in any format of `rm_plugin.data.comparison`.
        eval_dataset (`Dataset`, `IterableDataset` or `dict`, *optional*): the same, or several by name.
        processing_class (`PreTrainedTokenizerBase`, *optional*): the tokenizer; the model's own if absent.
        quantization_config (`BitsAndBytesConfig`, *optional*): for a model given by name, such as [`nf4_config`].
        peft_config (`PeftConfig`, *optional*): such as [`lora_config`]; the head is always trained with it.

    Example:

    ```python
    from datasets import load_dataset
    from rm_plugin import PairwiseRewardConfig, PairwiseRewardTrainer, lora_config

    rows = load_dataset("trl-lib/ultrafeedback_binarized", split="train")
    args = PairwiseRewardConfig("my-reward-model", per_device_train_batch_size=8)
    PairwiseRewardTrainer("Qwen/Qwen3-0.6B", args, train_dataset=rows, peft_config=lora_config()).train()
    ```
    """

    _tag_names = ["trl", "reward-trainer", "reward-model", "rm_plugin"]

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: RewardConfig | None = None,
        data_collator: None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: None = None,
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = PairwiseRewardConfig(f"{name.split('/')[-1]}-Reward")
        args = PairwiseRewardConfig.from_reward_config(args)
        _check_supported(args, data_collator, preprocess_logits_for_metrics)
        given, given_optimizer = model, optimizers[0]
        model, processing_class, peft_config = self._adopt(
            model, args, processing_class, quantization_config, peft_config
        )
        before = TrainedValues(model)
        collator = PackingCollator(max_tokens=args.max_tokens_per_microbatch, ties=args.tie_threshold is not None)
        model_init_kwargs, args.model_init_kwargs = args.model_init_kwargs, None  # used above; TRL would warn
        super().__init__(
            model,
            args,
            collator,
            train_dataset,
            eval_dataset,
            processing_class,
            compute_metrics or pairwise_metrics,
            callbacks,
            optimizers,
            optimizer_cls_and_kwargs,
            peft_config=peft_config,
        )
        args.model_init_kwargs = model_init_kwargs
        before.restore(self.model)
        self._restore(given)
        if given_optimizer is not None:
            check_optimizer(given_optimizer, self.model)

    def _adopt(
        self, given, args: PairwiseRewardConfig, processing_class, quantization_config, peft_config
    ) -> tuple[RewardModel | PeftModel, PreTrainedTokenizerBase, PeftConfig | None]:
        """What TRL's constructor gets: the model as a `RewardModel`, its tokenizer, and a PEFT config with a head."""
        if not isinstance(given, str):
            unused = {"quantization_config": quantization_config, "model_init_kwargs": args.model_init_kwargs}
            for name in [name for name, value in unused.items() if value is not None]:
                logger.warning("%s has no effect: the model is in memory already", name)
        set_seed(args.seed)  # TRL's order: before a head is drawn
        model = load_to_train(given, args, quantization_config) if isinstance(given, str) else as_reward_model(given)
        reward_model = model.get_base_model() if isinstance(model, PeftModel) else model
        config = reward_model.config
        if processing_class is None:
            hub = {"trust_remote_code": args.trust_remote_code}
            if isinstance(given, str):
                hub |= {name: value for name, value in (args.model_init_kwargs or {}).items() if name in WHERE_ON_HUB}
            processing_class = load_tokenizer(given, config, **hub)
        ensure_pad_token(processing_class, reward_model)
        if args.pad_token is not None and config.trailing_pad_id is not None:
            logger.warning(
                "pad_token=%s has no effect: the model keeps the pad token %s that it was trained with",
                *(args.pad_token, processing_class.pad_token),
            )
        if peft_config is not None:
            quantized = is_quantized(reward_model)
            peft_config = reward_peft_config(peft_config, config.backbone_config.model_type, quantized)
        if args.learning_rate is None:
            method = "full" if peft_config is None and not isinstance(model, PeftModel) else "LoRA"
            args.learning_rate = LEARNING_RATES[method]
            logger.warning("learning_rate is unset: %g for %s training", args.learning_rate, method)
        if args.disable_dropout:
            disable_attention_dropout(reward_model)

        # Read while TRL's constructor prepares the data sets.
        self._has_fresh_head, self._trailing_pad_id = reward_model.has_fresh_head, config.trailing_pad_id
        self._data_counts: dict[str, dict[str, int]] = {}  # by data set, until the first log
        self._window: _Window | None = None  # training metrics since the last log
        self._held_out: dict[str, tuple[np.ndarray, dict]] = {}  # by metric prefix, scores and metrics of one step
        self._held_out_step = 0
        self._num_parameters: int | None = None
        return model, processing_class, peft_config

    def _restore(self, given: str | PreTrainedModel | PeftModel) -> None:
        """What TRL's constructor has changed or cannot know: pad token, config, side file, kernels, packing."""
        args, reward_model, collator = self.args, self.reward_model, self.data_collator
        config = reward_model.config
        if isinstance(self.model, PeftModel):
            with_side_file(self.model)
        ensure_pad_token(self.processing_class, reward_model)  # TRL may have set another EOS or template
        if isinstance(given, PreTrainedModel) and given is not reward_model:  # shares its weights, and what is new
            given.score = reward_model.score  # a float32 copy, or PEFT's wrapper
            given.config.pad_token_id = config.pad_token_id
            given.config.get_text_config().vocab_size = config.vocab_size
        config.reasoning = args.reasoning
        config.template_hash = template_hash(self.processing_class)
        config.tie_threshold = args.tie_threshold
        if args.use_liger_kernel:  # TRL's constructor has offered it the model as a whole, whose type it does not know
            # Liger's fused loss would replace the forward of what it takes for a causal language model.
            kernels = {**(args.liger_kernel_config or {}), "fused_linear_cross_entropy": False}
            apply_liger_kernel(reward_model.model, kernels)
        collator.shared_prefix = self._shares_prefixes()
        if not self._is_sharded:  # where weights are sharded, all processes must make as many calls
            collator.rope_switch = reward_model.rope_switch
        elif args.max_tokens_per_microbatch is not None:
            raise ValueError(
                f"max_tokens_per_microbatch={args.max_tokens_per_microbatch} under FSDP or DeepSpeed: processes would "
                "make different numbers of calls and wait for each other; lower per_device_train_batch_size instead"
            )

    @property
    def reward_model(self) -> RewardModel:
        """The [`RewardModel`] that is trained, adapters injected."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    @property
    def _is_sharded(self) -> bool:
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def _shares_prefixes(self) -> bool:
        if self.args.shared_prefix == "off":
            return False
        if not self.args.disable_dropout and (name := attention_dropout(self.reward_model)):
            logger.warning("shared-prefix computation is off, batches are padded: disable_dropout=False and %s", name)
            return False
        if self.args.neftune_noise_alpha is not None:
            logger.warning(
                "shared-prefix computation is off, batches are padded: neftune_noise_alpha=%s is a noise that falls "
                "with the length of a row",
                self.args.neftune_noise_alpha,
            )
            return False
        return self.reward_model.supports_shared_prefix()

    # --- data

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """Rows ► encoded groups. What is left out is counted, logged, and reported with the first training log."""
        columns = dataset.column_names or list(next(iter(dataset)))
        if set(COLUMNS) <= set(columns):
            return dataset
        if "chosen_input_ids" in columns and "chosen_ids" not in columns:  # TRL's legacy names
            dataset = dataset.rename_columns({"chosen_input_ids": "chosen_ids", "rejected_input_ids": "rejected_ids"})
            columns = dataset.column_names
        trims = self._has_fresh_head and args.trim_template_tail and "chosen_ids" not in columns  # those have a tail
        if trims and trim_template_tail(processing_class):
            logger.info("the chat template's tail is trimmed: conversations end at their last special token")
        encoder = RowEncoder(
            processing_class,
            args.max_length,
            args.truncation_mode,
            args.reasoning,
            ties=args.tie_threshold is not None,
            on_bad_row=args.on_bad_row,
            trailing_pad_id=self._trailing_pad_id,
            code=code_version(),
        )
        if isinstance(dataset, IterableDataset):
            if dataset_name == "train":
                return encode_stream(dataset, encoder, dataset_name)
            dataset = load_rows(list(dataset))  # an evaluation has an end, and counts every row once
        encoded, self._data_counts[dataset_name] = encode_dataset(
            dataset, encoder, dataset_name, args.dataset_num_proc
        )
        return encoded

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            self._signature_columns = COLUMNS

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs):
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training  # an evaluation is of all rows
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    # --- training

    def _run_epoch(self, *args, **kwargs):
        # transformers looks whether the run is over after a step only: resumed from the checkpoint of its last step it
        # would train one more. To go when it looks before.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One backward per micro-batch; their gradients add up to that of the whole batch."""
        loss = 0.0
        *first, last = inputs["microbatches"]
        for microbatch in first:
            with self.accelerator.no_sync(model):
                loss = loss + super().training_step(model, microbatch, num_items_in_batch)
        return loss + super().training_step(model, last, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Loss of one micro-batch: the sum over its groups ÷ the number of groups of the whole batch."""
        outputs = model(**inputs["model"], use_cache=False)
        scores_N = _scores(outputs, inputs)
        loss = self._group_losses(scores_N, inputs).sum() / inputs["batch_size"]
        if self.model.training:
            self._window = (self._window or _Window()).add(scores_N.detach(), inputs)
            self._total_train_tokens += inputs["num_tokens"]
        if not return_outputs:
            return loss
        outputs.logits = scores_N[:, None]  # of all completions, as `better` and `worse` count them
        return loss, outputs

    def _group_losses(self, scores_N: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        eta = self.args.tie_threshold
        return comparison_loss(
            scores_N,
            inputs["better"],
            inputs["worse"],
            inputs["group"],
            num_groups=len(inputs["rows"]),
            margin_M=inputs["margin"],
            tie_M=None if eta is None else inputs["tie"],
            eta=eta,
            label_smoothing=self.args.label_smoothing_factor,
            center_rewards_coefficient=self.args.center_rewards_coefficient,
        )

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 · parameters · tokens computed, the estimate that transformers makes."""
        if self._num_parameters is None:  # counted once: it walks all modules
            self._num_parameters = self.reward_model.num_parameters(exclude_embeddings=True)
        return 6 * self._num_parameters * sum(m["num_computed_tokens"] for m in inputs["microbatches"])

    def _track_num_input_tokens(self, inputs):
        if self.args.include_num_input_tokens_seen != "no":
            tokens = torch.tensor(sum(m["num_tokens"] for m in inputs["microbatches"]), device=self.args.device)
            self.state.num_input_tokens_seen += self.accelerator.reduce(tokens, reduction="sum").item()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and self._window is not None:
            metrics = self._window.metrics(self.accelerator)
            self._window = None
            tokens = torch.tensor(self._total_train_tokens, device=self.args.device)
            metrics["num_tokens"] = self.accelerator.reduce(tokens, reduction="sum").item()
            for name, counts in self._data_counts.items():
                metrics |= {f"data_{name}_{what}": n for what, n in counts.items() if n}
            self._data_counts = {}
            self._metrics["train"].update({name: [value] for name, value in metrics.items()})
        super().log(logs, start_time)

    # --- evaluation

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test"):
        """As transformers' `predict`, on rows in any format; `predictions` (M, 2) are those of `evaluation_loop`."""
        test_dataset = self._prepare_dataset(test_dataset, self.processing_class, self.args, metric_key_prefix)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self,
        dataloader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """
        Scores of every row, each row once whatever the number of processes, and metrics over all pairs.

        `compute_metrics` gets `predictions` (M, 2), scores of the better and the worse completion of every pair, and
        `label_ids` (M,), the row of the data set that the pair is from.
        """
        results = self._evaluate_rows(dataloader)
        losses, scores, pair_scores, num_pairs = zip(*results.values(), strict=True)
        scores = np.concatenate(scores).astype(np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite, training has diverged; "
                "lower the learning rate"
            )
        prediction = EvalPrediction(
            predictions=np.concatenate(pair_scores), label_ids=np.repeat(list(results), num_pairs)
        )
        metrics = {
            "loss": np.mean(losses),
            "mean_reward": scores.mean(),
            "std_reward": scores.std(),
            "min_reward": scores.min(),
            "max_reward": scores.max(),
        }
        if len(prediction.predictions) and not (prediction_loss_only or self.args.prediction_loss_only):
            metrics |= self.compute_metrics(prediction)
        prefix = f"{metric_key_prefix}_"
        metrics = {prefix + name.removeprefix(prefix): value for name, value in denumpify_detensorize(metrics).items()}
        if metric_key_prefix.startswith("eval"):
            self._note_held_out(metric_key_prefix, scores, metrics)
        return EvalLoopOutput(prediction.predictions, prediction.label_ids, metrics, num_samples=len(results))

    def _evaluate_rows(self, dataloader) -> dict[int, tuple[float, np.ndarray, np.ndarray, int]]:
        """By row of the data set, in order: its loss, scores (K,), scores of its pairs (P, 2), number of pairs P."""
        model = self._evaluation_model()
        model.eval()  # until the next training step, as with transformers, so that `log` knows what it logs
        if hasattr(self.optimizer, "eval"):  # schedule-free optimizers evaluate at averaged weights
            self.optimizer.eval()
        self.callback_handler.eval_dataloader = dataloader
        results = {}
        for batch in dataloader:
            for inputs in self._prepare_inputs(batch)["microbatches"]:
                with torch.no_grad(), self.compute_loss_context_manager():
                    scores_N = _scores(model(**inputs["model"], use_cache=False), inputs)
                    losses_G = self._group_losses(scores_N, inputs)
                scores_N, start = scores_N.float().cpu().numpy(), 0
                for loss, (row, num_completions, pairs) in zip(losses_G.tolist(), inputs["rows"], strict=True):
                    scores_K = scores_N[start : start + num_completions]
                    results[row] = (loss, scores_K, scores_K[np.array(pairs, dtype=int).reshape(-1, 2)], len(pairs))
                    start += num_completions
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if (
            self.accelerator.num_processes > 1
        ):  # a batch that does not divide is filled up with rows of another process
            results = {row: result for part in gather_object([results]) for row, result in part.items()}
        return dict(sorted(results.items()))

    def _evaluation_model(self) -> nn.Module:
        """The model placed and wrapped as transformers does at the head of its own `evaluation_loop`."""
        if self.is_deepspeed_enabled and self.deepspeed is None:
            deepspeed_init(self, num_training_steps=0, inference=True)
        model = self._wrap_model(self.model, training=False)
        if not self.accelerator._models and model is self.model:
            if self._is_sharded:
                model = self.accelerator.prepare(model)
            else:
                model = self.accelerator.prepare_model(model, evaluation_mode=True)
            if self.is_fsdp_enabled:
                self.model = model
            if model is not self.model:
                self.model_wrapped = model
            if self.is_deepspeed_enabled:
                self.deepspeed = self.model_wrapped
        if not self.is_in_train and (self.args.fp16_full_eval or self.args.bf16_full_eval):
            dtype = torch.float16 if self.args.fp16_full_eval else torch.bfloat16
            model = model.to(dtype=dtype, device=self.args.device)
        return model

    def _note_held_out(self, prefix: str, scores: np.ndarray, metrics: dict[str, float]) -> None:
        """Keep the metrics of a step for the model card, and its mean and spread of scores for the model's config."""
        if self._held_out_step != self.state.global_step:
            self._held_out, self._held_out_step = {}, self.state.global_step
        self._held_out[prefix] = (scores, dict(metrics))
        scores = np.concatenate([scores for scores, _ in self._held_out.values()])
        config = self.reward_model.config
        config.reward_mean, config.reward_std = float(scores.mean()), float(scores.std())

    # --- saving and resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As transformers' `train`; `resume_from_checkpoint=True` takes the newest complete checkpoint, if any."""
        self.reward_model.has_fresh_head = False
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                logger.warning(
                    "no complete checkpoint in %s: training starts from the beginning", self.args.output_dir
                )
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self._is_sharded or isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            side = Path(resume_from_checkpoint, SIDE_FILE)
            extras = json.loads(side.read_text(encoding="utf-8")) if side.exists() else {}
        else:  # through our loader: for some architectures the saved names differ from the model's
            target = self.accelerator.unwrap_model(self.model if model is None else model)
            loaded = RewardModel.from_pretrained(resume_from_checkpoint, dtype=target.dtype)
            target.load_state_dict(loaded.state_dict())
            extras = loaded.config.extras
        for name in ("reward_mean", "reward_std"):
            setattr(self.reward_model.config, name, extras.get(name))

    def _load_best_model(self):
        if self._is_sharded:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / "README.md").write_text(self._model_card(folder.resolve().name), encoding="utf-8")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        side = Path(checkpoint_folder, SIDE_FILE)  # not among the names that transformers copies
        if side.exists() and self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            shutil.copy(side, self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def create_model_card(self, model_name=None, dataset_name=None, tags=None) -> None:
        """Write README.md into the output folder: how to load and score, and the metrics measured."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            card = self._model_card(model_name or folder.resolve().name, dataset_name, tags)
            (folder / "README.md").write_text(card, encoding="utf-8")

    def _model_card(
        self, model_name: str, dataset_name: str | list | None = None, tags: str | list | None = None
    ) -> str:
        config, args = self.reward_model.config, self.args
        is_adapter = isinstance(self.accelerator.unwrap_model(self.model), PeftModel)
        tags = [tags] if isinstance(tags, str) else list(tags or [])
        metadata = {"tags": sorted({*self._tag_names, *tags})}
        if config.base_model and not Path(config.base_model).exists():
            metadata["base_model"] = config.base_model
        if dataset_name:
            metadata["datasets"] = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)
        loss = "Bradley-Terry, −log σ(r_chosen − r_rejected − margin)"
        if args.tie_threshold is not None:
            loss = f"Rao-Kupper (ties), η = {config.tie_threshold:.4g}"
        if args.label_smoothing_factor:
            loss += f", label smoothing {args.label_smoothing_factor:g}"
        return model_card(
            self.hub_model_id or model_name,
            library="peft" if is_adapter else "rm_plugin" if self.reward_model.why_not_standard() else "transformers",
            facts={
                "Started from": config.base_model or "a model in memory",
                "Training": f"{'LoRA' if is_adapter else 'full'}, {self.state.global_step} steps, "
                f"learning rate {args.learning_rate:g}",
                "Loss": loss,
                "Longest text": f"{args.max_length} tokens of prompt + completion",
            },
            metrics={name: value for _, metrics in self._held_out.values() for name, value in metrics.items()},
            step=self._held_out_step,
            metadata=metadata,
        )


class _Window:
    """Sums over the training batches since the last log. Tensors stay on the device, so that nothing waits for it."""

    def __init__(self):
        self.sums = self.extremes = 0.0  # (wins, ties, Σ margin, Σ score) and (−lowest, highest score)
        self.num_pairs = self.num_completions = 0

    def add(self, scores_N: torch.Tensor, inputs: dict[str, Any]) -> _Window:
        scores_N, preferred_M = scores_N.float(), ~inputs["tie"]
        margins_M = scores_N[inputs["better"]] - scores_N[inputs["worse"]]
        wins, ties = (margins_M > 0) & preferred_M, (margins_M == 0) & preferred_M
        sums = torch.stack([wins.sum(), ties.sum(), (margins_M * preferred_M).sum(), scores_N.sum()])
        extremes = torch.stack([-scores_N.min(), scores_N.max()])
        first = self.num_completions == 0
        self.sums = self.sums + sums
        self.extremes = extremes if first else torch.maximum(self.extremes, extremes)
        self.num_pairs += inputs["num_pairs"]
        self.num_completions += len(scores_N)
        return self

    def metrics(self, accelerator) -> dict[str, float]:
        """The means over all processes, under TRL's names."""
        counts = self.sums.new_tensor([self.num_pairs, self.num_completions])
        sums = accelerator.reduce(torch.cat([self.sums, counts]), reduction="sum").tolist()
        lowest, highest = accelerator.gather(self.extremes[None]).max(dim=0).values.tolist()
        wins, ties, margin, score, num_pairs, num_completions = sums
        num_pairs = max(num_pairs, 1)  # a window may hold ties only
        return {
            "min_reward": -lowest,
            "mean_reward": score / num_completions,
            "max_reward": highest,
            "accuracy": (wins + ties / 2) / num_pairs,
            "tie_rate": ties / num_pairs,
            "margin": margin / num_pairs,
        }


# --- helpers


def _scores(outputs, inputs: dict[str, Any]) -> torch.Tensor:
    """(N,) float32, of all completions of a micro-batch; those of equal text have one score."""
    scores, text_of_completion = outputs.logits.squeeze(-1), inputs["text_of_completion"]
    return scores if text_of_completion is None else scores[text_of_completion]


def _check_supported(args: PairwiseRewardConfig, data_collator, preprocess_logits_for_metrics) -> None:
    """TRL's options that have no meaning here are refused, or, where nothing is lost, named in the log."""
    if data_collator is not None:
        raise ValueError("data_collator is given, PairwiseRewardTrainer packs its own batches; leave it unset")
    if preprocess_logits_for_metrics is not None:
        raise ValueError(
            "preprocess_logits_for_metrics is given, compute_metrics gets the scores of all pairs; do it there"
        )
    if args.batch_eval_metrics:
        raise ValueError("batch_eval_metrics=True, metrics here are over all pairs at once; set it to False")
    if args.include_for_metrics:
        raise ValueError(
            f"include_for_metrics={args.include_for_metrics}, compute_metrics gets scores of pairs and their rows; "
            "leave it empty"
        )
    if args.length_column_name != "length":
        logger.warning("length_column_name=%s has no effect: lengths are those of our tokens", args.length_column_name)
        args.length_column_name = "length"
    if args.pad_to_multiple_of is not None:
        logger.warning("pad_to_multiple_of=%s has no effect: batches are packed", args.pad_to_multiple_of)
