#!/usr/bin/env python3
"""Reference values for room train. Versions: torch 2.13.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0, tensorboard
2.21.0, tokenizers 0.23.3, safetensors 0.8.0, bitsandbytes 0.50.2; seed 7.
Usage: make_train.py [schedules optimizers optimizers_8bit events model runs ...]; writes tests/golden/train/.

model/ is a tiny Llama with a byte-level tokenizer; *.jsonl are records; adapter/ is a fresh LoRA that peft made; runs.json
holds the options and the log of runs of trl's SFTTrainer in float32, in the order of the records."""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/train"
SEED = 7


def schedules():
    """Factors that get_scheduler applies to the learning rate before each step, the steps after the last one included."""
    from transformers import get_scheduler

    cases = []
    plain = ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"]
    for kind in plain:
        for warmup, total in [(0, 20), (5, 20), (3, 1), (20, 20)]:
            if kind == "polynomial" and total <= warmup:  # the reference divides by zero there
                continue
            cases.append((kind, None, 2e-4, warmup, total))
    cases += [
        ("cosine", {"num_cycles": 1.5}, 1e-3, 4, 30),
        ("cosine_with_restarts", {"num_cycles": 3}, 1e-3, 2, 30),
        ("polynomial", {"power": 2.0, "lr_end": 1e-5}, 1e-3, 3, 25),
        ("inverse_sqrt", {"timescale": 50}, 1e-3, 5, 25),
        ("cosine_with_min_lr", {"min_lr": 1e-5}, 1e-4, 3, 25),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1, "num_cycles": 0.7}, 1e-4, 0, 25),
        ("cosine_warmup_with_min_lr", {"min_lr": 1e-5}, 1e-4, 6, 25),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.2, "warmup_lr_rate": 0.05}, 1e-4, 6, 25),
        ("warmup_stable_decay", {"num_decay_steps": 8}, 1e-4, 4, 25),
        ("warmup_stable_decay", {"num_decay_steps": 8, "num_stable_steps": 6, "decay_type": "1-sqrt", "min_lr_ratio": 0.1,
                                 "warmup_type": "cosine"}, 1e-4, 4, 25),
        ("warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "linear", "warmup_type": "1-sqrt"}, 1e-4, 5, 25),
    ]
    out = []
    for kind, kwargs, lr, warmup, total in cases:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total,
                                  scheduler_specific_kwargs=kwargs)
        factors = [float(scheduler.lr_lambdas[0](step)) for step in range(total + 4)]
        out.append({"type": kind, "kwargs": kwargs and json.dumps(kwargs), "learning_rate": lr, "warmup": warmup,
                    "total": total, "factors": factors})
    (OUT / "schedules.json").write_text(json.dumps(out) + "\n")


def optimizers():
    """Steps of torch.optim on two parameters (with and without decay), gradients clipped by clip_grad_norm_."""
    cases = {
        "adamw": (torch.optim.AdamW, dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8), 0.1, 1.0),
        "adamw_beta": (torch.optim.AdamW, dict(lr=3e-3, betas=(0.8, 0.95), eps=1e-6), 0.0, 0.0),
        "sgd": (torch.optim.SGD, dict(lr=5e-2), 0.01, 2.0),
        "sgd_momentum": (torch.optim.SGD, dict(lr=5e-2, momentum=0.9), 0.01, 2.0),
        "sgd_nesterov": (torch.optim.SGD, dict(lr=5e-2, momentum=0.9, nesterov=True), 0.0, 0.0),
    }
    tensors = {}
    generator = torch.Generator().manual_seed(SEED)
    steps, n = 8, 131
    start = [torch.randn(n, generator=generator), torch.randn(n, generator=generator)]
    grads = [[torch.randn(n, generator=generator) * 10.0 ** (i % 3 - 2) for i in range(steps)] for _ in range(2)]
    for i in range(2):
        tensors[f"start.{i}"] = start[i]
        tensors[f"grads.{i}"] = torch.stack(grads[i])
    for name, (kind, settings, decay, max_norm) in cases.items():
        params = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = kind([{"params": params[:1], "weight_decay": decay}, {"params": params[1:], "weight_decay": 0.0}], **settings)
        after, norms = [[], []], []
        for step in range(steps):
            for i, p in enumerate(params):
                p.grad = grads[i][step].clone()
            norms.append(torch.nn.utils.clip_grad_norm_(params, max_norm if max_norm else float("inf")))
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = settings["lr"] * (1 - step / 10)
            optimizer.step()
            for i, p in enumerate(params):
                after[i].append(p.detach().clone())
        for i in range(2):
            tensors[f"{name}.{i}"] = torch.stack(after[i])
        tensors[f"{name}.norms"] = torch.stack(norms)
    save_file(tensors, OUT / "optimizers.safetensors")


def gradient(n, step):
    """Values that the test computes too: 16 bits of a hash, shifted by four other bits of it; a block of zeros, and in one
    block all but one element far below the largest."""
    h = (torch.arange(n, dtype=torch.int64) * 2654435761 + step * 2246822519) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2146121005) & 0xFFFFFFFF
    g = ((h & 0xFFFF) - 32768).double() * 2.0 ** -(16 + (h >> 28)).double()
    g[256:512] = 0
    g[513:768] *= 2.0 ** -16
    return g.float()


def optimizers_8bit():
    """20 steps of bitsandbytes' AdamW8bit on CPU: parameters with and without decay, of whole blocks and not, and one of too
    few elements for 8 bits; after steps 1, 2 and 20 values, codes and absmax. Its update runs as it is but for the
    quantiser: bitsandbytes' plain PyTorch one (nearest codes, as its CUDA kernel) stands in for that of its CPU library, which
    looks codes up in 65,536 equal cells of [-1, 1] and so takes everything below 1.5e-5 of the absmax, 0 too, for that.
    For torch's bits an AVX2 or AVX-512 machine is needed (additions are fused there)."""
    import bitsandbytes as bnb
    from bitsandbytes.backends.cpu import ops

    torch.set_num_threads(1)
    quantize = torch.ops.bitsandbytes.quantize_blockwise.default

    def nearest(x, code, absmax, out, blocksize):
        codes, scales = quantize._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, x, code, blocksize)
        out.copy_(codes)
        absmax.copy_(scales)

    ops._quant_blockwise_fp32_direct = nearest
    shapes = [(5, 1024), (4097,), (131,)]
    params = [torch.nn.Parameter(gradient(torch.Size(s).numel(), 100 + i).reshape(s)) for i, s in enumerate(shapes)]
    optimizer = bnb.optim.AdamW8bit([{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "weight_decay": 0.0}],
                                    lr=1e-2, betas=(0.9, 0.995), eps=1e-8)
    tensors = {}
    for step in range(1, 21):
        for i, p in enumerate(params):
            p.grad = gradient(p.numel(), 3 * step + i).reshape(p.shape)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 40)
        optimizer.step()
        for i, p in enumerate(params if step in (1, 2, 20) else []):
            tensors[f"value.{i}.{step}"] = p.detach().clone()
            for key in ("state1", "state2", "absmax1", "absmax2"):
                if key in optimizer.state[p]:
                    tensors[f"{key}.{i}.{step}"] = optimizer.state[p][key].clone()
    save_file(tensors, OUT / "optimizers_8bit.safetensors")


def events():
    """An event file made by tensorboard's own record writer and protobuf classes."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    def scalar(tag, value):
        return Summary(value=[Summary.Value(tag=tag, simple_value=value)])

    with open(OUT / "events.bin", "wb") as f:
        writer = RecordWriter(f)
        for event in [
            Event(wall_time=1700000000.25, file_version="brain.Event:2"),
            Event(wall_time=1700000001.5, step=0, summary=scalar("train/loss", 3.25)),
            Event(wall_time=1700000002.5, step=1, summary=scalar("train/loss", 0.0)),
            Event(wall_time=1700000003.5, step=300, summary=scalar("train/learning_rate", 2e-5)),
            Event(wall_time=1700000004.5, step=70000, summary=scalar("eval/loss", 1e10)),
            Event(wall_time=1700000005.5, step=301, session_log=SessionLog(status=SessionLog.START)),
            Event(wall_time=1700000006.5, step=301, summary=scalar("t" * 150, -1.5)),
        ]:
            writer.write(event.SerializeToString())


TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
WORDS = ("red green blue small large round quick slow old new stone river cloud bird horse house road tree light dark "
         "walks runs sees finds keeps makes opens takes the a one two three and or but with under over near").split()


def sentences(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def model():
    import random

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rng = random.Random(SEED)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>"]
    tokenizer.train_from_iterator([sentences(rng, 12) for _ in range(200)], trainers.BpeTrainer(
        vocab_size=352, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>",
                                   chat_template=TEMPLATE)
    fast.save_pretrained(OUT / "model")
    torch.manual_seed(SEED)
    LlamaForCausalLM(LlamaConfig(vocab_size=352, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                 num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1,
                                 eos_token_id=2, pad_token_id=0, tie_word_embeddings=True, initializer_range=0.1)
                     ).save_pretrained(OUT / "model")
    with open(OUT / "pairs.jsonl", "w") as f:
        for _ in range(36):
            words = sentences(rng, rng.randint(2, 9))
            f.write(json.dumps({"prompt": words + " =>", "completion": " " + " ".join(reversed(words.split()))}) + "\n")
    with open(OUT / "texts.jsonl", "w") as f:
        for _ in range(30):
            f.write(json.dumps({"text": sentences(rng, rng.randint(3, 20)) + "."}) + "\n")
    with open(OUT / "chats.jsonl", "w") as f:
        for _ in range(24):
            turns = []
            for _ in range(rng.randint(1, 2)):
                turns += [{"role": "user", "content": sentences(rng, 4)}, {"role": "assistant", "content": sentences(rng, 3)}]
            f.write(json.dumps({"messages": turns}) + "\n")


COMMON = dict(max_steps=20, logging_steps=1, save_strategy="no", report_to="none", train_sampling_strategy="sequential",
              gradient_checkpointing=False, bf16=False, use_cpu=True, seed=SEED, disable_tqdm=True, max_length=64)
RUNS = {
    "lora_pairs": ("pairs.jsonl", "lora", dict(
        per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2, warmup_steps=4,
        lr_scheduler_type="cosine", weight_decay=0.05, max_grad_norm=0.5, eval_strategy="steps", eval_steps=5,
        per_device_eval_batch_size=64)),
    "full_texts": ("texts.jsonl", "full", dict(
        per_device_train_batch_size=3, gradient_accumulation_steps=3, learning_rate=2e-3, warmup_steps=0.2,
        lr_scheduler_type="linear", weight_decay=0.1, max_grad_norm=1.0, adam_beta1=0.8, adam_beta2=0.99,
        adam_epsilon=1e-6)),
    "lora_chats": ("chats.jsonl", "lora", dict(
        per_device_train_batch_size=5, learning_rate=5e-3, lr_scheduler_type="constant_with_warmup", warmup_steps=3,
        max_grad_norm=0.0, optim="sgd", max_length=24)),
    "loraplus_pairs": ("pairs.jsonl", "lora", dict(
        per_device_train_batch_size=6, learning_rate=2e-3, lr_scheduler_type="linear", warmup_steps=2, max_grad_norm=1.0,
        weight_decay=0.05, loraplus_lr_ratio=16.0)),
    "full_pairs": ("pairs.jsonl", "full", dict(
        per_device_train_batch_size=8, learning_rate=3e-3, lr_scheduler_type="inverse_sqrt", warmup_steps=2,
        max_grad_norm=0.25, weight_decay=0.01, completion_only_loss=False)),
}


def runs():
    import shutil
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.optimizers import create_loraplus_optimizer
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    def records(name):
        return Dataset.from_list([json.loads(line) for line in open(OUT / name)])

    def base():
        return AutoModelForCausalLM.from_pretrained(OUT / "model", dtype=torch.float32)

    torch.manual_seed(SEED)
    fresh = get_peft_model(base(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM",
                                              rank_pattern={"down_proj": 2}))
    fresh.peft_config["default"].base_model_name_or_path = "model"
    fresh.save_pretrained(OUT / "adapter")
    (OUT / "adapter/README.md").unlink()
    result = {}
    for name, (data, method, options) in RUNS.items():
        model = base() if method == "full" else PeftModel.from_pretrained(base(), OUT / "adapter", is_trainable=True)
        with tempfile.TemporaryDirectory() as folder:
            settings = {**COMMON, **options}
            ratio = settings.pop("loraplus_lr_ratio", None)
            args = SFTConfig(output_dir=folder, **settings)
            plus = ratio and create_loraplus_optimizer(
                model, torch.optim.AdamW, lr=args.learning_rate, loraplus_lr_ratio=ratio, betas=(0.9, 0.999), eps=1e-8,
                loraplus_weight_decay=args.weight_decay)
            trainer = SFTTrainer(model=model, args=args, train_dataset=records(data), eval_dataset=records(data),
                                 **({"optimizers": (plus, None)} if plus else {}),
                                 processing_class=AutoTokenizer.from_pretrained(OUT / "model"))
            trainer.train()
            keep = ("loss", "grad_norm", "learning_rate", "num_tokens", "mean_token_accuracy", "epoch", "step", "eval_loss",
                    "eval_mean_token_accuracy", "train_loss")
            log = [{k: v for k, v in line.items() if k in keep} for line in trainer.state.log_history]
            total = sum(p.detach().double().abs().sum().item() for p in trainer.model.parameters() if p.requires_grad)
        result[name] = {"data": data, "method": method, "options": options, "log": log, "sum_abs": total,
                        "max_length": {**COMMON, **options}["max_length"]}
    (OUT / "runs.json").write_text(json.dumps(result, indent=0) + "\n")
    shutil.rmtree("trainer_output", ignore_errors=True)


def read_events(folder):
    """What tensorboard itself reads from event files (to check files that graft wrote)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:] or ["schedules", "optimizers", "optimizers_8bit", "events", "model", "runs"]
    for what in wanted:
        globals()[what]()
