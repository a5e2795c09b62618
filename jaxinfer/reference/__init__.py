# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Naive jnp of every op: implementation="xla", and the oracle of the tests."""
