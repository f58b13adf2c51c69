"""A model with random weights, from a config, in a folder that every script takes: only speed is measured on it.

    python benchmarks/random_model.py benchmarks/configs/Qwen/Qwen3.5-9B TOKENIZER DIR --dtype bfloat16
    python benchmarks/random_model.py hybrid SMOLLM2 DIR

`hybrid` is of SmolLM2's size, three layers of linear attention to one of full attention. Its kernels are transformers'
own where `flash-linear-attention` is not there. No hub is needed: the tokenizer may be that of another model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HYBRID = {
    **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 32, "max_position_embeddings": 8192},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "tie_word_embeddings": True},
    **{"linear_num_key_heads": 9, "linear_num_value_heads": 9},
    **{"linear_key_head_dim": 64, "linear_value_head_dim": 64},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("config", help="folder with a config.json, a hub id, or `hybrid`")
    arguments.add_argument("tokenizer", help="folder of the tokenizer")
    arguments.add_argument("output", help="folder to write")
    arguments.add_argument("--dtype", default="float32")
    args = arguments.parse_args()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    if args.config == "hybrid":
        config = AutoConfig.for_model("qwen3_5_text", vocab_size=len(tokenizer), **HYBRID)
    else:
        config = AutoConfig.from_pretrained(args.config).get_text_config()
    if len(tokenizer) > config.vocab_size:
        raise SystemExit(f"{len(tokenizer)} tokens, the model has {config.vocab_size}; give another tokenizer")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, args.dtype))
    model.save_pretrained(Path(args.output))
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
