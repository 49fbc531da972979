#!/usr/bin/env python3
"""Tiny autoregressive models with random weights, and what transformers says of a text under each.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors gguf
    venv/bin/python tests/data/export_judges.py

Writes tests/data/judges/NAME/{config.json,model.safetensors}, the same as NAME.gguf where GGUF files are read, and
tests/data/judges/expected.json: for each model the natural logarithm of each token's probability given those before
it. Written with transformers 5.24.0, torch 2.15.0, gguf 0.19.0.
"""

import json
import pathlib

import gguf
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

OUT = pathlib.Path(__file__).parent / "judges"
SHAPE = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=1, tie_word_embeddings=False)),
    "llama3": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, bos_token_id=1, tie_word_embeddings=True, rope_parameters=LLAMA3)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, bos_token_id=1, sliding_window=None, head_dim=4)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, bos_token_id=None, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, bos_token_id=None, head_dim=8, tie_word_embeddings=False)),
}
TEXT = [5, 17, 17, 3, 40, 2, 9, 31, 22, 8, 8, 46, 11, 30, 6, 25, 13, 7, 44, 19]


NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def paired(rows, heads):
    """llama.cpp's order of the rows of q and k of Llama: pairs that are rotated together side by side."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def save_gguf(model, file):
    """Names and keys as llama.cpp's conversion writes them."""
    config, family = model.config, model.config.model_type
    writer = gguf.GGUFWriter(file, family)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    if not config.tie_word_embeddings:
        writer.add_tensor("output.weight", weights["lm_head.weight"])
    for name, tensor in weights.items():
        if not name.startswith("model.layers."):
            continue
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        module, kind = rest.rsplit(".", 1)
        if family == "llama" and module in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = config.num_attention_heads if "q_proj" in module else config.num_key_value_heads
            tensor = paired(tensor, heads)
        writer.add_tensor(f"blk.{layer}.{NAMES[module]}.{kind}", tensor.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    expected = {"tokens": TEXT, "log_probabilities": {}}
    for seed, (name, make) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = make().eval()
        model.save_pretrained(OUT / name)
        (OUT / name / "generation_config.json").unlink(missing_ok=True)
        if name in ("llama", "qwen2", "qwen3"):
            save_gguf(model, OUT / f"{name}.gguf")
        begin = model.config.bos_token_id
        ids = ([] if begin is None else [begin]) + TEXT
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        found = [logs[at - 1, ids[at]].item() for at in range(1, len(ids))]
        expected["log_probabilities"][name] = [round(number, 6) for number in found]
    (OUT / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
