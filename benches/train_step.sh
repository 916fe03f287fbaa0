#!/usr/bin/env bash
# benches/train_step.sh PYTHON [ROUNDS] [STEPS] [SHAPE..]: both sides in turns, then the ratios
# by shape: median over the rounds of the paired tokens/s, and of the paired peak memory.
# PYTHON has torch.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 rounds=${2:-3} steps=${3:-6}
shift $(($# < 3 ? $# : 3))
shapes=("$@")
[[ $# -gt 0 ]] || shapes=(124m-1x256 124m-4x128 124m-1x1024 small-8x256)
export RAYON_NUM_THREADS=2
cargo build --release --bench train_step
binary=$(cargo build --release --bench train_step --message-format json 2>/dev/null |
    "$python" -c 'import json,sys
print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")][-1])')
log=$(mktemp)
for shape in "${shapes[@]}"; do
    for _ in $(seq "$rounds"); do
        "$binary" "$shape" "$steps" | tee -a "$log"
        "$python" benches/train_step.py "$shape" "$steps" | tee -a "$log"
    done
done
"$python" - "$log" <<'PY'
import statistics, sys
runs = {}
for line in open(sys.argv[1]):
    side, shape, *rest = line.split()
    runs.setdefault(shape, {"rust": [], "torch": []})[side].append(dict(zip(rest[::2], map(float, rest[1::2]))))
print(f"{'shape':<12} {'rust tok/s':>10} {'torch tok/s':>11} {'ratio':>6} {'rust MiB':>8} {'torch MiB':>9} {'ratio':>6}")
for shape, run in runs.items():
    def median(key, of=lambda r, t: r): return statistics.median(of(r[key], t[key]) for r, t in zip(run["rust"], run["torch"]))
    second, ratio = (lambda r, t: t), (lambda r, t: r / t)
    print(f"{shape:<12} {median('tokens/s'):>10.0f} {median('tokens/s', second):>11.0f} {median('tokens/s', ratio):>6.2f} "
          f"{median('peak_mib'):>8.0f} {median('peak_mib', second):>9.0f} {median('peak_mib', ratio):>6.2f}")
PY
