# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""One public op per file. The file's name is the op's, down to the kernel."""
