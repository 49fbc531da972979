#!/usr/bin/env python3
"""A model directory with LLaDA-8B's configuration and random weights, in six bf16 shards as on the hub: 16 GB, to measure
loading, quantising and serving with where the real one is not to be had. A gain is one give or take, everything else
zero, with a standard deviation of 0.02.

    pip install numpy
    python3 benches/synthetic_llada.py DIR [--layers 32]
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy

HUB = Path(__file__).resolve().parent.parent / "tests/data/llada-hub/instruct"
DEVIATION = 0.02
CHUNK = 1 << 24


def shapes(config):
    d, kv = config["d_model"], config["d_model"] // config["n_heads"] * config["n_kv_heads"]
    mlp, rows = config["mlp_hidden_size"], config["embedding_size"]
    yield from {"wte": [rows, d], "ln_f": [d], "ff_out": [rows, d]}.items()
    for n in range(config["n_layers"]):
        block = {
            "attn_norm": [d], "q_proj": [d, d], "k_proj": [kv, d], "v_proj": [kv, d], "attn_out": [d, d],
            "ff_norm": [d], "ff_proj": [mlp, d], "up_proj": [mlp, d], "ff_out": [d, mlp],
        }
        yield from ((f"blocks.{n}.{name}", shape) for name, shape in block.items())


def bf16(numbers):
    return ((numbers.view(numpy.uint32) + 0x8000) >> 16).astype(numpy.uint16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    config = json.loads((HUB / "config.json").read_text())
    config["n_layers"] = args.layers
    (args.dir / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("generation_config.json", "tokenizer_config.json"):
        shutil.copy(HUB / name, args.dir / name)
    index = json.loads((HUB / "model.safetensors.index.json").read_text())["weight_map"]
    sizes = {f"model.transformer.{name}.weight": shape for name, shape in shapes(config)}
    index = {name: index[name] for name in sizes}
    (args.dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}, indent=1))
    random = numpy.random.default_rng(0)
    for shard in sorted(set(index.values())):
        header, end = {}, 0
        names = [name for name in sizes if index[name] == shard]
        for name in names:
            start, end = end, end + 2 * int(numpy.prod(sizes[name]))
            header[name] = {"dtype": "BF16", "shape": sizes[name], "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(args.dir / shard, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                left, centre = int(numpy.prod(sizes[name])), float(len(sizes[name]) == 1)
                while left:
                    count = min(left, CHUNK)
                    numbers = random.standard_normal(count, dtype=numpy.float32)
                    file.write(bf16(numbers * numpy.float32(DEVIATION) + numpy.float32(centre)).tobytes())
                    left -= count
        print(shard, f"{end / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
