#!/usr/bin/env python3
"""How cost grows with records, with tokens of a record, and with layers: processor seconds of training (LoRA r=8 on q and
v, bf16, every token in the loss) on one thread, start-up taken off by running twice the steps, and the planned memory of a step.
Usage: scaling.py [--records 4,8,16] [--lengths 256,512,1024,2048,4096] [--layers 2,4,8]   Prints Markdown tables."""
import argparse
import pathlib
import tempfile

import common
import memory_limit


def step(model, rows, length, tmp, steps=3):
    """Processor seconds of a step of so many records, and bytes of its activations."""
    data = tmp / "data.jsonl"
    if model == common.model():
        common.write_random_rows(data, 2 * steps * rows, length)
    else:
        common.write_records(data, [{"input_ids": [i % 60 + 1 for i in range(length)], "labels": [1] * length}
                                    for _ in range(2 * steps * rows)])
    run = ["-m", model, "--data", data, "--lora-r", 8, "--target-modules", "q_proj,v_proj", "--max-length", length,
           "--per-device-train-batch-size", rows, "--threads", 1, "--no-shuffle", "--save-strategy", "no",
           "--logging-strategy", "no"]

    def train(n):
        return common.graft_facts("sft", *run, "--output-dir", tmp / "out", "--overwrite-output-dir",
                                  "--max-steps", n)[1]
    seconds = (train(2 * steps) - train(steps)) / steps
    return seconds, common.graft_facts("plan", "sft", *run, "--max-steps", steps)[0]["step"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(n) for n in text.split(",")]
    p.add_argument("--records", type=numbers, default=[4, 8, 16])
    p.add_argument("--lengths", type=numbers, default=[256, 512, 1024, 2048, 4096])
    p.add_argument("--layers", type=numbers, default=[2, 4, 8])
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        print("| records of 256 tokens | processor s a step | a record |\n|---|---|---|")
        for n in a.records:
            seconds, _ = step(common.model(), n, 256, tmp)
            print(f"| {n} | {seconds:.2f} | {seconds / n:.3f} |", flush=True)
        print("\n| tokens of one record | processor s | ms a token | activations | KB a token |\n|---|---|---|---|---|")
        for n in a.lengths:
            seconds, size = step(common.model(), 1, n, tmp)
            print(f"| {n} | {seconds:.2f} | {1000 * seconds / n:.2f} | {size / 1e6:.0f} MB | {size / 1e3 / n:.0f} |", flush=True)
        print("\n| layers (2,048 wide) | processor s a step of 2 x 128 tokens | a layer |\n|---|---|---|")
        for n in a.layers:
            memory_limit.write_model(tmp / f"model{n}", n)
            seconds, _ = step(tmp / f"model{n}", 2, 128, tmp)
            print(f"| {n} | {seconds:.2f} | {seconds / n:.3f} |", flush=True)


if __name__ == "__main__":
    main()
