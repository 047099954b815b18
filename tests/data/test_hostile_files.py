"""Files made to harm: a pickle in the place of any file that is read runs nothing, and huge ids take no memory."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from roformer_jax.data.examples import examples_from_table
from roformer_jax.data.rows import METADATA_FILE, ROWS_FILE, cached_rows
from roformer_jax.data.sources import read_table, read_texts
from roformer_jax.data.tokenizer import load_tokenizer
from roformer_jax.data.vocabulary import fitting_tokenizer
from roformer_jax.errors import InputError

ROW = {"ids": np.arange(4, dtype=np.int32), "segment_ids": np.ones(4, np.int32)}
BOUNDS = {"ids": 4, "segment_ids": 2}
MEGABYTE = 1 << 20


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture(params=[0, 2, pickle.HIGHEST_PROTOCOL], ids="protocol {}".format)
def hostile(request, tmp_path):
    """A pickle whose canary is shown to sing, and the canary, gone again."""
    canary = tmp_path / "canary"
    content = pickle.dumps(Touch(canary), protocol=request.param)
    pickle.loads(content)
    canary.rmdir()
    return content, canary


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("tokenizer.json", load_tokenizer),
        ("vocab.txt", load_tokenizer),
        ("vocab.txt", lambda path: fitting_tokenizer(path, 10)),
        ("texts.csv", lambda path: examples_from_table(read_table(str(path), ["text"]), ["text"], None, None)),
        ("texts.tsv", lambda path: read_table(str(path), ["text"])),
        ("texts.jsonl", lambda path: read_table(str(path), ["text"])),
        ("texts.txt.gz", lambda path: read_texts(str(path))),
    ],
)
def test_a_pickle_in_place_of_text_runs_nothing(tmp_path, hostile, name, read):
    content, canary = hostile
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)
    assert not canary.exists()


@pytest.mark.parametrize("name", [ROWS_FILE, METADATA_FILE])
def test_a_pickle_in_place_of_a_file_of_the_cache_runs_nothing(tmp_path, hostile, name):
    content, canary = hostile
    cache = tmp_path / "cache"
    cached_rows(cache, {}, lambda: [ROW], BOUNDS).close()
    (folder,) = cache.iterdir()
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: damaged"):
        cached_rows(cache, {}, lambda: [ROW], BOUNDS)
    assert not canary.exists()


def test_huge_ids_of_a_tokenizer_are_refused_without_taking_memory(tokenizer, tmp_path):
    """In a process of its own, whose peak of memory is known."""
    tokenizer.save(tmp_path / "sound.json")
    content = json.loads((tmp_path / "sound.json").read_text(encoding="utf-8"))
    vocab, special = content["model"]["vocab"], content["added_tokens"][0]
    bombs = {
        "model": content | {"model": content["model"] | {"vocab": vocab | {"boom": 10**9}}},
        "added": content | {"added_tokens": [*content["added_tokens"], special | {"id": 10**9, "content": "boom"}]},
    }
    for name, bomb in bombs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(bomb), encoding="utf-8")
    script = (
        "import resource, sys\n"
        "from roformer_jax.data.tokenizer import load_tokenizer\n"
        "from roformer_jax.errors import InputError\n"
        "load_tokenizer(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[2:]:\n"
        "    try:\n"
        "        load_tokenizer(path)\n"
        "    except InputError as error:\n"
        "        print(error)\n"
        "print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))\n"
    )
    files = [str(tmp_path / f"{name}.json") for name in ("sound", *bombs)]
    done = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True, check=True)
    *messages, grown = done.stdout.splitlines()
    assert len(messages) == len(bombs)
    for name, message in zip(bombs, messages, strict=True):
        assert f"{name}.json: token 'boom' has id" in message
    assert int(grown) < 20 * MEGABYTE, "a table of 10^9 ids takes a gigabyte or more"
