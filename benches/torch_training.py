#!/usr/bin/env python3
"""Masked diffusion pretraining in plain PyTorch, as a careful user's script would run it: what `remask train base` is held
against. The same network (`torch_llada.py`), loss (LLaDA, arXiv 2502.09992, equation 3), AdamW, clipping and moving average.
On the CPU in f32; on a GPU eager, in f32, with TF32, or in bf16 by autocast. Rows are drawn beforehand, so that only the step
is timed.

Needs what `torch_llada.py` needs. One JSON line, tokens per second of the median step:

    python3 benches/torch_training.py --layers 6 --steps 30

Beside Remask, in turns, as a Markdown table of ratios: `python3 benches/compare.py --training`.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from torch_llada import Llada

BETAS, WEIGHT_DECAY, CLIP, EMA, RATE = (0.9, 0.98), 0.05, 1.0, 0.999, 2e-3
LENGTH, VOCABULARY, MASK = 89, 11, 0


def fresh(d_model, layers):
    """The sizes `remask train base --task sudoku` gives a new model, with weights to train."""
    config = {
        "d_model": d_model,
        "n_layers": layers,
        "n_heads": -(-d_model // 32),
        "vocab_size": VOCABULARY,
        "max_sequence_length": LENGTH,
        "rope": False,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "mask_token_id": MASK,
    }
    mlp = -(-(d_model * 8 // 3) // 8) * 8
    shapes = {"wte": (VOCABULARY, d_model), "wpe": (LENGTH, d_model), "ff_out": (VOCABULARY, d_model), "ln_f": (d_model,)}
    for n in range(layers):
        shapes |= {f"blocks.{n}.{name}": (d_model,) for name in ("attn_norm", "ff_norm")}
        shapes |= {f"blocks.{n}.{name}": (d_model, d_model) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        shapes |= {f"blocks.{n}.{name}": (mlp, d_model) for name in ("ff_proj", "up_proj")}
        shapes[f"blocks.{n}.ff_out"] = (d_model, mlp)
    weights = {
        f"{name}.weight": (torch.randn(shape) * 0.02 if len(shape) > 1 else torch.ones(shape)).requires_grad_()
        for name, shape in shapes.items()
    }
    return Llada(config, weights, torch.float32), weights


def batch_of(rows):
    """Rows of which a share is masked, even over the batch: ids (rows, LENGTH), what was there, 1 / share where masked."""
    there = torch.randint(1, VOCABULARY, (rows, LENGTH))
    share = ((torch.arange(rows) + torch.rand(1)) / rows).clamp(min=1e-3).unsqueeze(1)  # (rows, 1)
    masked = torch.rand(rows, LENGTH) < share
    return there.masked_fill(masked, MASK), there, masked / share


def main():
    parser = argparse.ArgumentParser(description="Masked diffusion pretraining in plain PyTorch, timed")
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.set_default_device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    mixed = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
    model, weights = fresh(args.d_model, args.layers)
    matrices = [weight for weight in weights.values() if weight.dim() > 1]
    gains = [weight for weight in weights.values() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": gains, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, fused=args.device == "cuda")
    averages = [weight.detach().clone() for weight in weights.values()]
    batches = [batch_of(args.batch) for _ in range(args.steps)]
    seconds = []
    for ids, there, weight in batches:
        began = time.perf_counter()
        with mixed:
            loss = F.cross_entropy(model.logits(ids).view(-1, VOCABULARY), there.view(-1), reduction="none")
            loss = (loss * weight.view(-1)).sum() / (args.batch * LENGTH)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averages, [weight.detach() for weight in weights.values()], 1 - EMA)
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    figures = {
        "d_model": args.d_model,
        "layers": args.layers,
        "batch": args.batch,
        "steps": args.steps,
        "threads": args.threads,
        "device": args.device,
        "precision": args.precision,
        "parameters": sum(weight.numel() for weight in weights.values()),
        "torch": torch.__version__,
        "tokens_per_s": round(args.batch * LENGTH / statistics.median(seconds), 1),
        "loss": round(loss.item(), 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
