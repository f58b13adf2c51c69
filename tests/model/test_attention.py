"""attention.py: rewards and gradients of packed rows equal those of the right-padded form, on every architecture.

The reference is transformers' own attention ("sdpa", or "eager" for soft-capping and sinks) on a copy of the model and
the padded form of the same texts. `relative` is the norm of a difference ÷ the norm of the reference.
"""

import copy
import inspect
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from models import WINDOW, checkpoint_activations, tiny_backbone, tiny_reward_model
from packed_groups import TRAINING_BATCH, chain, group, relative, scores, texts
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig

from rm_plugin.data.encoding import EncodedGroup
from rm_plugin.model import attention
from rm_plugin.model.attention import IMPLEMENTATION, SharedPrefixLayout, lower_right_causal, shared_prefix_attention
from rm_plugin.model.modeling import RewardModel
from rm_plugin.model.packing import pack, pad

LADDER = (
    *(
        "llama",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "mistral",
        "gemma2",
        "gemma3",
        "phi3",
        "phi3_longrope",
        "olmo2",
        "smollm3",
    ),
    *("gpt2", "gpt_oss", "deepseek_v3"),
)


CASES = {
    "a pair": [group(9, 5, 8)],
    "one completion": [group(12, 5)],
    "sixteen completions": [group(6, *range(1, 17))],
    "every group size from 1 to 16": [group(4, *[1 + (n + i) % 4 for i in range(n)]) for n in range(1, 17)],
    "a completion that is a prefix of another": [chain(9, 15), chain(15, 9), chain(5, 6, 7)],
    "no shared prefix": [group(0, 11, 4), group(0, 9, 9, 3)],
    "a prefix longer than the window": [group(3 * WINDOW, 2, WINDOW + 4, 1), group(WINDOW, 3, 3)],
    "one-token completions": [group(10, 1, 1, 1)],
    "one-token texts": [group(0, 1), group(0, 1, 1)],
    "equal completions": [EncodedGroup([[5, 6, 7, 8], [5, 6, 7, 8]])],
}
EVERYTHING = sum(CASES.values(), [])
CASES["all of these in one row"] = EVERYTHING


def packed_and_reference(architecture: str, dtype=torch.float32, **overrides) -> tuple[RewardModel, RewardModel]:
    """Two copies of one model: one set to shared-prefix attention, one as transformers has it."""
    reference = tiny_reward_model(architecture, dtype, **overrides)
    packed = copy.deepcopy(reference)
    packed.model.set_attn_implementation(IMPLEMENTATION)
    assert reference.model.config._attn_implementation in ("sdpa", "eager")
    return packed, reference


@pytest.fixture
def softmax_in_the_dtype_of_its_input(monkeypatch):
    """transformers' eager attention takes float64's softmax in float32, which is 1e-7 off, and NaN for pads."""
    original = F.softmax

    def softmax(input, dim=None, dtype=None, **kwargs):
        return original(input, dim=dim, dtype=None if input.dtype == torch.float64 else dtype, **kwargs)

    monkeypatch.setattr(F, "softmax", softmax)


# --- rewards


@pytest.mark.parametrize("architecture", LADDER)
def test_rewards_equal_the_padded_reference_in_float64(architecture, softmax_in_the_dtype_of_its_input):
    packed, reference = packed_and_reference(architecture, torch.float64)
    for name, groups in CASES.items():
        expected = scores(reference, pad(texts(groups)))
        assert expected.dtype == torch.float64
        bound = 1e-6 if architecture == "deepseek_v3" else 1e-10  # its router computes in float32
        assert relative(scores(packed, pack(groups)), expected) <= bound, name


@pytest.mark.parametrize("architecture", LADDER)
def test_rewards_equal_the_padded_reference_in_float32(architecture):
    packed, reference = packed_and_reference(architecture)
    expected = scores(reference, pad(texts(EVERYTHING)))
    difference = (scores(packed, pack(EVERYTHING)) - expected).abs().max().item()
    assert difference <= 1e-5 * max(1.0, expected.std().item())


@pytest.mark.parametrize("architecture", LADDER)
def test_a_completion_sees_neither_its_sisters_nor_other_groups(architecture):
    packed, _ = packed_and_reference(architecture)
    before, pair, after = group(12, 3, 3), group(9, 5, 8), group(0, 7, 6)
    sister = EncodedGroup([pair.input_ids[0], [*pair.input_ids[1][:9], *[3] * 8]], prefix_length=9)
    a, b = scores(packed, pack([before, pair, after])), scores(packed, pack([after, sister, before]))
    assert relative(b[2], a[2]) <= 1e-5  # the same text in other company
    assert relative(b[3], a[3]) > 1e-2  # the text that changed


def test_sliding_window_counts_positions_of_the_text_and_not_of_the_row():
    # In the row rest 3 stands 45 positions behind the end of its prefix; in its text it follows at once.
    packed, reference = packed_and_reference("mistral", torch.float64)
    groups = [group(10, 20, 25, 6)]
    expected = scores(reference, pad(texts(groups)))
    assert relative(scores(packed, pack(groups)), expected) <= 1e-10
    everything_seen = scores(tiny_reward_model("mistral", torch.float64, sliding_window=None), pad(texts(groups)))
    assert relative(everything_seen, expected) > 0.1  # the window matters here


@pytest.mark.parametrize("window", [1, 2, 9, 10, 11, 64])
def test_every_width_of_window_around_the_length_of_the_prefix(window):
    packed, reference = packed_and_reference("mistral", torch.float64, sliding_window=window)
    groups = [group(10, 5, 1, 12)]
    assert relative(scores(packed, pack(groups)), scores(reference, pad(texts(groups)))) <= 1e-10


# --- without a layout: PPO and others call the backbone with padded batches


@pytest.mark.parametrize("architecture", LADDER)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_give_the_same_scores_as_texts_alone(architecture, side):
    # pads reach beyond the window, where a query sees nothing at all; NaN there would spread to the real tokens
    ours, reference = packed_and_reference(architecture)
    sequences = group(2, 1, 3 * WINDOW).input_ids
    batch = pad(sequences)
    if side == "left":
        batch = {name: tensor.clone() for name, tensor in batch.items()}
        batch["input_ids"][0], batch["attention_mask"][0] = (
            batch[name][0].roll(3 * WINDOW - 1) for name in ("input_ids", "attention_mask")
        )
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    alone = torch.cat([scores(reference, {"input_ids": torch.tensor([ids])}) for ids in sequences])
    assert (scores(ours, batch) - alone).abs().max().item() <= 1e-5 * max(1.0, alone.std().item())


# --- gradients


def pairwise_loss(logits: torch.Tensor, groups) -> torch.Tensor:
    """−log σ of the first completion of each group against the others, mean per group, mean over groups."""
    per_group = logits.flatten().split([len(g.input_ids) for g in groups])
    return torch.stack([-F.logsigmoid(z[0] - z[1:]).mean() for z in per_group]).mean()


def gradients(model, batch, autocast=False) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = pairwise_loss(model(**batch).logits, TRAINING_BATCH)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_gradients_equal(ours: dict, reference: dict, bound: float):
    assert ours.keys() == reference.keys()
    nothing = 1e-6 * flat(reference).norm()
    for name, expected in reference.items():
        if expected.norm() < nothing:  # GPT-2's last bias cancels in a difference of rewards
            assert name == "transformer.ln_f.bias" and ours[name].norm() < nothing
        else:
            assert relative(ours[name], expected) <= bound, name


@pytest.mark.parametrize("architecture", LADDER)
def test_gradient_of_every_parameter_equals_the_padded_reference(architecture):
    packed, reference = packed_and_reference(architecture)
    expected = gradients(reference, pad(texts(TRAINING_BATCH)))
    assert_gradients_equal(gradients(packed, pack(TRAINING_BATCH)), expected, 1e-5)
    checkpoint_activations(packed)
    assert_gradients_equal(gradients(packed, pack(TRAINING_BATCH)), expected, 1e-5)


def with_lora(model: RewardModel, use_dora: bool = False):
    """Random adapters on every linear layer of the backbone (B is not zero, so A has a gradient), and the head."""
    torch.manual_seed(1)
    peft_model = get_peft_model(
        model,
        LoraConfig(
            task_type="SEQ_CLS",
            r=4,
            lora_alpha=8,
            target_modules="all-linear",
            exclude_modules="score",
            modules_to_save=["score"],
            use_dora=use_dora,
            fan_in_fan_out=model.config.backbone_config.model_type == "gpt2",
        ),
    )
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return peft_model


@pytest.mark.parametrize(
    ("architecture", "use_dora"), [*((architecture, False) for architecture in LADDER), ("llama", True)]
)
def test_gradient_of_every_adapter_equals_the_padded_reference(architecture, use_dora):
    packed, reference = (with_lora(model, use_dora) for model in packed_and_reference(architecture))
    expected = gradients(reference, pad(texts(TRAINING_BATCH)))
    assert sum("lora_A" in name for name in expected) >= 4 and any("score" in name for name in expected)
    assert_gradients_equal(gradients(packed, pack(TRAINING_BATCH)), expected, 1e-5)
    checkpoint_activations(packed.get_base_model())
    assert_gradients_equal(gradients(packed, pack(TRAINING_BATCH)), expected, 1e-5)


# --- less precise arithmetic: packed is as far from the truth as padded is


@pytest.mark.parametrize("architecture", LADDER)
def test_bf16_autocast_is_as_exact_packed_as_padded(architecture):
    # Measured over the ladder: scores 0.6 to 6.5 % off float32, gradients 1.1 to 5.5 %; packed ÷ padded 0.9 to 1.3.
    packed, reference = packed_and_reference(architecture)
    batches = {"packed": pack(TRAINING_BATCH), "padded": pad(texts(TRAINING_BATCH))}
    true_scores = scores(reference, batches["padded"])
    true_gradient = flat(gradients(reference, batches["padded"]))
    errors = {}
    for model, form in ((packed, "packed"), (reference, "padded")):
        with torch.autocast("cpu", torch.bfloat16):
            score_error = relative(scores(model, batches[form]), true_scores)
        gradient = flat(gradients(model, batches[form], autocast=True))
        errors[form] = score_error, relative(gradient, true_gradient)
    assert 1e-4 < errors["packed"][0] <= min(0.1, 1.5 * errors["padded"][0])
    assert 1e-4 < errors["packed"][1] <= min(0.1, 1.5 * errors["padded"][1])


def flat(gradient: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradient.values()])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("nf4")  # bitsandbytes wants sizes that are multiples of 64
    tiny_backbone("llama", hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("dtype", "score_bound", "gradient_bound"),
    [
        (torch.float32, 1e-5, 1e-5),  # measured 7e-7 and 2e-6
        (torch.bfloat16, 0.02, 0.05),  # measured 0.005 and 0.020, and as much between padded texts and the texts alone
    ],
)
def test_nf4_is_as_exact_as_the_dtype_that_it_computes_in(checkpoint, dtype, score_bound, gradient_bound):
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    torch.manual_seed(0)
    model = RewardModel.from_backbone(checkpoint, quantization_config=quantization, dtype=dtype)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    assert model.batch_form() == "packed", model._forms
    model = with_lora(model).eval()
    packed, padded = pack(TRAINING_BATCH), pad(texts(TRAINING_BATCH))
    reference = scores(model, padded)
    assert relative(scores(model, packed), reference) <= score_bound
    expected = gradients(model, padded)
    assert_gradients_equal(gradients(model, packed), expected, gradient_bound)
    model.eval()
    assert torch.equal(scores(model, padded), reference)  # training and evaluation take turns without a trace


# --- who takes the padded path, and that the log says why


def test_a_layout_that_would_be_swallowed_is_never_computed():
    model = tiny_reward_model("llama")
    with pytest.raises(AssertionError, match="sdpa attention would swallow the layout"):
        model(**pack(TRAINING_BATCH))


# --- the function itself


def heads(num_tokens, num_heads, size=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed + num_heads)
    return torch.randn(1, num_heads, num_tokens, size, dtype=dtype, generator=generator)


def attend(layout, num_heads=4, num_kv_heads=2, **kwargs):
    tokens = sum(layout.segment_lengths)
    query, key, value = (
        heads(tokens, num_heads),
        heads(tokens, num_kv_heads, seed=1),
        heads(tokens, num_kv_heads, seed=2),
    )
    module = kwargs.pop("module", torch.nn.Module())
    return shared_prefix_attention(module, query, key, value, None, shared_prefix_layout=layout, **kwargs)[0]


def test_lower_right_causal_masks():
    def mask(*sizes):
        return lower_right_causal(*sizes, device=torch.device("cpu")).int().tolist()

    assert mask(2, 4, None) == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert mask(2, 4, 2) == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert mask(3, 3, None) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert mask(1, 3, 1) == [[0, 0, 1]]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [{}, {"sliding_window": 3}, {"softcap": 20.0}], ids=str)
@pytest.mark.parametrize("layout", [SharedPrefixLayout([4, 3], [[2, 3], [5]]), None], ids=["packed", "padded"])
def test_half_precision_on_a_cpu_attends_in_float32(half, kind, layout):
    rounded = [heads(17, number, seed=seed).to(half) for number, seed in ((4, 0), (2, 1), (2, 2))]
    if layout is None:
        kind = {"attention_mask": lower_right_causal(17, 17, kind.get("sliding_window"), torch.device("cpu")), **kind}

    def run(heads):
        arguments = {"attention_mask": None, **kind, "shared_prefix_layout": layout}
        module = SimpleNamespace(num_key_value_groups=2, is_causal=True)
        return shared_prefix_attention(module, *heads, **arguments)[0]

    with torch.autocast("cpu", half):
        out = run(rounded)
    assert torch.equal(out, run([x.float() for x in rounded]).to(half)), "autocast must not reach the kernel"


def test_attention_dropout_is_refused_with_a_layout():
    with pytest.raises(ValueError, match="attention dropout is 0.1, shared-prefix attention needs 0"):
        attend(SharedPrefixLayout([2], [[1, 2]]), dropout=0.1)
    model = tiny_reward_model("llama", attention_dropout=0.1)
    assert model.batch_form() == "packed"
    with pytest.raises(ValueError, match="set attention_dropout=0"):
        model.train()(**pack(TRAINING_BATCH))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"is_causal": False}, "Module is not causal"),
        ({"indices": torch.zeros(1)}, "Module gives its attention indices, unknown here"),
        (
            {"position_bias": torch.zeros(1), "block_indices": torch.zeros(1)},
            "attention block_indices, position_bias,",
        ),
    ],
)
def test_first_use_check_refuses_attention_that_a_layout_would_overrule(arguments, message):
    with pytest.raises(ValueError, match=message):
        attend(SharedPrefixLayout([2], [[1, 2]], seen_windows=[]), **arguments)
    harmless = {"position_ids": torch.zeros(1), "is_causal": True, "indices": None, "use_cache": False}
    attend(SharedPrefixLayout([2], [[1, 2]], seen_windows=[]), **harmless)


def test_bidirectional_layers_are_refused():
    encoder_layer = torch.nn.Module()
    encoder_layer.is_causal = False
    with pytest.raises(ValueError, match="not causal, a shared prefix needs causal attention"):
        attend(SharedPrefixLayout([2], [[1, 2]], seen_windows=[]), module=encoder_layer)


# --- the variable-length kernel of CUDA, which this machine lacks: its indices and its call


def varlen_reference(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    """What torch.nn.attention.varlen.varlen_attn documents, as a loop: flash's lower-right causal mask and window."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and len(cu_seq_q) == len(cu_seq_k)
    assert (cu_seq_q[0], cu_seq_q[-1], cu_seq_k[0], cu_seq_k[-1]) == (0, len(query), 0, len(key))
    assert max_q == cu_seq_q.diff().max() and max_k == cu_seq_k.diff().max()
    assert enable_gqa == (query.shape[1] != key.shape[1]) and query.shape[2] == key.shape[2] == value.shape[2]
    outputs = []
    for (q0, q1), (k0, k1) in zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True):
        q, k, v = query[q0:q1], key[k0:k1], value[k0:k1]
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        logits = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        offset = torch.arange(k1 - k0)[None, :] - (torch.arange(q1 - q0)[:, None] + (k1 - k0) - (q1 - q0))
        left, right = window_size
        hidden = (offset > right if right >= 0 else offset > k1) | (offset < -left if left >= 0 else offset < -k1)
        outputs.append(torch.einsum("hqk,khd->qhd", logits.masked_fill(hidden, -math.inf).softmax(-1), v))
    return torch.cat(outputs)


LAYOUTS = {
    "a pair": SharedPrefixLayout([9], [[5, 8]]),
    "many completions": SharedPrefixLayout([6], [list(range(1, 17))]),
    "no shared prefix": SharedPrefixLayout([0], [[4, 9, 1]]),
    "several groups": SharedPrefixLayout([9, 0, 21, 3, 10], [[5, 8], [6, 4], [2, 11, 1], [2], [1, 1, 1]]),
}


def test_reference_kernel_has_the_signature_of_the_real_one():
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    assert list(inspect.signature(varlen_reference).parameters) == list(
        inspect.signature(varlen.varlen_attn).parameters
    )


def test_varlen_indices_gather_the_prefix_once_for_each_completion():
    # row: prefix 0 1 2, rests (3 4) (5) (6 7); second group: nothing shared, rests (8) (9)
    layout = SharedPrefixLayout([3, 0], [[2, 1, 2], [1, 1]])
    key_index, cu_q, cu_k, max_q, max_k = layout.varlen_indices(torch.device("cpu"))
    assert key_index.tolist() == [0, 1, 2, 3, 4] + [0, 1, 2, 5] + [0, 1, 2, 6, 7] + [8] + [9]
    assert cu_q.tolist() == [0, 5, 6, 8, 9, 10]
    assert cu_k.tolist() == [0, 5, 9, 14, 15, 16]
    assert (max_q, max_k) == (5, 5)
    assert layout.varlen_indices(torch.device("cpu"))[0] is key_index  # built once for all layers


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("window", [None, 1, 3, 7, 100])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_varlen_route_equals_the_portable_path(layout, window, num_kv_heads):
    tokens = sum(layout.segment_lengths)
    q, k, v = heads(tokens, 4), heads(tokens, num_kv_heads, seed=1), heads(tokens, num_kv_heads, seed=2)
    ours = attention._varlen(q, k, v, layout, attention.Scoring(0.3, window), varlen_reference)
    portable = attend(layout, 4, num_kv_heads, sliding_window=window, scaling=0.3)
    assert ours.shape == portable.shape == (1, tokens, 4, 8)
    assert relative(ours, portable) <= 1e-13


@pytest.mark.parametrize("window", [None, 7])
def test_call_of_the_varlen_kernel_binds_to_its_real_signature(window):
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    calls = []

    def recorder(*args, **kwargs):
        calls.append(inspect.signature(varlen.varlen_attn).bind(*args, **kwargs).arguments)
        return args[0]

    q, k, v = heads(27, 4), heads(27, 2, seed=1), heads(27, 2, seed=2)
    attention._varlen(q, k, v, SharedPrefixLayout([9, 0], [[5, 8], [4, 1]]), attention.Scoring(0.3, window), recorder)
    (call,) = calls
    assert call["query"].shape == (27, 4, 8) and call["key"].shape == call["value"].shape == (36, 2, 8)
    assert call["cu_seq_q"].tolist() == [0, 14, 22, 26, 27] and call["cu_seq_k"].tolist() == [0, 14, 31, 35, 36]
    assert (call["max_q"], call["max_k"], call["scale"], call["enable_gqa"]) == (14, 17, 0.3, True)
    assert call["window_size"] == ((-1, 0) if window is None else (6, 0))  # flash counts keys to the left


HEADS = [(name, {}) for name in LADDER] + [("mistral", {"head_dim": size}) for size in (64, 80, 128, 256)]


@pytest.mark.parametrize(("architecture", "overrides"), HEADS)
def test_whole_model_through_the_varlen_route(architecture, overrides, monkeypatch):
    calls = []

    def kernel(*args, **kwargs):
        calls.append((kwargs["window_size"], kwargs["enable_gqa"], args[0].shape[-1]))
        return varlen_reference(*args, **kwargs)

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "_varlen_dtype", lambda q, v: q.dtype if q.shape[-1] == v.shape[-1] else None)
    packed, reference = packed_and_reference(architecture, **overrides)
    expected = gradients(reference, pad(texts(TRAINING_BATCH)))
    assert_gradients_equal(gradients(packed, pack(TRAINING_BATCH)), expected, 1e-5)
    grouped, size, windows = architecture != "gpt2", overrides.get("head_dim", 8), [(-1, 0)] * 2
    if architecture == "mistral":
        windows = [(WINDOW - 1, 0)] * 2
    elif architecture == "gemma3":
        windows = [(WINDOW - 1, 0), (-1, 0)]
    elif architecture in ("gemma2", "gpt_oss", "deepseek_v3"):  # soft-capping, sinks, values of another size: portable
        windows = []
    assert calls == [(window, grouped, size) for window in windows]


def test_varlen_kernel_is_called_only_where_it_fits(monkeypatch):
    half, single = torch.bfloat16, torch.float32

    def dtype(query=half, size=64, value_size=64, device="cuda", capability=(8, 0), auto=None):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: auto is not None)
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: auto)
        q, v = (
            SimpleNamespace(device=torch.device(device), shape=(1, 4, 10, n), dtype=query) for n in (size, value_size)
        )
        return attention._varlen_dtype(q, v)

    assert dtype() == half and dtype(torch.float16) == torch.float16
    assert dtype(single, auto=half) == half  # autocast of a float32 model
    assert dtype(single) is None and dtype(half, auto=single) is None
    assert dtype(device="cpu") is None
    assert dtype(capability=(7, 5)) is None  # before Ampere
    assert dtype(size=16, value_size=8) is None  # multi-head latent attention
    assert dtype(size=512, value_size=512) is None
