#!/usr/bin/env bash
# The installed library is complete: examples/finetune.c builds against it through pkg-config alone, and with the packaged
# model at hand trains, generates and saves; the program works from its installed place; pages and headers are there.
set -eu
if grep -q '^GRAFT_SANITIZE:STRING=.' "$BUILD_DIR/CMakeCache.txt"; then echo "skipped: programs cannot link a sanitized library"; exit 77; fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cmake --install "$BUILD_DIR" --prefix "$tmp/usr" >/dev/null
pc=$(find "$tmp/usr" -name graft.pc)
lib=$(dirname "$(find "$tmp/usr" -name libgraft.so)")
export PKG_CONFIG_PATH=$(dirname "$pc") LD_LIBRARY_PATH=$lib
cc -std=c17 -Wall -Wextra -Werror "$SOURCE_DIR/examples/finetune.c" $(pkg-config --cflags --libs graft) -o "$tmp/finetune"
echo '#include <graft/graft.h>
int main() { return graft_status_text(GRAFT_OK)[0] != 0 ? 0 : 1; }' >"$tmp/cxx.cc"
if command -v c++ >/dev/null; then
  c++ -Wall -Wextra -Werror "$tmp/cxx.cc" $(pkg-config --cflags --libs graft) -o "$tmp/cxx"
  "$tmp/cxx"
fi
# Each header stands alone, in C and in C++.
for header in "$tmp"/usr/include/graft/*.h; do
  echo "#include <graft/$(basename "$header")>" >"$tmp/alone.c"
  cp "$tmp/alone.c" "$tmp/alone.cc"
  cc -std=c99 -Wall -Wextra -Wpedantic -Werror $(pkg-config --cflags graft) -fsyntax-only "$tmp/alone.c"
  if command -v c++ >/dev/null; then c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror $(pkg-config --cflags graft) -fsyntax-only "$tmp/alone.cc"; fi
done
# find_package
mkdir "$tmp/consumer"
cp "$SOURCE_DIR/examples/finetune.c" "$tmp/consumer"
printf 'cmake_minimum_required(VERSION 3.16)\nproject(x C)\nfind_package(graft REQUIRED)\nadd_executable(x finetune.c)\ntarget_link_libraries(x graft::graft)\n' \
  >"$tmp/consumer/CMakeLists.txt"
cmake -S "$tmp/consumer" -B "$tmp/consumer/b" -DCMAKE_PREFIX_PATH="$tmp/usr" >/dev/null
cmake --build "$tmp/consumer/b" >/dev/null
# Nothing but the public interface is exported.
! nm -D --defined-only "$lib/libgraft.so" | awk '{print $3}' | grep -v '^graft_'
"$tmp/usr/bin/graft" --version
test -s "$tmp/usr/share/man/man1/graft-sft.1"
test -s "$tmp/usr/share/bash-completion/completions/graft"

model=${GRAFT_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/graft}/models/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$model" ]; then echo "skipped: the packaged model is absent"; exit 77; fi
head -8 "$SOURCE_DIR/examples/data/synopses.jsonl" >"$tmp/records.jsonl"
"$tmp/finetune" "$model" "$tmp/records.jsonl" "$tmp/out" "The capital of France is" | tee "$tmp/said"
grep -q 'step 5 of 5' "$tmp/said"
test -s "$tmp/out/adapter_model.safetensors"
echo "the example trained, generated and saved"
