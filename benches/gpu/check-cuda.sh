#!/usr/bin/env bash
# benches/gpu/check-cuda.sh
#
# The CUDA path on a machine without a GPU: the CUDA build runs on idle-driver.c with NVIDIA's own
# run-time compiler, so that every kernel is generated and compiled for sm_90a, and every launch is
# held to the GPU's limits. Then ptxas says what each of our kernels takes. What is computed is
# zeros: numbers are checked by check.sh.
#
# Needs cc, python3 with venv, and about a gigabyte. NVIDIA's packages come from PyPI, unless
# CUDA_PATH names a toolkit.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Before CUDA_PATH is set, for which everything would be built anew.
cargo build --release --features cuda --bins

if [[ -z ${CUDA_PATH:-} ]]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" -q download --no-deps -d "$work/wheels" \
        nvidia-cuda-{nvrtc,runtime,nvcc,cccl}-cu12==12.9.*
    export CUDA_PATH=$work/cuda
    mkdir -p "$CUDA_PATH"/{include,lib64,bin}
    for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/unpacked"; done
    for part in "$work"/unpacked/nvidia/*/; do
        for pair in include:include lib:lib64 bin:bin; do
            [[ -d $part${pair%:*} ]] && cp -r "$part${pair%:*}/." "$CUDA_PATH/${pair#*:}/"
        done
    done
    chmod +x "$CUDA_PATH"/bin/*
fi

program=$PWD/target/release/scale-ckpt
mkdir "$work"/{driver,ptx}
cc -shared -fPIC -O1 -Wl,-soname,libcuda.so.1 -o "$work/driver/libcuda.so.1" benches/gpu/idle-driver.c
export LD_LIBRARY_PATH=$work/driver:$CUDA_PATH/lib64 IDLE_PTX=$work/ptx SCALE_CKPT_CACHE=$work/cache
export CUBECL_AUTOTUNE_LEVEL=minimal RUST_BACKTRACE=0

# CubeCL times the device first, and stumbles over a clock that knows launches alone: what it says
# of that is of interest only where something fails.
run() {
    printf '\n== %s\n' "$*"
    "$program" "$@" 2>"$work/err" || { cat "$work/err" && exit 1; }
}
run bench train --device cuda --shape gpt2 --context 256 --micro-batch 2 --steps 2
run bench train --device cuda --shape gpt2 --context 256 --micro-batch 2 --steps 2 --gradient-checkpointing
run bench train --device cuda --shape prose-4l --context 64 --micro-batch 2 --steps 2 --precision f32
run bench eval --device cuda --shape gpt2 --items 20 --precision bf16

# Memory that holds one sequence of the four: the micro-batch halves, and the run ends.
cat >"$work/oom.toml" <<TOML
out = "$work/run"
[model]
from = "./fixtures/prose-4l"
[data]
train = ["fixtures/prose/train.txt"]
val = ["fixtures/prose/val.txt"]
[train]
tokens = 65536
batch_tokens = 32768
context = 256
micro_batch = 128
lr = 1e-4
[eval]
val_tokens = 512
TOML
IDLE_MEMORY=6e8 run train "$work/oom.toml" --device cuda
grep -h '"micro-batch"' "$work/run/metrics.jsonl"

fails() { # WORD COMMAND..: exit code 6 and the word
    local word=$1 said
    shift
    if said=$(env "$@" 2>&1); then echo "no failure: $*" >&2 && exit 1; fi
    grep -q "$word" <<<"$said" || { echo "no $word in: $said" >&2 && exit 1; }
    echo "refused, as it should be: $(head -1 <<<"$said")"
}
printf '\n== what is missing\n'
bench=("$program" bench train --shape prose-4l --device)
fails libcuda "LD_LIBRARY_PATH=$CUDA_PATH/lib64" "${bench[@]}" cuda
fails libnvrtc CUDA_PATH=/nowhere "LD_LIBRARY_PATH=$work/driver" "${bench[@]}" cuda
fails cuda_runtime.h CUDA_PATH=/nowhere "${bench[@]}" cuda
fails 'shows 1 GPUs' "${bench[@]}" cuda:7

printf '\n== our kernels on sm_90a\n'
names='gelu|add_row|residual|scaled|layer_norm|column_sums|sum_pieces|embed|places|token_grads|position_grads|cross_entropy|adamw|square_sums|forward|query_grads|key_grads'
for ptx in $(grep -lE "\.entry ($names)(_grad)?_kernel" "$IDLE_PTX"/*.ptx); do
    name=$(grep -om1 '\.entry [a-z0-9_]*' "$ptx")
    printf '%-48s %s\n' "${name#.entry }" \
        "$("$CUDA_PATH/bin/ptxas" -arch=sm_90a -v "$ptx" -o /dev/null 2>&1 |
            grep -oE '[0-9]+ (registers|bytes spill stores)|error.*' | paste -sd' ')"
done | sort -u
