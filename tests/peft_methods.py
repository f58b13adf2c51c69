"""A config of every method of PEFT, for models of hidden size 32."""

import pytest
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

METHODS = sorted(method.value for method in PeftType)
OPTIONS = {  # what a method asks for, and sizes that fit layers of 32
    "ADALORA": {"total_step": 20, "tinit": 1, "tfinal": 1},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "CARTRIDGE": {"num_virtual_tokens": 3},
    "CPT": {"cpt_token_ids": [4, 5], "task_type": "CAUSAL_LM"},
    "FOURIERFT": {"n_frequency": 20},
    "MISS": {"r": 8},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 3},
    "OFT": {"oft_block_size": 4},
    "P_TUNING": {"num_virtual_tokens": 3},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6]},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 20},
    "XLORA": {"hidden_size": 32},
}


def config_of(method: str):
    try:
        return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](**OPTIONS.get(method, {}))
    except ImportError as error:
        pytest.skip(str(error))
