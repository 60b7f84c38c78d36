#!/usr/bin/env python3
"""Reference values for room train. Versions: torch 2.13.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0, tensorboard
2.21.0, safetensors; seed 7. Usage: make_train.py [schedules optimizers events ...]; writes tests/golden/train/."""
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


def read_events(folder):
    """What tensorboard itself reads from event files (to check files that graft wrote)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:] or ["schedules", "optimizers", "events"]
    for what in wanted:
        globals()[what]()
