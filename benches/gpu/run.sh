#!/usr/bin/env bash
# benches/gpu/run.sh PYTHON [OUT]
#
# Everything that is to be seen on an NVIDIA GPU, in one go: parity, 500 steps of flat memory, speed
# beside PyTorch in turns, HellaSwag beside PyTorch's completion loop, 200 steps of the quickstart and
# 20 of the continue recipe. PYTHON has torch. What comes out goes to OUT, benches/results/DATE-GPU
# unless given, with a summary in README.md there.
#
# Without cargo on the machine, BIN names a folder with what was built elsewhere:
#   cargo build --release --features cuda --bins --tests
#   BIN/scale-ckpt, and BIN/gpu, BIN/train_parity, BIN/long_runs (target/release/deps/gpu-* and so on)
#
# ROUNDS (3), STEPS (20) and SHAPES say how much is timed. ONLY is a pattern of the parts that run, for
# machines where a command may take minutes only: what is in OUT from before stays in the summary. The first run of
# a shape tunes its products for minutes; SCALE_CKPT_CACHE keeps that.
set -uo pipefail
python=$(command -v "$1")
[[ $python == */bin/* ]] && python=$(realpath -s "$python")
[[ -n ${2:-} ]] && mkdir -p "$2" && set -- "$1" "$(realpath "$2")"
[[ -n ${BIN:-} ]] && BIN=$(realpath "$BIN")
cd "$(dirname "$0")/../.."
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
out=${2:-benches/results/$(date -u +%F)-$(tr -cs 'A-Za-z0-9' '-' <<<"$gpu" | sed 's/^-//;s/-$//')}
mkdir -p "$out"
rounds=${ROUNDS:-3} steps=${STEPS:-20}
read -ra shapes <<<"${SHAPES:-gpt2:16 gpt2-24l:8 gpt2-medium:8}"
# Dense bf16 and TF32, of the makers' sheets.
case $gpu in
*H100*PCIe*) peak=756e12 peak32=378e12 ;;
*H100* | *H200*) peak=989e12 peak32=495e12 ;;
*A100*) peak=312e12 peak32=156e12 ;;
*) peak= peak32= ;;
esac
failed=()
log() { printf '\n== %s\n' "$*" | tee -a "$out/log.txt"; }
part() { # NAME COMMAND..: runs it, keeps what it says, goes on if it fails
    [[ $1 =~ ${ONLY:-.} ]] || return 0
    log "$1: ${*:2}"
    "${@:2}" >"$out/$1.out" 2>"$out/$1.err" || { failed+=("$1"); tail -5 "$out/$1.err"; }
}

if [[ -z ${BIN:-} ]]; then
    cargo build --release --features cuda --bins || exit 1
    program=$PWD/target/release/scale-ckpt
    tests() { SCALE_CKPT_GPU=cuda cargo test --release --features cuda --test "$1" -- --test-threads=1 --nocapture; }
else
    program=$BIN/scale-ckpt
    tests() { SCALE_CKPT_GPU=cuda SCALE_CKPT_PROGRAM=$program CARGO_MANIFEST_DIR=$PWD "$BIN/$1" --test-threads=1 --nocapture; }
fi
{
    date -u
    git rev-parse HEAD 2>/dev/null
    "$program" --version
    nvidia-smi
    "$program" doctor
    "$python" -c 'import torch; print("torch", torch.__version__, torch.version.cuda)'
} >"$out/machine.txt" 2>&1

# Numbers before speed.
part kernels tests gpu
part parity tests train_parity
part long tests long_runs

peak_flag=() peak32_flag=()
[[ -n $peak ]] && peak_flag=(--peak-flops "$peak") peak32_flag=(--peak-flops "$peak32")
part soak "$program" bench train --device cuda --shape gpt2 --micro-batch 16 --steps 250 --json "${peak_flag[@]}"
part recompute "$program" bench train --device cuda --shape gpt2 --micro-batch 16 --steps "$steps" --gradient-checkpointing --json "${peak_flag[@]}"
part tf32 "$program" bench train --device cuda --shape gpt2 --micro-batch 16 --steps "$steps" --precision f32 --json "${peak32_flag[@]}"
for shape in "${shapes[@]}"; do
    name=${shape%:*} batch=${shape#*:}
    for round in $(seq "$rounds"); do
        part "train-$name-ours-$round" "$program" bench train --device cuda --shape "$name" --micro-batch "$batch" --steps "$steps" --json "${peak_flag[@]}"
        part "train-$name-eager-$round" "$python" benches/pytorch/train.py --shape "$name" --micro-batch "$batch" --steps "$steps"
        part "train-$name-compiled-$round" "$python" benches/pytorch/train.py --shape "$name" --micro-batch "$batch" --steps "$steps" --compile
    done
done
for round in $(seq "$rounds"); do
    part "eval-gpt2-ours-$round" "$program" bench eval --device cuda --precision bf16 --shape gpt2 --items 2000 --json
    part "eval-gpt2-loop-$round" "$python" benches/pytorch/eval.py --shape gpt2 --items 500
done

# Two hundred steps on the text that comes with the source.
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
quickstart() { "$program" train recipes/quickstart.toml --device "$1" --set "out='$runs/$2'" --set train.tokens=819_200; }
part quickstart quickstart cuda quickstart
part quickstart-again quickstart cuda again
part quickstart-cpu quickstart cpu cpu

# The continue recipe, twenty of its steps, on the same text; from a gpt2 after one step from random
# weights, since the hub may be out of reach.
recipe() { # RECIPE OUT TOKENS MORE..
    "$program" train "recipes/$1.toml" --device cuda --set "out='$runs/$2'" --set "train.tokens=$3" \
        --set train.warmup_tokens=0 --set "data.train=['fixtures/prose/train.txt']" \
        --set "data.val=['fixtures/prose/val.txt']" \
        --set "eval.data.hellaswag='fixtures/hellaswag/hellaswag_val_200.jsonl'" "${@:4}"
}
continued() {
    recipe scratch-full gpt2 524_288 --set "model.scratch.tokenizer='./fixtures/prose-4l'" &&
        recipe continue continue 10_485_760 --set "model.from='$(echo "$runs"/gpt2/step-*)'"
}
part continue continued
for run in quickstart again cpu continue; do cp "$runs/$run/metrics.jsonl" "$out/$run.metrics.jsonl" 2>/dev/null; done

"$python" benches/gpu/summary.py "$out" "$gpu" "${failed[@]}" | tee "$out/README.md"
[[ ${#failed[@]} -eq 0 ]]
