"""Run by a Python that has transformers: ids of the texts on standard input, by RoFormerTokenizer; JSON in and out."""

import json
import sys

from transformers import AutoTokenizer, RoFormerTokenizer

job = json.load(sys.stdin)
if job["vocabulary"]:
    vocabulary = {piece: i for i, piece in enumerate(job["vocabulary"])}
    tokenizer = RoFormerTokenizer(vocab=vocabulary, do_lower_case=job["lowercase"])
    tokenizer.save_pretrained(job["folder"])
else:
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    assert isinstance(tokenizer, RoFormerTokenizer), type(tokenizer)
# Written in a text, "[MASK]" is a mask for transformers and text for us; the texts hold none.
json.dump(tokenizer(job["texts"], add_special_tokens=False)["input_ids"], sys.stdout)
