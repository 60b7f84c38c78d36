#!/usr/bin/env python3
"""Row 2: real SFT. 96 package descriptions to their synopses, LoRA on all linear layers, batch 8, completion-only loss, one
epoch. Peer: trl's SFTTrainer in bf16 on the same file and records. Usage: train_sft.py [--rounds N]"""
import argparse
import json
import tempfile

import common

PEER = r'''
import json, resource, sys, time
begin = time.monotonic()
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
path, name, data, out, threads = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
torch.set_num_threads(threads)
tokenizer = AutoTokenizer.from_pretrained(path, gguf_file=name)
if tokenizer.pad_token is None: tokenizer.pad_token = tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(path, gguf_file=name, dtype=torch.bfloat16)
# The weights are dequantised once loaded; the trainer refuses a model that still calls itself quantised.
model.is_quantized = False
model.config.quantization_config = None
for key in ("quantization_method", "hf_quantizer"):
    if hasattr(model, key): delattr(model, key)
rows = Dataset.from_list([json.loads(l) for l in open(data)])
config = SFTConfig(output_dir=out, per_device_train_batch_size=8, num_train_epochs=1, learning_rate=2e-4, bf16=True, use_cpu=True, max_length=1024,
                   gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=100, dataloader_pin_memory=False)
trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer,
                     peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
ready = time.monotonic() - begin
begin = time.monotonic()
trainer.train()
seconds = time.monotonic() - begin
print(json.dumps({"examples_s": len(rows) / seconds, "ready": ready, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
'''


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--records", type=int, default=96)
    a = args.parse_args()
    path = common.model()
    source = common.cache() / "demo-data" / "train.jsonl"
    if not source.exists():
        raise SystemExit(f"{source} is missing: make demo")
    with tempfile.TemporaryDirectory() as tmp:
        data = f"{tmp}/data.jsonl"
        with open(source) as f, open(data, "w") as g:
            g.writelines(line for line, _ in zip(f, range(a.records)))

        def ours():
            r, seconds = common.run([common.graft(), "sft", "-m", path, "--data", data, "--output-dir", f"{tmp}/out", "--overwrite-output-dir",
                                     "--num-train-epochs", 1, "--per-device-train-batch-size", 8, "--lora-r", 8, "--lora-alpha", 16, "--target-modules",
                                     "all-linear", "--learning-rate", 2e-4, "--save-strategy", "no", "--threads", a.threads, "--logging-strategy", "no", "--json"])
            return {"examples_s": r["train_samples_per_second"], "memory": r["peak_memory"], "ready": seconds - r["train_runtime"]}

        def theirs():
            r, _ = common.run([common.peers_python(), "-c", PEER, path.parent, path.name, data, f"{tmp}/peer", a.threads])
            return r

        mine, other = common.alternate(ours, theirs if common.has_peer("trl", "peft", "datasets", "gguf") else None, a.rounds)
        common.row("real SFT, 96 records, LoRA all linear", mine, other, "examples_s", "examples/s")
        common.row("real SFT: memory", mine, other, "memory", "bytes", higher_is_better=False)
        common.row("real SFT: start-up before the first step", mine, other, "ready", "s", higher_is_better=False)


main()
