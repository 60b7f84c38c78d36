# Thin front of CMake. BUILD is the build folder, CMAKE_FLAGS goes to CMake.
BUILD ?= build
CMAKE_FLAGS ?=
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
SANITIZED = -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGRAFT_SANITIZE=address,undefined

.PHONY: all packages check check-all fuzz bench demo install clean
all: packages
	@cmake -S . -B $(BUILD) -G Ninja -DCMAKE_INSTALL_PREFIX=$(PREFIX) $(CMAKE_FLAGS) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

packages:
	@tools/packages.sh

# Builds and runs every test.
check: all
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) $(CTEST_FLAGS)

# The same with every single allocation failing in turn, with clang under AddressSanitizer and UBSan, on every CPU level below the
# machine's own, and a short run of every fuzz target. The tests labelled slow run once.
check-all: check
	@GRAFT_SWEEP=all ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) -R 'test_(sft|jobs|methods|merge|model_errors|no_memory)$$'
	@tools/packages.sh clang libclang-rt-14-dev
	@$(MAKE) --no-print-directory check BUILD=$(BUILD)-sanitized CMAKE_FLAGS="$(SANITIZED)" CTEST_FLAGS="-LE slow"
	@native=$$($(BUILD)/graft env | sed -n 's/^kernels *//p'); for cpu in generic avx2 avx512 avx512bf16 amx; do \
	  if [ $$cpu = $$native ]; then break; fi; echo "== GRAFT_CPU=$$cpu"; \
	  GRAFT_CPU=$$cpu ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) -LE slow || exit 1; done
	@$(MAKE) --no-print-directory fuzz SECONDS=10

# Runs every fuzz target for SECONDS each; new inputs stay under $(BUILD)-fuzz.
SECONDS ?= 60
fuzz:
	@tools/packages.sh clang libclang-rt-14-dev
	@cmake -S . -B $(BUILD)-fuzz -G Ninja $(SANITIZED) -DGRAFT_FUZZ=ON >/dev/null
	@cmake --build $(BUILD)-fuzz -j $(JOBS)
	@tools/fuzz.sh $(BUILD)-fuzz $(SECONDS)

bench: all
	@cmake -S . -B $(BUILD) -DGRAFT_BENCH=ON >/dev/null && cmake --build $(BUILD) -j $(JOBS)
	@bench/run.sh $(BUILD)

# Fine-tunes the default model on real data, in front of you.
demo: all
	@tools/demo.sh $(BUILD)

install: all
	@cmake --install $(BUILD)

clean:
	rm -rf $(BUILD) $(BUILD)-sanitized $(BUILD)-fuzz
