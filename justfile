# Recipes for development. Using Remask needs none of them.

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

# Speed of the small models, and the overhead of the engine
bench:
    cargo bench

# The same models compared with plain PyTorch, as ratios (needs torch, safetensors, numpy)
bench-torch:
    cargo build --release
    python3 benches/torch_llada.py --check tests/data/llada-tiny
    python3 benches/compare.py

# 200 clients of all kinds for half an hour: the soak of benches/RESULTS.md
soak:
    REMASK_SOAK_SECONDS=1800 REMASK_SOAK_CLIENTS=200 cargo test --release --test soak -- --nocapture

# The same on a very small model, with ten times the visits per minute: does a visit leak memory?
soak-small out="target/small" seconds="600":
    cargo run --release -- train base --task sudoku --d-model 32 --layers 1 --steps 2 --batch 4 --learning-rate 1e-3 \
        --out {{ out }}/base
    cargo run --release -- train prism --task sudoku --model-id {{ out }}/base --steps 2 --batch 4 --learning-rate 1e-3 \
        --out {{ out }}/head
    cp models/sudoku/generation_config.json models/sudoku/tokenizer_config.json {{ out }}/head
    REMASK_SOAK_MODEL={{ out }}/head REMASK_SOAK_SECONDS={{ seconds }} REMASK_SOAK_CLIENTS=200 \
        cargo test --release --test soak -- --nocapture

# Hostile clients beside ordinary ones, for a minute on each of two models
hostile:
    REMASK_HOSTILE_SECONDS=60 cargo test --release --test hostile -- --nocapture

# Test openai (Python and Node), LangChain, litellm, llm and grpcio with a running server
clients:
    .ci/clients

# Test the playground in Chromium; the screenshots go to target/playground
playground:
    .ci/playground

# Test `--watch` in a terminal (tmux)
terminal:
    .ci/terminal

# Take the pictures of README.md anew (Debian's Chromium, tmux, Python 3)
pictures:
    cargo build --release
    REMASK=target/release/remask .ci/playground pictures
    python3 docs/pictures/terminal.py target/release/remask docs/pictures/terminal.svg

# Check the server against its /openapi.json with thousands of generated requests (schemathesis)
schemathesis:
    .ci/schemathesis

# Update the viewer behind /docs to a published version
viewer version="5.35.0":
    mkdir -p target/viewer
    cd target/viewer && npm pack --silent swagger-ui-dist@{{ version }} && tar xzf swagger-ui-dist-{{ version }}.tgz
    for f in swagger-ui.css swagger-ui-bundle.js; do gzip -9nc target/viewer/package/$f > src/api/openapi/viewer/$f.gz; done
    cp target/viewer/package/{LICENSE,NOTICE,swagger-ui-bundle.js.LICENSE.txt} src/api/openapi/viewer/
    sed -i 's/dist [0-9.]*[0-9],/dist {{ version }},/' src/api/openapi/viewer/README.md

# Fuzz every parser of outside bytes for some minutes (needs `cargo install cargo-fuzz`)
fuzz seconds="300":
    mkdir -p fuzz/seeds/gguf fuzz/seeds/safetensors
    cp tests/data/llada-tiny/llama_cpp.gguf fuzz/seeds/gguf/tiny
    cp tests/data/llada-tiny/model.safetensors fuzz/seeds/safetensors/tiny
    cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz build
    cd fuzz && for target in requests formats templates resume_ids configs safetensors gguf chat_templates; do \
        mkdir -p corpus/$target seeds/$target && RUSTC_BOOTSTRAP=1 cargo fuzz run $target corpus/$target seeds/$target -- \
            -max_total_time={{ seconds }} -timeout=30 -rss_limit_mb=4096 -verbosity=0 || exit 1; done

# Train the embedded model from nothing (hours on two cores; run it again to continue)
train-sudoku out="target/sudoku":
    cargo run --release -- train base --task sudoku --layers 6 --puzzles 0.75 --steps 7500 --learning-rate 2e-3 \
        --piece 4 --seed 1 --out {{ out }}/base
    cargo run --release -- train base --task sudoku --model-id {{ out }}/base --puzzles 0.75 --steps 10000 \
        --learning-rate 2e-3 --piece 4 --seed 3 --out {{ out }}/more
    cargo run --release -- train base --task sudoku --model-id {{ out }}/more --layers 12 --puzzles 0.75 --steps 5200 \
        --learning-rate 2e-3 --piece 4 --seed 5 --out {{ out }}/deeper
    cargo run --release -- train prism --task sudoku --model-id {{ out }}/deeper --puzzles 0.75 --lambda 5 --fills 8 \
        --carried 0.5 --rounds 64 --steps 1400 --learning-rate 1e-3 --warmup 100 --piece 4 --seed 6 --out {{ out }}/tuned

# Packages that `train-code` takes functions from; their licences are permissive
code_packages := "stdlib aiohttp altair anyio attrs babel beautifulsoup4 black bottle botocore celery cherrypy click \
    coverage dask dateparser django docutils elasticsearch falcon fastapi flask gunicorn html5lib httpx imageio \
    ipython jinja2 keras kombu marshmallow matplotlib networkx nltk openpyxl pandas peewee pendulum pillow pip \
    plotly poetry pydantic pygments pymongo pytest redis reportlab requests rich salt sanic scikit-learn scipy \
    scrapy seaborn setuptools sqlalchemy starlette statsmodels tornado transformers trio urllib3 uvicorn \
    virtualenv werkzeug wtforms xarray xlsxwriter"

# Train a model of Python functions and its head from nothing, as `code.gguf` (on a GPU; run it again to continue)
train-code out="target/code" packages=code_packages d_model="384" layers="8" batch="512" steps="9000" head_steps="1000":
    mkdir -p {{ out }}
    python3 -m pip install --quiet --upgrade --target {{ out }}/python tokenizers
    test -e {{ out }}/functions.jsonl || python3 benches/python_functions.py --out {{ out }}/functions.jsonl {{ packages }}
    test -e {{ out }}/new/config.json || PYTHONPATH={{ out }}/python python3 benches/new_text_model.py \
        --data {{ out }}/functions.jsonl --d-model {{ d_model }} --layers {{ layers }} --out {{ out }}/new
    cargo run --release -- train base --data {{ out }}/functions.jsonl --packed --model-id {{ out }}/new --length 160 \
        --batch {{ batch }} --steps {{ steps }} --learning-rate 2.5e-3 --out {{ out }}/base
    cargo run --release -- train prism --data {{ out }}/functions.jsonl --packed --model-id {{ out }}/base --length 160 \
        --batch {{ batch }} --fills 12 --steps {{ head_steps }} --learning-rate 5e-4 --out {{ out }}/tuned
    cargo run --release -- quantize --model-id {{ out }}/tuned --format q8_0 --out {{ out }}/code.gguf

# Training speed compared with plain PyTorch, as ratios (needs torch, safetensors, numpy)
bench-training:
    cargo build --release
    python3 benches/compare.py --training

# The figures of models/sudoku/README.md: puzzles solved by policy and passes, calibration
eval:
    cargo run --release -- eval sudoku --count 1000 --policies default
    cargo run --release -- eval sudoku --count 1000 --below 0.5 --steps 13,26,51,102
    cargo run --release -- eval sudoku --count 1000 --order random --temperature 1 --erase-per-step 4 --steps 51
    cargo run --release -- eval calibration

# Where `cuda-toolchain` puts the CUDA toolkit, and where `cuda-build` puts the binary
cuda_home := env("CUDA_HOME", justfile_directory() / "target/cuda-toolkit/nvidia/cu13")
cuda_target := "target/cuda-build/x86_64-unknown-linux-gnu/release"

# Download a CUDA 13.0 toolkit from PyPI (400 MB), with empty libraries to link with
cuda-toolchain:
    python3 -m pip install --quiet --no-deps --no-compile --upgrade --target target/cuda-toolkit nvidia-cuda-nvcc==13.0.88 \
        nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96
    mkdir -p {{ cuda_home }}/lib/stubs
    for l in cuda:1 nvrtc:13 curand:10 cublas:13 cublasLt:13; do \
        echo | gcc -shared -fPIC -x c - -Wl,-soname,lib${l%%:*}.so.${l##*:} -o {{ cuda_home }}/lib/stubs/lib${l%%:*}.so; done
    ln -sf ../libcudart_static.a {{ cuda_home }}/lib/stubs/libcudart.a

# Build for one compute capability (90 is H100 and H200); needs no GPU
cuda-build compute_cap="90" *what="build":
    CUDA_HOME={{ cuda_home }} PATH={{ cuda_home }}/bin:$PATH CUDA_COMPUTE_CAP={{ compute_cap }} CUDARC_CUDA_VERSION=13000 \
        CUDAFORGE_THREADS=2 CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu CARGO_TARGET_DIR=target/cuda-build \
        CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS='--cfg feature="dynamic-loading"' \
        cargo {{ what }} --release --features cuda

# Compile the kernels' source to PTX, and that for two GPUs: registers and spilled bytes of each
kernels: cuda-toolchain
    PATH={{ cuda_home }}/bin:$PATH src/model/backend/kernels/make

# Pack all that `benches/gpu.sh` needs on a machine with a GPU; unpack it there, run `./gpu.sh`
gpu-archive: cuda-toolchain cuda-build (cuda-build "90" "test --no-run --lib --test gpu --message-format json >target/gpu-tests.json")
    rm -rf target/gpu && mkdir -p target/gpu/tests/data target/gpu/model target/gpu/model-to-train
    cp benches/gpu.sh benches/gpu_table.py benches/http_load.py benches/http_same.py target/gpu/
    cp benches/torch_llada.py benches/torch_passes.py benches/torch_training.py benches/gpu_training.py target/gpu/
    cp -r tests/data/llada-tiny tests/data/dit-tiny target/gpu/tests/data/
    cp tests/data/llada-hub/instruct/*.json target/gpu/model/
    cp tests/data/llada-hub/instruct/config.json models/toy/tokenizer.json target/gpu/model-to-train/
    cat README.md docs/*.md >target/gpu/model-to-train/text.txt
    cp {{ cuda_target }}/remask target/gpu/
    for name in gpu remask; do \
        cp "$(grep -o "\"executable\":\"[^\"]*/$name-[^\"]*\"" target/gpu-tests.json | cut -d '"' -f 4)" target/gpu/$name-tests; done
    mv target/gpu/remask-tests target/gpu/kernel-tests
    strip target/gpu/remask target/gpu/gpu-tests target/gpu/kernel-tests
    tar -C target -cJf target/gpu.tar.xz gpu
    ls -lh target/gpu.tar.xz

# Build, test and measure, on a machine with a GPU and this repository: target/gpu/report.md
gpu: gpu-archive
    cd target/gpu && ./gpu.sh

# Type-check the CUDA build without a CUDA toolkit
cuda-check:
    NVCC="{{ justfile_directory() }}/.ci/nvcc" CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000 \
        cargo check --features cuda

# Check deploy/ and the Dockerfile with Prometheus, Helm, Docker Compose, hadolint, buildah
deploy-check:
    .ci/deploy
