#!/usr/bin/env python3
"""QLoRA: NF4 weights with double quantisation, LoRA r=8 on all linear layers, 4 x 256 tokens a step, every token in
the loss. Peer: peft + bitsandbytes with bf16 compute on the same weights.
Usage: train_qlora.py [--rounds N] [--steps N] [--no-peer]"""
import argparse
import subprocess
import tempfile

import common

PEER = r'''
import json, resource, sys, time
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from peft import LoraConfig, get_peft_model
path, steps, threads, data = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(threads)
rows = [json.loads(l)["input_ids"] for l in open(data)]
how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                         bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained(path, quantization_config=how, dtype=torch.bfloat16, device_map="cpu")
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
model.train()
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
times, losses = [], []
for step in range(steps + 2):
    begin = time.monotonic()
    ids = torch.tensor(rows[4 * step % len(rows):][:4])
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step(); optimiser.zero_grad()
    losses.append(loss.item())
    if step >= 2: times.append(time.monotonic() - begin)
times.sort()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"tok_s": 1024 / times[len(times) // 2], "loss": losses[-1], "memory": memory}))
'''


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--steps", type=int, default=5)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--no-peer", action="store_true",
                      help="graft alone: where the peer cannot be held to the same instructions")
    a = args.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        data, base = f"{tmp}/data.jsonl", f"{tmp}/base"
        common.write_random_rows(data, 4 * (a.steps + 2))
        # bitsandbytes quantises directories of floats only; bf16 is what models are published in, and what the peer holds.
        whole = f"{tmp}/bf16.gguf"
        subprocess.run([common.graft(), "quantize", "-m", common.model(), "--type", "BF16", "-o", whole, "-q"], check=True)
        subprocess.run([common.graft(), "convert", "-m", whole, "-o", base, "-q"], check=True)

        def ours():
            r, _ = common.run([common.graft(), "sft", "-m", base, "--load-in-4bit", "--bnb-4bit-use-double-quant",
                               "--data", data, "--output-dir", f"{tmp}/out", "--overwrite-output-dir",
                               "--max-steps", a.steps + 2, "--per-device-train-batch-size", 4,
                               "--lora-r", 8, "--lora-alpha", 16, "--target-modules", "all-linear",
                               "--learning-rate", 1e-4, "--no-shuffle", "--save-strategy", "no",
                               "--threads", a.threads, "--logging-strategy", "no", "--json"])
            return {"tok_s": r["train_tokens_per_second"], "memory": r["peak_memory"], "loss": r["train_loss"]}

        def theirs():
            return common.run([common.peers_python(), "-c", PEER, base, a.steps, a.threads, data])[0]

        peer = not a.no_peer and common.has_peer("torch", "transformers", "peft", "bitsandbytes")
        mine, other = common.alternate(ours, theirs if peer else None, a.rounds)
        common.row("QLoRA NF4, 4x256, all linear", mine, other, "tok_s", "tok/s")
        common.row("QLoRA NF4, 4x256, all linear: memory", mine, other, "memory", "bytes", higher_is_better=False)


main()
