"""PyTorch -> ours -> PyTorch, live in transformers and at other sizes than the golden ones: `make test-peers`."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from roformer_jax.errors import InputError
from roformer_jax.interop.huggingface import read_checkpoint, write_checkpoint
from roformer_jax.models import RoFormerConfig, build
from tests.interop.conftest import CASES, GOLDEN
from tests.interop.outputs import outputs_of

PEERS = os.environ.get("PEERS_PYTHON")
MAKE = GOLDEN.parent / "make_checkpoints.py"
LOAD = Path(__file__).with_name("load_checkpoints.py")
TOLERANCE = 1e-4
SIZES = {
    "wide": (
        {"vocab_size": 131, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 48, "max_position_embeddings": 256, "type_vocab_size": 3},
        (64, 3, 130), 7,
    ),
    "deep": (
        {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 6,
         "intermediate_size": 20, "max_position_embeddings": 64, "type_vocab_size": 2},
        (2, 31, 17), 8,
    ),
}  # fmt: skip
# Heads that we do not have, and that PyTorch makes anew; and a parameter that nothing reads.
OURS_LACKS = ("pooler.", "bert.pooler.", "cls.seq_relationship.", "classifier.")

pytestmark = pytest.mark.skipif(
    not PEERS, reason="PEERS_PYTHON names no Python with torch and transformers; `make test-peers` sets it"
)


def peers(*command):
    done = subprocess.run([PEERS, *map(str, command)], capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=SIZES)
def saved(request, tmp_path_factory):
    """The folder of the checkpoints that transformers saved."""
    sizes, lengths, seed = SIZES[request.param]
    folder = tmp_path_factory.mktemp("saved")
    peers(MAKE, "--output", folder, "--sizes", json.dumps(sizes), "--lengths", *lengths, "--seed", seed)
    return folder


@pytest.fixture(scope="module")
def checkpoints(saved):
    return {case: read_checkpoint(saved / case) for case in CASES}


@pytest.fixture(scope="module")
def reports(saved, checkpoints, tmp_path_factory):
    """What transformers says of each checkpoint after its way through ours."""
    folder = tmp_path_factory.mktemp("returned")
    cases = [case for case in CASES if case != "bert_classifier"]  # comes back as BertModel
    for case in cases:
        (_, head, model, labels), params, _ = checkpoints[case]
        (folder / case).mkdir()
        write_checkpoint(folder / case, model, head, params, labels=labels)
    return json.loads(peers(LOAD, saved, folder, *cases))


def test_outputs_are_those_of_pytorch(saved, checkpoints):
    with np.load(saved / "expected.npz") as file:
        expected = dict(file)
    wrong = {}
    for case, checkpoint in checkpoints.items():
        theirs = expected[f"outputs/{case}"]
        assert np.std(theirs) > 100 * TOLERANCE or case == "regression", case  # three numbers may be alike
        for found in outputs_of(checkpoint, expected):
            error = np.max(np.abs(found.reshape(theirs.shape) - theirs))
            if not error < TOLERANCE:
                wrong[case] = error
    assert not wrong


def test_transformers_misses_nothing_and_expects_nothing_else(reports):
    for case, report in reports.items():
        assert not report["unexpected_keys"] and not report["mismatched_keys"], case
        assert not [name for name in report["missing_keys"] if not name.startswith(OURS_LACKS)], case
        assert not report["missing_keys"] or case.startswith("bert"), case


def test_the_state_dict_comes_back_bit_for_bit(reports):
    for case, report in reports.items():
        unread = {"cls.predictions.bias"} if case.endswith("_untied") and not case.startswith("v2") else set()
        assert not report["names"], case
        left = set(report["different"]) - unread
        assert not [name for name in left if not name.startswith(OURS_LACKS)], case
        assert not left or case.startswith("bert"), case


def test_the_outputs_come_back(reports):
    """PyTorch computes them with the same weights: nothing but the order of its sums may differ."""
    assert not {case: report["outputs"] for case, report in reports.items() if report["outputs"] > TOLERANCE / 10}


def test_a_model_of_ours_in_transformers(tmp_path):
    """One that was never there: without segments, longer than transformers' table, its rows of one text."""
    model = RoFormerConfig(
        vocab_size=19, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        type_vocab_size=0, max_position_embeddings=4, initializer_range=0.4,
    )  # fmt: skip
    function = build(model, "masked_lm", 0)
    params = function.init(jax.random.key(0))
    write_checkpoint(tmp_path, model, "masked_lm", params, length=30)
    ids = np.random.default_rng(0).integers(0, 19, (2, 30)).astype(np.int32)
    everywhere = np.broadcast_to(np.arange(30, dtype=np.int32), ids.shape)
    logits = np.asarray(jax.jit(function.apply)(params, ids, np.ones_like(ids), everywhere))
    script = (
        "import json, sys, torch; from transformers import RoFormerForMaskedLM\n"
        "model, report = RoFormerForMaskedLM.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert not report['missing_keys'] and not report['unexpected_keys'], report\n"
        "print(json.dumps(model.eval()(torch.tensor(json.loads(sys.argv[2]))).logits.tolist()))\n"
    )
    theirs = np.array(json.loads(peers("-c", script, tmp_path, json.dumps(ids.tolist()))))
    assert np.std(theirs) > 100 * TOLERANCE
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=TOLERANCE)


def test_the_command_that_is_shown_converts_a_pickle(tmp_path):
    """In two pieces, in a folder whose name needs quoting; the result is the checkpoint that was pickled."""
    folder = tmp_path / "it's a $folder"
    folder.mkdir()
    (folder / "config.json").write_bytes((GOLDEN / "masked_lm" / "config.json").read_bytes())
    script = (
        "import sys, torch; from safetensors.torch import load_file\n"
        "tensors = sorted(load_file(sys.argv[1]).items())\n"
        "for i, part in enumerate((dict(tensors[:9]), dict(tensors[9:]))):\n"
        "    torch.save(part, f'{sys.argv[2]}/pytorch_model-0000{i + 1}-of-00002.bin')\n"
    )
    peers("-c", script, GOLDEN / "masked_lm" / "model.safetensors", folder)
    with pytest.raises(InputError) as raised:
        read_checkpoint(folder)
    words = shlex.split(str(raised.value).splitlines()[-1])
    assert words[0] == "python"
    peers(*words[1:])
    expected = read_checkpoint(GOLDEN / "masked_lm")
    assert jax.tree.all(jax.tree.map(np.array_equal, read_checkpoint(folder).params, expected.params))
