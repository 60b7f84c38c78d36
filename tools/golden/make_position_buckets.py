#!/usr/bin/env python3
"""Goldens of T5's relative position buckets: transformers 5.23.0 (torch 2.13.0), T5Attention._relative_position_bucket over
distances -2500 to 2500. Writes tests/golden/attention/position_buckets.txt, a setting a line: bidirectional, buckets,
max_distance, number of runs, then the last distance and the bucket of each run of equal buckets. Nothing is drawn."""
import pathlib
import torch
from transformers.models.t5.modeling_t5 import T5Attention

torch.set_num_threads(1)
lines = []
for both in (True, False):
    for buckets in (4, 13, 32, 33, 64):
        for reach in (9, 20, 64, 127, 128, 129, 1000, 2048):
            if reach <= (buckets // 2 if both else buckets) // 2: continue
            far = torch.arange(-2500, 2501)
            found = T5Attention._relative_position_bucket(far, both, buckets, reach).tolist()
            ends = [i for i in range(len(found)) if i + 1 == len(found) or found[i + 1] != found[i]]
            runs = " ".join(f"{int(far[i])} {found[i]}" for i in ends)
            lines.append(f"{int(both)} {buckets} {reach} {len(ends)} {runs}")
out = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/attention/position_buckets.txt"
out.parent.mkdir(exist_ok=True)
out.write_text("\n".join(lines) + "\n")
