# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
from typing import Any

import numpy as np

ffi_api_version: tuple[int, int]
ffi_targets: dict[str, Any]
cpu_isa: str

def plan_layout(facts: np.ndarray) -> dict[str, int]: ...
def make_plan(
    facts: np.ndarray, cu_q_lens: np.ndarray, kv_lens: np.ndarray
) -> np.ndarray: ...
