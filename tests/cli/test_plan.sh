#!/usr/bin/env bash
# graft plan is right within 5 % of the peak memory of a run, and --memory is kept (tools/check_plan.py has more settings).
set -eu
if grep -q '^GRAFT_SANITIZE:STRING=.' "$BUILD_DIR/CMakeCache.txt"; then echo "skipped: sanitizers take memory of their own"; exit 77; fi
model=${GRAFT_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/graft}/models/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$model" ]; then echo "skipped: the packaged model is absent"; exit 77; fi
python3 "$SOURCE_DIR/tools/check_plan.py" "$GRAFT" "$model" "$SOURCE_DIR/examples/data/synopses.jsonl" \
  "one thread, short records" "--memory 300M" "--memory 90M" "W8A8, --memory 260M" "evaluation and checkpoints"
