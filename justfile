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

# The same models in plain PyTorch (needs torch, safetensors, numpy)
bench-torch:
    python3 benches/torch_llada.py --check tests/data/llada-tiny
    for model in tests/data/llada-tiny dummy-100m; do \
        python3 benches/torch_llada.py --model $model --canvas 128 --steps 32 --dtype f32; \
    done
    python3 benches/torch_llada.py --model models/sudoku --canvas 89 --steps 32 --dtype f32

# 64 clients that come and go, for a minute
soak:
    REMASK_SOAK_SECONDS=60 cargo test --test soak -- --nocapture

# Type-check the CUDA build without a CUDA toolkit
cuda-check:
    NVCC="{{ justfile_directory() }}/.ci/nvcc" CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000 \
        cargo check --features cuda
