"""Loads pairs of checkpoints in transformers, one that it saved and one that came back, and says how they differ.

    python load_checkpoints.py SAVED_FOLDER RETURNED_FOLDER CASE ...

Prints a JSON object for each case: names that transformers misses or does not expect in the returned checkpoint, names
of tensors whose bits differ, and the largest difference of outputs from the recorded ones. Nothing of roformer_jax is
imported here.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from make_checkpoints import CASES, as_v2, outputs
from safetensors.torch import load_file

BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def loaded(folder, case):
    """The model of a checkpoint and what transformers reports of the loading."""
    kind = getattr(transformers, CASES[case].architecture)
    if "norm_type" not in CASES[case].fields:
        model, report = kind.from_pretrained(folder, output_loading_info=True)
        return model.eval(), report
    config = type(kind.config_class()).from_pretrained(folder)
    model = as_v2(kind(config)).eval()
    tensors = load_file(folder / "model.safetensors")
    found = model.load_state_dict(tensors, strict=False)
    missing = {name for name in found.missing_keys if not name.endswith(("embed_positions.weight", "decoder.weight"))}
    return model, {"missing_keys": missing, "unexpected_keys": set(found.unexpected_keys), "mismatched_keys": set()}


def different(ours, theirs):
    """Names of tensors with other bits, in the precision of theirs."""
    return [
        name
        for name, tensor in theirs.items()
        if not torch.equal(ours[name].to(tensor.dtype).view(BITS[tensor.dtype]), tensor.view(BITS[tensor.dtype]))
    ]


def compare(saved, returned, case, arrays):
    """One case's report."""
    theirs, _ = loaded(saved / case, case)
    ours, report = loaded(returned / case, case)
    batch = {name: arrays[f"inputs/{name}"] for name in ("ids", "mask", "token_type_ids")}
    names = {"missing_keys", "unexpected_keys", "mismatched_keys"}
    return {name: sorted(map(str, report[name])) for name in names} | {
        "names": sorted(set(ours.state_dict()) ^ set(theirs.state_dict())),
        "different": different(ours.state_dict(), theirs.state_dict()),
        "outputs": float(np.max(np.abs(outputs(ours, batch) - arrays[f"outputs/{case}"]))),
    }


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    saved, returned = map(Path, sys.argv[1:3])
    with np.load(saved / "expected.npz") as file:
        arrays = dict(file)
    print(json.dumps({case: compare(saved, returned, case, arrays) for case in sys.argv[3:]}))
