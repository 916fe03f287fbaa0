"""Steps of training in PyTorch: the counterpart of `scale-ckpt bench train`.

    python benches/pytorch/train.py --shape gpt2 --micro-batch 16 [--compile] [--precision bf16]

Prints one JSON object with the keys of `scale-ckpt bench train --json` that it knows.
"""

import argparse
import json
import statistics
import time

import torch

from gpt2 import SHAPES, Gpt2

WARM_UP = 3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--context", type=int)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    # What f32 is on NVIDIA's matrix units, here as there.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    cuda = args.device.startswith("cuda")
    model = Gpt2(args.shape).to(args.device)
    optimizer = model.optimizer(fused=cuda)
    run = torch.compile(model) if args.compile else model
    context = args.context or SHAPES[args.shape][1]
    autocast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.precision == "bf16")

    def step():
        started = time.perf_counter()
        ids, targets = (
            torch.randint(model.vocab, (args.micro_batch, context), device=args.device) for _ in range(2)
        )
        with autocast:
            loss = run(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    first = [step() for _ in range(WARM_UP)][0]
    step_s = statistics.median(step() for _ in range(args.steps))
    print(
        json.dumps(
            {
                "framework": f"torch {torch.__version__}",
                "compiled": args.compile,
                "device": torch.cuda.get_device_name() if cuda else "cpu",
                "shape": args.shape,
                "precision": args.precision,
                "micro_batch": args.micro_batch,
                "context": context,
                "steps": args.steps,
                "first_step_s": first,
                "step_s": step_s,
                "tokens_per_s": args.micro_batch * context / step_s,
                "peak_memory_bytes": torch.cuda.max_memory_reserved() if cuda else None,
            }
        )
    )


if __name__ == "__main__":
    main()
