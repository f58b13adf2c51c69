"""Sequences, scores and adapters of the tests of saved models, and how equal their scores have to be."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig

from rm_plugin.model.adapters import adapters_to_float32
from rm_plugin.model.modeling import RewardModel

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3", "smollm3", "olmo2", "gpt2", "qwen3_moe")
PAD, EOS = 0, 2  # of every tiny config
NF4_SIZES = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}  # 4-bit blocks hold 64 weights
SEQUENCES = [
    [5, 17, 93, 41, 250, 33, 8, 19, 77, 120, 61, EOS],
    [5, 17, 93, 41, EOS],
    [200, 11, 12, 13, 14, 15, 16, 17, EOS],
    [7],
]


def padded(side="right", pad=PAD, sequences=SEQUENCES) -> dict[str, torch.Tensor]:
    """`SEQUENCES` as one batch."""
    longest = max(map(len, sequences))
    rows, masks = [], []
    for ids in sequences:
        fill, real = [pad] * (longest - len(ids)), [1] * len(ids)
        rows.append(ids + fill if side == "right" else fill + ids)
        masks.append(real + [0] * len(fill) if side == "right" else [0] * len(fill) + real)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


@torch.no_grad()
def scores(model, batch=None) -> torch.Tensor:
    """(N,) float64; `.logits` of a model on the right-padded `SEQUENCES`."""
    return model(**(batch or padded())).logits[:, 0].double()


def assert_equal_scores(actual, expected, tolerance=1e-5):
    """Equal as the design means it: within 1e-5 × max(1, standard deviation of the scores)."""
    actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    assert expected.std() > 0.05, f"scores {expected.tolist()} could not tell a wrong model from a right one"
    difference = (actual - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.std().item()), f"{actual.tolist()} for {expected.tolist()}"


def nf4(compute_dtype=torch.float32, **kwargs) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype, **kwargs
    )


def lora_around(model: RewardModel, **kwargs) -> PeftModel:
    """LoRA of rank 4 on every linear layer with weights that matter, as if trained; the head is trained too."""
    kwargs = {"task_type": "SEQ_CLS", "modules_to_save": ["score"], "target_modules": "all-linear", **kwargs}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        peft_model = get_peft_model(model, LoraConfig(r=4, **kwargs))
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name or "score.modules_to_save" in name:
                parameter.data.normal_(std=0.1)
    adapters_to_float32(peft_model)
    return peft_model.eval()


def seeded(make, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **kwargs)


def linear4bits(model) -> list[torch.nn.Module]:
    import bitsandbytes as bnb

    return [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
