"""Single forward passes of a LLaDA in PyTorch, in three ways: what `remask bench` on a GPU is held against.

- eager: the model of `torch_llada.py` as it is, attention by `scaled_dot_product_attention`.
- graph: q, k, v in one matrix and gate, up in one, the whole pass in a CUDA graph (on a CPU without the graph).
- products: only the products with the matrices, which no program on the same libraries can do without.

A pass computes the states of all tokens, and the logits of the blanks (all but the first quarter of each row) with their
softmax in f32 and its maximum.
"""

import json
import statistics
import time

import torch
import torch.nn.functional as F

# Runs that are timed, and seconds after which no more are.
RUNS, SECONDS = 20, 1.0


def blanks_of(model, ids):
    """Confidence and token of every blank: (batch, positions) ids to (batch, blanks) each."""
    hidden = model.hidden(ids)[:, ids.shape[1] // 4 :]  # (batch, blanks, d_model)
    logits = F.linear(hidden, model.output()).float()  # (batch, blanks, vocabulary)
    return logits.softmax(dim=-1).max(dim=-1)


def fuse(model):
    """Joins the matrices over the same input. They stay on the device once."""
    weights = model.weights
    for layer in range(model.layers):
        block = f"blocks.{layer}"
        for joined, parts in {"qkv": ("q_proj", "k_proj", "v_proj"), "gate_up": ("ff_proj", "up_proj")}.items():
            names = [f"{block}.{part}.weight" for part in parts]
            weights[f"{block}.{joined}.weight"] = torch.cat([weights.pop(name) for name in names])


class Fused:
    """The forward pass with the joined matrices. Shares its weights and rotations with the model."""

    def __init__(self, model):
        self.model, self.output = model, model.output

    def hidden(self, ids):
        model, (batch, positions) = self.model, ids.shape
        q, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
        x = F.embedding(ids, model.weights["wte.weight"])
        for layer in range(model.layers):
            block = f"blocks.{layer}"
            parts = model.linear(model.norm(x, f"{block}.attn_norm"), f"{block}.qkv").split([q, kv, kv], dim=-1)
            query, key, value = (part.view(batch, positions, -1, model.head_dim).transpose(1, 2) for part in parts)
            seen = model.attention(model.rotate(query), model.rotate(key), value)
            x = x + model.linear(seen, f"{block}.attn_out")
            gate, up = model.linear(model.norm(x, f"{block}.ff_norm"), f"{block}.gate_up").chunk(2, dim=-1)
            x = x + model.linear(F.silu(gate) * up, f"{block}.ff_out")
        return model.norm(x, "ln_f")


def products(model, tokens, blanks):
    """A function that multiplies with every matrix once, joined as in `fuse`."""
    weights = model.weights
    d, mlp = model.output().shape[1], weights["blocks.0.ff_out.weight"].shape[1]
    x, wide = (torch.randn(tokens, width).to(model.output()) for width in (d, mlp))

    def run():
        for layer in range(model.layers):
            for name in ("qkv", "attn_out", "gate_up"):
                F.linear(x, weights[f"blocks.{layer}.{name}.weight"])
            F.linear(wide, weights[f"blocks.{layer}.ff_out.weight"])
        return F.linear(x[:blanks], model.output())

    return run


def captured(run, device):
    """The same function as one CUDA graph."""
    if device.type != "cuda":
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()

    def replay():
        graph.replay()
        return kept

    return replay


def milliseconds(run, device):
    """The median time of a run."""

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        run()
    wait()
    times, begun = [], time.perf_counter()
    while len(times) < RUNS and (not times or time.perf_counter() - begun < SECONDS):
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(model, sizes, device):
    """Prints a JSON line for each of `sizes`, which are (rows, positions)."""
    lines = [{"streams": rows, "canvas": positions, "torch": torch.__version__} for rows, positions in sizes]
    inputs = [torch.randint(0, model.vocabulary - 1, size, device=device) for size in sizes]
    first = {}
    for line, ids in zip(lines, inputs):
        attempt(line, "eager_ms", lambda: milliseconds(lambda: blanks_of(model, ids), device))
        if not first:
            first = {"ids": ids, "states": model.hidden(ids)}
    fuse(model)
    fused = Fused(model)
    # the same pass: bf16 may round differently
    off = (fused.hidden(first["ids"]) - first["states"]).float().norm() / first["states"].float().norm()
    if not off < 0.05:
        raise SystemExit(f"the fused pass is another one: its states are off by {off:.3f}")
    for line, ids in zip(lines, inputs):
        rows, positions = ids.shape
        blanks = rows * (positions - positions // 4)
        attempt(line, "graph_ms", lambda: milliseconds(captured(lambda: blanks_of(fused, ids), device), device))
        attempt(line, "products_ms", lambda: milliseconds(captured(products(model, ids.numel(), blanks), device), device))
        print(json.dumps(line), flush=True)


def attempt(line, name, run):
    """Adds a figure, or null where there was no room for it."""
    try:
        line[name] = round(run(), 4)
    except torch.OutOfMemoryError as problem:
        line[name] = None
        line["problem"] = str(problem).splitlines()[0]
