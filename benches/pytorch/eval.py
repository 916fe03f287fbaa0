"""HellaSwag's completion loop in PyTorch: the counterpart of `scale-ckpt bench eval`.

One item at a time, its four endings as a padded batch, logits of every token: what the scripts
beside nanoGPT and llm.c do.

    python benches/pytorch/eval.py --shape gpt2 --items 500
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F

from gpt2 import SHAPES, Gpt2

# As in `scale-ckpt bench eval`.
CONTEXT_TOKENS, ENDING_TOKENS, ENDINGS = 70, 25, 4
WARM_UP = 5


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    cuda = args.device.startswith("cuda")
    model = Gpt2(args.shape).to(args.device).eval()
    autocast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.precision == "bf16")

    @torch.no_grad()
    def score(number):
        place = torch.arange(CONTEXT_TOKENS + ENDINGS * ENDING_TOKENS)
        ids = (7919 * place + 104_729 * number) % model.vocab
        context, endings = ids[:CONTEXT_TOKENS], ids[CONTEXT_TOKENS:].view(ENDINGS, -1)
        tokens = torch.cat([context.expand(ENDINGS, -1), endings], 1).to(args.device)
        with autocast:
            logits = model.logits(tokens)
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        mean = losses.view(ENDINGS, -1)[:, -ENDING_TOKENS:].mean(1)
        return mean.argmin().item()

    for number in range(WARM_UP):
        score(number)
    started = time.perf_counter()
    for number in range(args.items):
        score(number)
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "framework": f"torch {torch.__version__}",
                "device": torch.cuda.get_device_name() if cuda else "cpu",
                "shape": args.shape,
                "precision": args.precision,
                "items": args.items,
                "seconds": seconds,
                "items_per_s": args.items / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
