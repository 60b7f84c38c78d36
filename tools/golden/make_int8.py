#!/usr/bin/env python3
"""Writes tests/golden/quant/linear8bit.safetensors: forwards of bitsandbytes' Linear8bitLt on the CPU.

Usage: make_int8.py  (from the project's root)
Made with Python 3.11, torch 2.13.0 on one thread, bitsandbytes 0.50.2, safetensors 0.8.0, seed 7.

CB and SCB: the weight as the layer holds it. x: 12 rows, some with elements of 6 and more, one of zeros. y.T: the rows one call
each, at threshold T; batch.6: all rows in one call, where a column that one row has an outlier in is taken out of all of them."""
import pathlib

import bitsandbytes as bnb
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.manual_seed(7)
ROWS, IN, OUT = 12, 100, 24
w = torch.randn(OUT, IN) * 0.3
x = torch.randn(ROWS, IN)
x[1, 5], x[2, 7], x[3, 99], x[4, 0], x[4, 50] = 9.0, -6.0, 31.5, -100.25, 5.999
x[5] *= 8
x[6] = 0
out = {"x": x}
with torch.no_grad():
    for threshold in (0.0, 6.0, 2.5):
        layer = bnb.nn.Linear8bitLt(IN, OUT, bias=False, has_fp16_weights=False, threshold=threshold)
        layer.load_state_dict({"weight": w})
        layer = layer.to("cpu").eval()  # in training the CPU multiplies decoded weights
        out[f"y.{threshold:g}"] = torch.cat([layer(x[r:r + 1]) for r in range(ROWS)])
        if threshold == 6:
            out["batch.6"] = layer(x)
            out["CB"], out["SCB"] = layer.state.CB.clone(), layer.state.SCB.clone()
to = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/quant/linear8bit.safetensors"
save_file({k: v.contiguous() for k, v in out.items()}, to)
