"""What a training step must compute and move, by its parts, and the time of each at a GPU's peaks.

    python benches/gpu/roofline.py [--shape gpt2] [--micro-batch 16] [--gpu h200]

FLOPs are those of products of matrices, 2 for each multiplication; bytes are what has to cross
the memory's bus at least once, with activations and logits in 16 bits, weights, gradients and
moments in 32. A part takes the longer of both times. Peaks are the makers' figures: dense bf16,
and bandwidth.
"""

import argparse

SHAPES = {
    "gpt2": (50257, 1024, 768, 12, 12),
    "gpt2-24l": (50257, 1024, 768, 24, 12),
    "gpt2-medium": (50257, 1024, 1024, 24, 16),
}
# Dense bf16 FLOP/s, bytes/s.
GPUS = {"h200": (989e12, 4.8e12), "h100": (989e12, 3.35e12), "a100": (312e12, 2.0e12)}
HALF, FULL = 2, 4


def parts(shape, sequences):
    v, t, d, layers, heads = SHAPES[shape]
    n, f = sequences * t, 4 * d
    linear = d * 3 * d + d * d + 2 * d * f  # weights of a block
    block = linear + 13 * d
    params = v * d + t * d + layers * block + 2 * d
    # Each product reads two matrices and writes one; forward once, backward twice.
    moved = n * (d + 3 * d + d + d + d + f + f + d)
    yield "linear layers", layers * 6 * n * linear, layers * 3 * (HALF * moved + HALF * linear)
    yield "head and loss", 6 * n * v * d, 4 * HALF * n * v + 3 * FULL * v * d + 4 * HALF * n * d
    # Causal: half of T x T. Two products forward, five backward, two of which are made twice
    # where queries and keys have kernels of their own.
    pairs = n * (t + 1) // 2
    yield "attention", layers * (2 + 7) * 2 * pairs * d, layers * HALF * n * d * (4 + 4 + 2 * 8)
    # Two norms of a block and the last: read f32, write 16 bits; backward read both, write f32.
    yield "LayerNorm", 0, (2 * layers + 1) * n * d * (FULL + HALF + 2 * FULL + HALF + FULL)
    # Of the biases c_attn's alone is a pass of its own; each one's gradient reads what it is the sum of.
    yield "GELU and biases", 0, layers * n * HALF * (f * (2 + 3) + 2 * 3 * d + (5 * d + f))
    yield "residual", 0, layers * 2 * n * d * (2 * FULL + HALF + FULL + HALF)
    yield "embeddings", 0, n * d * FULL * 4
    yield "weights to 16 bits", 0, 2 * params * (FULL + HALF)
    yield "norm and AdamW", 0, params * FULL * (1 + 7)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--gpu", choices=GPUS, default="h200")
    args = parser.parse_args()
    flops_s, bytes_s = GPUS[args.gpu]
    rows = []
    for name, flops, moved in parts(args.shape, args.micro_batch):
        times = flops / flops_s, moved / bytes_s
        rows.append((max(times), name, flops, moved, "compute" if times[0] > times[1] else "memory"))
    total = sum(row[0] for row in rows)
    tokens = args.micro_batch * SHAPES[args.shape][1]
    print(f"{args.shape}, {args.micro_batch} x {SHAPES[args.shape][1]} tokens, {args.gpu} at its peaks\n")
    print("| part | TFLOP | GB | ms | bound by |\n|---|---|---|---|---|")
    for seconds, name, flops, moved, bound in sorted(rows, reverse=True):
        print(f"| {name} | {flops / 1e12:.2f} | {moved / 1e9:.2f} | {1e3 * seconds:.2f} | {bound} |")
    flops, moved = (sum(row[i] for row in rows) for i in (2, 3))
    print(f"| all | {flops / 1e12:.2f} | {moved / 1e9:.2f} | {1e3 * total:.2f} | |")
    print(f"\n{tokens / total / 1e3:.0f} thousand tokens per second at most, one micro-batch to a step")


if __name__ == "__main__":
    main()
