# Thin front of CMake. BUILD is the build folder.
BUILD ?= build
CMAKE_FLAGS ?=

.PHONY: all check check-all bench demo install clean
all:
	@cmake -S . -B $(BUILD) -G Ninja $(CMAKE_FLAGS) >/dev/null
	@cmake --build $(BUILD)

check: all
	@ctest --test-dir $(BUILD) --output-on-failure -j 2

clean:
	rm -rf $(BUILD)
