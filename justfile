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

# Figures of models/sudoku: puzzles solved by policy and passes, calibration
eval:
    cargo run --release -- eval sudoku --count 1000
    cargo run --release -- eval sudoku --count 1000 --order random --temperature 1 --erase-per-step 4
    cargo run --release -- eval calibration

# Type-check the CUDA build without a CUDA toolkit
cuda-check:
    NVCC="{{ justfile_directory() }}/.ci/nvcc" CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000 \
        cargo check --features cuda
