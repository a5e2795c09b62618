# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
from collections.abc import Callable
from typing import Any

import numpy as np

ffi_api_version: tuple[int, int]
cpu_targets: dict[str, Any]
cuda_targets: dict[str, dict[str, Any]]
cpu_isa: str

def plan_layout(facts: np.ndarray) -> dict[str, int]: ...
def make_plan(
    facts: np.ndarray, cu_q_lens: np.ndarray, kv_lens: np.ndarray
) -> np.ndarray: ...
def register_kernel(digest: str, cubin: bytes) -> None: ...
def set_kernel_resolver(resolve: Callable[[str], bytes]) -> None: ...
def handler_calls() -> dict[str, int]: ...
