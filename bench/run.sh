#!/usr/bin/env bash
# Runs rows beside their peers. Usage: run.sh BUILD [ROW ...]   (none: all of them; "list": their names)
# GRAFT_PEERS_PYTHON: the Python that has the peers installed. GRAFT_LLAMA_CPP: a prefix of llama.cpp, GRAFT_LLAMA_CPP_AVX2: one that
# was built without AVX-512. A peer that is missing is said.
set -euo pipefail
export GRAFT_BUILD=$1
shift
here=$(cd "$(dirname "$0")" && pwd)

rows="startup
decode
formats_q4_1 formats_q4_0 formats_q8_0 formats_bf16
formats_1_thread
formats_avx2
sequences
adapters
train_dense
train_sft
train_qlora
train_qlora_avx2
scaling"

# Only AVX2, on both sides.
avx2() { GRAFT_CPU=avx2 GRAFT_LLAMA_CPP=${GRAFT_LLAMA_CPP_AVX2:-} "$@"; }

run_row() {
    case $1 in
    startup | decode | train_dense | train_sft | train_qlora | scaling) python3 "$here/$1.py" ;;
    formats_q4_1) python3 "$here/inference.py" formats --types Q4_1 ;;
    formats_q4_0) python3 "$here/inference.py" formats --types Q4_0 ;;
    formats_q8_0) python3 "$here/inference.py" formats --types Q8_0 ;;
    formats_bf16) python3 "$here/inference.py" formats --types BF16 ;;
    formats_1_thread) python3 "$here/inference.py" formats --types Q4_1,Q8_0 --threads 1 ;;
    formats_avx2) avx2 python3 "$here/inference.py" formats --types Q4_1,Q8_0 ;;
    sequences) python3 "$here/inference.py" sequences --types Q4_1 ;;
    adapters) python3 "$here/inference.py" adapters --types Q4_1 ;;
    train_qlora_avx2) avx2 python3 "$here/train_qlora.py" --no-peer ;;
    *)
        echo "run.sh: there is no row '$1'; expected one of:" $rows >&2
        exit 2
        ;;
    esac
}

[ "${1:-}" = list ] && { printf '%s\n' $rows; exit 0; }
for row in "${@:-$rows}"; do
    for name in $row; do run_row "$name"; done
done
