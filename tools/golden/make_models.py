#!/usr/bin/env python3
"""Makes tests/golden/models: tiny random models of every supported family and variant with what transformers computes
for them, in float32 on the CPU.

Made with torch 2.13.0, transformers 5.23.0, gguf 0.19.0, safetensors 0.8.0, seed 20260801.
Usage: python tools/golden/make_models.py [NAME ...]   (run in the project's root; no NAME: all)

Each NAME/ is a Hugging Face directory (weights rounded to the stored type first, so that every reader sees the same
values), NAME.gguf a GGUF file; NAME/golden.safetensors (NAME.golden.safetensors) holds:
  input_ids, attention_mask, labels (B,T) int64: what went in
  logits (B,T,V): rows of masked positions set to zero; loss (1); grad.* of every trained tensor, whole for the models
  in FULL, else every k-th element, k in the metadata ("stride")
  steps (20): losses of 20 steps of torch.optim.AdamW(lr 1e-2, weight_decay 0.01) on all tensors (models in STEPS)
  accuracy (1): share of labels whose logit is the largest
"""
import json
import pathlib
import shutil
import sys
import warnings

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config)

SEED = 20260801
OUT = pathlib.Path("tests/golden/models")
BASE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            tie_word_embeddings=False)


def rope(kind, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


# name: (config class, what differs from BASE, stored dtype)
MODELS = {
    "llama2": (LlamaConfig, dict(num_key_value_heads=4), "float32"),
    "llama": (LlamaConfig, {}, "bfloat16"),
    "llama_f16": (LlamaConfig, dict(num_hidden_layers=1), "float16"),
    "llama_tied": (LlamaConfig, dict(tie_word_embeddings=True), "bfloat16"),
    "llama_bias": (LlamaConfig, dict(attention_bias=True, mlp_bias=True), "bfloat16"),
    "llama_head_dim": (LlamaConfig, dict(head_dim=16, num_hidden_layers=1), "bfloat16"),
    "llama_one_kv": (LlamaConfig, dict(num_key_value_heads=1, num_hidden_layers=1), "bfloat16"),
    "llama_theta": (LlamaConfig, dict(rope("default", rope_theta=500000.0), rms_norm_eps=1e-5), "bfloat16"),
    "llama_linear": (LlamaConfig, rope("linear", factor=4.0), "bfloat16"),
    "llama_dynamic": (LlamaConfig, dict(rope("dynamic", factor=2.0), max_position_embeddings=16), "bfloat16"),
    "llama_llama3": (LlamaConfig, rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                       original_max_position_embeddings=16, rope_theta=500.0), "bfloat16"),
    "llama_yarn": (LlamaConfig, rope("yarn", factor=4.0, original_max_position_embeddings=16), "bfloat16"),
    "llama_yarn_mscale": (LlamaConfig, rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0,
                                            mscale_all_dim=0.8, beta_fast=16.0, beta_slow=2.0), "bfloat16"),
    "llama_yarn_factor": (LlamaConfig, rope("yarn", factor=2.5, original_max_position_embeddings=20,
                                            attention_factor=1.25, truncate=False), "bfloat16"),
    "mistral": (MistralConfig, dict(sliding_window=5), "bfloat16"),
    "mistral_full": (MistralConfig, dict(sliding_window=None, head_dim=16, num_hidden_layers=1), "bfloat16"),
    "qwen2": (Qwen2Config, {}, "bfloat16"),
    "qwen2_sliding": (Qwen2Config, dict(use_sliding_window=True, sliding_window=6, max_window_layers=1,
                                        num_hidden_layers=3, tie_word_embeddings=True), "bfloat16"),
    "qwen3": (Qwen3Config, dict(head_dim=16), "bfloat16"),
    "qwen3_bias": (Qwen3Config, dict(head_dim=8, attention_bias=True, tie_word_embeddings=True), "bfloat16"),
    "smollm3": (SmolLM3Config, dict(no_rope_layer_interval=2, num_hidden_layers=3, tie_word_embeddings=True),
                "bfloat16"),
    "smollm3_sliding": (SmolLM3Config, dict(no_rope_layers=[1, 0, 1], num_hidden_layers=3, use_sliding_window=True,
                                            sliding_window=5), "bfloat16"),
}
SHARDED = {"llama_bias", "qwen3"}
FULL = {"llama", "llama_tied", "llama_bias", "qwen3", "qwen2_sliding"}
STEPS = {"llama", "llama_tied", "qwen2_sliding", "qwen3"}


def fill(model, seed, dtype):
    """Weights at a scale where every part of the model matters; rounded to the stored type."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = torch.randn(p.shape, generator=g)
            if name.endswith("norm.weight"):
                x = 1 + 0.2 * x
            elif name.endswith(".bias"):
                x = 0.3 * x
            elif "embed_tokens" not in name:
                x = 1.2 * x / p.shape[1] ** 0.5
            elif model.config.tie_word_embeddings:
                x = 0.4 * x
            p.copy_(x.to(dtype).float())


def batch(vocab):
    """Three rows: whole; padded left, whose first real token has a label (the reference then takes logits of the pad
    before it); padded left and right with a prompt that has no labels."""
    g = torch.Generator().manual_seed(SEED + 1)
    ids = torch.randint(3, vocab, (3, 28), generator=g)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    mask[2, :3] = 0
    mask[2, 22:] = 0
    ids[mask == 0] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[2, 3:9] = -100
    return ids, mask, labels


def run(model):
    ids, mask, labels = batch(model.config.vocab_size)
    model.train()
    model.zero_grad()
    out = model(input_ids=ids, attention_mask=mask, labels=labels)
    out.loss.backward()
    logits = out.logits.detach().clone()
    hit = (logits[:, :-1].argmax(-1) == labels[:, 1:])[labels[:, 1:] != -100]
    logits[mask == 0] = 0
    return {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "labels": labels.numpy(),
            "logits": logits.numpy(), "loss": out.loss.detach().reshape(1).numpy(),
            "accuracy": hit.float().mean().reshape(1).numpy()}


def gradients(model, whole):
    grads = {f"grad.{n}": p.grad.numpy() for n, p in model.named_parameters()}
    if whole:
        return grads, 1
    stride = 13
    return {n: g.reshape(-1)[::stride].copy() for n, g in grads.items()}, stride


def steps(model):
    """Same batch every step, so that the loss falls far and every moment estimate matters."""
    ids, mask, labels = batch(model.config.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    losses = []
    for _ in range(20):
        out = model(input_ids=ids, attention_mask=mask, labels=labels)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    return {"steps": np.array(losses, np.float32)}


def load(path, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **more)


def make(name):
    cls, more, dtype = MODELS[name]
    config = cls(**{**BASE, **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    stored = getattr(torch, dtype)
    fill(model, SEED, stored)
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    model.to(stored).save_pretrained(path, max_shard_size="20KB" if name in SHARDED else "1GB")
    model = load(path)
    golden = run(model)
    grads, stride = gradients(model, name in FULL)
    golden.update(grads)
    if name in STEPS:
        golden.update(steps(model))
    save_file(golden, path / "golden.safetensors", metadata={"stride": str(stride)})
    (path / "generation_config.json").unlink(missing_ok=True)


def permute(w, heads):
    """Rows of each head as llama.cpp's converter stores them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


GGUF = {  # file: (family, type of the 2-D tensors, type of down_proj, more config)
    "g_f32": (LlamaConfig, "F32", "F32", {}),
    "g_f16": (LlamaConfig, "F16", "F16", {}),
    "g_bf16": (LlamaConfig, "BF16", "BF16", dict(tie_word_embeddings=True)),
    "g_q8_0": (LlamaConfig, "Q8_0", "Q8_0", {}),
    "g_q4_0": (LlamaConfig, "Q4_0", "Q4_0", {}),
    "g_q4_1": (LlamaConfig, "Q4_1", "Q6_K", dict(intermediate_size=256)),
    "g_q5_0": (LlamaConfig, "Q5_0", "Q5_K", dict(intermediate_size=256)),
    "g_q5_1": (LlamaConfig, "Q5_1", "Q4_K", dict(intermediate_size=256)),
    "g_q3_k": (LlamaConfig, "Q8_0", "Q3_K", dict(intermediate_size=256)),
    "g_q2_k": (LlamaConfig, "Q8_0", "Q2_K", dict(intermediate_size=256, tie_word_embeddings=True)),
    "g_qwen2": (Qwen2Config, "Q8_0", "Q8_0", {}),
    "g_qwen3": (Qwen3Config, "Q5_0", "Q5_0", dict(head_dim=16)),
    "g_freqs": (LlamaConfig, "F32", "F32", {}),
    "g_llama3": (LlamaConfig, "F32", "F32", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                 original_max_position_embeddings=8192)),
}
# What rope_freqs.weight holds: llama.cpp rotates pair i by position * theta^(-2i/D) / factor[i]. The first are no
# formula's; the second are what the reference makes of the llama3 parameters.
FREQS = {"g_freqs": np.array([1.0, 1.5, 0.25, 6.0], np.float32), "g_llama3": None}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}


def gguf_name(name):
    for ours, theirs in (("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("lm_head.", "output.")):
        if name.startswith(ours):
            return theirs + name[len(ours):]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def k_quant(rng, kind, shape):
    """Random blocks of a format that gguf-py cannot write: any bytes are a valid block but for the half-precision
    scales, which are set so that values come out near 1 / sqrt(columns)."""
    qtype = getattr(gguf.GGMLQuantizationType, kind)
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    rows, blocks = shape[0], shape[1] // block
    data = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    scales = {"Q2_K": ((80, 4e-3), (82, 4e-3)), "Q3_K": ((108, 8e-4),), "Q4_K": ((0, 2e-4), (2, 1e-3)),
              "Q5_K": ((0, 1e-4), (2, 1e-3)), "Q6_K": ((208, 4e-5),)}[kind]
    for at, scale in scales:
        value = (scale * rng.uniform(0.5, 1.5, (rows, blocks))).astype(np.float16)
        data[:, :, at:at + 2] = value.view(np.uint8).reshape(rows, blocks, 2)
    return data.reshape(rows, blocks * size), qtype


def make_gguf(name):
    cls, kind, down, more = GGUF[name]
    config = cls(**{**BASE, "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "pad_token_id": None,
                    **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, SEED + 2, torch.float32)
    arch = config.model_type
    path = OUT / f"{name}.gguf"
    w = gguf.GGUFWriter(path, arch)
    w.add_name("tiny")
    w.add_context_length(config.max_position_embeddings)
    w.add_block_count(config.num_hidden_layers)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if arch == "llama":
        w.add_rope_dimension_count(head_dim)
    if arch == "qwen3":
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    w.add_vocab_size(config.vocab_size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    w.add_token_types([1] * config.vocab_size)
    w.add_token_merges([])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    rng = np.random.default_rng(SEED)
    factors = FREQS.get(name)
    if name in FREQS:
        plain = config.rope_parameters["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
        if factors is None:
            factors = (plain / model.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)
        w.add_tensor("rope_freqs.weight", factors)
    for n, p in model.state_dict().items():
        if n == "lm_head.weight" and config.tie_word_embeddings:
            continue
        x = p.numpy()
        if arch == "llama" and n.endswith(("q_proj.weight", "k_proj.weight")):
            x = permute(x, config.num_attention_heads if "q_proj" in n else config.num_key_value_heads)
        if x.ndim == 1:
            w.add_tensor(gguf_name(n), x.astype(np.float32))
            continue
        type_name = down if "down_proj" in n else kind
        if type_name.endswith("_K"):
            data, qtype = k_quant(rng, type_name, x.shape)
        else:
            qtype = getattr(gguf.GGMLQuantizationType, type_name)
            data = gguf.quants.quantize(x, qtype)
        w.add_tensor(gguf_name(n), data, raw_dtype=qtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    # The reference does not read head_dim of every family from GGUF: the configuration is given.
    loaded = load(OUT, gguf_file=path.name, config=config)
    if name in FREQS:  # the reference takes no notice of the tensor: its frequencies are set here
        loaded.model.rotary_emb.inv_freq = torch.tensor((plain / factors).astype(np.float32))
    golden = run(loaded)
    grads, stride = gradients(loaded, False)
    golden.update(grads)
    save_file(golden, OUT / f"{name}.golden.safetensors", metadata={"stride": str(stride)})


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:] or [*MODELS, *GGUF]
    for name in wanted:
        (make_gguf if name in GGUF else make)(name)
        print(name, flush=True)


main()
