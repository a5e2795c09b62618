# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Runs one wheel with the oldest and the newest JAX of its Python (make test-matrix).

The wheel is built in isolation, that is against the oldest supported jaxlib, and then
installed beside each version into an environment of its own, so a package index must
be reachable. Interpreters that are not found are skipped, and named.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST = "0.10.0"
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"

# What a user's first program does, and whether its number is right: two keys of equal
# score, so the output is the mean of their values.
PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
import jaxinfer as ji
from jaxinfer import _native

pages = jnp.zeros((4, 2, 1, 64)).at[3, 0].set(1.0).at[3, 1].set(2.0)
table, kv_lens = jnp.full((1, 1), 3, jnp.int32), jnp.full(1, 2, jnp.int32)
out = jax.jit(ji.ragged_paged_attention)(
    jnp.zeros((1, 2, 64)), pages, pages, table, kv_lens
)
np.testing.assert_allclose(out, 1.5, atol=1e-6)
host = ji.plan(
    None, np.full(1, 2, np.int32), num_tokens=1, max_kv_len=2, num_q_heads=2,
    num_kv_heads=1, head_dim=64,
)
assert host.header[0] == 1, host.header
print("jax", jax.__version__, "ffi", _native.ffi_api_version, ji.__file__)
"""


def run(*command: object, cwd: Path | None = None) -> str:
    """Output of a command; its errors are shown if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def source_archive(folder: Path) -> Path:
    """Makes the source distribution from a copy that has no earlier builds in it."""
    copy = folder / "source"
    built = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("jaxinfer", "csrc", "xla_ffi"):
        shutil.copytree(ROOT / name, copy / name, ignore=built)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run(sys.executable, "setup.py", "-q", "sdist", "-d", folder, cwd=copy)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def interpreter(version: str) -> str | None:
    """Path of pythonX.Y; None if it is missing or cannot start."""
    path = shutil.which(f"python{version}")
    if path is None or subprocess.run([path, "-c", ""], capture_output=True).returncode:
        return None
    return path


def try_wheel(python: str, wheel: Path, jax: str, folder: Path) -> str:
    """The wheel beside one version of JAX, run from a folder that is not the source."""
    run(python, "-m", "venv", folder)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--upgrade"]
    run(*pip, wheel, jax)
    return run(folder / "bin" / "python", "-W", "error", "-c", PROGRAM, cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="*", help="such as 3.12; default: this one")
    versions = parser.parse_args().versions or [THIS]
    num_run = 0
    with tempfile.TemporaryDirectory() as name:
        archive = source_archive(Path(name))
        for version in versions:
            python = interpreter(version)
            if python is None:
                print(f"Python {version}: not found, skipped", flush=True)
                continue
            folder, start = Path(name, version), time.monotonic()
            run(python, "-m", "pip", "wheel", "--no-deps", "-w", folder, archive)
            (wheel,) = folder.glob("*.whl")
            print(
                f"Python {version}: {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB, "
                f"built in {time.monotonic() - start:.0f} s",
                flush=True,
            )
            for jax in (f"jax=={OLDEST}", "jax"):
                text = try_wheel(python, wheel, jax, folder / jax)
                print(f"Python {version}: {text.strip()}", flush=True)
                num_run += 1
    if not num_run:
        sys.exit("no interpreter was found: nothing was tested")


if __name__ == "__main__":
    main()
