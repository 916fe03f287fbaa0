"""The PyTorch side of benches/train_step.rs: python train_step.py SHAPE [STEPS] [THREADS].

GPT-2 as in nanoGPT, eager, f32, tied head, no dropout, scaled_dot_product_attention,
torch.optim.AdamW with its default flags and decay on matrices only.
"""

import resource
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

WARM_UP = 2
GPT2_124M = (50257, 1024, 768, 12, 12)
SHAPES = {
    "124m-1x256": (GPT2_124M, (1, 256)),
    "124m-4x128": (GPT2_124M, (4, 128)),
    "124m-1x1024": (GPT2_124M, (1, 1024)),
    "small-8x256": ((65, 256, 384, 6, 6), (8, 256)),
}


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.c_attn, self.c_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.c_fc, self.mlp_proj = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (
            z.view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for z in self.c_attn(self.ln_1(x)).split(d, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, v, positions, d, layers, heads):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(v, d), nn.Embedding(positions, d)
        self.h = nn.ModuleList(Block(d, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(d)
        for p in self.parameters():
            if p.dim() >= 2:
                nn.init.normal_(p, std=0.02)

    def loss(self, ids, targets):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def tokens(step, v, shape):
    ids = (7919 * torch.arange(shape[0] * shape[1]) + 104729 * step) % v
    return ids.view(shape)


def peak_mib():
    with open("/proc/self/status") as status:
        return next(int(x.split()[1]) for x in status if x.startswith("VmHWM")) // 1024


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    name = sys.argv[1]
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    torch.manual_seed(1)
    (v, *rest), shape = SHAPES[name]
    model = Gpt2(v, *rest)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=1e-4,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    times, cpu = [], []
    for step in range(WARM_UP + steps):
        ids, targets = tokens(step, v, shape), tokens(step + 1, v, shape)
        started, cpu_before = time.perf_counter(), cpu_seconds()
        loss = model.loss(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last = loss.item()
        times.append(time.perf_counter() - started)
        cpu.append(cpu_seconds() - cpu_before)
    step_s, cpu_s = (sorted(x[WARM_UP:])[steps // 2] for x in (times, cpu))
    rate = shape[0] * shape[1] / step_s
    print(
        f"torch {name} tokens/s {rate:.1f} step_s {step_s:.3f} cpu_s {cpu_s:.3f} "
        f"peak_mib {peak_mib()} loss {last:.4f}"
    )


main()
