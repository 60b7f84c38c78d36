#!/usr/bin/env python3
"""What each way of adapting the packaged SmolLM2 gives on two real tasks of writing, with what the frozen base is held in:
summarisation (a package's long description to its one line) and table-to-text (its fields to that line). For each way
and seed: ROUGE-L and BLEU of greedy answers on held-out packages, their perplexity, trained parameters, bytes of the
file that is saved, processor seconds and peak memory of the training.

The packaged file is Q4_1. The 16-bit base is that file's values in bf16 products, the 8- and 4-bit bases are quantised
from those as bitsandbytes does it, and "Q4_1" is the file as it is.

Usage: adapt_texts.py [--train N] [--test N] [--epochs N] [--seeds N] [--ways "A;B"] [--tasks summary,table] [--out F]
Lines of results go to F as JSON (what stands there is not run again), the table to stdout. Takes hours: `make bench`
leaves it out."""
import argparse
import hashlib
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import common

LORA = ["--method", "lora", "--lora-r", "8", "--lora-alpha", "16", "--target-modules", "all-linear"]
PREFIX = ["--method", "prefix-tuning", "--num-virtual-tokens", "20", "--prompt-tuning-init", "TEXT", "--prompt-tuning-init-text",
          "In one short line, say what this software package is:"]
WAYS = {  # name: (options, learning rate, options of the base, whether the base is the file as it is)
    "prompt alone": (None, None, [], False),
    "full fine-tuning": (["--method", "full"], 2e-5, [], False),
    "prefix tuning": (PREFIX, 3e-2, [], False),
    "LoRA, 16-bit base": (LORA, 3e-4, [], False),
    "LoRA, 8-bit base (int8)": (LORA, 3e-4, ["--load-in-8bit"], False),
    "LoRA, 4-bit base (NF4)": (LORA, 3e-4, ["--load-in-4bit", "--bnb-4bit-use-double-quant"], False),
    "LoRA, 4-bit base (Q4_1)": (LORA, 3e-4, [], True),
}
QUESTION = {"summary": "Describe this package in one short line.\n\n",
            "table": "Describe the package that has these properties in one short line.\n\n"}


def key(text):
    return hashlib.sha256(text.encode()).hexdigest()


def data(name):
    path = common.cache() / "data" / name
    if not path.exists():
        sys.exit(f"{path} is missing: tools/fetch.py {path.stem}")
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def summary_records(work):
    """The demo's records, of which no two are relatives (tools/make_demo_data.py)."""
    made = work / "made"
    subprocess.run([sys.executable, common.ROOT / "tools" / "make_demo_data.py", "--train", "3000", "--heldout", "500",
                    common.cache() / "data" / "descriptions.jsonl", made], check=True, stderr=subprocess.DEVNULL)
    read = lambda name: [json.loads(line) for line in open(made / name, encoding="utf-8")]
    return read("train.jsonl"), read("heldout.jsonl")


def table_records(_):
    """One package of each source, its fields in the order that apt shows them."""
    one = {}
    for row in data("tables.jsonl"):
        if len(row["tags"]) < 5 or not 12 <= len(row["synopsis"]) <= 80 or re.search(r"dummy|transitional|\(", row["synopsis"]):
            continue
        if row["source"] not in one or key(row["package"]) < key(one[row["source"]]["package"]):
            one[row["source"]] = row
    records = []
    for row in sorted(one.values(), key=lambda r: key(r["source"])):
        lines = [f"Package: {row['package']}", f"Section: {row['section']}"]
        lines += [f"Homepage: {row['homepage']}"] if row["homepage"] else []
        lines += ["Tag: " + ", ".join(row["tags"])]
        records.append({"prompt": [{"role": "user", "content": QUESTION["table"] + "\n".join(lines)}],
                        "completion": [{"role": "assistant", "content": row["synopsis"]}]})
    return records[500:], records[:500]


def one(args, bases, sets, task, way, seed, work):
    options, rate, base_options, as_is = WAYS[way]
    base = common.model() if as_is else bases / "base"
    train, test = sets
    common.write_records(work / "test.jsonl", test[:args.test])
    result = {"task": task, "way": way, "n": args.train, "seed": seed}
    model, adapter = base, []
    if options:
        chosen = sorted(train, key=lambda r: key(f"{seed} {r['prompt'][0]['content']}"))[:args.train]
        common.write_records(work / "train.jsonl", chosen)
        out = work / "out"
        trained, result["seconds"] = common.graft_facts(
            "sft", "-m", base, *base_options, "--data", work / "train.jsonl", "--output-dir", out, *options,
            "--learning-rate", rate, "--num-train-epochs", args.epochs, "--per-device-train-batch-size", 8,
            "--lr-scheduler-type", "cosine", "--warmup-ratio", 0.1, "--save-strategy", "no", "--seed", seed)
        result.update(parameters=trained["n_trainable"], memory=trained["peak_memory"],
                      bytes=common.file_bytes(out))
        model, adapter = (out, []) if "full" in options else (base, ["--adapter", out])
    scores, _ = common.graft_facts("eval", "-m", model, *base_options, *adapter, "--data", work / "test.jsonl", "--metric",
                      "perplexity,rouge,bleu", "--max-new-tokens", 24)
    result.update({name: scores[name] for name in ("rougeL", "bleu", "perplexity")})
    return result


def table(results):
    print("| task | way | ROUGE-L | BLEU | perplexity of the answers | parameters | file | processor time | memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    groups = {}
    for r in results:
        groups.setdefault((r["task"], r["way"]), []).append(r)

    def of(rs, name, scale=1):
        values = [scale * r[name] for r in rs]
        return f"{statistics.mean(values):.1f}" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")

    for (task, way), rs in sorted(groups.items(), key=lambda x: (x[0][0], list(WAYS).index(x[0][1]))):
        mean = lambda name: statistics.mean(r[name] for r in rs)
        print(f"| {task} | {way} | {of(rs, 'rougeL', 100)} | {of(rs, 'bleu')} | {of(rs, 'perplexity')} | "
              + (f"{rs[0]['parameters']:,} | {rs[0]['bytes'] / 1e6:.2f} MB | {mean('seconds'):.0f} s | "
                 f"{mean('memory') / 1e6:.0f} MB |" if "seconds" in rs[0] else "| | | |"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", type=int, default=1000)
    p.add_argument("--test", type=int, default=300)
    p.add_argument("--epochs", type=int, default=1)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--ways", help="separated by ;", default=";".join(WAYS))
    p.add_argument("--tasks", default="summary,table")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("adapt_texts.jsonl"))
    args = p.parse_args()
    results = [json.loads(line) for line in open(args.out)] if args.out.exists() else []
    done = {(r["task"], r["way"], r["n"], r["seed"]) for r in results}
    with tempfile.TemporaryDirectory() as folder:
        bases = pathlib.Path(folder)
        common.graft_facts("convert", "-m", common.model(), "-o", bases / "base")
        for task in args.tasks.split(","):
            sets = {"summary": summary_records, "table": table_records}[task](bases)
            for seed in range(args.seeds):
                for way in args.ways.split(";"):
                    if (task, way, args.train, seed) in done or (not WAYS[way][0] and seed):
                        continue
                    with tempfile.TemporaryDirectory() as work:
                        r = one(args, bases, sets, task, way, seed, pathlib.Path(work))
                    print(json.dumps(r), file=sys.stderr, flush=True)
                    with open(args.out, "a", encoding="utf-8") as f:
                        f.write(json.dumps(r) + "\n")
                    results.append(r)
    table(results)


if __name__ == "__main__":
    main()
