# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Attention changed by JAX functions, which become device code."""

from jaxinfer.variant.hooks import Hooks
from jaxinfer.variant.variant import HOOKS, Variant

__all__ = ["HOOKS", "Hooks", "Variant"]
