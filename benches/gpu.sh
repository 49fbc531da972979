#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, in the folder that `just gpu-archive` packed: are the numbers
# right, and how fast is an 8B model? Random weights of LLaDA-8B's shapes: speed does not depend on
# them. Needs Python 3; PyTorch is measured beside it where Python has it. No network.
#
# Prints report.md, which has the tables of benches/RESULTS.md. A step that fails is named there, and
# the others go on; then the exit code is 1.
#
# To try it without a GPU: DEVICE=cpu MODEL=DIR SIZES=1x64,2x128 VOCABULARY=250 TRIALS=2 \
#     TO_TRAIN=DIR TRAINED='[["small", 64, 2, 8]]' ./gpu.sh
set -uo pipefail
cd "$(dirname "$0")"
device=${DEVICE:-cuda} model=${MODEL:-model} port=${PORT:-8089}
sizes=${SIZES:-1x64,1x206,1x512,1x1024,1x2048,1x4096,4x128,16x128,64x128} # rows x tokens
block_canvas=${BLOCK_CANVAS:-512} streams_of_blocks=${STREAMS_OF_BLOCKS:-1,4,16,64}
to_train=${TO_TRAIN:-model-to-train} trained=${TRAINED:-} # name, width, layers and rows of a step of models to train, in JSON
vocabulary=${VOCABULARY:-126080} trials=${TRIALS:-50} scored=${SCORED:-900}
libraries=$(python3 -c 'import glob, site; print(":".join(glob.glob(site.getsitepackages()[0] + "/nvidia/*/lib")))' || true)
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}:$libraries" RUST_BACKTRACE=0
export REMASK_DEVICE=$device REMASK_MODEL_ID=$model REMASK_LOAD_FORMAT=dummy
[ "$device" = cuda ] || export REMASK_TEST_DEVICE=$device
rm -rf measured && mkdir measured
failed=()

# Runs a command with a limit of time; its output is shown, and kept in measured/NAME.
step() { # name, seconds, command..
    local name=$1 limit=$2 begun=$SECONDS
    shift 2
    echo "== $name" >&2
    timeout "$limit" "$@" > >(tee "measured/$name") 2> >(tee "measured/$name.errors" >&2)
    local code=$?
    echo "== $name: exit code $code, $((SECONDS - begun)) s" >&2
    [ $code = 0 ] || failed+=("$name (exit code $code)")
    return 0
}

# Passes of every size; the arguments sample tokens.
passes() {
    local code=0 size
    for size in ${sizes//,/ }; do
        ./remask bench --json --canvas "${size#*x}" --streams "${size%x*}" --steps 8 --repeat 3 "$@" || code=1
    done
    return $code
}

# Answers in blocks of 32 cells, four passes each, of one and more rows, with a cache or without.
blocks() { # the cache
    local code=0 streams steps=$(((block_canvas - block_canvas / 4 + 31) / 32 * 4))
    for streams in ${streams_of_blocks//,/ }; do
        ./remask bench --json --canvas "$block_canvas" --streams "$streams" --steps "$steps" --repeat 3 \
            --block-length 32 --cache "$1" || code=1
    done
    return $code
}

# A server, what its clients measure, and its memory.
serve() {
    local begun server code=0
    begun=$(date +%s%N)
    ./remask serve --port "$port" --max-batch-tokens 4096 >measured/server.log 2>&1 &
    server=$!
    until curl -sf "127.0.0.1:$port/ready" >/dev/null; do
        kill -0 $server || return 1
        sleep 0.1
    done
    echo "| ready after | $((($(date +%s%N) - begun) / 1000000)) ms |"
    python3 http_load.py "http://127.0.0.1:$port" --vocabulary "$vocabulary" --markdown || code=1
    python3 http_same.py "http://127.0.0.1:$port" --vocabulary "$vocabulary" --repeat "$trials" --score "$scored" || code=1
    echo "| memory on the GPU | $(nvidia-smi --query-gpu=memory.used --format=csv,noheader 2>/dev/null || echo none) |"
    echo "| most memory on the host | $(awk '/VmHWM/ { print $2, $3 }' /proc/$server/status) |"
    kill $server
    wait $server
    return $code
}
export -f passes blocks serve
export block_canvas streams_of_blocks sizes vocabulary trials scored port

step kernels 150 ./kernel-tests backend::cuda::tests train::tests::kernels --ignored --test-threads 1
# built for a GPU none of its tests is ignored, built without they all are
step models 120 ./gpu-tests --include-ignored --test-threads 1 --nocapture
step greedy 150 bash -c 'passes'
step top_p 120 bash -c 'passes --temperature 1 --top-p 0.9'
step top_k 120 bash -c 'passes --temperature 1 --top-k 50'
step blocks_off 150 bash -c 'blocks off'
step blocks_prefix 150 bash -c 'blocks prefix'
step blocks_dual 150 bash -c 'blocks dual'
step http 150 bash -c 'serve'
if python3 -c 'import torch' 2>/dev/null; then
    dtype=bf16
    [ "$device" = cuda ] || dtype=f32
    step torch 150 python3 torch_llada.py --passes "$sizes" --model "$model" --device "$device" --dtype $dtype
else
    failed+=("torch (Python has no module torch)")
fi
step training 500 python3 gpu_training.py --remask ./remask --device "$device" --model "$to_train" \
    --text "$to_train/text.txt" \
    ${trained:+--sizes "$trained" --steps 12 --length 64 --batch 4}
card=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no GPU")
step report 60 python3 gpu_table.py measured --card "$card"
{
    echo
    if [ ${#failed[@]} = 0 ]; then
        echo "All steps succeeded in $SECONDS s."
    else
        printf 'Failed: %s\n' "${failed[@]}"
    fi
} | tee -a measured/report
mv measured/report report.md
[ ${#failed[@]} = 0 ]
