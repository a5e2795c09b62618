# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What jaxinfer is compared with. A peer that cannot run a case says why."""
