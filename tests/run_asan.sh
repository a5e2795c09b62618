#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
#
# Fuzzes the FFI targets under AddressSanitizer and UndefinedBehaviorSanitizer, on a
# build of its own:
#
#     tests/run_asan.sh [BUILD_DIR] [CASES]
#
# Operands and results are allocated by XLA, through the allocator that ASan replaces,
# and scratch and vectors by ours: a read or write past any of them stops the run. Not
# seen: an overrun that stays within one buffer (a wrong page of the same cache), and
# reads of memory that was never written.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
build=$(realpath -m "${1:-build/asan}")
cases=${2:-5000}

JAXINFER_CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined \
-fno-omit-frame-pointer -g -O1 -shared-libgcc -Wl,-S" \
  "$python" setup.py -q build --build-lib "$build/lib" --build-temp "$build/temp" >/dev/null

export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONPATH="$build/lib" PYTHONDONTWRITEBYTECODE=1 JAX_PLATFORMS=cpu
for kind in planner contents shapes; do
  "$python" tests/fuzz_ffi.py "$kind" --cases "$cases"
done
for isa in base v3; do  # and the narrower kernels, of which the above ran the widest
  JAXINFER_CPU_ISA=$isa "$python" tests/fuzz_ffi.py contents --cases "$cases" --seed 1
done
"$(dirname "$python")/pytest" -x tests/ops/test_hand_made_plans.py \
  tests/ops/test_merge_partials.py tests/ops/test_update_kv_pages.py
