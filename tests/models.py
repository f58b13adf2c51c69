"""Tiny random models and tokenizers, built in code, and messages; shared by the test files.

    model = tiny_reward_model("llama"); tokenizer = tiny_tokenizer("chatml")

Weights are drawn with a standard deviation of 0.3 instead of 0.02: attention is then far from uniform, so that a wrong
mask or a wrong position moves every score by tenths instead of hiding below 1e-4.
"""

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from rm_plugin.model.modeling import RewardModel

VOCAB_SIZE = 320  # of every tiny model; at least that of every tiny tokenizer
WINDOW = 7  # of every sliding-window layer

# --- models

_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
_SIZES = {"hidden_size": 32, "intermediate_size": 48, **_LAYERS}
_SLIDING_FIRST = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LINEAR = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"linear_conv_kernel_dim": 4, "layer_types": ["linear_attention", "full_attention"]},
}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 128}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 24,
    "factor": 256 / 24,
}

# name ► (transformers' model type, its own sizes)
ARCHITECTURES = {
    "llama": ("llama", _SIZES),
    "qwen2": ("qwen2", _SIZES),
    "qwen3": ("qwen3", _SIZES),
    "qwen3_moe": ("qwen3_moe", {**_SIZES, **_EXPERTS}),
    "mistral": ("mistral", {**_SIZES, "sliding_window": WINDOW}),
    "gemma2": ("gemma2", {**_SIZES, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {**_SIZES, **_SLIDING_FIRST, "query_pre_attn_scalar": 8}),
    "phi3": ("phi3", _SIZES),
    "phi3_longrope": ("phi3", {**_SIZES, "rope_parameters": _LONGROPE, "original_max_position_embeddings": 24}),
    "olmo2": ("olmo2", _SIZES),
    "smollm3": ("smollm3", {**_SIZES, "no_rope_layer_interval": 2}),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 256,
            "attn_pdrop": 0,
            "embd_pdrop": 0,
            "resid_pdrop": 0,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {**_SIZES, **_SLIDING_FIRST, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": _YARN},
    ),
    "gemma4": ("gemma4_text", {**_SIZES, **_SLIDING_FIRST, "global_head_dim": 8, "hidden_size_per_layer_input": 0}),
    "ministral3": ("ministral3", {**_SIZES, "rope_parameters": {**_YARN, "llama_4_scaling_beta": 0.1}}),
    "olmo3": ("olmo3", {**_SIZES, **_SLIDING_FIRST}),
    "granite": ("granite", _SIZES),
    "glm4": ("glm4", _SIZES),
    "exaone4": ("exaone4", {**_SIZES, **_SLIDING_FIRST}),
    # multi-head latent attention: heads of queries and keys are larger than those of values
    "deepseek_v3": (
        "deepseek_v3",
        {
            **_SIZES,
            **{"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "v_head_dim": 8},
            **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "first_k_dense_replace": 1, "moe_intermediate_size": 24},
            **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
        },
    ),
    # what cannot be packed: scored from the cache of a prompt
    "qwen3_5": ("qwen3_5_text", {**_SIZES, **_LINEAR}),
    "qwen3_next": ("qwen3_next", {**_SIZES, **_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 24}),
    "granite_hybrid": (
        "granitemoehybrid",
        {**_SIZES, **_MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 0},
    ),
    "falcon_h1": ("falcon_h1", {**_SIZES, **_MAMBA, "mamba_d_ssm": 64}),
    "nemotron_h": (
        "nemotron_h",
        {
            **{**_SIZES, **_EXPERTS, "num_hidden_layers": 4, "n_routed_experts": 4},
            **{"layers_block_type": ["mamba", "moe", "attention", "mlp"], "moe_shared_expert_intermediate_size": 24},
            **{"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 16},
        },
    ),
    "lfm2": ("lfm2", {**_SIZES, "layer_types": ["conv", "full_attention"]}),
    # what cannot share a prefix at all
    "doge": ("doge", _SIZES),  # a mask that depends on the values; all of it is seen in short texts
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2}),
    "jamba": ("jamba", {**_SIZES, "num_experts": 2}),
    "llama4": (
        "llama4_text",
        {**_SIZES, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 8},
    ),
    "bert": ("bert", {**_SIZES, "num_key_value_heads": 4}),
}


def tiny_config(architecture: str = "llama", **overrides) -> PreTrainedConfig:
    """Config of a two-layer model of a known architecture, hidden size 32; `overrides` are fields of that config."""
    model_type, sizes = ARCHITECTURES[architecture]
    shared = {
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AutoConfig.for_model(model_type, **{**shared, **sizes, **overrides})


def tiny_backbone(
    architecture: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **overrides
) -> PreTrainedModel:
    """A random model without a head, in eval mode, always the same for one seed.

    Soft-capping and attention sinks need `attn_implementation="eager"`; grouped matrix products know no float64.
    """
    config = tiny_config(architecture, **overrides)
    attention = "eager" if architecture in ("gemma2", "gpt_oss") else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = AutoModel.from_config(config, attn_implementation=attention)
    if hasattr(config, "num_experts_per_tok"):
        backbone.set_experts_implementation("eager")
    return backbone.to(dtype).eval()


def tiny_reward_model(
    architecture: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **overrides
) -> RewardModel:
    """A reward model on a tiny backbone with a random head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RewardModel.from_backbone(tiny_backbone(architecture, dtype, seed, **overrides))


# --- messages


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


# --- tokenizers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (  # writes its own BOS, while the tokenizer adds one to plain text
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] }}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# kind ► special tokens by role, other special tokens, whether BOS is added to plain text, chat template
TOKENIZERS = {
    "plain": ({"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}, [], False, None),
    "bos": ({"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}, [], True, None),
    "chatml": ({"pad": "<|endoftext|>", "eos": "<|im_end|>"}, ["<|im_start|>"], False, CHATML),
    "llama3": (
        {"pad": "<|finetune_right_pad_id|>", "bos": "<|begin_of_text|>", "eos": "<|eot_id|>"},
        ["<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"],
        True,
        LLAMA3,
    ),
    # as SmolLM2-Instruct: pad is EOS, and the unknown token is free
    "pad_is_eos": (
        {"unk": "<|endoftext|>", "bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|im_end|>"},
        [],
        False,
        CHATML,
    ),
    # as GPT-2: one special token for everything
    "one_special": (dict.fromkeys(("bos", "eos", "unk", "pad"), "<|endoftext|>"), [], False, None),
}

_CORPUS = [
    "Which country owns Antarctica? No country owns it: the Antarctic Treaty System governs it.",
    "Penguins own Antarctica. What is 2 + 2? 2 + 2 = 4, not 5. The answer is four.",
    "user assistant system think Hello world, how are you today? I am fine, thank you.",
]


def tiny_tokenizer(kind: str = "chatml") -> PreTrainedTokenizerFast:
    """
    A byte-level BPE tokenizer with a few merges, so that ids of a text depend on what follows it.

    Args:
        kind (`str`): `"plain"`, `"bos"`, `"chatml"`, `"llama3"`, `"pad_is_eos"` or `"one_special"`.
    """
    roles, others, adds_bos, template = TOKENIZERS[kind]
    special_tokens = tuple(dict.fromkeys([*roles.values(), *others]))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(special_tokens, roles["bos"] if adds_bos else None)),
        chat_template=template,
        additional_special_tokens=others,
        model_max_length=256,
        **{f"{role}_token": token for role, token in roles.items()},
    )


@cache
def _trained(special_tokens: tuple[str, ...], added_bos: str | None) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE - 8,  # room for tokens that a test adds
            special_tokens=list(special_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if added_bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{added_bos} $A",
            pair=f"{added_bos} $A {added_bos} $B",
            special_tokens=[(added_bos, tokenizer.token_to_id(added_bos))],
        )
    return tokenizer.to_str()


def checkpoint_activations(model) -> None:
    """Under the name that transformers 5.23 gave it, or the one that 5.17 has."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    assert getattr(model, "is_activation_checkpointing", None) or model.is_gradient_checkpointing
