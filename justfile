# Recipes for people who work on Remask; the README needs none of them.

# List the recipes
default:
    @just --list

# What CI runs
ci:
    .ci/run

# Format, lint, test: before every commit
check:
    cargo fmt
    cargo clippy --all-targets -- -D warnings
    cargo test

# Licences and advisories of the dependencies (needs cargo-deny)
deny:
    cargo deny check

# Speed of the small models, and what the engine adds
bench:
    cargo bench

# The same models beside plain PyTorch, as a table of ratios (needs torch, safetensors, numpy)
bench-torch:
    cargo build --release
    python3 benches/torch_llada.py --check tests/data/llada-tiny
    python3 benches/compare.py

# 64 clients that come and go, for a minute
soak:
    REMASK_SOAK_SECONDS=60 cargo test --test soak -- --nocapture

# The embedded model from nothing (hours on two cores; stopped, it goes on where it was)
train-sudoku out="target/sudoku":
    cargo run --release -- train base --task sudoku --layers 6 --puzzles 0.75 --steps 7500 --learning-rate 2e-3 \
        --piece 4 --seed 1 --out {{ out }}/base
    cargo run --release -- train prism --task sudoku --model-id {{ out }}/base --puzzles 0.75 --lambda 5 --fills 8 \
        --carried 0.5 --rounds 64 --steps 3200 --learning-rate 1e-3 --warmup 100 --piece 4 --seed 2 --out {{ out }}/tuned

# Training speed beside plain PyTorch, as a table of ratios (needs torch, safetensors, numpy)
bench-training:
    cargo build --release
    python3 benches/compare.py --training

# Figures of models/sudoku: puzzles solved by policy and passes, calibration
eval:
    cargo run --release -- eval sudoku --count 1000 --below 0.5 --policies default,off,quality,random,remdm,confidence
    cargo run --release -- eval sudoku --count 1000 --order random --temperature 1 --erase-per-step 4 --steps 51
    cargo run --release -- eval calibration

# Type-check the CUDA build without a CUDA toolkit
cuda-check:
    NVCC="{{ justfile_directory() }}/.ci/nvcc" CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000 \
        cargo check --features cuda
