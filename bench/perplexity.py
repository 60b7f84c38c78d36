#!/usr/bin/env python3
"""Perplexity of the packaged model in each format on 20 k tokens of real text (package descriptions), beside its
values in float32 and beside llama.cpp's on the same file. Windows are those of llama-perplexity: 512 tokens, of which
the second half counts. The packaged file is Q4_1 itself: what it decodes to is the float32 model, which every other
format is made from.

Usage: perplexity.py [--tokens N] [--types A,B,...] [--dtype bf16]   Prints a Markdown table.
GRAFT_LLAMA_CPP: see common.llama_peer."""
import argparse
import array
import json
import pathlib
import subprocess
import tempfile

import common

WINDOW = 512
TYPES = "F32 BF16 F16 Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0 Q3_K Q2_K int8 nf4 nf4-double fp4"
BNB = {"int8": ["int8"], "nf4": ["nf4"], "nf4-double": ["nf4", "--double-quant"], "fp4": ["fp4"]}


def read_tokens(model, n):
    """The first descriptions, as one text, in whole windows. Each window begins with the token that the model's
    configuration puts in front of a text, where it does."""
    source = common.cache() / "data" / "descriptions.jsonl"
    if not source.exists():
        raise SystemExit(f"{source} is missing: tools/fetch.py descriptions")
    texts, ids, length = [], [], 0
    with open(source) as f:
        while length < 6 * n:
            texts.append(json.loads(next(f))["description"])
            length += len(texts[-1])
    for more in ([], ["--add-special"]):
        done = subprocess.run([common.graft(), "tokenize", "-m", model, "--jsonl", *more],
                              input=json.dumps("\n".join(texts)), capture_output=True, text=True, check=True)
        ids.append(json.loads(done.stdout)[:n // WINDOW * WINDOW])
    plain, special = ids
    if special[0] != plain[0]:
        for at in range(0, len(special), WINDOW):
            special[at] = special[0]
    return special


def write_records(path, ids):
    with open(path, "w") as f:
        for at in range(0, len(ids), WINDOW):
            window = ids[at:at + WINDOW]
            labels = [-100] * (WINDOW // 2 + 1) + window[WINDOW // 2 + 1:]
            f.write(json.dumps({"input_ids": window, "labels": labels}) + "\n")


def ours(model, records, dtype, threads):
    result, _ = common.run([common.graft(), "eval", "-m", model, "--data", records, "--dtype", dtype,
                            "--threads", threads, "--metric", "loss", "--max-length", WINDOW, "--json"])
    return result["perplexity"]


def theirs(peer, model, ids, threads):
    result, _ = common.run([peer, "perplexity", model, ids, WINDOW, threads], env={"OMP_WAIT_POLICY": "passive"})
    return result["perplexity"]


def size_of(path):
    return sum(p.stat().st_size for p in path.rglob("*.safetensors")) if path.is_dir() else path.stat().st_size


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--tokens", type=int, default=20000)
    args.add_argument("--types", default=TYPES.replace(" ", ","))
    args.add_argument("--dtype", default="f32")
    args.add_argument("--threads", type=int, default=2)
    a = args.parse_args()
    model = common.model()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        peer = common.llama_peer(tmp)
        ids = read_tokens(model, a.tokens)
        windows = len(ids) // WINDOW
        write_records(tmp / "records.jsonl", ids)
        (tmp / "ids").write_bytes(array.array("i", ids).tobytes())
        print(f"{windows} windows of {WINDOW} tokens, {windows * (WINDOW // 2 - 1)} counted; graft in {a.dtype}")
        print("| format | MB | graft | against F32 | llama.cpp, same file |\n|---|---|---|---|---|", flush=True)
        exact = None
        for kind in a.types.split(","):
            file = tmp / (kind if kind in BNB else f"{kind}.gguf")
            kinds = BNB.get(kind, [kind])
            subprocess.run([common.graft(), "quantize", "-m", model, "--type", *kinds, "-o", file, "-q"], check=True)
            mine = ours(file, tmp / "records.jsonl", a.dtype, a.threads)
            exact = exact or mine
            other = "no such file" if kind in BNB else "not compared"
            if peer and kind not in BNB:
                other = f"{theirs(peer, file, tmp / 'ids', a.threads):.4f}"
            print(f"| {kind} | {size_of(file) / 1e6:.0f} | {mine:.4f} | {100 * (mine / exact - 1):+.2f} % | {other} |",
                  flush=True)
            subprocess.run(["rm", "-r", file], check=True)
    if not peer:
        print("llama.cpp is missing: GRAFT_LLAMA_CPP names no prefix: not compared")


main()
