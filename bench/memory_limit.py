#!/usr/bin/env python3
"""What a memory control group costs a training run whose model's file is larger than the group may hold: time, page
faults that waited for the disk, bytes read, the same bits or not. The model is a random Llama (2,048 wide, 5,632
feed-forward, 32 heads, 4 of keys, the tiny test model's vocabulary) that this script writes and graft quantises.
Before each run the file is dropped from the page cache, which makes the group pay for what it reads. Needs the right
to make control groups (version 1 or 2).

Usage: memory_limit.py [--layers N] [--type T] [--limits MIB,MIB] [--steps N] [--dir D]"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = ROOT / "tests/golden/train"
WIDE, FEED, HEADS, KV = 2048, 5632, 32, 4


def shapes(layers, vocab):
    yield "model.embed_tokens.weight", (vocab, WIDE)
    for i in range(layers):
        at, kv = f"model.layers.{i}.", WIDE // HEADS * KV
        for name, shape in (("self_attn.q_proj", (WIDE, WIDE)), ("self_attn.k_proj", (kv, WIDE)),
                            ("self_attn.v_proj", (kv, WIDE)), ("self_attn.o_proj", (WIDE, WIDE)),
                            ("mlp.gate_proj", (FEED, WIDE)), ("mlp.up_proj", (FEED, WIDE)),
                             ("mlp.down_proj", (WIDE, FEED)),
                            ("input_layernorm", (WIDE,)), ("post_attention_layernorm", (WIDE,))):
            yield f"{at}{name}.weight", shape
    yield "model.norm.weight", (WIDE,)


def write_model(folder, layers):
    """bf16: the high byte is one of four (either sign, 0.002 to 0.03), the low one random."""
    draw, signs = random.Random(20260801), bytes((0x3B, 0xBB, 0x3C, 0xBC)[i % 4] for i in range(256))
    config = json.loads((SMALL / "model/config.json").read_text())
    config |= {"hidden_size": WIDE, "intermediate_size": FEED, "num_attention_heads": HEADS, "num_key_value_heads": KV,
               "num_hidden_layers": layers, "head_dim": WIDE // HEADS, "dtype": "bfloat16", "tie_word_embeddings": True}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((SMALL / "model" / name).read_bytes())
    header, at = {}, 0
    for name, shape in shapes(layers, config["vocab_size"]):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, entry in header.items():
            n = (entry["data_offsets"][1] - entry["data_offsets"][0]) // 2
            piece = bytearray(2 * n)
            piece[0::2] = draw.randbytes(n) if "norm" not in name else bytes([0x80]) * n
            piece[1::2] = draw.randbytes(n).translate(signs) if "norm" not in name else bytes([0x3F]) * n
            f.write(piece)


class Group:
    """A memory control group; limit None: no limit."""

    def __init__(self, limit):
        one = pathlib.Path("/sys/fs/cgroup/memory")
        self.old = one.is_dir()
        self.path = (one if self.old else pathlib.Path("/sys/fs/cgroup")) / f"graft-bench-{os.getpid()}"
        self.path.mkdir()
        if limit:
            (self.path / ("memory.limit_in_bytes" if self.old else "memory.max")).write_text(str(limit))

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self):
        return int((self.path / ("memory.max_usage_in_bytes" if self.old else "memory.peak")).read_text())

    def close(self):
        self.path.rmdir()


def drop(path):
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command, limit, out):
    group = Group(limit)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=group.enter)
    text, message = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    peak = group.peak()
    group.close()
    if child.returncode:
        return None, f"ended with {child.returncode}: {message.strip()[-300:]}"
    digest = hashlib.sha256((out / "adapter_model.safetensors").read_bytes()).hexdigest()[:12]
    return {"seconds": json.loads(text.splitlines()[-1])["train_runtime"], "cpu": usage.ru_utime + usage.ru_stime,
            "resident": usage.ru_maxrss / 1024, "group": peak / 2**20, "faults": usage.ru_majflt,
            "read": usage.ru_inblock / 2048, "bits": digest}, message


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=28)
    p.add_argument("--type", default="Q8_0")
    p.add_argument("--limits", default="0,1000,700")
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--dir", default="/tmp/graft-memory-limit")
    p.add_argument("--graft", default=str(ROOT / "build/graft"))
    p.add_argument("--model", help="a .gguf file instead of the random model")
    a = p.parse_args()
    work = pathlib.Path(a.dir)
    model = pathlib.Path(a.model) if a.model else work / f"random-{a.layers}.{a.type}.gguf"
    if not model.exists():
        write_model(work / "bf16", a.layers)
        subprocess.run([a.graft, "quantize", "-m", work / "bf16", "--type", a.type, "-o", model, "-q"], check=True)
        (work / "bf16/model.safetensors").unlink()
    print(f"{model.name}: {model.stat().st_size / 2**20:.0f} MiB; seconds, processor seconds, resident memory, "
          "the group's peak and bytes read in MiB")
    for limit in map(int, a.limits.split(",")):
        for memory in [[]] if not limit else [[], ["--memory", f"{limit - 20}M"]]:
            drop(model)
            command = [a.graft, "sft", "-m", model, "--data", SMALL / "pairs.jsonl", "-b", "8",
                       "--max-steps", str(a.steps), "--target-modules", "all-linear", "--optim", "paged_adamw_8bit",
                       "-o", work / "out", "--overwrite-output-dir", "--json", *memory]
            r, message = run([str(w) for w in command], limit << 20, work / "out")
            name = f"limit {limit or 'none':>5}{' ' + ' '.join(memory) if memory else ''}"
            words = [f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in r.items()] if r else [message]
            print(f"{name:<30}", *words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
