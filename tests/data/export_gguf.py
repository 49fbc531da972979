#!/usr/bin/env python3
"""Writes `llada-tiny/llama_cpp.gguf` for `tests/gguf.rs`: the tiny LLaDA model as llama.cpp
converts such models, written with llama.cpp's library for the format. Names, keys and the order of rotated
rows are those of llama.cpp's conversion of `LLaDAModelLM`; the vocabulary is invented.

Written with Python 3.11, gguf 0.19.0, safetensors 0.8.0, numpy 2.4.6:

    python3 tests/data/export_gguf.py
"""

import json
from pathlib import Path

import gguf
from safetensors.numpy import load_file

TINY = Path(__file__).resolve().parent / "llada-tiny"
OUTSIDE = {"wte": "token_embd", "ln_f": "output_norm", "ff_out": "output"}
INSIDE = {
    "attn_norm": "attn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "attn_out": "attn_output",
    "ff_norm": "ffn_norm", "ff_proj": "ffn_gate", "up_proj": "ffn_up", "ff_out": "ffn_down",
}
SPECIAL = {256: "[PAD256]", 257: "<|endoftext|>", 258: "<|eot_id|>", 259: "<|startoftext|>", 260: "ab", 261: "Ġab", 262: "abab",
           263: "<|mdm_mask|>"}


def bytes_as_letters():
    """GPT-2's characters for the 256 bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def interleaved(weight, heads):
    """llama.cpp rotates neighbours where LLaDA rotates the halves of a head."""
    rows, inner = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, inner).swapaxes(1, 2).reshape(rows, inner)


def main():
    config = json.loads((TINY / "config.json").read_text())
    writer = gguf.GGUFWriter(TINY / "llama_cpp.gguf", "llada")
    writer.add_context_length(config["max_sequence_length"])
    writer.add_embedding_length(config["d_model"])
    writer.add_block_count(config["n_layers"])
    writer.add_feed_forward_length(config["mlp_hidden_size"])
    writer.add_head_count(config["n_heads"])
    writer.add_head_count_kv(config["n_kv_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["d_model"] // config["n_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_causal_attention(False)
    writer.add_diffusion_shift_logits(False)
    writer.add_mask_token_id(config["mask_token_id"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    words = bytes_as_letters() + [SPECIAL[id] for id in range(256, 264)]
    kind = {256: gguf.TokenType.UNUSED} | dict.fromkeys([257, 258, 259, 263], gguf.TokenType.CONTROL)
    writer.add_token_list(words)
    writer.add_token_types([kind.get(id, gguf.TokenType.NORMAL) for id in range(len(words))])
    writer.add_token_merges(["a b", "Ġ ab", "ab ab"])
    writer.add_bos_token_id(259)
    writer.add_eos_token_id(257)
    writer.add_eot_token_id(258)
    writer.add_pad_token_id(257)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ bos_token }}{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}")
    for name, weight in load_file(TINY / "model.safetensors").items():
        parts = name.removeprefix("model.transformer.").removesuffix(".weight").split(".")
        if parts[0] != "blocks":
            theirs = OUTSIDE[parts[0]]
        else:
            theirs = f"blk.{parts[1]}.{INSIDE[parts[2]]}"
            if parts[2] in ("q_proj", "k_proj"):
                weight = interleaved(weight, config["n_heads"])
        writer.add_tensor(f"{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
