"""`PairwiseRewardTrainer`: TRL's RewardTrainer on packed shared-prefix batches, exact metrics, heads that are kept.

    loss = mean over groups of the mean over pairs of  −log σ(z_better − z_worse)

A drop-in: same constructor, fields and data formats as `trl.RewardTrainer`, and with equal data, seed, batch and
tokenizer (pad ≠ EOS) the same loss trajectory in fp32.

    PairwiseRewardTrainer("Qwen/Qwen3-0.6B", args, train_dataset=rows, peft_config=lora_config(r=16)).train()

The methods of upstream that it overrides, those with an underscore because nothing public is called there:

    _prepare_dataset                 rows of every format, encoded as groups; permanent
    _set_signature_columns_if_needed the columns of our rows; permanent
    _get_dataloader                  all processes see the whole batch, and evaluation keeps the last one; permanent
    _run_epoch                       resumed at the last step, trains no more; goes when transformers looks before it
    _prepare_for_training            the head is float32 in FSDP2 and DeepSpeed; goes when they keep dtypes by module
    training_step                    one backward per micro-batch; permanent
    compute_loss                     the loss of a micro-batch; permanent
    floating_point_ops               counts the tokens of packed rows; permanent
    _track_num_input_tokens          counts the tokens of the texts; permanent
    store_flos                       adds them up over processes, into the state that is resumed; permanent
    _maybe_log_save_evaluate         what is not finite is not logged as 0; goes when transformers stops there
    log                              metrics since the last log; permanent
    predict                          rows of every format; goes when transformers prepares what `predict` is given
    prediction_step                  keeps what it computes by row of the data set; goes with evaluation_loop
    evaluation_loop                  every row once, exact over processes; goes when its gather takes rows of any width
    train                            resumes from a whole checkpoint of the same settings; goes when transformers does
    _save_rng_state                  all is on the disk before the state says so; goes when the state is written so
    _save_checkpoint                 rotates by step, names a full disk; goes when transformers does
    _load_from_checkpoint            names and extras of our format; goes when transformers loads by `from_pretrained`
    _load_best_model                 the same
    _save                            the model's card beside its weights; permanent
    save_model                       of the final save, the scores by which a server is checked; permanent
    create_model_card                our card; permanent

Shapes: `N` completions of a micro-batch, `M` pairs, `G` groups.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.integrations.liger import apply_liger_kernel
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, denumpify_detensorize, has_length
from trl import RewardConfig, RewardTrainer

from ..data.encoding import ensure_pad_token
from ..data.sources import HUB_ID, hub_ids, load_rows
from ..data.templates import template_hash, trim_template_tail
from ..model.adapters import SIDE_FILE, is_quantized, with_side_file
from ..model.cards import inherited, model_card, shown_metrics
from ..model.checkpoint import hub_arguments, load_tokenizer
from ..model.head import RewardHead, head_in_use
from ..model.modeling import RewardModel
from ..model.sharding import (
    adding_up_gradients,
    beyond_16_bits,
    gathered,
    hold_in_optimizer,
    units_of_their_own,
    whole_models,
    whole_when_saved,
    with_precise,
)
from ..processes import Processes
from .adoption import (
    TrainedValues,
    as_reward_model,
    attention_dropout,
    check_optimizer,
    check_supported,
    disable_attention_dropout,
    load_to_train,
)
from .batches import (
    COLUMNS,
    PackingCollator,
    RowEncoder,
    code_version,
    encode_dataset,
    encode_stream,
    first_rows,
    metric_sums,
    metrics_of,
    read_by_all_processes,
    results_by_row,
)
from .checkpoints import (
    delete_old_checkpoints,
    model_settings,
    newest_complete_checkpoint,
    peft_settings,
    resumed_loss,
    sync_to_disk,
    training_settings,
    why_incomplete,
    write_run,
    writing,
)
from .config import LEARNING_RATES, PairwiseRewardConfig
from .losses import comparison_loss
from .peft_configs import reward_peft_config

logger = logging.getLogger(__name__)


def pairwise_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """
    Accuracy and margin distribution over all pairs of an evaluation; the trainer's default `compute_metrics`.

    Args:
        prediction (`EvalPrediction`): `predictions` (M, 2) float32, scores of better and worse completion per pair.
    """
    from ..metrics.evaluate_metrics import MarginDistribution, PairwiseAccuracy

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
    from rm_plugin import PairwiseRewardConfig, PairwiseRewardTrainer, load_rows, lora_config

    rows = load_rows("trl-lib/ultrafeedback_binarized", split="train")
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
            name = model if isinstance(model, str) else model.config.name_or_path
            args = PairwiseRewardConfig(f"{name.split('/')[-1]}-Reward")
        args = PairwiseRewardConfig.from_reward_config(args)
        check_supported(args, data_collator, preprocess_logits_for_metrics)
        given, model_init_kwargs = model, args.model_init_kwargs
        model, processing_class, peft_config = self._adopt(
            model, args, processing_class, quantization_config, peft_config
        )
        if isinstance(given, str):  # used by now; of a model in memory TRL says that they are not
            args.model_init_kwargs = quantization_config = None
        before = TrainedValues(model)
        super().__init__(
            model,
            args,
            PackingCollator(max_tokens=args.max_tokens_per_microbatch, ties=args.tie_threshold is not None),
            train_dataset,
            eval_dataset,
            processing_class,
            compute_metrics or pairwise_metrics,
            callbacks,
            optimizers,
            optimizer_cls_and_kwargs,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        args.model_init_kwargs = model_init_kwargs
        before.restore(self.model)
        self._head_at_start: dict[str, torch.Tensor] = before.head  # DeepSpeed may have cast it by now
        self._restore(given)
        if optimizers[0] is not None:
            check_optimizer(optimizers[0], self.model)

    def _adopt(
        self, given, args: PairwiseRewardConfig, processing_class, quantization_config, peft_config
    ) -> tuple[RewardModel | PeftModel, PreTrainedTokenizerBase, PeftConfig | None]:
        """What TRL's constructor gets: the model as a `RewardModel`, its tokenizer, and a PEFT config with a head."""
        set_seed(args.seed)  # TRL's order: before a head is drawn
        model = load_to_train(given, args, quantization_config) if isinstance(given, str) else as_reward_model(given)
        reward_model = model.get_base_model() if isinstance(model, PeftModel) else model
        config = reward_model.config
        if processing_class is None:
            where = hub_arguments(args.model_init_kwargs or {})
            processing_class = load_tokenizer(given, config, trust_remote_code=args.trust_remote_code, **where)
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
        self._model_settings = model_settings(reward_model.model)

        # Read while TRL's constructor prepares the data sets.
        self._has_fresh_head, self._trailing_pad_id = reward_model.has_fresh_head, config.trailing_pad_id
        self._stream: tuple[IterableDataset, list[dict]] | None = None  # of training, with its first rows, encoded
        self._data_counts: dict[str, dict[str, int]] = {}  # by data set, until the first log
        self._window: torch.Tensor | None = None  # `metric_sums` of all micro-batches since the last log
        self._losses: list[torch.Tensor] = []  # of steps, and their gradient norms, since `_check_finite`
        self._grad_norms: list[torch.Tensor | float] = []
        self._total_loss: float | None = 0.0  # of all steps, those before a checkpoint included; None: not known
        self._new_tokens = 0  # since `store_flos`, of this process
        self._evaluated: dict[int, tuple] = {}  # `results_by_row` of the evaluation that runs
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
            self._model_settings |= peft_settings(self.model.active_peft_config)
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
        collator.form, collator.rope_switch = self._batch_form(), reward_model.rope_switch
        collator.rank, collator.num_processes = self.accelerator.process_index, self.accelerator.num_processes

    @property
    def reward_model(self) -> RewardModel:
        """The [`RewardModel`] that is trained, adapters injected."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    @property
    def _is_sharded(self) -> bool:
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def _batch_form(self) -> str:
        """One of `rm_plugin.model.packing.FORMS` that gradients flow through."""
        args, refusal = self.args, None
        if not args.disable_dropout and (name := attention_dropout(self.reward_model)):
            refusal = f"disable_dropout=False and {name}"
        elif args.neftune_noise_alpha is not None:
            refusal = f"neftune_noise_alpha={args.neftune_noise_alpha} is a noise that falls with the length of a row"
        if refusal is not None:
            logger.warning("shared-prefix computation is off, batches are padded: %s", refusal)
        if refusal is not None or args.shared_prefix == "off":
            return "padded"
        form = self.reward_model.batch_form(with_gradients=True, agree=Processes.current().share)
        return "padded" if self._is_sharded and form == "sorted" else form  # all processes must make as many calls

    # --- data

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """Rows ► encoded groups. What is left out is counted, logged, and reported with the first training log."""
        if isinstance(dataset, IterableDataset) and dataset_name != "train":
            dataset = load_rows(list(dataset))  # an evaluation has an end, and counts every row once
        is_stream = isinstance(dataset, IterableDataset)
        if is_stream:
            dataset, first = first_rows(dataset)
        columns = set(first[0] if is_stream else dataset.column_names)
        if columns.issuperset(COLUMNS):
            if is_stream:
                self._stream = dataset, first
            return dataset
        is_tokenised = "chosen_ids" in columns or "chosen_input_ids" in columns  # and has a tail
        trims = self._has_fresh_head and args.trim_template_tail and not is_tokenised
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
        if is_stream:
            self._stream = dataset, list(map(encoder, first, range(len(first))))
            return encode_stream(dataset, columns, encoder, dataset_name)
        encoded, self._data_counts[dataset_name] = encode_dataset(
            dataset, encoder, dataset_name, args.dataset_num_proc
        )
        return encoded

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            self._signature_columns = COLUMNS

    def _get_dataloader(self, dataset, description, batch_size, *args, is_training: bool = False, **kwargs):
        drop_last, batch_size = self.args.dataloader_drop_last, batch_size * self.accelerator.num_processes
        self.args.dataloader_drop_last = drop_last and is_training  # an evaluation is of all rows
        try:
            with read_by_all_processes():
                return super()._get_dataloader(
                    dataset, description, batch_size, *args, is_training=is_training, **kwargs
                )
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

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        start = {}
        if self._head_at_start and self.is_deepspeed_enabled and resume_from_checkpoint is None:
            start = beyond_16_bits(self.model, torch.bfloat16 if self.args.bf16 else torch.float16)
            start |= {p: self._head_at_start[n] for n, p in head_in_use(self.reward_model.score).named_parameters()}
        self._head_at_start = {}  # of the first training alone
        with units_of_their_own(RewardHead, RewardModel):
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        hold_in_optimizer(start)
        return prepared

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One backward per micro-batch; their gradients add up to that of the whole batch."""
        loss = 0.0
        *first, last = inputs["microbatches"]
        for microbatch in first:
            with adding_up_gradients(self.accelerator, model):
                loss = loss + super().training_step(model, microbatch, num_items_in_batch)
        loss = loss + super().training_step(model, last, num_items_in_batch)
        self._losses.append(loss)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        Loss of one micro-batch: the sum over its groups ÷ the number of groups of the whole batch.

        Outputs are `logits` (N, 1) of all completions, as the indices of pairs count them, and `losses` (G,).
        """
        scores_N = model(**inputs["model"], use_cache=False).logits.squeeze(-1)[inputs["text_of_completion"]]
        losses_G = comparison_loss(
            scores_N,
            **inputs["pairs"],
            eta=self.args.tie_threshold,
            label_smoothing=self.args.label_smoothing_factor,
            center_rewards_coefficient=self.args.center_rewards_coefficient,
        )
        if self.model.training:
            self._window = metric_sums(scores_N.detach().float(), inputs["pairs"], self._window, inputs["is_filling"])
        loss = losses_G.sum() * (0.0 if inputs["is_filling"] else 1 / inputs["batch_size"])
        return (loss, {"logits": scores_N[:, None], "losses": losses_G}) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 · parameters · tokens computed, the estimate that transformers makes."""
        if self._num_parameters is None:  # counted once: it walks all modules
            self._num_parameters = self.reward_model.num_parameters(exclude_embeddings=True)
        return 6 * self._num_parameters * sum(m["model"]["input_ids"].numel() for m in inputs["microbatches"])

    def _track_num_input_tokens(self, inputs):
        self._new_tokens += sum(m["num_tokens"] for m in inputs["microbatches"] if not m["is_filling"])

    def store_flos(self) -> None:
        """Add up floating-point operations, and tokens of texts, over all processes; before each log and save."""
        super().store_flos()
        tokens = torch.tensor(self._new_tokens, device=self.args.device)
        self.state.num_input_tokens_seen += self.accelerator.reduce(tokens, reduction="sum").item()
        self._new_tokens = 0

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        if grad_norm is not None and not self.accelerator.optimizer_step_was_skipped:  # by the scaler of fp16
            self._grad_norms.append(grad_norm)
        if self.control.should_log or self.state.global_step % 100 == 0:
            self._check_finite()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _check_finite(self) -> None:
        """Add up the losses of the last steps; where they, their gradients or the head are not finite, all stop."""
        weight = head_in_use(self.reward_model.score).weight
        with gathered([weight]):
            head = weight.to_local() if hasattr(weight, "to_local") else weight  # of FSDP2
            head = head.detach().abs().sum().item()
        sums = [sum(map(float, self._losses)), sum(map(float, self._grad_norms)), head]
        sums = self.accelerator.reduce(torch.tensor(sums, device=self.args.device), reduction="mean").tolist()
        for name, value in zip(("loss", "gradient norm", "head"), sums, strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"the {name} is not finite at step {self.state.global_step}: training has diverged, nothing more "
                    f"is saved; lower the learning rate ({self.args.learning_rate:g}) or look at the data"
                )
        self._losses, self._grad_norms = [], []
        if self._total_loss is not None:
            self._total_loss += sums[0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As transformers' `log`, with the metrics of all micro-batches since the last training log."""
        if "train_loss" in logs:  # the end; upstream's is of the steps since a checkpoint
            self._check_finite()
            if self._total_loss is not None:
                logs["train_loss"] = self._total_loss / max(self.state.global_step, 1)
        if self.model.training and self._window is not None:
            logs |= metrics_of(self._window, self.accelerator)
            logs["num_tokens"] = self.state.num_input_tokens_seen
            self._window = None
        super().log(logs, start_time)
        if self.model.training:  # once, and not to trackers, which would draw a chart of one point
            for name, counts in self._data_counts.items():
                self.state.log_history[-1] |= {f"data_{name}_{what}": n for what, n in counts.items() if n}
            self._data_counts = {}

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
        Score every row once, whatever the number of processes, and compute metrics over all pairs.

        Returns:
            `EvalLoopOutput`: `predictions` (M, 2) float32, scores of the better and the worse completion of each pair,
            and `label_ids` (M,), the row that it is from; `compute_metrics` gets both. ValueError: scores not finite.
        """
        self._evaluated = {}
        arguments = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        with units_of_their_own(RewardHead, RewardModel):
            output = super().evaluation_loop(*arguments)
        rows = self._evaluated
        if self.accelerator.num_processes > 1:
            rows = {row: result for part in gather_object([rows]) for row, result in part.items()}
        losses, scores, pair_scores = zip(*(rows[row] for row in sorted(rows)), strict=True)
        scores = np.concatenate(scores).astype(np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite, training has diverged; "
                "lower the learning rate"
            )
        predictions, row_of_pair = np.concatenate(pair_scores), np.repeat(sorted(rows), list(map(len, pair_scores)))
        metrics = {
            "loss": np.mean(losses),
            "mean_reward": scores.mean(),
            "std_reward": scores.std(),
            "min_reward": scores.min(),
            "max_reward": scores.max(),
        }
        if len(predictions) and not (prediction_loss_only or self.args.prediction_loss_only):
            metrics |= self.compute_metrics(EvalPrediction(predictions, row_of_pair))
        prefix = f"{metric_key_prefix}_"
        metrics = {prefix + name.removeprefix(prefix): value for name, value in denumpify_detensorize(metrics).items()}
        if metric_key_prefix.startswith("eval"):
            self._note_held_out(metric_key_prefix, scores, metrics)
        return EvalLoopOutput(predictions, row_of_pair, {**output.metrics, **metrics}, num_samples=len(rows))

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Computes a batch for `evaluation_loop`, which is where the results are joined: upstream gets none."""
        for microbatch in self._prepare_inputs(inputs)["microbatches"]:  # nothing public moves them
            with torch.no_grad(), self.compute_loss_context_manager():
                _, outputs = self.compute_loss(model, microbatch, return_outputs=True)
            self._evaluated |= results_by_row(outputs["logits"].squeeze(-1).float(), outputs["losses"], microbatch)
        return None, None, None

    @property
    def held_out_metrics(self) -> dict[str, float]:
        """Metrics of held-out data that were measured on the weights as they are now, by name."""
        if self._held_out_step != self.state.global_step:
            return {}
        return {name: value for _, metrics in self._held_out.values() for name, value in metrics.items()}

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
        """
        As transformers' `train`; `resume_from_checkpoint=True` takes the newest complete checkpoint, if any.

        Raises:
            ValueError: an incomplete checkpoint, other settings than its run's, `save_only_model`; diverged training.
        """
        output_dir, checkpoint = self.args.output_dir, resume_from_checkpoint or None
        if checkpoint is not None and self.args.save_only_model:
            raise ValueError(
                f"resume_from_checkpoint={checkpoint} with save_only_model=True, whose checkpoints lack what resuming "
                "needs; unset one of them"
            )
        if checkpoint is True or checkpoint is None:
            newest = newest_complete_checkpoint(output_dir)
            if checkpoint is None and newest is not None:
                logger.warning(
                    "%s is there, and training starts from the beginning: to resume, set resume_from_checkpoint to "
                    "true (--resume_from_checkpoint true)",
                    newest,
                )
            elif checkpoint is True and newest is None:
                logger.warning("no complete checkpoint in %s: training starts from the beginning", output_dir)
            checkpoint = newest if checkpoint else None
        elif (reason := why_incomplete(checkpoint)) is not None:
            raise ValueError(f"{checkpoint} cannot be resumed from: {reason}; name a whole checkpoint")
        data = self._stream or self.train_dataset  # read once: other processes take what process 0 has found
        self._settings = Processes.current().on_first(lambda: training_settings(self.args, data, self._model_settings))
        self._losses, self._grad_norms = [], []
        self._total_loss = 0.0 if checkpoint is None else resumed_loss(checkpoint, self._settings)
        if self.is_world_process_zero():
            write_run(output_dir, self._settings)
        self.reward_model.has_fresh_head = False
        output = super().train(checkpoint, *args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            write_run(output_dir, self._settings, self._total_loss)
        sync_to_disk(output_dir)
        self.accelerator.wait_for_everyone()  # then the state is written, which makes the checkpoint whole

    def _save_checkpoint(self, model, trial) -> None:
        self._check_finite()
        folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")  # no public way to it
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # upstream rotates by modification time
        try:
            with writing(folder):
                super()._save_checkpoint(model, trial)
                sync_to_disk(folder)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            delete_old_checkpoints(folder, limit, self.state.best_model_checkpoint)

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
        self._held_out = {}  # of other weights

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.is_deepspeed_enabled:  # all processes are here, the state is in the first
            as_made = isinstance(self.model, PeftModel) or self.reward_model.config.dtype in (None, torch.float32)
            trained = self.model if as_made else self.reward_model.score
            state_dict = with_precise(state_dict, self.model, trained.parameters(), self.args.should_save)
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            self._write_card(folder)
            side = folder / SIDE_FILE
            if self.args.push_to_hub and side.exists():  # not among the files that transformers takes from checkpoints
                Path(self.args.output_dir, SIDE_FILE).write_bytes(side.read_bytes())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; at the end, which is any call but that of a checkpoint, with its reference scores."""
        output_dir = output_dir or self.args.output_dir
        with nullcontext() if _internal_call else whole_when_saved(self, output_dir):
            super().save_model(output_dir, _internal_call)
        if not _internal_call and self.args.should_save:
            model = self.reward_model
            try:
                if self._is_sharded:  # one process alone could not compute
                    with whole_models():
                        model = RewardModel.from_pretrained(output_dir)
                model.save_reference(output_dir, self.processing_class)
            except ValueError as error:  # of an adapter whose base has no name
                logger.warning("%s gets no reference scores to check a server by: %s", output_dir, error)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, model_name=None, dataset_name=None, tags=None) -> None:
        """Write README.md into the output folder: how to load and score, and the metrics measured."""
        if self.is_world_process_zero():
            self._write_card(Path(self.args.output_dir), model_name, dataset_name, tags)

    def _write_card(self, folder: Path, model_name: str | None = None, datasets=None, tags=None) -> None:
        args, base = self.args, self.reward_model.config.base_model
        model = self.accelerator.unwrap_model(self.model)
        adapter = model.active_peft_config if isinstance(model, PeftModel) else None
        given, tags = ([one] if isinstance(one, str) else list(one or []) for one in (datasets, tags))
        names = given or hub_ids(self.train_dataset)
        loss = "Bradley-Terry, −log σ(r_chosen − r_rejected − margin)"
        if args.tie_threshold is not None:
            loss = f"Rao-Kupper (ties), η = {args.tie_threshold:.4g}"
        if args.label_smoothing_factor:
            loss += f", label smoothing {args.label_smoothing_factor:g}"
        rows = f"{len(self.train_dataset):,} rows" if has_length(self.train_dataset) else "a stream of rows"
        method = "full" if adapter is None else adapter.peft_type.value.replace("LORA", "LoRA")
        method += f" r {adapter.r}" if hasattr(adapter, "r") else ""
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        card = model_card(
            self.hub_model_id or model_name or folder.resolve().name,
            library=self.reward_model.library(adapter is not None),
            facts={
                "Started from": base or "a model in memory",
                "Data": ", ".join([rows, *names]),
                "Training": f"{method}, {self.state.global_step} steps of {batch} rows, seed {args.seed}",
                "Learning rate": f"{args.learning_rate:g}, {args.lr_scheduler_type.value}",
                "Loss": loss,
                "Longest text": f"{args.max_length} tokens of prompt + completion",
                "Licence": inherited(base).get("license", "that of the base model and of the data"),
            },
            metrics=shown_metrics(*(metrics for _, metrics in self._held_out.values())),
            step=self._held_out_step,
            metadata={
                **inherited(base),
                "tags": sorted({*self._tag_names, *tags}),
                "base_model": None if Path(base or ".").exists() else base,
                "datasets": [name for name in names if HUB_ID.fullmatch(name) and not Path(name).exists()] or None,
            },
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card, encoding="utf-8")
