#!/usr/bin/env bash
# Runs every row beside its peer. Usage: run.sh BUILD. GRAFT_PEERS_PYTHON: the Python that has the peers installed.
set -euo pipefail
export GRAFT_BUILD=$1
here=$(cd "$(dirname "$0")" && pwd)
for row in startup train_dense train_sft; do python3 "$here/$row.py"; done
