#!/usr/bin/env python3
"""A LLaDA model of text without weights, for `remask train base --model-id`: a byte-level BPE of the
data, and the sizes.

    python3 benches/new_text_model.py --data functions.jsonl --out new

--data is what `remask train base --data` reads: JSONL with `prompt` and `response`, or text. Needs
the package tokenizers.
"""

import argparse
import json
import pathlib

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

MASK, END = "<|mask|>", "<|end|>"
# a line's end, an indentation, a word, a digit, other signs; each with the blank before it
PIECES = r"\n| {4}|[^\S\n]?\p{L}+|[^\S\n]?\p{N}|[^\S\n]?[^\s\p{L}\p{N}]+|\s+"


def texts(path):
    """The texts of the data."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if path.suffix == ".jsonl" and line.strip():
                row = json.loads(line)
                yield row["prompt"] + row["response"]
            elif path.suffix != ".jsonl":
                yield line


def tokenizer(data, vocabulary):
    """A byte-level BPE of so many entries; the mask and the end of text are the first two."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[MASK, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts(data), trainer)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the directory to write")
    parser.add_argument("--vocabulary", type=int, default=4096, help="entries of the vocabulary")
    parser.add_argument("--d-model", type=int, default=384, help="hidden size, a multiple of 64")
    parser.add_argument("--layers", type=int, default=8, help="transformer blocks")
    parser.add_argument("--canvas", type=int, default=512, help="most tokens of prompt and answer")
    args = parser.parse_args()
    made = tokenizer(args.data, args.vocabulary)
    size = made.get_vocab_size()
    config = {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "d_model": args.d_model,
        "n_layers": args.layers,
        "n_heads": args.d_model // 64,
        "n_kv_heads": args.d_model // 64,
        "mlp_hidden_size": -(-args.d_model * 8 // 3 // 64) * 64,
        "vocab_size": size,
        "embedding_size": size,
        "max_sequence_length": args.canvas,
        "rope": True,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "weight_tying": False,
        "mask_token_id": made.token_to_id(MASK),
        "eos_token_id": made.token_to_id(END),
        "pad_token_id": made.token_to_id(END),
        "alibi": False,
        "include_bias": False,
        "include_qkv_bias": False,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    made.save(str(args.out / "tokenizer.json"))
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": config["eos_token_id"]},
        "tokenizer_config.json": {"eos_token": END, "mask_token": MASK},
    }
    for name, content in files.items():
        (args.out / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{args.out}: {size} entries, hidden size {args.d_model}, {args.layers} blocks")


if __name__ == "__main__":
    main()
