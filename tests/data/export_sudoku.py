#!/usr/bin/env python3
"""Writes `sudoku/io.safetensors` for `tests/parity.rs`: the numbers of PyTorch for one puzzle
with the embedded model.

The network is `benches/torch_llada.py`, which is checked against the numbers of the published code
(`--check`). Run this again whenever the weights in `models/sudoku` change; the puzzle stays.

Written with Python 3.11, torch 2.15.0, safetensors 0.8.0:

    python3 tests/data/export_sudoku.py
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from export_training import head, load

ROOT = Path(__file__).resolve().parents[2]
MODEL, FILE = ROOT / "models/sudoku", ROOT / "tests/data/sudoku/io.safetensors"


def main():
    model = load(MODEL, torch.float32)
    ids = load_file(FILE)["0.input_ids"]  # (canvas)
    hidden = model.hidden(ids.view(1, -1))  # (1, canvas, d_model)
    numbers = {
        "0.input_ids": ids,
        "0.hidden": hidden[0],
        "0.logits": model.logits(ids.view(1, -1))[0],
        "0.quality_logit": head(load_file(MODEL / "prism_head.safetensors"), hidden)[0],
    }
    save_file({name: tensor.contiguous() for name, tensor in numbers.items()}, FILE)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
