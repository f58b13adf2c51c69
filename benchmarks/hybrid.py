"""A hybrid model of SmolLM2's size, three layers of linear attention to one of full attention, with random weights.

    python benchmarks/hybrid.py SMOLLM2_DIR DIR; python benchmarks/train_throughput.py --model DIR --dtype fp32

What is measured on it is speed alone. Its kernels are transformers' own where `flash-linear-attention` is not there.
"""

from __future__ import annotations

import argparse


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("tokenizer", help="folder of the tokenizer")
    arguments.add_argument("output", help="folder to write")
    arguments.add_argument("--hidden-size", type=int, default=576)
    arguments.add_argument("--layers", type=int, default=32)
    args = arguments.parse_args()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    tokenizer, heads = AutoTokenizer.from_pretrained(args.tokenizer), args.hidden_size // 64
    config = AutoConfig.for_model(
        "qwen3_5_text",
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=args.hidden_size * 8 // 3,
        num_hidden_layers=args.layers,
        layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"]
        * (args.layers // 4),
        num_attention_heads=heads,
        num_key_value_heads=heads // 3 or 1,
        head_dim=64,
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    set_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
