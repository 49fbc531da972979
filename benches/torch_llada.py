#!/usr/bin/env python3
"""LLaDA in plain PyTorch: the figures `cargo bench` is held against.

Written from the model's definition (LLaDA, arXiv 2502.09992): pre-norm blocks with RMSNorm, attention without a causal
mask, SwiGLU, no biases. Eager mode and nothing clever, as a careful user's script would run it: logits at every
position, the whole canvas in every pass.

Needs Python 3.10 or newer; written and measured with torch 2.15.0, safetensors 0.8.0, numpy 2.4.6:

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy

Is it the same model? Logits and greedy traces against the published code's numbers:

    venv/bin/python benches/torch_llada.py --check tests/data/llada-tiny

How fast is it? One JSON line, the median of `--repeat` runs after one to warm up:

    venv/bin/python benches/torch_llada.py --model dummy-100m --canvas 128 --steps 32 --dtype bf16 --threads 2
    venv/bin/python benches/torch_llada.py --model models/sudoku --canvas 89 --steps 32

How fast is a forward pass of an 8B model on a GPU, eager, as a CUDA graph, and its products alone? Random weights of the
shapes in a config.json; one JSON line a size, `torch_passes.py` says what is measured:

    python3 torch_llada.py --passes 1x64,1x206,16x128 --model DIR --device cuda --dtype bf16
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

# LLaDA blocks in the size of BERT base; `remask bench --dummy-100m` has the same.
DUMMY_100M = {
    "d_model": 768,
    "n_layers": 12,
    "n_heads": 12,
    "mlp_hidden_size": 2048,
    "vocab_size": 32000,
    "max_sequence_length": 1024,
    "rope": True,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "mask_token_id": 31999,
}


class Llada:
    """The forward pass. Weights keep the checkpoint's own names."""

    def __init__(self, config, weights, dtype):
        if config.get("include_bias") or config.get("include_qkv_bias") or config.get("alibi"):
            sys.exit("config.json asks for biases or ALiBi; LLaDA's published models have neither")
        self.weights = {name.removeprefix("model.transformer."): w.to(dtype) for name, w in weights.items()}
        self.layers = config["n_layers"]
        self.heads = config["n_heads"]
        self.kv_heads = config.get("n_kv_heads") or self.heads
        self.eps = config["rms_norm_eps"]
        self.mask = config["mask_token_id"]
        self.vocabulary = config.get("embedding_size") or config["vocab_size"]
        self.canvas_max = config["max_sequence_length"]
        self.head_dim = config["d_model"] // self.heads
        self.rotations = self._rotations(config["rope_theta"]) if config["rope"] else None

    def _rotations(self, theta):
        """cos and sin of every position's angles, in f32: (canvas_max, head_dim) each."""
        halves = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim  # (head_dim / 2)
        angles = torch.outer(torch.arange(self.canvas_max, dtype=torch.float32), 1.0 / theta**halves)
        angles = torch.cat((angles, angles), dim=-1).to(self.weights["wte.weight"].device)  # (canvas_max, head_dim)
        return angles.cos(), angles.sin()

    def rotate(self, x):
        """RoPE on (batch, heads, positions, head_dim), pairs half a head apart, computed in f32."""
        cos, sin = (table[: x.shape[2]] for table in self.rotations)  # (positions, head_dim)
        first, second = x.float().chunk(2, dim=-1)
        return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)

    def norm(self, x, name):
        return F.rms_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.eps)

    def linear(self, x, name):
        return F.linear(x, self.weights[name + ".weight"])

    def _attend(self, x, block):
        batch, positions, _ = x.shape

        def heads(name, count):
            projected = self.linear(x, f"{block}.{name}")
            return projected.view(batch, positions, count, self.head_dim).transpose(1, 2)

        q, k, v = heads("q_proj", self.heads), heads("k_proj", self.kv_heads), heads("v_proj", self.kv_heads)
        if self.rotations:
            q, k = self.rotate(q), self.rotate(k)
        return self.linear(self.attention(q, k, v), f"{block}.attn_out")

    def attention(self, q, k, v):
        """(batch, heads, positions, head_dim) each to (batch, positions, d_model)."""
        seen = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kv_heads != self.heads)
        return seen.transpose(1, 2).flatten(2)

    def _mlp(self, x, block):
        gate = F.silu(self.linear(x, f"{block}.ff_proj"))
        return self.linear(gate * self.linear(x, f"{block}.up_proj"), f"{block}.ff_out")

    def hidden(self, ids):
        """States after the final norm: (batch, positions) ids to (batch, positions, d_model)."""
        x = F.embedding(ids, self.weights["wte.weight"])
        if "wpe.weight" in self.weights:
            x = x + self.weights["wpe.weight"][: ids.shape[1]]
        for layer in range(self.layers):
            block = f"blocks.{layer}"
            x = x + self._attend(self.norm(x, f"{block}.attn_norm"), block)
            x = x + self._mlp(self.norm(x, f"{block}.ff_norm"), block)
        return self.norm(x, "ln_f")

    def logits(self, ids):
        """(batch, positions) ids to (batch, positions, vocabulary) scores."""
        return F.linear(self.hidden(ids), self.output())

    def output(self):
        """(vocabulary, d_model): the output layer, or the embedding where they are tied."""
        return self.weights.get("ff_out.weight", self.weights["wte.weight"])


def load(model, dtype):
    """A model directory, or `dummy-100m`."""
    if model == "dummy-100m":
        return Llada(DUMMY_100M, dummy_weights(DUMMY_100M), dtype)
    from safetensors.torch import load_file

    config = json.loads((Path(model) / "config.json").read_text())
    return Llada(config, load_file(Path(model) / "model.safetensors"), dtype)


def dummy_weights(config, device="cpu", dtype=torch.float32):
    """Normal weights of deviation 0.02, always the same on a device; norms of ones."""
    generator = torch.Generator(device).manual_seed(0)
    hidden, mlp = config["d_model"], config["mlp_hidden_size"]
    vocabulary = config.get("embedding_size") or config["vocab_size"]
    kv = hidden // config["n_heads"] * (config.get("n_kv_heads") or config["n_heads"])

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype) * 0.02

    weights = {"wte.weight": normal(vocabulary, hidden), "ff_out.weight": normal(vocabulary, hidden)}
    weights["ln_f.weight"] = torch.ones(hidden, device=device, dtype=dtype)
    for layer in range(config["n_layers"]):
        block = f"blocks.{layer}"
        for name in ("attn_norm", "ff_norm"):
            weights[f"{block}.{name}.weight"] = torch.ones(hidden, device=device, dtype=dtype)
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            weights[f"{block}.{name}.weight"] = normal(kv if name in ("k_proj", "v_proj") else hidden, hidden)
        for name in ("ff_proj", "up_proj"):
            weights[f"{block}.{name}.weight"] = normal(mlp, hidden)
        weights[f"{block}.ff_out.weight"] = normal(hidden, mlp)
    return weights


def shares(blanks, steps):
    """Blanks to fill in each step: an even share, the remainder to the first steps."""
    return [blanks // steps + (step < blanks % steps) for step in range(steps)]


def decode(model, canvas, start, block_length, steps):
    """Greedy low-confidence remasking (LLaDA, algorithm 5), blocks left to right from `start`, all rows in step.

    `canvas`: (batch, positions), changed in place; every position from `start` on is blank. Yields it after each step.
    """
    blocks = [(at, min(at + block_length, canvas.shape[1])) for at in range(start, canvas.shape[1], block_length)]
    for (begin, end), block_steps in zip(blocks, shares(steps, len(blocks))):
        for fills in shares(end - begin, block_steps):
            logits = model.logits(canvas).float()  # (batch, positions, vocabulary)
            logits[..., model.mask] = -math.inf  # a blank is never proposed
            confidence, proposed = logits.softmax(dim=-1).max(dim=-1)  # (batch, positions) each
            eligible = canvas == model.mask
            eligible[:, :begin] = False
            eligible[:, end:] = False
            confidence = confidence.masked_fill(~eligible, -1.0)
            chosen = confidence.topk(fills, dim=-1).indices  # (batch, fills)
            canvas.scatter_(1, chosen, proposed.gather(1, chosen))
            yield canvas


def check(directory):
    """Exits unless logits and greedy traces equal the reference's."""
    from safetensors.torch import load_file

    directory = Path(directory)
    model = load(directory, torch.float32)
    io = load_file(directory / "io.safetensors")
    rows = sorted(name.removesuffix("input_ids") for name in io if name.endswith("input_ids"))
    worst = 0.0
    for row in rows:
        logits = model.logits(io[row + "input_ids"].long().view(1, -1))[0]
        worst = max(worst, (logits - io[row + "logits"].view_as(logits)).abs().max().item())
    print(f"logits: {len(rows)} rows, largest difference {worst:.2e}")
    if not rows or not worst < 1e-4:
        sys.exit("the logits differ by more than 1e-4: this is another model")

    file = directory / "traces.json"
    if not file.exists():
        print("traces: none to compare with")
        return
    traces = json.loads(file.read_text())["traces"]
    traces = [t for t in traces if t["sampler"] == "llada_low_confidence" and "cfg_scale" not in t]
    for trace in traces:
        prompt, length = trace["prompt"], trace["gen_length"]
        canvas = torch.tensor([prompt + [model.mask] * length])
        seen = [canvas[0, len(prompt) :].tolist()]
        for canvas in decode(model, canvas, len(prompt), trace["block_length"], trace["steps"]):
            seen.append(canvas[0, len(prompt) :].tolist())
        if seen != trace["canvases"]:
            step = next((k for k, pair in enumerate(zip(seen, trace["canvases"])) if pair[0] != pair[1]), len(seen))
            sys.exit(f"a trace of {trace['steps']} steps differs at canvas {step}")
    print(f"traces: {len(traces)} equal, token for token")


def measure(args):
    """Times whole runs and prints the median's figures."""
    model = load(args.model, DTYPES[args.dtype])
    if args.canvas > model.canvas_max:
        sys.exit(f"--canvas {args.canvas} is above this model's limit of {model.canvas_max}")
    start = args.canvas // 4
    prompt = [(i if i % model.vocabulary != model.mask else i + 1) % model.vocabulary for i in range(start)]
    blank = torch.tensor([prompt + [model.mask] * (args.canvas - start)] * args.batch)  # (batch, canvas)
    if not 1 <= args.steps <= args.canvas - start:
        sys.exit(f"--steps {args.steps}: give at least 1 and at most one per blank, {args.canvas - start}")

    def run():
        canvas = blank.clone()
        began = time.perf_counter()
        passes = sum(1 for _ in decode(model, canvas, start, args.canvas - start, args.steps))
        seconds = time.perf_counter() - began
        if passes != args.steps or (canvas == model.mask).any():
            sys.exit(f"{passes} passes instead of {args.steps}, or blanks were left: the figures would mean nothing")
        return seconds

    run()
    seconds = statistics.median(run() for _ in range(args.repeat))
    passes_per_s = args.steps / seconds
    figures = {
        "model": args.model,
        "dtype": args.dtype,
        "threads": args.threads,
        "canvas": args.canvas,
        "steps": args.steps,
        "batch": args.batch,
        "repeat": args.repeat,
        "torch": torch.__version__,
        "seconds": round(seconds, 4),
        "passes_per_s": round(passes_per_s, 2),
        "token_forwards_per_s": round(passes_per_s * args.canvas * args.batch, 1),
    }
    print(json.dumps(figures))


def measure_passes(args):
    """Times single passes of a model with random weights."""
    import torch_passes

    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    config = DUMMY_100M if args.model == "dummy-100m" else json.loads((Path(args.model) / "config.json").read_text())
    model = Llada(config, dummy_weights(config, device, dtype), dtype)
    sizes = [tuple(map(int, size.split("x"))) for size in args.passes.split(",")]
    if any(positions > model.canvas_max for _, positions in sizes):
        sys.exit(f"--passes {args.passes}: a row of this model has at most {model.canvas_max} positions")
    torch_passes.measure(model, sizes, device)


def main():
    parser = argparse.ArgumentParser(description="LLaDA in plain PyTorch: checked, and timed")
    parser.add_argument("--check", metavar="DIR", nargs="?", const="tests/data/llada-tiny", help="compare with DIR")
    parser.add_argument("--model", metavar="DIR", help="a model directory, or dummy-100m: time it")
    parser.add_argument("--canvas", type=int, default=128, help="cells; the first quarter is the prompt")
    parser.add_argument("--steps", type=int, default=32, help="forward passes")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="runs; the median counts")
    parser.add_argument("--batch", type=int, default=1, help="canvases per pass")
    parser.add_argument("--passes", metavar="RxN,..", help="time single passes of R rows of N tokens, random weights")
    parser.add_argument("--device", default="cpu", help="device of --passes: cpu or cuda")
    args = parser.parse_args()
    if not args.check and not args.model:
        parser.error("give --check, --model, or both")
    if args.passes and not args.model:
        parser.error("--passes needs a --model, of which it reads config.json")
    if args.device != "cpu" and not args.passes:
        parser.error("--device is for --passes; whole runs are measured on the CPU")
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        if args.check:
            check(args.check)
        if args.passes:
            measure_passes(args)
        elif args.model:
            measure(args)


if __name__ == "__main__":
    main()
