#!/usr/bin/env python3
"""Writes tests/golden/formats: tensor files and configurations with what the reference libraries read from them.

Usage: make_formats.py [MODEL.gguf]  (from the project's root). With the packaged model also packaged.json.
Made with Python 3.11, gguf 0.19.0, safetensors 0.8.0, transformers 5.23.0, torch 2.13.0, numpy 2.4.6; seed 7."""
import hashlib
import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path("tests/golden/formats")
Q = gguf.GGMLQuantizationType
TYPES = [Q.F32, Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K]
# Byte offsets of the half-precision factors in a block, where random bytes would give infinities and NaN.
HALVES = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82], Q.Q3_K: [108],
          Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.F16: [0]}
rng = np.random.default_rng(7)


def finite_halves(n):
    """Random finite half-precision numbers: all signs, subnormals and zeros among them."""
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    bits = np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits)
    bits[:: 7] = 0x3C00
    return bits.astype(np.uint16)


def random_blocks(kind, rows, columns):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind == Q.F32:
        return rng.standard_normal((rows, columns)).astype(np.float32).view(np.uint8)
    if kind == Q.BF16:
        return (rng.standard_normal((rows, columns)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    data = rng.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    for at in HALVES[kind]:
        data[:, at:at + 2] = finite_halves(len(data)).view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


def make_quants():
    """Every tensor type: random blocks, and their values by gguf-py."""
    writer = gguf.GGUFWriter(OUT / "quants.gguf", "llama")
    values = {}
    for kind in TYPES:
        data = random_blocks(kind, 2, 512)
        writer.add_tensor(kind.name, data, raw_shape=data.shape, raw_dtype=kind)
        values[kind.name] = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(2, 512)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_numpy(values, OUT / "quants.safetensors")


def make_gguf():
    """Metadata of every type; split into three parts too."""
    for name, split in (("kinds.gguf", 0), ("split.gguf", 2)):
        writer = gguf.GGUFWriter(OUT / name, "llama", split_max_tensors=split)
        writer.add_uint8("a.u8", 200)
        writer.add_int8("a.i8", -100)
        writer.add_uint16("a.u16", 60000)
        writer.add_int16("a.i16", -30000)
        writer.add_uint32("a.u32", 4000000000)
        writer.add_int32("a.i32", -2000000000)
        writer.add_float32("a.f32", 0.1)
        writer.add_uint64("a.u64", 1 << 63)
        writer.add_int64("a.i64", -(1 << 62))
        writer.add_float64("a.f64", 0.1)
        writer.add_bool("a.bool", True)
        writer.add_string("a.string", "gr\u00fc\u00dfe \U0001F600")
        writer.add_array("a.ints", [1, -2, 3])
        writer.add_array("a.floats", [0.5, -1.5])
        writer.add_array("a.strings", ["", "one", "zwei \u00e4"])
        writer.add_array("a.bools", [True, False])
        for i in range(5):
            writer.add_tensor(f"t{i}", rng.standard_normal((i + 1, 3)).astype(np.float32))
        writer.add_tensor("half", rng.standard_normal((2, 2, 2)).astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def make_safetensors():
    """Every dtype in one file; the same tensors in shards with an index."""
    g = torch.Generator().manual_seed(7)
    tensors = {
        "f32": torch.randn(3, 4, generator=g), "f16": torch.randn(5, generator=g).half(), "bf16": torch.randn(2, 3, generator=g).bfloat16(),
        "f64": torch.randn(2, generator=g, dtype=torch.float64), "i64": torch.tensor([-1, 1 << 40]), "i32": torch.tensor([[7], [-7]], dtype=torch.int32),
        "i16": torch.tensor([300], dtype=torch.int16), "i8": torch.tensor([-128, 127], dtype=torch.int8), "u8": torch.tensor([255], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "a\u00e4\"\n": torch.ones(1),
        "u16": torch.tensor([65535], dtype=torch.uint16), "u32": torch.tensor([1 << 31], dtype=torch.uint32), "u64": torch.tensor([5], dtype=torch.uint64),
    }
    save_torch(tensors, OUT / "dtypes.safetensors", metadata={"format": "pt"})
    shards = OUT / "sharded"
    shards.mkdir(exist_ok=True)
    config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=32, tie_word_embeddings=False)
    torch.manual_seed(7)
    LlamaForCausalLM(config).save_pretrained(shards, max_shard_size="4KB")
    (shards / "generation_config.json").unlink()


def permute(weights, heads):
    """What llama.cpp's converter does to q and k of the llama architecture."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def make_tiny_model():
    """One Llama layer as a converter would write it to GGUF, and the weights that transformers then has."""
    folder = OUT / "tiny"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(11)
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=40, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True)
    state = {k: v.numpy() for k, v in LlamaForCausalLM(config).state_dict().items()}
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(40)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([f"t{i}" for i in range(40)])
    writer.add_token_types([1] * 40)
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, value in state.items():
        if name == "lm_head.weight":
            continue
        if ".q_proj." in name:
            value = permute(value, 4)
        if ".k_proj." in name:
            value = permute(value, 2)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", dtype=torch.float32)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, torch.from_numpy(state[name])), name
    save_torch({k: v.contiguous() for k, v in loaded.state_dict().items() if k != "lm_head.weight"}, folder / "expected.safetensors",
               metadata={"format": "pt"})


BASE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 128, "max_position_embeddings": 4096}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512, "rope_type": "llama3"}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
CASES = [
    {"model_type": "llama"},
    {"model_type": "llama", **BASE},
    {"model_type": "llama", **BASE, "num_key_value_heads": None, "head_dim": None, "rope_theta": 5e5, "rms_norm_eps": 1e-5},
    {"model_type": "llama", **BASE, "head_dim": 32, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    {"model_type": "llama", **BASE, "eos_token_id": [2, 7, 9], "bos_token_id": None, "pad_token_id": 0, "torch_dtype": "bfloat16"},
    {"model_type": "llama", **BASE, "dtype": "float16", "eos_token_id": None},
    {"model_type": "llama", **BASE, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 20000.0},
    {"model_type": "llama", **BASE, "rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
    {"model_type": "llama", **BASE, "rope_scaling": LLAMA3, "rope_theta": 500000.0},
    {"model_type": "llama", **BASE, "rope_parameters": {**LLAMA3, "rope_theta": 500000.0}},
    {"model_type": "llama", **BASE, "rope_parameters": {"rope_type": "default", "rope_theta": 12345.5}},
    {"model_type": "llama", **BASE, "rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 10000.0}},
    {"model_type": "llama", **BASE, "rope_scaling": None, "rope_theta": 7777},
    {"model_type": "llama", **BASE, "rope_scaling": {"type": "yarn", "factor": 2.0}},
    {"model_type": "llama", **BASE, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}, "original_max_position_embeddings": 256},
    {"model_type": "mistral", **BASE},
    {"model_type": "mistral", **BASE, "sliding_window": None},
    {"model_type": "mistral", **BASE, "sliding_window": 64, "head_dim": 24},
    {"model_type": "qwen2", **BASE},
    {"model_type": "qwen2", **BASE, "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2, "bos_token_id": 5, "eos_token_id": 6},
    {"model_type": "qwen2", **BASE, "use_sliding_window": False, "sliding_window": 32, "max_window_layers": 2},
    {"model_type": "qwen2", **BASE, "use_sliding_window": True, "sliding_window": 16,
     "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]},
    {"model_type": "qwen2", **BASE, "rope_scaling": YARN, "tie_word_embeddings": True},
    {"model_type": "qwen3", **BASE},
    {"model_type": "qwen3", **BASE, "head_dim": 16, "attention_bias": True, "rope_scaling": {**YARN, "attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}},
    {"model_type": "qwen3", **BASE, "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0}},
    {"model_type": "smollm3", **BASE},
    {"model_type": "smollm3", **BASE, "no_rope_layers": [1, 0, 1, 0], "use_sliding_window": True, "sliding_window": 128},
    {"model_type": "smollm3", **BASE, "no_rope_layer_interval": 2, "attention_bias": True, "mlp_bias": True},
]


def expectation(case):
    """What transformers makes of a config.json, in graft's fields."""
    folder = OUT / "work"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(case))
    c = AutoConfig.from_pretrained(folder)
    (folder / "config.json").unlink()
    folder.rmdir()
    c.standardize_rope_params()  # as the rotary embedding does before it uses them
    kind, rope, layers = case["model_type"], dict(c.rope_parameters), c.num_hidden_layers
    window = c.sliding_window if kind != "llama" else None
    types = getattr(c, "layer_types", None) if kind != "mistral" else None
    sliding = [bool(window) and (kind == "mistral" or types[i] == "sliding_attention") for i in range(layers)] if window else [False] * layers
    as_list = lambda v: [] if v is None else v if isinstance(v, list) else [v]
    return {
        "vocab_size": c.vocab_size, "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size, "n_layers": layers,
        "n_heads": c.num_attention_heads, "n_kv_heads": c.num_key_value_heads,
        "head_dim": getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads, "rms_norm_eps": c.rms_norm_eps,
        "max_position_embeddings": c.max_position_embeddings, "rope": rope, "sliding_window": window if any(sliding) else 0,
        "layer_sliding": sliding, "layer_rope": [bool(v) for v in getattr(c, "no_rope_layers", [1] * layers)],
        "qkv_bias": kind == "qwen2" or bool(getattr(c, "attention_bias", False)), "o_bias": bool(getattr(c, "attention_bias", False)),
        "mlp_bias": bool(getattr(c, "mlp_bias", False)), "tied": c.tie_word_embeddings, "bos": as_list(c.bos_token_id),
        "eos": as_list(c.eos_token_id), "pad": as_list(c.pad_token_id), "dtype": str(c.dtype).replace("torch.", ""),
    }


def make_configs():
    rows = [{"config": case, "expect": expectation(case)} for case in CASES]
    (OUT / "configs.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def make_packaged(path):
    """SHA-256 of some tensors of the packaged model as float32 in Hugging Face's layout."""
    reader = gguf.GGUFReader(path)
    heads = {"attn_q": 9, "attn_k": 3}
    out = {}
    for tensor in reader.tensors:
        if tensor.name not in ("blk.0.attn_q.weight", "blk.29.attn_k.weight", "blk.7.ffn_down.weight", "output_norm.weight", "token_embd.weight"):
            continue
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for part, n in heads.items():
            if part in tensor.name:
                values = values.reshape(n, values.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
        out[tensor.name] = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    (OUT / "packaged.json").write_text(json.dumps(out, indent=1) + "\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    make_quants()
    make_gguf()
    make_safetensors()
    make_tiny_model()
    make_configs()
    if len(sys.argv) > 1:
        make_packaged(sys.argv[1])


main()
