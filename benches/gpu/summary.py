"""Summary of what benches/gpu/run.sh left in a folder.

    python benches/gpu/summary.py FOLDER GPU [WHAT FAILED..]
"""

import json
import re
import statistics
import sys
from datetime import datetime, timezone
from pathlib import Path


def records(folder, pattern):
    """JSON of every file whose name matches, by the pattern's first group and the round."""
    found = {}
    for path in sorted(folder.glob("*.out")):
        match = re.fullmatch(pattern, path.stem)
        if not match:
            continue
        try:
            of = found.setdefault(match.group(1), {})
            of[match.groups()[-1]] = json.loads(path.read_text())
        except ValueError:
            pass
    return found


def median(rounds, key):
    values = [row[key] for row in rounds.values() if row.get(key)]
    return statistics.median(values) if values else None


def ratio(ours, theirs, key):
    """Median of the ratios of paired rounds."""
    both = [(ours[name], theirs[name]) for name in ours.keys() & theirs.keys()]
    pairs = [a[key] / b[key] for a, b in both if a.get(key) and b.get(key)]
    return f"{statistics.median(pairs):.2f}" if pairs else "-"


def number(value, form="{:,.0f}"):
    return form.format(value) if value is not None else "-"


def training(folder):
    print("## Training, tokens per second\n")
    print("Medians of rounds in turns; a ratio above 1 is ours being faster.\n")
    print("| shape | ours | MFU | eager | compiled | ours / eager | ours / compiled | memory, ours / eager |")
    print("|---|---|---|---|---|---|---|---|")
    for shape, ours in records(folder, r"train-(.+)-ours-(\d+)").items():
        sides = [records(folder, rf"train-({re.escape(shape)})-{side}-(\d+)").get(shape, {}) for side in ("eager", "compiled")]
        key, mfu = "tokens_per_s", median(ours, "mfu")
        first = next(iter(ours.values()))
        cells = [f"{shape}, {first['micro_batch']} x {first['context']}", number(median(ours, key))]
        cells += [number(mfu and 100 * mfu, "{:.1f} %"), *(number(median(side, key)) for side in sides)]
        cells += [*(ratio(ours, side, key) for side in sides), ratio(ours, sides[0], "peak_memory_bytes")]
        print("| " + " | ".join(cells) + " |")
    for name, what in [
        ("soak", "250 steps timed whole and 250 timed by part"),
        ("recompute", "activations made again"),
        ("tf32", "f32, which is TF32"),
    ]:
        for run in records(folder, rf"({name})").get(name, {}).values():
            before, after = run["memory_after_warm_up_bytes"], run["memory_at_end_bytes"]
            parts = ", ".join(f"{part} {1e3 * seconds:.1f}" for part, seconds in run["parts"].items())
            print(
                f"\n{what} ({run['shape']}): {number(run['tokens_per_s'])} tok/s, first step {run['first_step_s']:.1f} s, "
                f"memory {number(before)} bytes after 2 steps and {number(after)} at the end; ms: {parts}"
            )


def scoring(folder):
    print("\n## HellaSwag's shape, items per second\n")
    for shape, ours in records(folder, r"eval-(.+)-ours-(\d+)").items():
        loop = records(folder, rf"eval-({re.escape(shape)})-loop-(\d+)").get(shape, {})
        key = "items_per_s"
        print("Ours: packs of items. PyTorch: one item at a time, its endings as a padded batch.\n")
        print(f"{shape}: ours {number(median(ours, key))}, completion loop {number(median(loop, key))}, ratio {ratio(ours, loop, key)}")


def losses(folder, name):
    path = folder / f"{name}.metrics.jsonl"
    events = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return [event["loss"] for event in events if "grad_norm" in event]


def runs(folder):
    print("\n## Recipes\n")
    cuda, again, cpu = (losses(folder, name) for name in ("quickstart", "again", "cpu"))
    if cuda and cpu:
        apart = [abs(a - b) for a, b in zip(cuda, cpu)]
        print(f"{len(cuda)} steps in bf16 and in f32 on the CPU: losses at most {max(apart):.4f} apart, {apart[-1]:.4f} at the last step")
    if cuda and again:
        apart = max(abs(a - b) for a, b in zip(cuda, again))
        print(f"\nTwice on the GPU: losses at most {apart:.2e} apart")
    if continued := losses(folder, "continue"):
        print(f"\nThe continue recipe, {len(continued)} steps: loss {continued[0]:.4f} at first, {continued[-1]:.4f} at the end")


def main():
    folder, gpu, failed = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    print(f"# {gpu}, {datetime.now(timezone.utc):%Y-%m-%d}\n")
    print("By `benches/gpu/run.sh`; the machine is in `machine.txt`.\n")
    print(f"Failed: {', '.join(failed)}\n" if failed else "Every part ran to its end.\n")
    for name in ("kernels", "parity", "long"):
        path = folder / f"{name}.out"
        lines = path.read_text().splitlines() if path.exists() else []
        print(*(f"{name}: {line}\n" for line in lines if line.startswith("test result")))
    path = folder / "long.err"
    lines = path.read_text().splitlines() if path.exists() else []
    print(*(f"{line}\n" for line in lines if re.search(r" apart at most| bytes after ", line)))
    training(folder)
    scoring(folder)
    runs(folder)


if __name__ == "__main__":
    main()
