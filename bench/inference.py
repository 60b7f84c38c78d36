#!/usr/bin/env python3
"""Generation beside llama.cpp (its library, through bench/llama_peer.c), on the packaged model in each format.

Usage: inference.py ROW [--types A,B,...] [--threads N] [--rounds N]
  formats    prompt of 512 tokens, then one token at a time
  sequences  32 sequences at once: all their tokens a second
  adapters   32 LoRA adapters (r 8; on all linear layers, on q and v) in one batch of 32 sequences, beside one adapter
             for all, and one beside none (llama.cpp has one adapter a batch); and how long reading the values of 31
             more adapters takes
GRAFT_LLAMA_CPP: see common.llama_peer. GRAFT_CPU caps graft; GRAFT_LLAMA_CPP then has to name a build for the same
instructions."""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import tempfile
import time

import common

SEQUENCES, PROMPT, STEPS = 32, 64, 32


def quantised(model, kind, tmp):
    if kind == "Q4_1":
        return model
    file = tmp / f"{kind}.gguf"
    subprocess.run([common.graft(), "quantize", "-m", model, "--type", kind, "-o", file, "-q"], check=True)
    return file


def texts_of(model, lengths):
    """Texts of so many tokens, as nearly as cutting tokens gives whole characters."""
    source = common.cache() / "data" / "descriptions.jsonl"
    if not source.exists():
        raise SystemExit(f"{source} is missing: tools/fetch.py descriptions")
    with open(source) as f:
        text = "\n".join(json.loads(next(f))["description"] for _ in range(sum(lengths) // 40 + 20))

    def run(command, value):
        done = subprocess.run([common.graft(), command, "-m", model, "--jsonl"], input=json.dumps(value),
                              capture_output=True, text=True, check=True)
        return json.loads(done.stdout)
    ids, out = run("tokenize", text), []
    for n in lengths:
        out.append(run("detokenize", ids[:n]))
        ids = ids[n:]
    return out


def formats(a, model, peer, tmp):
    prompt = tmp / "prompt"
    prompt.write_text(texts_of(model, [512])[0])
    for kind in a.types.split(","):
        file = quantised(model, kind, tmp)

        def ours(activations):
            r, _ = common.run([common.graft(), "generate", "-m", file, "-f", prompt, "-n", a.steps, "--greedy",
                               "--ignore-eos", "--json", "-t", a.threads, "--activations", activations])
            return {"prefill": r["prompt_per_second"], "decode": r["predicted_per_second"]}

        def theirs():
            return common.run([peer, "speed", file, a.threads, 1, 512, a.steps])[0]
        ways = {"float": []} if kind in ("BF16", "F16", "F32") else {"float": [], "int8": []}
        other = []
        for _ in range(a.rounds):
            for way, results in ways.items():
                results.append(ours(way))
            if peer:
                other.append(theirs())
        for way, mine in ways.items():
            name = f"{kind}, {a.threads} threads, activations {way}"
            common.row(f"{name}: prompt of 512", mine, other, "prefill", "tok/s")
            common.row(f"{name}: one at a time", mine, other, "decode", "tok/s")


def write_prompts(model, path, names=None):
    with open(path, "w") as f:
        for i, text in enumerate(texts_of(model, [PROMPT] * SEQUENCES)):
            record = {"prompt": text, "completion": ""}
            if names:
                record["adapter"] = names[i % len(names)]
            f.write(json.dumps(record) + "\n")


def batch_of(a, file, prompts, more=()):
    r, _ = common.run([common.graft(), "generate", "-m", file, "--data", prompts, *more, "-n", STEPS, "--greedy",
                       "--ignore-eos", "--json", "-t", a.threads])
    return {"prefill": r["prompt_per_second"], "decode": r["predicted_per_second"]}


def sequences(a, model, peer, tmp):
    write_prompts(model, tmp / "prompts.jsonl")
    for kind in a.types.split(","):
        file = quantised(model, kind, tmp)

        def theirs():
            return common.run([peer, "speed", file, a.threads, SEQUENCES, PROMPT, STEPS])[0]
        mine, other = common.alternate(lambda: batch_of(a, file, tmp / "prompts.jsonl"), theirs if peer else None,
                                       a.rounds)
        name = f"{kind}, {SEQUENCES} sequences at once, {a.threads} threads"
        common.row(f"{name}: prompts of {PROMPT}", mine, other, "prefill", "tok/s")
        common.row(f"{name}: a token each", mine, other, "decode", "tok/s")


def another(source, target, by):
    """An adapter of other values, without training it: those of the first, moved along."""
    target.mkdir()
    (target / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    file = (source / "adapter_model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(file[:8], "little")
    (target / "adapter_model.safetensors").write_bytes(file[:begin] + file[begin + by:] + file[begin:begin + by])


def read_seconds(size):
    """What one thread takes to read so many bytes, as memchr does: the median of five."""
    block, seconds = b"\2" * size, []
    for _ in range(5):
        begin = time.perf_counter()
        block.find(b"\x01")
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def values_of(adapter):
    """How many values an adapter's file has."""
    file = (adapter / "adapter_model.safetensors").read_bytes()
    header = json.loads(file[8:8 + int.from_bytes(file[:8], "little")])
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


def adapters_of(a, model, tmp, modules):
    record = tmp / "record.jsonl"
    record.write_text('{"text": "One record is enough to make an adapter."}\n')
    subprocess.run([common.graft(), "sft", "-m", model, "--data", record, "-o", tmp / "a0", "--max-steps", "1",
                    "--learning-rate", "1e-2", "--target-modules", *modules, "--lora-r", "8",
                    "--save-strategy", "no", "--logging-strategy", "no", "-q"], check=True, capture_output=True)
    for i in range(1, SEQUENCES):
        another(tmp / "a0", tmp / f"a{i}", 4096 * i)
    all_of_them = [w for i in range(SEQUENCES) for w in ("--adapter", f"a{i}={tmp / f'a{i}'}")]
    write_prompts(model, tmp / "many.jsonl", [f"a{i}" for i in range(SEQUENCES)])
    write_prompts(model, tmp / "one.jsonl", ["a0"])
    write_prompts(model, tmp / "none.jsonl")
    many, one, none = [], [], []
    for _ in range(a.rounds):
        many.append(batch_of(a, model, tmp / "many.jsonl", all_of_them))
        one.append(batch_of(a, model, tmp / "one.jsonl", all_of_them[:2]))
        none.append(batch_of(a, model, tmp / "none.jsonl"))
    name = f"r 8 on {' and '.join(modules)}, {a.threads} threads"
    for key, what in ("prefill", "prompts"), ("decode", "a token each"):
        common.row(f"{name}, {SEQUENCES} adapters (peer: graft, one adapter): {what}", many, one, key, "tok/s")
        common.row(f"{name}, one adapter (peer: graft, none): {what}", one, none, key, "tok/s")
    size = 2 * (SEQUENCES - 1) * values_of(tmp / "a0")
    print(f"{name}: {SEQUENCES - 1} more adapters are {size / 1e6:.0f} MB a step in BF16, which one thread reads in "
          f"{1e3 * read_seconds(size):.1f} ms; a step with one takes "
          f"{1e3 * SEQUENCES / common.median(one, 'decode'):.1f} ms", flush=True)


def adapters(a, model, peer, tmp):
    del peer
    for modules in ["all-linear"], ["q_proj", "v_proj"]:
        where = tmp / "-".join(modules)
        where.mkdir()
        adapters_of(a, model, where, modules)


def main():
    rows = {"formats": formats, "sequences": sequences, "adapters": adapters}
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("row", choices=rows)
    args.add_argument("--types", default="Q4_1,Q4_0,Q8_0,BF16")
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--steps", type=int, default=64, help="tokens that `formats` generates")
    a = args.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        rows[a.row](a, common.model(), common.llama_peer(tmp), pathlib.Path(tmp))


main()
