#!/usr/bin/env python3
"""What each way of adapting a model gives on a real task: sentences of movie reviews, positive or negative by the mean
of twenty people's ratings (tools/fetch.py reviews), with a decoder (the packaged SmolLM2, the answer is a word) and an
encoder (tools/fetch.py encoder, a classifier over the pooled first token). For each way, number of training sentences
and seed: accuracy on held-out sentences, trained parameters, bytes of the file that is saved, processor seconds and peak
memory of the training, and, for the decoder, perplexity on package descriptions before and after (what was forgotten).

Usage: adapt_reviews.py [--train N] [--epochs N] [--shots N] [--test N] [--seeds N] [--ways A,B]
                        [--models decoder,encoder] [--out F]
Lines of results go to F as JSON (what stands there is not run again), the table to stdout. Takes hours with the
defaults: `make bench` leaves it out."""
import argparse
import hashlib
import json
import pathlib
import statistics
import sys
import tempfile

import common

PROMPT = "Classify the sentiment of the movie review as Positive or Negative.\n\nReview: {text}\nSentiment:"
LORA = ["--method", "lora", "--lora-r", "8", "--lora-alpha", "16", "--target-modules", "all-linear"]
WAYS = {  # name: (options, learning rate, whether the text stands in a prompt)
    "manual prompt": (None, None, True),
    "full fine-tuning": (["--method", "full"], 2e-5, False),
    "manual prompt + fine-tuning": (["--method", "full"], 2e-5, True),
    "LoRA": (LORA, 3e-4, True),
    "IA3": (["--method", "ia3"], 1e-2, True),
    "prompt tuning": (["--method", "prompt-tuning", "--num-virtual-tokens", "20"], 3e-2, True),
    "P-tuning": (["--method", "p-tuning", "--num-virtual-tokens", "20"], 3e-3, True),
    "prefix tuning": (["--method", "prefix-tuning", "--num-virtual-tokens", "20"], 1e-2, True),
    "LLaMA-Adapter": (["--method", "llama-adapter"], 1e-2, True),
}
# Where the rows of a decoder's prompts begin; an encoder's begin as random numbers.
DECODER_START = ["--prompt-tuning-init", "TEXT", "--prompt-tuning-init-text", "Is this movie review Positive or Negative?"]
ENCODER_RATE = {"full fine-tuning": 1e-4, "LoRA": 1e-3}  # a sixth of the size wants larger steps
NO_ENCODER = {"manual prompt", "manual prompt + fine-tuning", "LLaMA-Adapter"}  # no head for words; not defined there


def read(name):
    path = common.cache() / "data" / "reviews" / name
    if not path.exists():
        sys.exit(f"{path} is missing: tools/fetch.py reviews")
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def for_words(records, in_prompt):
    return [{"messages": [{"role": "user", "content": PROMPT.format(text=r["text"]) if in_prompt else r["text"]},
                          {"role": "assistant", "content": r["label"].capitalize()}]} for r in records]


def some(records, n, seed):
    return sorted(records, key=lambda r: hash_of(seed, r["text"]))[:n]


def few(records, n, seed):
    """n records, as many of each label, by the seed."""
    labels = sorted({r["label"] for r in records})
    ordered = some(records, len(records), seed)
    return [r for label in labels for r in [x for x in ordered if x["label"] == label][:n // len(labels)]]


def hash_of(seed, text):
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()


def accuracy(model, adapter, test, kind):
    words = kind == "decoder"
    what = ["--metric", "exact_match", "--max-new-tokens", "3"] if words else ["--metric", "accuracy"]
    result, _ = common.graft_facts("eval", "-m", model, *(["--adapter", adapter] if adapter else []), "--data", test, *what)
    return result["exact_match" if words else "accuracy"]


def perplexity(model, adapter, texts):
    result, _ = common.graft_facts("eval", "-m", model, *(["--adapter", adapter] if adapter else []), "--data", texts,
                      "--metric", "perplexity")
    return result["perplexity"]


def one(args, kind, way, n, seed, work):
    options, rate, in_prompt = WAYS[way]
    rate = ENCODER_RATE.get(way, rate) if kind == "encoder" else rate
    model = common.model() if kind == "decoder" else common.cache() / "models" / "all-MiniLM-L6-v2"
    train, test = read("train.jsonl"), some(read("test.jsonl"), args.test, "test")
    def made(records):
        if kind == "decoder":
            return for_words(records, in_prompt)
        return [{key: r[key] for key in ("text", "label")} for r in records]

    result = {"model": kind, "way": way, "n": n, "seed": seed}
    common.write_records(work / "test.jsonl", made(test))
    common.write_records(work / "other.jsonl", [{"text": json.loads(line)["description"]} for line in other_texts()])
    out = None
    if options:
        chosen = few(train, n, seed)
        common.write_records(work / "train.jsonl", made(chosen))
        out = work / "out"
        epochs = args.epochs if n > 500 else 10
        start = DECODER_START if kind == "decoder" and way in ("prompt tuning", "prefix tuning") else []
        trained, result["seconds"] = common.graft_facts(
            "sft", "-m", model, "--data", work / "train.jsonl", "--output-dir", out, "--overwrite-output-dir", *options, *start,
            "--learning-rate", rate, "--num-train-epochs", epochs, "--per-device-train-batch-size", 16 if n > 500 else 8,
            "--lr-scheduler-type", "cosine", "--warmup-ratio", 0.1, "--save-strategy", "no", "--seed", seed,
            *(["--task-type", "SEQ_CLS"] if kind == "encoder" else ["--assistant-only-loss"]))
        result.update(parameters=trained["n_trainable"], memory=trained["peak_memory"], bytes=common.file_bytes(out))
    full = options and "full" in options
    use = (out, None) if full else (model, out)
    result["accuracy"] = accuracy(*use, work / "test.jsonl", kind)
    if kind == "decoder":
        result["perplexity"] = perplexity(*use, work / "other.jsonl")
    return result


def other_texts(n=60):
    path = common.cache() / "data" / "descriptions.jsonl"
    if not path.exists():
        sys.exit(f"{path} is missing: tools/fetch.py descriptions")
    with open(path, encoding="utf-8") as f:
        return [line for _, line in zip(range(n), f)]


def table(results):
    print("| model | way | training sentences | accuracy | parameters | file | processor time | memory | perplexity elsewhere |")
    print("|---|---|---|---|---|---|---|---|---|")
    groups = {}
    for r in results:
        groups.setdefault((r["model"], r["n"], r["way"]), []).append(r)
    for (model, n, way), rs in sorted(groups.items(), key=lambda x: (x[0][0], -x[0][1], list(WAYS).index(x[0][2]))):
        mean = lambda key: statistics.mean(r[key] for r in rs)
        values = [100 * r["accuracy"] for r in rs]
        spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
        trained = "seconds" in rs[0]
        print(f"| {model} | {way} | {n if trained else 0} | {statistics.mean(values):.1f}{spread} | "
              + (f"{rs[0]['parameters']:,} | {rs[0]['bytes'] / 1e6:.2f} MB | {mean('seconds'):.0f} s | "
                 f"{mean('memory') / 1e6:.0f} MB" if trained else "| | |")
              + (f" | {mean('perplexity'):.1f} |" if "perplexity" in rs[0] else " | |"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", type=int, default=2000)
    p.add_argument("--shots", type=int, default=32)
    p.add_argument("--epochs", type=int, default=1, help="over the N sentences; over the shots there are ten")
    p.add_argument("--test", type=int, default=500)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--ways", default=",".join(WAYS))
    p.add_argument("--models", default="decoder,encoder")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("adapt_reviews.jsonl"))
    args = p.parse_args()
    results = [json.loads(line) for line in open(args.out)] if args.out.exists() else []
    done = {(r["model"], r["way"], r["n"], r["seed"]) for r in results}
    for kind in args.models.split(","):
        for n in (args.train, args.shots):
            for way in args.ways.split(","):
                if kind == "encoder" and way in NO_ENCODER:
                    continue
                for seed in range(args.seeds if WAYS[way][0] else 1):
                    if (kind, way, n, seed) in done or (not WAYS[way][0] and n != args.train):
                        continue
                    with tempfile.TemporaryDirectory() as work:
                        r = one(args, kind, way, n, seed, pathlib.Path(work))
                    print(json.dumps(r), file=sys.stderr, flush=True)
                    with open(args.out, "a") as f:
                        f.write(json.dumps(r) + "\n")
                    results.append(r)
    table(results)


if __name__ == "__main__":
    main()
