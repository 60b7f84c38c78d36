#!/usr/bin/env python3
"""Makes tests/golden/quant/w8a8_static and w8a8_dynamic: the tiny Llama of tests/golden/train/model as compressed-tensors keeps it in 8
bits, beside each what transformers computes with it (w8a8_static.golden.safetensors, ...), and the records that the static scales are
of (w8a8.jsonl). t5_static and t5_dynamic: likewise T5 as of v1.0 and of v1.1 (tests/golden/families/t5, t5_gated); of the static one a
key of the decoder's own attention and a value of its attention to the source stay in floats. w8a8_linear.safetensors: one layer, q and scale of its weight, x, input_scale, and y.static and y.dynamic, each from x.

Made with torch 2.13.0 on one thread, transformers 5.24.0, compressed-tensors 0.20.0, safetensors 0.8.0, seed 20261128.
Usage: python tools/golden/make_w8a8.py  (in the project's root, after make_train.py and make_families.py)

compressed-tensors' own calculate_qparams and IntQuantizationCompressor make scales and codes; activations' ranges are the smallest and
largest number over all records, as llm-compressor's minmax observer of whole tensors has them. The static model leaves one of q, k and v
out, which are one product in graft. transformers decodes the weights and rounds the activations with compressed-tensors' code, in float32."""
import json
import pathlib
import shutil

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

SEED = 20261128
MODEL, OUT = pathlib.Path("tests/golden/train/model"), pathlib.Path("tests/golden/quant")
FAMILIES = pathlib.Path("tests/golden/families")
LLAMA = {"static": ["lm_head", "model.layers.0.self_attn.k_proj"], "dynamic": ["lm_head"]}
T5 = {"static": ["lm_head", "decoder.block.0.layer.0.SelfAttention.k", "decoder.block.1.layer.1.EncDecAttention.v"],
      "dynamic": ["lm_head"]}


def config_of(kind, ignore, status="compressed"):
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor" if kind == "static" else "token",
              "dynamic": kind == "dynamic"}
    return QuantizationConfig(config_groups={"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}},
                              format="int-quantized", quantization_status=status, ignore=ignore)


def quantised(model, kind, ignore):
    """The model's Linear modules that are not left out, with their schemes."""
    apply_quantization_config(model, config_of(kind, ignore, "initialized"))
    return {n: m for n, m in model.named_modules() if getattr(m, "quantization_scheme", None)}


def calibrate(model, modules, records):
    seen, handles = {}, []
    for name, module in modules.items():
        module.quantization_enabled = False

        def look(m, args, name=name):
            low, high = seen.get(name, (torch.zeros(()), torch.zeros(())))
            seen[name] = torch.minimum(low, args[0].min()), torch.maximum(high, args[0].max())
        handles.append(module.register_forward_pre_hook(look))
    for record in records:
        model(**{name: torch.tensor([ids]) for name, ids in record.items()})
    for h in handles:
        h.remove()
    return seen


def make(to, path, kind, ignore, records, inputs, loader=AutoModelForCausalLM):
    model = loader.from_pretrained(path, dtype=torch.float32).eval()
    plain = {n: p.detach().clone() for n, p in load_file(path / "model.safetensors").items()}
    modules = quantised(model, kind, ignore)
    seen = calibrate(model, modules, records)
    for name, module in modules.items():
        scheme, w = module.quantization_scheme, plain[f"{name}.weight"].float()
        state = {"weight": w, "weight_scale": calculate_qparams(w.amin(1, True), w.amax(1, True), scheme.weights)[0]}
        if kind == "static":
            state["input_scale"] = calculate_qparams(*seen[name], scheme.input_activations)[0]
        compressor = BaseCompressor.get_value_from_registry("int-quantized")
        plain |= {f"{name}.{k}": v for k, v in compressor.compress(state, scheme).items()}
    to.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in plain.items()}, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = config_of(kind, ignore).model_dump()
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (path / name).exists():
            shutil.copy(path / name, to / name)
    loaded = loader.from_pretrained(to, dtype=torch.float32).eval()
    out = loaded(**inputs)
    save_file({**{k: v.clone() for k, v in inputs.items()}, "logits": out.logits.contiguous(), "loss": out.loss.reshape(1)},
              to.with_name(f"{to.name}.golden.safetensors"))


def make_linear():
    """Rows of x: plain, beyond the static scale, zeros, tiny, and middles between two static codes."""
    w, x = torch.randn(24, 100) * 0.3, torch.randn(12, 100)
    x[1] *= 8
    x[2] = 0
    x[3] *= 1e-20
    scale = torch.tensor([0.0125])
    x[4] = scale * (torch.arange(100) - 49.5)
    out = {"x": x, "input_scale": scale}
    args = {k: config_of(k, LLAMA[k]).config_groups["group_0"] for k in LLAMA}
    weights = args["static"].weights
    out["scale"] = calculate_qparams(w.amin(1, True), w.amax(1, True), weights)[0]
    compressor = BaseCompressor.get_value_from_registry("int-quantized")
    out["q"] = compressor.compress({"weight": w, "weight_scale": out["scale"]}, args["static"])["weight"]
    decoded = (out["q"].to(torch.float64) * out["scale"].to(torch.float64)).T
    rounded = fake_quantize(x, scale, torch.zeros(1), args["static"].input_activations)
    out["y.static"] = (rounded.to(torch.float64) @ decoded).float()
    dynamic = args["dynamic"].input_activations
    row_scale, zero = compute_dynamic_scales_and_zp(x[None], dynamic, None)
    rounded = fake_quantize(x[None], row_scale, zero, dynamic)[0]
    out["y.dynamic"] = (rounded.to(torch.float64) @ decoded).float()
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "w8a8_linear.safetensors")


def main():
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    records = [torch.randint(3, 352, (n,)).tolist() for n in (7, 24, 1, 13, 40, 3, 18, 9)]
    inputs = torch.randint(3, 352, (2, 11))
    with torch.no_grad():
        make_linear()
        for kind in ("static", "dynamic"):
            make(OUT / f"w8a8_{kind}", MODEL, kind, LLAMA[kind], [{"input_ids": r} for r in records],
                 {"input_ids": inputs, "labels": inputs})
        draw = lambda *shape: torch.randint(3, 96, shape)
        pairs = [{"input_ids": draw(n).tolist(), "decoder_input_ids": [0, *draw(m).tolist()]} for n, m in ((9, 4), (1, 7), (30, 2))]
        sources, targets = draw(2, 13), draw(2, 6)
        for kind, family in (("static", "t5"), ("dynamic", "t5_gated")):
            make(OUT / f"t5_{kind}", FAMILIES / family, kind, T5[kind], pairs, {"input_ids": sources, "labels": targets},
                 AutoModelForSeq2SeqLM)
    (OUT / "w8a8.jsonl").write_text("".join(json.dumps({"input_ids": r}) + "\n" for r in records))


main()
