#!/usr/bin/env python3
"""Goldens of sampling: what transformers 5.23.0 (torch 2.13.0) keeps of random logits, and with which probability.
Writes tests/golden/sampling/cases.txt, a case on four lines: settings, logits, seen tokens, probabilities. Seed 11."""
import pathlib
import torch
from transformers.generation.logits_process import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
                                                    TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

torch.manual_seed(11)
out = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/sampling/cases.txt"
lines = []
grid = [(t, k, p, m, r) for t in (0.3, 1.0, 1.7) for k in (0, 1, 5, 200) for p in (1.0, 0.9, 0.3) for m in (0.0, 0.1) for r in (1.0, 1.3)]
for i, (t, k, p, m, r) in enumerate(grid):
    vocab = 40
    logits = torch.randn(vocab) * 3
    seen = torch.randint(0, vocab, (1, 7))
    steps = LogitsProcessorList()
    if r != 1: steps.append(RepetitionPenaltyLogitsProcessor(r))
    steps.append(TemperatureLogitsWarper(t))
    if k: steps.append(TopKLogitsWarper(min(k, vocab)))
    if p < 1: steps.append(TopPLogitsWarper(p))
    if m > 0: steps.append(MinPLogitsWarper(m))
    probs = torch.softmax(steps(seen, logits[None].clone())[0], -1)
    lines += [f"{t} {k} {p} {m} {r}", " ".join(f"{x:.9g}" for x in logits.tolist()), " ".join(map(str, seen[0].tolist())),
              " ".join(f"{x:.9g}" for x in probs.tolist())]
out.write_text("\n".join(lines) + "\n")
