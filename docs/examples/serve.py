"""Answer with a model that `python -m roformer_jax export RUN --format jax --output FOLDER` wrote.

It needs `pip install jax safetensors tokenizers flatbuffers` and nothing of roformer_jax. A masked language model fills
every [MASK], a causal one continues the text, a classifier labels it: `python serve.py FOLDER "Paris is the [MASK]."`
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from jax import export
from safetensors.numpy import load_file
from tokenizers import Tokenizer

folder, text = Path(sys.argv[1]), sys.argv[2]
about = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
for name, digest in about["sha256"].items():
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
        sys.exit(f"{folder / name} is damaged: its sha256 is not that of serving.json")
if about["segmentation"]:
    sys.exit(f"the words of this vocabulary are found by {about['segmentation']}: tokenize with roformer_jax instead")
program, params = export.deserialize((folder / "model.jax").read_bytes()), load_file(folder / "params.safetensors")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
cls, sep, mask = map(tokenizer.token_to_id, ("[CLS]", "[SEP]", "[MASK]"))
ids = np.array([[cls, *tokenizer.encode(text, add_special_tokens=False).ids, sep]], np.int32)
outputs = np.asarray(program.call(params, ids, np.ones_like(ids), np.zeros_like(ids)))
if about["head"] == "classifier":
    names = about["labels"] or ["score"]
    print("\n".join(f"{name}\t{value:.4f}" for name, value in zip(names, outputs[0], strict=True)))
else:
    for logits in outputs[0][ids[0] == mask] if about["head"] == "masked_lm" else outputs[0][-2:-1]:
        print("\t".join(tokenizer.id_to_token(int(token)) for token in np.argsort(-logits)[:5]))
