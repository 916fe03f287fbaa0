#!/usr/bin/env python3
"""Checks that `transformers` loads a checkpoint folder and computes the same logits.

    python tests/transformers_check.py DIR [DIR...]
    python tests/transformers_check.py DIR --logits LOGITS.safetensors
    python tests/transformers_check.py DIR [DIR...] --scale-ckpt BIN [--text FILE]
    python tests/transformers_check.py DIR [DIR...] --scale-ckpt BIN --grow N

Every DIR must load as a GPT-2 with no missing, unexpected or mismatched
parameter. With --logits or --scale-ckpt the float32 logits are compared too:
LOGITS.safetensors, as written by `scale-ckpt logits DIR --text FILE --out
LOGITS.safetensors`, holds `input_ids` [T] (i64) and `logits` [T, V] (f32).

With --grow, every DIR is first grown to N layers by every initializer that can stand at
every place and by every method that reaches N, and what was written is checked instead.

Exit status: 0 all well, 1 a check failed, 2 wrong usage.
Needs: pip install torch transformers safetensors
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TEXT = "\"Nobody,\" said the clerk, \"ordered 42 lamps.\"\n\nStill, they came.\n"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dirs", metavar="DIR", nargs="+", type=Path)
    p.add_argument("--logits", metavar="FILE", type=Path, help="compare with these logits (one DIR only)")
    p.add_argument("--scale-ckpt", metavar="BIN", help="run this program to get the logits")
    p.add_argument("--text", metavar="FILE", type=Path, help="text for --scale-ckpt (a sentence of its own by default)")
    p.add_argument("--tolerance", metavar="X", type=float, default=1e-4,
                   help="largest difference allowed, as a part of the largest logit (default %(default)s)")
    p.add_argument("--grow", metavar="N", type=int, help="check what growing to N layers writes (needs --scale-ckpt)")
    args = p.parse_args()
    if args.grow and not args.scale_ckpt:
        p.error("--grow needs --scale-ckpt")
    if args.logits and args.scale_ckpt:
        p.error("give --logits or --scale-ckpt, not both")
    if args.logits and len(args.dirs) > 1:
        p.error("--logits goes with one DIR")
    if args.text and not args.scale_ckpt:
        p.error("--text goes with --scale-ckpt")
    return args


def load(path, problems):
    """The model, in float32 on the CPU; what did not fit is added to `problems`."""
    import torch
    from transformers import GPT2LMHeadModel

    model, info = GPT2LMHeadModel.from_pretrained(
        path, output_loading_info=True, local_files_only=True,
        dtype=torch.float32, attn_implementation="eager", ignore_mismatched_sizes=True,
    )
    for kind, keys in info.items():
        if keys:
            shown = sorted(map(str, keys)) if isinstance(keys, (list, set, tuple)) else [str(keys)]
            problems.append(f"{kind}: {', '.join(shown)}")
    return model.eval()


def logits_of_tool(program, path, text, scratch):
    out = Path(scratch) / "logits.safetensors"
    if text is None:
        text = Path(scratch) / "text.txt"
        text.write_text(TEXT, encoding="utf-8")
    # A folder given as "name" would be read as a model's name: pass the whole path.
    subprocess.run([program, "logits", str(path.resolve()), "--text", str(text), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return out


def grown(program, source, n_layer, scratch):
    """Grows `source` in every way there is; yields the folders written."""
    listed = subprocess.run([program, "methods", "--json"], check=True, capture_output=True).stdout
    known = json.loads(listed)
    ways = [("--init", row["name"]) for row in known["initializers"]]
    ways += [("--method", row["name"]) for row in known["methods"]]
    for flag, name in ways:
        value = 'blend:weights={"0"=0.5,"1"=0.5}' if name == "blend" else name
        out = Path(scratch) / f"{source.name}{flag}-{name}"
        done = subprocess.run([program, "grow", str(source.resolve()), "--to", str(n_layer), flag, value, "--out", str(out)],
                              capture_output=True, text=True)
        # A method that has no such depth, or an initializer that cannot stand everywhere there.
        if done.returncode == 2 and ("does not reach this depth" in done.stderr
                                     or "stands between two kept blocks" in done.stderr):
            continue
        yield out


def compare(model, file, tolerance, problems):
    import torch
    from safetensors.torch import load_file

    held = load_file(file)
    ids, theirs = held["input_ids"].long().reshape(1, -1), held["logits"].double()
    with torch.no_grad():
        ours = model(ids, use_cache=False).logits[0].double()
    if theirs.shape != ours.shape:
        problems.append(f"logits have shape {tuple(theirs.shape)}, transformers gives {tuple(ours.shape)}")
        return "shapes differ"
    worst, top = (ours - theirs).abs().max().item(), ours.abs().max().item()
    if not worst <= tolerance * top:  # also catches NaN
        problems.append(f"logits differ by {worst:.3e}, allowed {tolerance * top:.3e}")
    same = (ours.argmax(-1) == theirs.argmax(-1)).sum().item()
    return f"{ids.numel()} tokens, max |difference| {worst:.3e} of {top:.3f}, same top token {same}/{ids.numel()}"


def main():
    args = arguments()
    try:
        import torch
        from transformers.utils import logging
    except ImportError as e:
        print(f"{e}; try: pip install torch transformers safetensors", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for source in args.dirs:
            for path in grown(args.scale_ckpt, source, args.grow, scratch) if args.grow else [source]:
                failed |= not check(path, args)
    return 1 if failed else 0


def check(path, args):
    """Checks one folder and prints a line about it."""
    problems, done = [], "loads"
    try:
        if not path.is_dir():
            raise FileNotFoundError("no such folder")
        model = load(path, problems)
        done = f"loads, {sum(p.numel() for p in model.parameters()):,} parameters"
        with tempfile.TemporaryDirectory() as scratch:
            file = args.logits
            if args.scale_ckpt:
                file = logits_of_tool(args.scale_ckpt, path, args.text, scratch)
            if file:
                done += "; " + compare(model, file, args.tolerance, problems)
    except Exception as e:  # one bad folder must not hide the next
        problems.append(f"{type(e).__name__}: {e}")
    print(f"FAIL {path.name}" if problems else f"ok   {path.name}: {done}")
    for problem in problems:
        print(f"     {problem}")
    return not problems


if __name__ == "__main__":
    sys.exit(main())
