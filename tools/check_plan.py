#!/usr/bin/env python3
"""Compares what graft plan says with what a run then takes: peak resident memory as the run reports it, and as the kernel
counted it for the process (VmHWM). Usage: check_plan.py PATH/TO/graft MODEL DATA.jsonl [NAME ...]"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

BOUND = 0.05
DENSE = ["--data", "{dense}", "-b", "4", "--max-length", "256", "--max-steps", "2"]
REAL = ["--data", "{real}", "-b", "8", "--max-length", "512", "--max-steps", "8", "--target-modules", "all-linear", "--lora-r", "16"]
SETTINGS = {
    "LoRA q,v, 4 x 256": DENSE,
    "LoRA all-linear, real records": REAL,
    "full, real records": ["--data", "{real}", "-b", "4", "--max-length", "512", "--max-steps", "4", "--method", "full"],
    "gradient checkpointing": [*DENSE, "--target-modules", "all-linear", "--gradient-checkpointing"],
    "no recomputation": [*DENSE, "--target-modules", "all-linear", "--no-gradient-checkpointing"],
    "f32": [*REAL, "--dtype", "f32"],
    "--memory 500M": [*DENSE, "--target-modules", "all-linear", "--memory", "500M"],
    "--memory 300M": [*DENSE, "--target-modules", "all-linear", "--memory", "300M"],
    "--memory 90M": ["--data", "{real}", "-b", "8", "--max-length", "128", "--max-steps", "4", "--memory", "90M"],
    "W8A8": ["-m", "{w8a8}", *DENSE, "--target-modules", "all-linear"],
    "W8A8, --memory 260M": ["-m", "{w8a8}", *DENSE, "--target-modules", "all-linear", "--memory", "260M"],
    "evaluation and checkpoints": [*REAL, "--eval-data", "{held}", "--eval-strategy", "steps", "--eval-steps", "2", "--save-steps", "2", "--max-steps", "2"],
    "one thread, short records": ["--data", "{short}", "-b", "1", "--max-steps", "6", "--threads", "1"],
    "modules_to_save": ["--data", "{real}", "-b", "4", "--max-steps", "3", "--modules-to-save", "lm_head,norm"],
    "packing": ["--data", "{real}", "-b", "2", "--packing", "--max-length", "1024", "--max-steps", "3"],
}


def run(command):
    """Standard output and the peak resident bytes of a child."""
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        message = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0, f"{command}: {message}"
        out.seek(0)
        return json.loads(out.read().splitlines()[-1]), usage.ru_maxrss * 1024


def main():
    graft, model, data = sys.argv[1:4]
    wanted = sys.argv[4:] or SETTINGS
    failed = 0
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        draw = random.Random(20260801)
        lines = pathlib.Path(data).read_text(encoding="utf-8").splitlines(True)
        (tmp / "held").write_text("".join(lines[-20:]), encoding="utf-8")
        (tmp / "dense").write_text("".join(json.dumps({"input_ids": [draw.randrange(100, 40000) for _ in range(256)]}) + "\n" for _ in range(64)))
        (tmp / "short").write_text("".join(json.dumps({"text": f"record {i}"}) + "\n" for i in range(64)))
        for name in wanted:
            words = [w.format(dense=tmp / "dense", short=tmp / "short", real=data, held=tmp / "held", w8a8=tmp / "w8a8")
                     for w in SETTINGS[name]]
            if "-m" not in words:
                words = ["-m", model, *words]
            elif not (tmp / "w8a8").exists():
                subprocess.run([graft, "quantize", "-m", model, "--type", "w8a8", "-o", tmp / "w8a8", "-q"], check=True)
            plan, _ = run([graft, "plan", "--json", *words])
            result, peak = run([graft, "sft", "-o", str(tmp / "out"), "--overwrite-output-dir", "--json", "-q", *words])
            off = plan["peak"] / peak - 1
            limit = int(words[-1].removesuffix("M")) << 20 if words[-2] == "--memory" else None
            good = abs(off) <= BOUND and abs(result["peak_memory"] / peak - 1) < 0.01 and not (limit and peak > limit)
            failed += not good
            parts = " ".join(f"{k} {plan[k] / 2**20:.0f}" for k in ("program", "model_mapped", "model_packed", "parameters", "gradients",
                                                                   "optimizer", "step", "data", "tokenizer") if plan.get(k))
            print(f"{name:<30} plan {plan['peak'] / 2**20:7.1f} run {result['peak_memory'] / 2**20:7.1f} VmHWM {peak / 2**20:7.1f} MiB "
                  f"{100 * off:+5.1f} %{'' if good else '  OUTSIDE'}   ({parts})", flush=True)
    sys.exit(failed > 0)


main()
