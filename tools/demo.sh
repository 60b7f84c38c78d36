#!/usr/bin/env bash
# make demo: the default model before and after a few minutes of LoRA on real data. Usage: demo.sh BUILD
#   DEMO_STEPS    training steps; default: as many as take about three minutes on two cores
#   DEMO_RECORDS  held-out records to answer, 50
#   DEMO_DIR      where the adapter goes, CACHE/demo
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
graft=$1/graft
case $graft in /*) ;; *) graft=$root/$graft ;; esac
cache=${GRAFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/graft}
out=${DEMO_DIR:-$cache/demo}
records=${DEMO_RECORDS:-50}
bold() { if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }

bold "1. The model and the data"
model=$(python3 "$root/tools/fetch.py" --cache "$cache" model) || { echo "The default model could not be fetched. Give your own: graft sft -m MODEL ..." >&2; exit 1; }
if descriptions=$(python3 "$root/tools/fetch.py" --cache "$cache" descriptions); then
  echo "Debian's package descriptions: the task is to write the one-line synopsis of a long description."
  source=$descriptions
else
  echo "There is no apt here, so a small set of records written for this project stands in for Debian's package descriptions."
  source=$root/examples/data/synopses.jsonl
fi
data=$cache/demo-data
python3 "$root/tools/make_demo_data.py" "$source" "$data"
echo "model $model"
echo "train $data/train.jsonl ($(wc -l <"$data/train.jsonl") records), held out $data/heldout.jsonl"

bold "2. Before: what the untouched model answers"
"$graft" eval -m "$model" --data "$data/heldout.jsonl" --limit "$records" --metric rougeL --show 3 -n 32

bold "3. Fine-tuning with LoRA (graft sft)"
rm -rf "$out"
steps=${DEMO_STEPS:-90}
"$graft" sft -m "$model" --data "$data/train.jsonl" --output-dir "$out" --max-steps "$steps" \
  --per-device-train-batch-size 8 --learning-rate 1e-3 --lr-scheduler-type cosine --warmup-ratio 0.05 --lora-r 16 --lora-alpha 32 \
  --target-modules all-linear --max-length 512 --logging-steps "$((steps < 10 ? 1 : 10))" --save-strategy no --report-to tensorboard

bold "4. After: the same records with the adapter"
"$graft" eval -m "$model" --adapter "$out" --data "$data/heldout.jsonl" --limit "$records" --metric rougeL --show 3 -n 32

chart=
if "$graft" plot "$out" -q; then chart=", the chart of its loss in $out/loss.svg"; fi
bold "Your own data"
cat <<EOF
Write one JSON object a line, for example {"prompt": "...", "completion": "..."} or {"messages": [...]}, and type

  $graft sft -m $model --data your.jsonl --output-dir my-adapter
  $graft chat -m $model --adapter my-adapter

The adapter of this demo is in $out (peft loads it too)$chart.
EOF
