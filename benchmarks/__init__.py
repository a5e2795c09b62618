# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Benchmarks: `python -m benchmarks` measures, checks and stores one run."""
