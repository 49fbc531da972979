#!/usr/bin/env python3
"""Writes `training.json` beside the model, for the tests of `src/train/`: ten steps of training in
PyTorch.

Rows, masks and weights of the loss are drawn here and stored in the file, so that both sides train
on the same data. The network is `benches/torch_llada.py`, which is checked against the numbers of
the published code.

Written with Python 3.12, torch 2.15.0, safetensors 0.8.0:

    python3 tests/data/export_training.py tests/data/llada-tiny
"""

import json
import math
import random
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benches"))
from torch_llada import load  # noqa: E402

STEPS, ROWS, LENGTH, FILLS = 10, 4, 24, 3
SCHEDULE = {
    "steps": STEPS, "learning_rate": 2e-3, "warmup": 3, "betas": [0.9, 0.98], "weight_decay": 0.1, "clip": 0.7, "ema": 0.9,
}
LAMBDA = 0.5


def rate(step):
    if step < SCHEDULE["warmup"]:
        return SCHEDULE["learning_rate"] * (step + 1) / SCHEDULE["warmup"]
    progress = (step - SCHEDULE["warmup"]) / (STEPS - SCHEDULE["warmup"])
    return SCHEDULE["learning_rate"] * 0.5 * (1 + math.cos(math.pi * progress))


def draw(generator, vocabulary, mask):
    """The rows of one step: the tokens, the masked positions, and the weight of each row."""
    rows = []
    for _ in range(ROWS):
        tokens = [generator.randrange(vocabulary - 1) for _ in range(LENGTH)]
        tokens = [token + (token >= mask) for token in tokens]
        masked = sorted(generator.sample(range(LENGTH), generator.randint(FILLS, LENGTH - 4)))
        rows.append({"tokens": tokens, "masked": masked, "weight": 1.0 / (len(masked) * ROWS)})
    return rows


def head(weights, hidden):
    x = F.layer_norm(hidden, hidden.shape[-1:], weights["norm.weight"], weights["norm.bias"], 1e-5)
    x = F.gelu(F.linear(x, weights["proj1.weight"], weights["proj1.bias"]))
    return F.linear(x, weights["proj2.weight"], weights["proj2.bias"]).squeeze(-1)


def loss_of(model, out, weights, rows, with_head):
    """The loss of the rows of a step, whose fills the head judges."""
    truth = torch.tensor([row["tokens"] for row in rows])  # (rows, length)
    z = truth.clone()
    for row, drawn in enumerate(rows):
        z[row, drawn["masked"]] = model.mask
    logits = F.linear(model.hidden(z), out)  # (rows, length, vocabulary)
    loss, y, filled = 0.0, z.clone(), []
    for row, drawn in enumerate(rows):
        masked = torch.tensor(drawn["masked"])
        loss = loss + drawn["weight"] * F.cross_entropy(logits[row, masked], truth[row, masked], reduction="sum")
        allowed = logits[row, masked].detach().clone()
        allowed[:, model.mask] = -math.inf
        confidence, proposed = allowed.softmax(-1).max(-1)
        best = confidence.topk(FILLS).indices
        y[row, masked[best]] = proposed[best]
        filled.append(masked[best])
    if with_head:
        quality = head(weights, model.hidden(y))  # (rows, length)
        quality = torch.cat([quality[row, places] for row, places in enumerate(filled)])
        right = torch.cat([(y[row, places] == truth[row, places]).float() for row, places in enumerate(filled)])
        loss = LAMBDA * loss + F.binary_cross_entropy_with_logits(quality, right)
    return loss


def run(directory, batches, with_head, mixed):
    """Losses and gradient norms of ten steps, in f32 or with products in bf16."""
    model = load(directory, torch.float32)
    weights = load_file(Path(directory) / "prism_head.safetensors") if with_head else {}
    weights = {name.removeprefix("remasking_head."): tensor for name, tensor in weights.items()}
    trained = list(model.weights.values()) + list(weights.values())
    for tensor in trained:
        tensor.requires_grad_()
    groups = [
        {"params": [tensor for tensor in trained if tensor.ndim > 1], "weight_decay": SCHEDULE["weight_decay"]},
        {"params": [tensor for tensor in trained if tensor.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1.0, betas=SCHEDULE["betas"], eps=1e-8)
    out = model.weights.get("ff_out.weight", model.weights["wte.weight"])
    losses, norms = [], []
    for step, rows in enumerate(batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = loss_of(model, out, weights, rows, with_head)
        optimiser.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, SCHEDULE["clip"]).item())
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        optimiser.step()
        losses.append(loss.item())
    return {"losses": losses, "gradient_norms": norms}


def main():
    directory = sys.argv[1]
    config = json.loads((Path(directory) / "config.json").read_text())
    generator = random.Random(7)
    batches = [draw(generator, config["vocab_size"], config["mask_token_id"]) for _ in range(STEPS)]
    # the rows of the first step repeated, so that there is something to learn
    batches = [batches[0] if step % 2 else batches[step] for step in range(STEPS)]
    file = {
        "torch": torch.__version__.split("+")[0],
        "schedule": SCHEDULE,
        "lambda": LAMBDA,
        "fills": FILLS,
        "batches": batches,
        "base": run(directory, batches, with_head=False, mixed=False),
        "prism": run(directory, batches, with_head=True, mixed=False),
        "base_bf16": run(directory, batches, with_head=False, mixed=True),
        "prism_bf16": run(directory, batches, with_head=True, mixed=True),
    }
    (Path(directory) / "training.json").write_text(json.dumps(file) + "\n")
    for name in ["base", "base_bf16", "prism", "prism_bf16"]:
        print(name, file[name]["losses"], file[name]["gradient_norms"])


if __name__ == "__main__":
    main()
