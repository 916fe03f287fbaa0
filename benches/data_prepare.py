"""`data prepare` against tiktoken on the same text and threads, in turns; the ids are compared too.

    python benches/data_prepare.py target/release/scale-ckpt TEXT.txt [ROUNDS] [THREADS]

Needs tiktoken and numpy, no network. For tiktoken only the encoding itself is timed, in the
faster of two ways: `encode_ordinary_batch` on threads, and `encode_ordinary` in a pool of
processes that returns arrays. For us, the whole program: start, reading, hashing, splitting,
encoding, writing, syncing, reading back.
"""

import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "fixtures/data"))
from encoding import encoding  # noqa: E402


ENCODING = encoding()


def to_array(text):
    return numpy.array(ENCODING.encode_ordinary(text), dtype=numpy.uint16)


def timed(work):
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def ours(program, text, threads):
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "data", "prepare", text, "--out", f"{folder}/out", "--val-fraction", "0"]
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        run = lambda: subprocess.run(command, check=True, capture_output=True, env=environment)
        seconds, _ = timed(run)
        shards = sorted(pathlib.Path(folder, "out").glob("*.bin"))
        return seconds, numpy.concatenate([numpy.fromfile(s, numpy.uint16)[512:] for s in shards])


def main():
    program, path = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    threads = int(sys.argv[4]) if len(sys.argv) > 4 else os.cpu_count()
    text = pathlib.Path(path).read_bytes().decode()
    documents = [d.strip() for d in text.split("<|endoftext|>") if d.strip()]
    megabytes = len(text.encode()) / 1e6
    pool = multiprocessing.Pool(threads)
    times = {"tiktoken, threads": [], "tiktoken, processes": [], "scale-ckpt": []}
    for number in range(rounds):
        seconds, ids = timed(lambda: ENCODING.encode_ordinary_batch(documents, num_threads=threads))
        times["tiktoken, threads"].append(seconds)
        expected = numpy.concatenate([numpy.array([50256, *document], dtype=numpy.uint16) for document in ids])
        del ids
        seconds, _ = timed(lambda: pool.map(to_array, documents, chunksize=1))
        times["tiktoken, processes"].append(seconds)
        seconds, found = ours(program, path, threads)
        times["scale-ckpt"].append(seconds)
        assert numpy.array_equal(found, expected), "the ids differ"
        print(f"round {number + 1}: " + ", ".join(f"{name} {t[-1]:.2f} s" for name, t in times.items()), flush=True)
    medians = {name: statistics.median(t) for name, t in times.items()}
    print(f"\n{megabytes:.1f} MB, {len(documents)} documents, {len(expected)} tokens, {threads} threads; ids are the same")
    for name, seconds in medians.items():
        print(f"{name:<20} median {seconds:6.2f} s  {megabytes / seconds:6.1f} MB/s")
    best = min(seconds for name, seconds in medians.items() if name != "scale-ckpt")
    print(f"scale-ckpt is {best / medians['scale-ckpt']:.1f} times as fast as the faster tiktoken")


if __name__ == "__main__":
    main()
