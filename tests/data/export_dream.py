#!/usr/bin/env python3
"""A tiny Dream model with random weights, and what its definition says of some texts, for `tests/dream.rs`.

Dream (arXiv 2508.15487) is Qwen2 without a causal mask, and its logits are shifted by one: those of cell i are the
output at i - 1, those of cell 0 the output at 0. Written from this definition, in f64. With transformers installed,
the outputs are compared with those of its Qwen2 under a mask that hides nothing; with gguf, the model is written as
llama.cpp converts it, with the names of its own table.

    python3 -m venv venv && venv/bin/pip install numpy torch safetensors transformers gguf
    venv/bin/python tests/data/export_dream.py

Writes tests/data/dream-tiny. Written with torch 2.15.0, transformers 5.24.0, gguf 0.19.0.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent / "dream-tiny"
LAYERS, WIDTH, HEADS, KV_HEADS, INNER, WORDS = 3, 32, 4, 2, 48, 64
HEAD = WIDTH // HEADS
MASK, END, THETA, EPS = 60, 57, 1000000.0, 1e-6
CONFIG = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": END,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "mask_token_id": MASK,
    "max_position_embeddings": 256,
    "max_window_layers": 28,
    "model_type": "Dream",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "pad_token_id": END,
    "rms_norm_eps": EPS,
    "rope_scaling": None,
    "rope_theta": THETA,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.46.2",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": WORDS,
}


def weights():
    torch.manual_seed(7)
    normal = lambda *shape, mean=0.0, deviation=0.25: torch.randn(*shape) * deviation + mean
    named = {
        "model.embed_tokens.weight": normal(WORDS, WIDTH, deviation=1.0),
        "model.norm.weight": normal(WIDTH, mean=1.0),
        "lm_head.weight": normal(WORDS, WIDTH, deviation=0.7),
    }
    for n in range(LAYERS):
        sizes = {"q": WIDTH, "k": KV_HEADS * HEAD, "v": KV_HEADS * HEAD}
        for part, size in sizes.items():
            named[f"model.layers.{n}.self_attn.{part}_proj.weight"] = normal(size, WIDTH)
            named[f"model.layers.{n}.self_attn.{part}_proj.bias"] = normal(size, deviation=0.5)
        named[f"model.layers.{n}.self_attn.o_proj.weight"] = normal(WIDTH, WIDTH)
        named[f"model.layers.{n}.mlp.gate_proj.weight"] = normal(INNER, WIDTH)
        named[f"model.layers.{n}.mlp.up_proj.weight"] = normal(INNER, WIDTH)
        named[f"model.layers.{n}.mlp.down_proj.weight"] = normal(WIDTH, INNER)
        named[f"model.layers.{n}.input_layernorm.weight"] = normal(WIDTH, mean=1.0)
        named[f"model.layers.{n}.post_attention_layernorm.weight"] = normal(WIDTH, mean=1.0)
    head = {
        "norm.weight": normal(WIDTH, mean=1.0),
        "norm.bias": normal(WIDTH),
        "proj1.weight": normal(WIDTH, WIDTH),
        "proj1.bias": normal(WIDTH),
        "proj2.weight": normal(1, WIDTH),
        "proj2.bias": normal(1),
    }
    return named, head


class Model:
    def __init__(self, named):
        self.named = {name: weight.double() for name, weight in named.items()}

    def norm(self, x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * self.named[name]

    def rotated(self, x, at):
        """x (cells, heads, HEAD): the halves of a head are the pairs that are rotated."""
        frequencies = THETA ** (-torch.arange(0, HEAD, 2).double() / HEAD)
        angles = (at.double()[:, None] * frequencies)[:, None]  # (cells, 1, HEAD / 2)
        first, second = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def outputs(self, ids, kept=None, run=None):
        """States after the final norm of the cells `run` (all if None), and keys and values of each layer. Cells that
        are not run have the keys and values `kept`."""
        run = torch.arange(len(ids)) if run is None else run
        x = self.named["model.embed_tokens.weight"][ids[run]]
        layers = []
        for n in range(LAYERS):
            project = lambda part: (
                normed @ self.named[f"model.layers.{n}.self_attn.{part}_proj.weight"].T
                + self.named[f"model.layers.{n}.self_attn.{part}_proj.bias"]
            ).view(len(run), -1, HEAD)
            normed = self.norm(x, f"model.layers.{n}.input_layernorm.weight")
            q, k, v = self.rotated(project("q"), run), self.rotated(project("k"), run), project("v")
            if kept is not None:
                keys, values = kept[n][0].clone(), kept[n][1].clone()
                keys[run], values[run] = k, v
                k, v = keys, values
            layers.append((k, v))
            k, v = (each.repeat_interleave(HEADS // KV_HEADS, 1) for each in (k, v))
            scores = torch.einsum("qhd,khd->hqk", q, k) / HEAD**0.5
            mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(len(run), WIDTH)
            x = x + mixed @ self.named[f"model.layers.{n}.self_attn.o_proj.weight"].T
            normed = self.norm(x, f"model.layers.{n}.post_attention_layernorm.weight")
            mlp = f"model.layers.{n}.mlp"
            gate, up, down = (self.named[f"{mlp}.{part}_proj.weight"].T for part in ("gate", "up", "down"))
            x = x + (torch.nn.functional.silu(normed @ gate) * (normed @ up)) @ down
        return self.norm(x, "model.norm.weight"), layers

    def states(self, ids):
        """The states from which each cell is read."""
        outputs = self.outputs(ids)[0]
        return torch.cat([outputs[:1], outputs[:-1]])

    def logits(self, states):
        return states @ self.named["lm_head.weight"].T


def quality(head, states):
    head = {name: weight.double() for name, weight in head.items()}
    x = torch.nn.functional.layer_norm(states, (WIDTH,), head["norm.weight"], head["norm.bias"], 1e-5)
    x = torch.nn.functional.gelu(x @ head["proj1.weight"].T + head["proj1.bias"])
    return (x @ head["proj2.weight"].T + head["proj2.bias"])[:, 0]


def rows(model, head):
    torch.manual_seed(8)
    texts = [torch.tensor([MASK]), torch.randint(0, 57, (7,)), torch.randint(0, 57, (40,))]
    texts[1][:2] = MASK
    texts[2][torch.rand(40) < 0.5] = MASK
    tensors = {}
    for row, ids in enumerate(texts):
        states = model.states(ids)
        tensors[f"{row}.input_ids"] = ids
        tensors[f"{row}.hidden"] = states
        tensors[f"{row}.logits"] = model.logits(states)
        tensors[f"{row}.quality_logit"] = quality(head, states)
    return tensors


def cached(model):
    """A full pass over a canvas, then passes over later ones that compute a block and, for the logits of its first
    cell, the cell before it; `prefix` computes all cells behind the block as well."""
    torch.manual_seed(9)
    prompt, start, end, cells = 6, 14, 22, 30
    ids = torch.randint(0, 57, (cells,))
    ids[start:] = MASK
    numbers = {"prompt_len": prompt, "block_start": start, "block_end": end}
    tensors = {name: torch.tensor([number]) for name, number in numbers.items()}
    tensors["0.input_ids"] = ids.clone()
    kept = model.outputs(ids)[1]
    for step, at in enumerate([17, 14, 20], 1):
        ids = ids.clone()
        ids[at] = (at * 5) % 57
        tensors[f"{step}.input_ids"] = ids
        for kind, until in (("prefix", cells), ("dual", end)):
            outputs = model.outputs(ids, kept, torch.arange(start - 1, until))[0]
            tensors[f"{kind}.{step}.logits"] = model.logits(outputs[: end - start])
    return tensors


def generate(model, prompt, new, steps, eps, alg):
    """Dream's published sampler (`generation_utils.py` of the model on the hub) at temperature 0, where a mask is
    never written. Its canvases."""
    x = torch.tensor(prompt + [MASK] * new)
    timesteps = torch.linspace(1, eps, steps + 1)
    canvases = [x[len(prompt) :].tolist()]
    for i in range(steps):
        blank = x == MASK
        if not blank.any():
            break
        logits = model.logits(model.states(x))[blank]
        logits[:, MASK] = -torch.inf
        p = logits.softmax(-1)
        best, token = p.max(-1)
        second = p.sort(-1, descending=True).values[:, 1]
        score = {
            "maskgit_plus": best,
            "topk_margin": best - second,
            "entropy": (p * (p + 1e-10).log()).sum(-1),
        }[alg]
        t, s = timesteps[i], timesteps[i + 1]
        count = int(blank.sum() * (1 - s / t)) if i < steps - 1 else int(blank.sum())
        chosen = score.topk(count).indices
        written = torch.full_like(token, MASK)
        written[chosen] = token[chosen]
        x[blank] = written
        canvases.append(x[len(prompt) :].tolist())
    return canvases


def traces(model):
    torch.manual_seed(10)
    found = []
    # the published eps with a step for each token; and next to 0, where each step fills as many
    for new, steps, eps in [(12, 12, 1e-3), (16, 4, -1e-6), (16, 8, -1e-6), (9, 1, 1e-3)]:
        for alg in ["maskgit_plus", "topk_margin", "entropy"]:
            prompt = torch.randint(0, 57, (int(torch.randint(1, 9, ())),)).tolist()
            canvases = generate(model, prompt, new, steps, eps, alg)
            found.append({"alg": alg, "prompt": prompt, "new": new, "steps": steps, "eps": eps, "canvases": canvases})
    return {"mask": MASK, "traces": found}


def compare_with_transformers(model, named):
    try:
        from transformers import Qwen2Config, Qwen2ForCausalLM
    except ImportError:
        return print("not compared with transformers, which is not installed")
    own = ("architectures", "auto_map", "model_type", "torch_dtype")
    keys = {key: value for key, value in CONFIG.items() if key not in own}
    theirs = Qwen2ForCausalLM(Qwen2Config(**keys, attn_implementation="eager")).double().eval()
    theirs.load_state_dict({name: weight.double() for name, weight in named.items()})
    ids = torch.arange(40) * 7 % WORDS
    shown = torch.zeros(1, 1, 40, 40, dtype=torch.float64)  # what is added to attention scores
    with torch.no_grad():
        logits = theirs(ids[None], attention_mask=shown).logits[0]
        causal = theirs(ids[None]).logits[0]
    ours = model.logits(model.outputs(ids)[0])
    difference = ((logits - ours).abs().max() / ours.abs().max()).item()
    print(f"largest difference from transformers' Qwen2: {difference:.1e} of the largest logit")
    assert difference < 1e-5  # it rotates in f32
    assert (causal - ours).abs().max() / ours.abs().max() > 0.1, "the mask hides nothing"


def write_gguf(named):
    try:
        import gguf
    except ImportError:
        return print("no GGUF file, for gguf is not installed")
    writer = gguf.GGUFWriter(OUT / "llama_cpp.gguf", "dream")
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_vocab_size(WORDS)
    writer.add_causal_attention(False)
    writer.add_mask_token_id(MASK)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(END)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DREAM, LAYERS)
    for name, weight in named.items():
        writer.add_tensor(table.get_name(name, try_suffixes=(".weight", ".bias")), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    OUT.mkdir(exist_ok=True)
    named, head = weights()
    model = Model(named)
    compare_with_transformers(model, named)
    stored = lambda tensors: {
        name: (each.float() if each.is_floating_point() else each).contiguous() for name, each in tensors.items()
    }
    (OUT / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (OUT / "generation_config.json").write_text(json.dumps({"eos_token_id": END, "pad_token_id": END}, indent=2) + "\n")
    save_file(stored(named), OUT / "model.safetensors")
    save_file(stored(head), OUT / "prism_head.safetensors")
    save_file(stored(rows(model, head)), OUT / "io.safetensors")
    save_file(stored(cached(model)), OUT / "cached.safetensors")
    (OUT / "traces.json").write_text(json.dumps(traces(model)) + "\n")
    write_gguf(named)


if __name__ == "__main__":
    main()
