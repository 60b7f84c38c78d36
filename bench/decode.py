#!/usr/bin/env python3
"""Generating one token at a time, for each weight format: tokens a second after the prompt with activations in float
and in int8, and the bytes a second that this reads, beside a plain read of memory (memchr) by as many threads in the
same rounds. The files are made of the packaged one by `graft quantize`, in a folder that is removed. Peer: llama.cpp,
where --llama-bench names its llama-bench.
Usage: decode.py [--formats Q4_1 Q4_0 Q8_0 Q4_K bf16 nf4] [--rounds N] [--tokens N] [--threads N] [--llama-bench PATH]"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import common

NO_INTEGERS = {"bf16", "nf4", "fp4"}

# Reads a block of its own when a line comes, and says when it began and ended.
READER = r"""
import sys, time
block = b"\2" * (256 << 20)
print(len(block), flush=True)
for _ in sys.stdin:
    begin = time.monotonic()
    block.find(b"\1")
    print(begin, time.monotonic(), flush=True)
"""


class Memory:
    """Plain reads by n threads at once: processes, for one interpreter's threads wait for each other."""

    def __init__(self, n):
        self.readers = [subprocess.Popen([sys.executable, "-c", READER], text=True, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE) for _ in range(n)]
        self.bytes = sum(int(r.stdout.readline()) for r in self.readers)

    def read(self):
        """Bytes a second."""
        for r in self.readers:
            r.stdin.write("\n")
            r.stdin.flush()
        times = [[float(t) for t in r.stdout.readline().split()] for r in self.readers]
        return self.bytes / (max(end for _, end in times) - min(begin for begin, _ in times))

    def close(self):
        for r in self.readers:
            r.communicate()


def make(kind, folder):
    """The model's path and its bytes."""
    if kind == "Q4_1":
        path = common.model()
    else:
        path = folder / (kind if kind in ("nf4", "fp4", "int8") else f"{kind}.gguf")
        common.run([common.graft(), "quantize", "-m", common.model(), "--type", kind, "-o", path, "--quiet"])
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return path, sum(f.stat().st_size for f in files)


def graft(path, activations, a):
    r, _ = common.run([common.graft(), "generate", "-m", path, "-p", "Once upon a time there was", "-n", a.tokens,
                       "--greedy", "--json", "--threads", a.threads, "--activations", activations])
    return r["predicted_per_second"]


def llama(path, a):
    out = subprocess.run([a.llama_bench, "-m", path, "-p", "0", "-n", str(a.tokens), "-t", str(a.threads), "-r", "1",
                          "-o", "json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)[0]["avg_ts"]


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--formats", nargs="+", default=["Q4_1", "Q4_0", "Q8_0", "Q4_K", "bf16", "nf4"])
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--tokens", type=int, default=128)
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--llama-bench")
    a = args.parse_args()
    if not a.llama_bench:
        print("llama.cpp: not compared, no --llama-bench", flush=True)
    elif not pathlib.Path(a.llama_bench).exists():
        sys.exit(f"{a.llama_bench} is missing")
    memory = Memory(a.threads)
    with tempfile.TemporaryDirectory() as temporary:
        for kind in a.formats:
            path, size = make(kind, pathlib.Path(temporary))
            runs = {}
            for _ in range(a.rounds):
                runs.setdefault("memory", []).append(memory.read())
                runs.setdefault("float", []).append(graft(path, "float", a))
                if kind not in NO_INTEGERS:
                    runs.setdefault("int8", []).append(graft(path, "int8", a))
                if a.llama_bench and path.suffix == ".gguf":
                    runs.setdefault("llama.cpp", []).append(llama(path, a))
            read = statistics.median(runs.pop("memory"))
            parts = []
            for name, values in runs.items():
                rate = statistics.median(values)
                parts.append(f"{name} {rate:.1f} tok/s ({min(values):.1f} to {max(values):.1f}), "
                             f"{rate * size / 1e9:.1f} GB/s, {100 * rate * size / read:.0f} % of the read")
            print(f"{kind} ({size / 1e6:.0f} MB; {a.threads} reading: {read / 1e9:.1f} GB/s): " + "; ".join(parts),
                  flush=True)
    memory.close()


main()
