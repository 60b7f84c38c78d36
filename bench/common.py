"""What the benchmark rows share: running graft and a peer alternately, each as a process of its own, and printing both
medians and their ratio. Nothing is installed; a peer that is missing is said."""
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def build_dir():
    return pathlib.Path(os.environ.get("GRAFT_BUILD", ROOT / "build")).resolve()


def graft():
    return str(build_dir() / "graft")


def peers_python():
    """The Python that has the peers installed: GRAFT_PEERS_PYTHON, else this one."""
    return os.environ.get("GRAFT_PEERS_PYTHON", sys.executable)


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(os.environ.get("GRAFT_CACHE", pathlib.Path(base) / "graft"))


def model():
    path = cache() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        sys.exit(f"{path} is missing: tools/fetch.py model")
    return path


def has_peer(*modules):
    code = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in sys.argv[1:]))"
    return subprocess.run([peers_python(), "-c", code, *modules]).returncode == 0


def llama_peer(directory):
    """bench/llama_peer.c, compiled into `directory` against GRAFT_LLAMA_CPP, a prefix with include/ (llama.h, ggml*.h)
    and lib/ (libllama). None: it is missing."""
    prefix = os.environ.get("GRAFT_LLAMA_CPP")
    if not prefix:
        return None
    program = pathlib.Path(directory) / "llama_peer"
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-std=gnu17", f"-I{prefix}/include",
                    str(ROOT / "bench" / "llama_peer.c"), f"-L{prefix}/lib", "-lllama", "-lggml-base", "-lm",
                    f"-Wl,-rpath,{prefix}/lib", "-o", str(program)], check=True)
    return program


def run(command, env=None):
    """Runs to the end; gives (last line of stdout that is a JSON object, seconds, peak resident bytes)."""
    begin = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
                                    **(env or {})})
    out, err = process.communicate()
    seconds = time.monotonic() - begin
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{err[-2000:]}")
    result = {}
    for line in out.splitlines():
        if line.startswith('{"'):  # a peer may print its own logs as Python dictionaries
            result = json.loads(line)
    return result, seconds


def processor_seconds():
    """Of all processes that were run to their end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def graft_facts(*args):
    """Runs graft; gives the facts that it prints, and processor seconds, which do not depend on what else runs."""
    begin = processor_seconds()
    done = subprocess.run([graft(), *map(str, args), "--json", "--quiet"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"graft {' '.join(map(str, args))}:\n{done.stderr[-2000:]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}, processor_seconds() - begin


def write_records(path, records):
    with open(path, "w", encoding="utf-8") as f:
        for r in records:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")


def write_random_rows(path, rows, length=256):
    """Records of tokens that are all learnt, the same each time."""
    rng = random.Random(1)
    draw = lambda: [rng.randrange(100, 40000) for _ in range(length)]
    write_records(path, ({"input_ids": ids, "labels": ids} for ids in (draw() for _ in range(rows))))


def file_bytes(folder):
    return sum(p.stat().st_size for p in pathlib.Path(folder).glob("*.safetensors"))


def alternate(ours, theirs, rounds):
    """Lists of results of the two functions, called in turn."""
    a, b = [], []
    for _ in range(rounds):
        a.append(ours())
        if theirs:
            b.append(theirs())
    return a, b


def median(results, key):
    return statistics.median(r[key] for r in results)


def spread(results, key):
    values = sorted(r[key] for r in results)
    return f"{values[0]:.4g} to {values[-1]:.4g}"


def row(name, ours, theirs, key, unit, higher_is_better=True):
    mine = median(ours, key)
    text = f"{name}: graft {mine:.4g} {unit} ({spread(ours, key)})"
    if theirs:
        peer = median(theirs, key)
        ratio = mine / peer if higher_is_better else peer / mine
        text += f", peer {peer:.4g} {unit} ({spread(theirs, key)}), ratio {ratio:.2f} x"
    else:
        text += ", peer not installed: not compared"
    print(text, flush=True)
