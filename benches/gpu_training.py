#!/usr/bin/env python3
"""How fast Remask trains on a GPU, as Markdown: pretraining beside plain PyTorch in the same run, a quality head beside
pretraining, and what a head for an 8B model takes. A step of `gpu.sh`; needs Python 3, and PyTorch for its column.

    python3 gpu_training.py --remask ./remask --model model --text FILE
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# what a row of the first table is called, width, layers, rows of a step: rows of 89 tokens
SIZES = [("17M", 384, 10, 512), ("100M", 768, 14, 256)]
# tokens on which a head is trained
TOKENS = 50e6


def run(command):
    """The output of a command; None where it fails, which is told."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(map(str, command))}: {done.stderr.strip()[-2000:]}", file=sys.stderr)
        return None
    return done.stdout


def trained(remask, kind, out, arguments):
    """Tokens per second of a run, at its end, when the device is warm."""
    common = ["--task", "sudoku", "--puzzles", "0", "--learning-rate", "1e-3", "--eval-every", "0", "--out", out]
    done = run([remask, "train", kind, *common, *arguments])
    lines = [json.loads(line) for line in (done or "").splitlines() if line.startswith("{")]
    return lines[-1]["tokens_per_s"] if lines else None


def tried(remask, arguments):
    """Tokens per second and memory that a dry run tells."""
    done = run([remask, "train", "prism", "--dry-run", "--learning-rate", "1e-4", "--steps", "1000", *arguments]) or ""
    speed = re.search(r"([\d.]+) tokens/s", done)
    memory = re.search(r"memory: (.*) of the GPU", done) or re.search(r"memory: (.*) of the host", done)
    return float(speed[1]) if speed else None, memory[1] if memory else ""


def cell(value, form="{:.0f}"):
    return "" if value is None else form.format(value)


def quotient(a, b):
    return a / b if a and b else None


def main():
    parser = argparse.ArgumentParser(description="Speed of training on a GPU")
    parser.add_argument("--remask", type=Path, default=Path("./remask"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, help="a directory with config.json and tokenizer.json")
    parser.add_argument("--text", type=Path, help="what a head is trained on")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row of that")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step of that")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--sizes", type=json.loads, default=SIZES, help="name, width, layers, rows of a step of each")
    args = parser.parse_args()
    here, failed = Path(__file__).resolve().parent, False

    columns = ["parameters", "width", "layers", "rows", "precision", "train base, tokens/s", "PyTorch eager, tokens/s", "ratio"]
    print(f"| {' | '.join([*columns, 'train prism, tokens/s', 'of train base'])} |\n|{'---|' * (len(columns) + 2)}")
    for name, width, layers, batch in args.sizes:
        for precision in ["bf16", "tf32", "f32"] if args.device != "cpu" else ["f32"]:
            shape = ["--d-model", width, "--layers", layers]
            step = ["--batch", batch, "--steps", args.steps]
            ours = ["--device", args.device, "--precision", precision]
            with tempfile.TemporaryDirectory() as out:
                base = trained(args.remask, "base", f"{out}/base", [*shape, *step, *ours])
                head = trained(args.remask, "prism", f"{out}/head", ["--model-id", f"{out}/base", *step, *ours])
            script = [sys.executable, here / "torch_training.py", *shape, *step]
            theirs = run([*script, "--device", args.device, "--precision", precision])
            theirs = json.loads(theirs)["tokens_per_s"] if theirs else None
            cells = [name, width, layers, batch, precision, cell(base), cell(theirs), cell(quotient(base, theirs), "{:.2f}")]
            print(f"| {' | '.join(map(str, [*cells, cell(head), cell(quotient(head, base), '{:.2f}')]))} |", flush=True)
            failed |= base is None or head is None

    if args.model and args.text:
        rows = ["--length", args.length, "--batch", args.batch]
        data = ["--dummy-weights", "--model-id", args.model, "--data", args.text, "--device", args.device]
        print(f"\n| a head, rows of {args.length} tokens | tokens/s | memory | hours for {TOKENS:.0f} tokens |\n|---|---|---|---|")
        for name, learns in [("alone", ["head"]), ("with LoRA, rank 256", ["lora", "--rank", "256"])]:
            with tempfile.TemporaryDirectory() as out:
                speed, memory = tried(args.remask, [*data, *rows, "--out", out, "--learns", *learns])
            hours = quotient(TOKENS / 3600, speed)
            print(f"| {name} | {cell(speed)} | {memory} | {cell(hours, '{:.1f}')} |", flush=True)
            failed |= speed is None
    sys.exit(failed)


if __name__ == "__main__":
    main()
