#!/usr/bin/env python3
"""Checks that a room includes itself and lower rooms only (docs/design.md, "The house").

Usage: check_layers.py [PROJECT]. Prints one line per wrong include and exits 1 when there is any."""
import pathlib
import re
import sys

LEVEL = {"base": 0, "tensor": 1, "text": 1, "io": 2, "quant": 2, "kernel": 3, "op": 4, "graph": 5, "nn": 6, "model": 7,
         "adapter": 8, "data": 8, "infer": 8, "train": 9, "eval": 9, "serve": 10, "cli": 10}
PUBLIC_ONLY = {"serve", "cli"}  # these see base/ and the public headers only, which keeps the API complete
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "src"
    wrong, seen = [], 0
    for path in sorted(root.rglob("*.[ch]")) + sorted(root.rglob("*.def")):
        room = path.relative_to(root).parts[0]
        if room not in LEVEL:
            wrong.append(f"{path}: room '{room}' is not in the table of rooms")
            continue
        for name in INCLUDE.findall(path.read_text()):
            target = name.split("/")[0]
            if target == "graft" or target == room:
                continue
            seen += 1
            if target not in LEVEL:
                wrong.append(f"{path}: include \"{name}\": write it as room/file.h")
            elif room in PUBLIC_ONLY and target != "base":
                wrong.append(f"{path}: include \"{name}\": {room} may include base/ and graft/ only")
            elif LEVEL[target] >= LEVEL[room] and target != room:
                wrong.append(f"{path}: include \"{name}\": {room} ({LEVEL[room]}) may not see {target} ({LEVEL[target]})")
    print("\n".join(wrong) if wrong else f"layers hold: {seen} includes across rooms")
    sys.exit(1 if wrong else 0)


main()
