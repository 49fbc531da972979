#!/usr/bin/env python3
"""Remask beside plain PyTorch: the same weights, canvas, steps and threads, in turns, as a Markdown table of ratios.

Needs a release build (`cargo build --release`) and what `torch_llada.py` needs:

    python3 benches/compare.py --rounds 3
    python3 benches/compare.py --rounds 3 --training

Machines are noisy, so each round runs Remask, PyTorch in f32 and PyTorch in bf16 one after the other, and a ratio is
the median over the rounds of the quotient within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# model as PyTorch knows it, Remask's flags for it, canvas, forward passes, sequences per pass
SETTINGS = [
    ("tests/data/llada-tiny", ["--model-id", "tests/data/llada-tiny"], 128, 32, 1),
    ("models/sudoku", ["--model-id", "models/sudoku"], 89, 32, 1),
    ("models/sudoku", ["--model-id", "models/sudoku"], 89, 32, 16),
    ("dummy-100m", ["--dummy-100m"], 128, 32, 1),
    ("dummy-100m", ["--dummy-100m"], 128, 32, 4),
]


# width, layers, rows of a step
TRAINED = [(128, 4, 64), (128, 6, 64), (256, 4, 32)]


def figures(command, threads):
    """The last JSON line a command prints."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare_training(args):
    """Pretraining on Sudoku grids, f32: tokens per second of ours and PyTorch's, and their quotient."""
    print("| d_model | layers | batch | Remask, tokens/s | PyTorch, tokens/s | ratio |")
    print("|---|---|---|---|---|---|")
    for width, layers, batch in TRAINED:
        size = ["--d-model", str(width), "--layers", str(layers), "--batch", str(batch), "--steps", "40"]
        pairs = []
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as out:
                ours = [args.remask, "train", "base", "--task", "sudoku", "--learning-rate", "2e-3", "--out", out]
                ours = figures([*ours, *size, "--puzzles", "0", "--piece", str(args.piece)], args.threads)
            torch = [sys.executable, "benches/torch_training.py", *size, "--threads", str(args.threads)]
            pairs.append((ours["tokens_per_s"], figures(torch, args.threads)["tokens_per_s"]))
        ratios = [ours / torch for ours, torch in pairs]
        ours, torch = (statistics.median(column) for column in zip(*pairs))
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {width} | {layers} | {batch} | {ours:.0f} | {torch:.0f} | {ratio} |")
        sys.stdout.flush()


def main():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description="Remask beside plain PyTorch")
    parser.add_argument("--remask", type=Path, default=target / "release/remask", help="the binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=5, help="runs within a round; the median counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--training", action="store_true", help="compare pretraining instead of serving")
    parser.add_argument("--piece", type=int, default=4, help="rows of a piece of Remask's training steps")
    args = parser.parse_args()
    if args.training:
        compare_training(args)
        return

    print("| model | canvas | steps | batch | Remask f32, passes/s | engine overhead | to PyTorch f32 | to PyTorch bf16 |")
    print("|---|---|---|---|---|---|---|---|")
    for model, flags, canvas, steps, batch in SETTINGS:
        size = ["--canvas", str(canvas), "--steps", str(steps), "--repeat", str(args.repeat)]
        ours, ratios = [], {"f32": [], "bf16": []}
        for _ in range(args.rounds):
            run = figures([args.remask, "bench", *flags, *size, "--streams", str(batch), "--json"], args.threads)
            ours.append(run)
            for dtype, quotients in ratios.items():
                torch = [sys.executable, "benches/torch_llada.py", "--model", model, *size, "--batch", str(batch)]
                torch += ["--dtype", dtype, "--threads", str(args.threads)]
                quotients.append(run["passes_per_s"] / figures(torch, args.threads)["passes_per_s"])
        passes = statistics.median(run["passes_per_s"] for run in ours)
        overhead = statistics.median(run["engine_overhead"] for run in ours)
        to = {dtype: f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for dtype, r in ratios.items()}
        name = Path(model).name
        print(f"| {name} | {canvas} | {steps} | {batch} | {passes:.1f} | {overhead:.2%} | {to['f32']} | {to['bf16']} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
