#!/usr/bin/env bash
# benches/eval.sh PYTHON CHECKPOINT HELLASWAG.jsonl N [ROUNDS] [BATCH]: the harness, the
# completion loop and this program in turns, then the ratios: medians over the rounds.
# PYTHON has torch, transformers and lm-eval.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 checkpoint=$2 data=$3 count=$4 rounds=${5:-3} batch=${6:-8}
export RAYON_NUM_THREADS=2 OMP_NUM_THREADS=2
cargo build --release --bench eval
binary=$(cargo build --release --bench eval --message-format json 2>/dev/null |
    "$python" -c 'import json,sys
print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")][-1])')
log=$(mktemp)
for _ in $(seq "$rounds"); do
    "$python" benches/eval_pytorch.py harness "$checkpoint" "$data" "$count" "$batch" 2>/dev/null | grep '^{' | tee -a "$log"
    "$binary" hellaswag "$checkpoint" "$data" "$count" | tee -a "$log"
    "$python" benches/eval_pytorch.py loop "$checkpoint" "$data" "$count" 2>/dev/null | grep '^{' | tee -a "$log"
    "$binary" hellaswag_completion "$checkpoint" "$data" "$count" | tee -a "$log"
done
"$python" - "$log" <<'PY'
import json, statistics, sys
runs = {}
for line in map(json.loads, open(sys.argv[1])):
    runs.setdefault(line["what"], []).append(line)
for theirs, ours in ("harness", "hellaswag"), ("loop", "hellaswag_completion"):
    pairs = list(zip(runs[ours], runs[theirs]))
    assert all((a["acc"], a["acc_norm"]) == (b["acc"], b["acc_norm"]) for a, b in pairs), pairs
    def ratios(key): return sorted(a[key] / b[key] for a, b in pairs)
    def median(run, key): return statistics.median(line[key] for line in runs[run])
    speed, memory = ratios("items_per_s"), ratios("peak_rss_mib")
    print(f"{ours} against {theirs}: {median(ours, 'items_per_s'):.2f} and {median(theirs, 'items_per_s'):.2f} items/s, "
          f"ratio {statistics.median(speed):.2f} ({speed[0]:.2f} to {speed[-1]:.2f}); "
          f"{median(ours, 'peak_rss_mib'):.0f} and {median(theirs, 'peak_rss_mib'):.0f} MiB, ratio {statistics.median(memory):.2f}")
PY
