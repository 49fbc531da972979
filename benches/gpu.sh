#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, in the folder that `just gpu-archive` packed: are the numbers right, and how fast is an 8B
# model? Random weights of LLaDA-8B's shapes: speed does not depend on them. Prints what benches/RESULTS.md wants.
set -euo pipefail
cd "$(dirname "$0")"
libraries=$(python3 -c 'import glob, site; print(":".join(glob.glob(site.getsitepackages()[0] + "/nvidia/*/lib")))' || true)
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}:$libraries" RUST_BACKTRACE=0

echo "== $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader)"
echo '== the kernel against the CPU'
./kernel-tests kernels
echo '== llada-tiny against the published numbers and the CPU'
./gpu-tests --test-threads 1 --nocapture
echo '== passes of an 8B model (bf16), all cells of the canvas blank but a quarter; limit: 3.12 ms or 15 GFLOP a token'
for canvas in 64 206 512 1024 2048 4096; do
    ./remask bench --model-id model --load-format dummy --device cuda --canvas "$canvas" --steps 8 --streams 1 --repeat 3 |
        tail -1
done
echo '== through HTTP'
begun=$(date +%s%N)
./remask serve --model-id model --load-format dummy --device cuda --port 8089 --max-batch-tokens 4096 &
server=$!
trap 'kill $server' EXIT
until curl -sf 127.0.0.1:8089/ready >/dev/null; do
    kill -0 $server
    sleep 0.1
done
echo "ready after $((($(date +%s%N) - begun) / 1000000)) ms, $(nvidia-smi --query-gpu=memory.used --format=csv,noheader) on the GPU, $(grep VmHWM /proc/$server/status) on the host"
python3 http_load.py http://127.0.0.1:8089
