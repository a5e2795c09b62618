# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Named cases and comparisons, shared by tests and benchmarks."""
