# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""rope: rotary position embedding of packed tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinfer import _check, _fold
from jaxinfer._compat import call_target, define_op, out_type
from jaxinfer._library import kernel_attributes
from jaxinfer._plan import gpu_arch
from jaxinfer.jit import KernelSpec
from jaxinfer.reference.rope import rope as _reference


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
    """How Llama 3.1 and later stretch the frequencies to longer contexts.

    Pairs that turn less than low_freq_factor times within the original context turn
    `factor` times slower, those that turn more than high_freq_factor times stay as they
    are, and between the two the frequency changes smoothly. The numbers are those of
    `rope_scaling` in a checkpoint's configuration.

    Attributes:
      factor: how many times longer the new context is.
      low_freq_factor: turns per original context, below high_freq_factor.
      high_freq_factor: turns per original context.
      original_max_position: length of the original context in tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name, value in dataclasses.asdict(self).items():
            _check.number(name, value)
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                "low_freq_factor must be below high_freq_factor, got "
                f"{self.low_freq_factor!r} and {self.high_freq_factor!r}"
            )

    def scale(self, frequencies: np.ndarray) -> np.ndarray:
        """Radians per position, before -> after."""
        turns = self.original_max_position * frequencies / (2 * np.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


def rope(
    x: Any,
    positions: Any,
    *,
    theta: float = 10000.0,
    rotary_dim: int | None = None,
    is_interleaved: bool = False,
    scaling: Llama3RopeScaling | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Rotates pairs of elements of every head by an angle that grows with the position.

    Pair i of R / 2 turns by position * theta ** (-2 i / R), R = rotary_dim. Weights and
    pairing belong together: a checkpoint made for one gives poor text, not an error,
    with the other. (RoFormer, arXiv 2104.09864.)

    Args:
      x: f32 | f16 | bf16 [T, heads, H], queries or keys before they are cached.
      positions: i32[T], in the sequence, from 0. Exact to 2^24.
      theta: base of the frequencies.
      rotary_dim: R, the leading elements of a head that rotate, even; None = H.
      is_interleaved: pairs are (0, 1), (2, 3) ... (GPT-J, and GGUF files of
        architecture "llama"); False: (0, R / 2), (1, R / 2 + 1) ... (GPT-NeoX, and
        Hugging Face's Llama).
      scaling: of the frequencies; None = none.
      implementation: None, "cuda" or "xla", as in ragged_paged_attention. None is XLA's
        own code: on an H200 it took 20 us for 4096 tokens of 40 heads, our kernel 32.

    Returns:
      As x; angles and products are computed in float32.

    Raises:
      ValueError: for shapes, dtypes and options that do not fit.
      NotImplementedError: for implementation="cpu".
    """
    _check.implementation(implementation)
    x, positions = jnp.asarray(x), jnp.asarray(positions)
    sizes: dict[str, int] = {}
    _check.shape("x", x, "T", "heads", "H", sizes=sizes)
    _check.floating("x", x)
    _check.shape("positions", positions, "T", sizes=sizes)
    _check.int32("positions", positions)
    frequencies = rope_frequencies(sizes["H"], theta, rotary_dim, scaling)
    _check.flag("is_interleaved", is_interleaved)
    (turned,) = rope_op.bind(
        x,
        positions,
        jnp.asarray(frequencies),
        is_interleaved=bool(is_interleaved),
        implementation=implementation,
    )
    return turned


def rope_frequencies(
    head_dim: int, theta: Any, rotary_dim: int | None, scaling: Any
) -> np.ndarray:
    """f32[R / 2]: radians per position of each pair; an operand of the kernels."""
    size = head_dim if rotary_dim is None else rotary_dim
    _check.count("rotary_dim", size, least=0)
    if size % 2 or not 0 < size <= head_dim:
        raise ValueError(
            f"rotary_dim must be even and from 2 to head_dim = {head_dim}, got {size}"
        )
    _check.number("theta", theta)
    if theta <= 0:
        raise ValueError(f"theta must be positive, got {theta!r}")
    frequencies = float(theta) ** (-np.arange(0, size, 2) / size)
    if scaling is not None:
        if not isinstance(scaling, Llama3RopeScaling):
            raise ValueError(
                f"scaling must be None or a Llama3RopeScaling, got {scaling!r}"
            )
        frequencies = scaling.scale(frequencies)
    return frequencies.astype(np.float32)


def _out_types(x, positions, frequencies, **params):
    return [out_type(x.shape, x.dtype)]


def _cuda(x, positions, frequencies, *, is_interleaved, implementation):
    if implementation is None:
        return None  # XLA's code fuses with what stands around it, and measured faster
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    kernel = kernel_attributes(KernelSpec("rope", gpu_arch()))
    options = {"is_interleaved": is_interleaved, **kernel}
    return [call_target("rope", result, x, positions, frequencies, **options)]


def _cpu(*operands, **params) -> Any:
    """None: XLA compiles the reference as well as anyone could."""


def _batch(operands, axes, **params):
    """Folds into the token axis."""
    size = _fold.batch_size(operands, axes)
    x, positions = (
        _fold.to_front(operand, axis, size)
        for operand, axis in zip(operands[:2], axes[:2], strict=True)
    )
    (turned,) = rope_op.bind(
        x.reshape(-1, *x.shape[2:]), positions.reshape(-1), operands[2], **params
    )
    return [turned.reshape(x.shape)], [0]


rope_op = define_op(
    "rope",
    out_types=_out_types,
    cpu=_cpu,
    cuda=_cuda,
    reference=_reference,
    batch=_batch,
)
