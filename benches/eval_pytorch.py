"""The PyTorch side of the HellaSwag benchmark, one JSON line per run.

    python eval_pytorch.py harness CHECKPOINT HELLASWAG.jsonl N BATCH
    python eval_pytorch.py loop CHECKPOINT HELLASWAG.jsonl N

`harness` is lm-evaluation-harness with its own task; `loop` does as build-nanogpt's
hellaswag.py does: per item one padded batch of four rows, all logits, the cross entropy
of every token, masked. f32, two threads. Loading is not timed; for the harness all of
`evaluate` is: it also builds prompts and tokenizes, as the loop does.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, GPT2LMHeadModel

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures/eval"


def harness(checkpoint, items, count, batch):
    sys.path.append(str(FIXTURES))
    import make  # here: the memory of the harness must not count for the loop
    from lm_eval import evaluate

    make.local_datasets({"hellaswag": items}, first=count)
    model = make.harness_model(checkpoint, batch)
    task = make.TaskManager().load(["hellaswag"])
    started = time.perf_counter()
    results = evaluate(model, task)["results"]["hellaswag"]
    return time.perf_counter() - started, results["acc,none"], results["acc_norm,none"]


def rows(tokenizer, item):
    """Ids and a mask of the ending, [4, T]."""
    context = tokenizer.encode(item["ctx"])
    endings = [tokenizer.encode(" " + ending) for ending in item["endings"]]
    longest = len(context) + max(map(len, endings))
    ids = torch.zeros(4, longest, dtype=torch.long)
    mask = torch.zeros(4, longest, dtype=torch.long)
    for row, ending in enumerate(endings):
        ids[row, : len(context) + len(ending)] = torch.tensor(context + ending)
        mask[row, len(context) : len(context) + len(ending)] = 1
    return ids, mask


@torch.no_grad()
def predict(model, ids, mask):
    logits = model(ids).logits
    shifted = logits[:, :-1].contiguous()
    losses = F.cross_entropy(shifted.view(-1, shifted.shape[-1]), ids[:, 1:].reshape(-1), reduction="none")
    masked = losses.view(4, -1) * mask[:, 1:]
    sums = masked.sum(1)
    return sums.argmin().item(), (sums / mask[:, 1:].sum(1)).argmin().item()


def loop(checkpoint, items, count):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    right = right_norm = 0
    with open(items, encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines][:count]
    started = time.perf_counter()
    for item in items:
        best, best_norm = predict(model, *rows(tokenizer, item))
        right += best == int(item["label"])
        right_norm += best_norm == int(item["label"])
    return time.perf_counter() - started, right / count, right_norm / count


def main():
    what, checkpoint, items, *numbers = sys.argv[1:]
    numbers = [int(number) for number in numbers]
    torch.set_num_threads(2)
    seconds, acc, acc_norm = {"harness": harness, "loop": loop}[what](checkpoint, Path(items), *numbers)
    count = numbers[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({
        "what": what, "items": count, "seconds": round(seconds, 3), "items_per_s": round(count / seconds, 3),
        "peak_rss_mib": round(peak), "acc": acc, "acc_norm": acc_norm,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
