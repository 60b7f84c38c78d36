#!/usr/bin/env python3
"""Makes tests/golden/dropout: LoRA and DoRA in training with lora_dropout, as peft computes it where the masks are graft's.

Made with torch 2.13.0 on one thread, transformers 5.23.0, peft 0.21.2, bitsandbytes 0.50.2, safetensors 0.8.0, seed 20261126.
Usage: python tools/golden/make_dropout.py [NAME ...]   (in the project's root, after make_models.py and make_families.py)

cases.txt has a line a case: name, base (a path under tests/golden), format (f32, nf4). NAME/ is an adapter directory as peft writes it.
NAME/golden.safetensors holds:
  input_ids, labels (B,T) int64: what went in; no padding
  loss (1), grad.NAME: of the first step, tensors of more than 1,024 elements every 7th element
  steps (10): losses of 10 steps of torch.optim.AdamW(lr 1e-2, weight_decay 0.01)
The base is in evaluation mode, the adapted layers are in training mode. Each one's nn.Dropout is replaced by the mask that graft
draws (written anew here from docs/training.md and the paper): Philox4x32-10 (Salmon et al. 2011) with the key SEED + step, of which
counter the low half is the row's key, 1000 b + t, and the high half the layer's stream and the column's block of four."""
import pathlib
import shutil
import sys
import warnings

import numpy as np
import peft
import torch
import transformers as tf
from safetensors.numpy import save_file

import make_family_methods as cells
import make_methods
from make_quant import flatten_kernels

SEED = 20261126
STRIDE = 7
GOLDEN = pathlib.Path("tests/golden")
OUT = GOLDEN / "dropout"
LLAMA, BIASED, GPT2 = "models/llama", "models/llama_bias", "families/gpt2"
CASES = {  # name: (base, format, settings)
    "lora": (LLAMA, "f32", dict(r=2, target_modules=["q_proj", "v_proj", "down_proj"])),
    "dora": (LLAMA, "f32", dict(r=2, use_dora=True, target_modules="all-linear")),
    "dora_bias": (BIASED, "f32", dict(r=2, use_dora=True, use_rslora=True, bias="lora_only", target_modules=["q_proj", "v_proj", "down_proj"])),
    "dora_olora": (LLAMA, "f32", dict(r=2, use_dora=True, init_lora_weights="olora", target_modules=["q_proj", "o_proj", "up_proj"])),
    "dora_nf4": (LLAMA, "nf4", dict(r=2, use_dora=True, target_modules=["q_proj", "k_proj", "down_proj"])),
    "dora_head": (LLAMA, "f32", dict(r=2, use_dora=True, target_modules=["q_proj", "lm_head"])),
    "dora_tied": ("models/llama_tied", "f32", dict(r=2, use_dora=True, target_modules=["lm_head"])),
    "dora_gpt2": (GPT2, "f32", dict(r=2, use_dora=True, fan_in_fan_out=True, target_modules=["c_attn", "c_fc", "c_proj"])),
}
MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def hash_bytes(data, seed):
    def mix(h):
        h = h * 0xD6E8FEB86659FD93 & MASK64
        return h ^ h >> 32
    h = seed ^ (len(data) * 0x9E3779B97F4A7C15 & MASK64)
    while len(data) >= 8:
        h, data = mix(h ^ int.from_bytes(data[:8], "little")), data[8:]
    return mix(mix(h ^ int.from_bytes(data, "little")))


def stream_of(module):
    purpose = 3  # dropout
    pair = purpose.to_bytes(8, "little") + hash_bytes(module.encode(), 0).to_bytes(8, "little")
    return hash_bytes(pair, 0x67726674)


def philox(seed, stream, index):
    """Four words for each of the counters (index, stream), arrays of one shape."""
    index, stream = np.broadcast_arrays(index.astype(np.uint64), stream.astype(np.uint64))
    low, shift = np.uint64(MASK32), np.uint64(32)
    c = [index & low, index >> shift, stream & low, stream >> shift]
    k0, k1 = seed & MASK32, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [p1 >> shift ^ c[1] ^ np.uint64(k0), p1 & low, p0 >> shift ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = k0 + 0x9E3779B9 & MASK32, k1 + 0xBB67AE85 & MASK32
    return np.stack(c, -1)


class Mask(torch.nn.Module):
    def __init__(self, module, p):
        super().__init__()
        self.stream, self.p, self.seed = stream_of(module), p, 0

    def forward(self, x):
        b, t, n = x.shape
        rows = (1000 * np.arange(b)[:, None] + np.arange(t)).reshape(-1, 1)
        blocks = np.arange((n + 3) // 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(self.stream)
        draws = philox(self.seed, blocks[None], rows).reshape(b, t, -1)[..., :n]
        keep = torch.from_numpy(draws >= np.uint64(int(self.p * 2**32)))
        return torch.where(keep, x / (1 - self.p), torch.zeros(()))


def load(base, kind):
    quantise = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4") if kind == "nf4" else None
    return tf.AutoModelForCausalLM.from_pretrained(GOLDEN / base, dtype=torch.float32, quantization_config=quantise,
                                                   device_map="cpu" if quantise else None)


def put_masks(model):
    masks = []
    for name, module in model.named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        p = module.lora_dropout["default"].p
        masks.append(Mask(name.removeprefix("base_model.model."), p))
        module.lora_dropout["default"] = masks[-1]
        module.training = True
    return masks


def make(name):
    base, kind, settings = CASES[name]
    model = load(base, kind)
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.25, **settings)
    torch.manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model, config).eval()
    for module in model.modules():
        if kind == "nf4" and type(module).__name__ == "Linear4bit" and "peft" not in type(module).__module__:
            module.train()  # in inference bitsandbytes repacks the codes
    g = torch.Generator().manual_seed(SEED)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for _, p in trained:
            p.add_(torch.randn(p.shape, generator=g) * 0.2)
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    cells.save(model, path)
    masks = put_masks(model)
    ids = torch.randint(3, model.config.vocab_size, (3, 13), generator=g)
    labels = ids.clone()
    labels[1, 4:9] = -100
    golden = dict(input_ids=ids.numpy(), labels=labels.numpy())
    optimizer = torch.optim.AdamW([p for _, p in trained], lr=1e-2, weight_decay=0.01)
    losses = []
    for step in range(10):
        for mask in masks:
            mask.seed = SEED + step
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        if step == 0:
            golden["loss"] = loss.detach().reshape(1).numpy()
            for n, p in trained:
                x = p.grad.numpy().reshape(-1)
                golden["grad." + make_methods.stored(n)] = x[::STRIDE].copy() if x.size > 1024 else x.copy()
        optimizer.step()
        losses.append(loss.item())
    golden["steps"] = np.array(losses, np.float32)
    save_file(golden, path / "golden.safetensors", metadata={"stride": str(STRIDE)})


def main():
    torch.set_num_threads(1)
    flatten_kernels()
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or CASES:
        make(name)
        print(name, flush=True)
    (OUT / "cases.txt").write_text("".join(f"{n} {base} {kind}\n" for n, (base, kind, _) in CASES.items()))


if __name__ == "__main__":
    main()
