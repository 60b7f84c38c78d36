#!/usr/bin/env python3
"""Start-up to the first token, on the packaged file: wall time of the whole process that generates one token. Peer:
llama.cpp, its library (see common.llama_peer) or llama-cpp-python.
Usage: startup.py [--rounds N]"""
import argparse
import resource
import tempfile

import common

LLAMA = r'''
import json, resource, sys
from llama_cpp import Llama
m = Llama(sys.argv[1], n_ctx=512, n_threads=int(sys.argv[2]), verbose=False)
m("The capital of France is", max_tokens=1, temperature=0)
print(json.dumps({"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
'''


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--threads", type=int, default=2)
    a = args.parse_args()
    path = common.model()

    def ours():
        r, seconds = common.run([common.graft(), "generate", "-m", path, "-p", "The capital of France is", "-n", 1,
                                 "--greedy", "--json", "--threads", a.threads])
        return {"seconds": seconds, "first": r["first_token_seconds"]}

    with tempfile.TemporaryDirectory() as tmp:
        peer = common.llama_peer(tmp)

        def theirs():
            r, seconds = common.run([peer, "first", path, a.threads, 5] if peer else
                                    [common.peers_python(), "-c", LLAMA, path, a.threads])
            return {"seconds": seconds, **r}

        mine, other = common.alternate(ours, theirs if peer or common.has_peer("llama_cpp") else None, a.rounds)
    common.row("start-up to the first token", mine, other, "seconds", "s", higher_is_better=False)
    print(f"largest child: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


main()
