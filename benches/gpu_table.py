#!/usr/bin/env python3
"""The tables of `gpu.sh`: what its steps measured, side by side, in Markdown."""

import argparse
import json
from pathlib import Path


def lines(file):
    """The JSON lines of a step by size, (streams, canvas); none where the step failed early."""
    if not file.exists():
        return {}
    found = [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]
    return {(line["streams"], line["canvas"]): line for line in found}


def number(value, form="{:.1f}"):
    return "" if value is None else form.format(value)


def ratio(a, b):
    return number(a / b if a and b else None, "{:.2f}")


def get(line, *names):
    """A member of a line; None where the step has no such line."""
    for name in names:
        line = (line or {}).get(name)
    return line


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def name(size):
    streams, canvas = size
    return str(canvas) if streams == 1 else f"{streams} rows of {canvas}"


def last(file, mark):
    found = [line for line in file.read_text().splitlines() if mark in line] if file.exists() else []
    return found[-1].strip() if found else "no result"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--card", default="")
    args = parser.parse_args()
    greedy, top_p, top_k, torch = (lines(args.dir / step) for step in ("greedy", "top_p", "top_k", "torch"))
    sizes = list(greedy) + [size for size in torch if size not in greedy]
    one = next(iter(greedy.values()), {})
    print(f"Card, driver, memory: {args.card}. Model: {one.get('model')}, {one.get('dtype')}.\n")
    table(
        ["tests", "result"],
        [[step, last(args.dir / step, "test result")] for step in ("kernels", "models")],
    )

    print("Milliseconds per forward pass:\n")
    rows = []
    for size in sizes:
        ours, theirs = get(greedy, size, "per_pass", "ms"), torch.get(size)
        eager, graph, products = (get(theirs, column) for column in ("eager_ms", "graph_ms", "products_ms"))
        best = min((value for value in (eager, graph) if value), default=None)
        rows.append([
            name(size), number(ours), number(get(top_p, size, "per_pass", "ms")),
            number(get(top_k, size, "per_pass", "ms")), number(eager), number(graph), number(products),
            number(get(greedy, size, "floor", "ms")), ratio(ours, products), ratio(ours, best),
        ])
    table(
        ["tokens", "Remask", "top-p 0.9", "top-k 50", "PyTorch eager, SDPA", "PyTorch, fused weights + CUDA graph",
         "products alone", "measured floor", "Remask to products", "Remask to the better of PyTorch"],
        rows,
    )

    floor = one.get("floor") or {}
    if floor:
        copy, flop = floor["copy_bytes_per_s"] / 1e12, floor["flop_per_s"] / 1e12
        print(f"Measured speed of the device: copies {copy:.2f} TB/s, products {flop:.1f} TFLOP/s.\n")
    table(
        ["tokens", "launches a pass", "copies", "waits", "engine overhead"],
        [[name(size), *(number(greedy[size]["per_pass"][count]) for count in ("launches", "copies", "waits")),
          number(greedy[size]["engine_overhead"], "{:.1%}")] for size in greedy],
    )
    caches = {step: lines(args.dir / f"blocks_{step}") for step in ("off", "prefix", "dual")}
    rows = [
        [name(size), *(number(get(line, *figure)) for figure in (("per_pass", "ms"), ("floor", "memory_ms"), ("tokens_per_s",))
                       for line in (found.get(size) for found in caches.values()))]
        for size in caches["off"]
    ]
    if rows:
        figures = ("ms a pass", "memory floor, ms", "tokens/s")
        print("Answers in blocks of 32 cells, four passes each:\n")
        table(["canvases", *(f"{figure}, {cache}" for figure in figures for cache in caches)], rows)
    http = args.dir / "http"
    rows = [line for line in http.read_text().splitlines() if line.startswith("|")] if http.exists() else []
    print("\n".join(["| through HTTP | |", "|---|---|", *rows]))
    training = args.dir / "training"
    if training.exists():
        print("\nTraining, rows of 89 tokens:\n\n" + training.read_text().strip())


if __name__ == "__main__":
    main()
