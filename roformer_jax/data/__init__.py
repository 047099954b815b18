"""From files to batches: NumPy, grain, TFDS and tokenizers; nothing of the models.

files -> sources, stream, glue, tfds_source -> examples, tokenizer -> packing -> bounds, rows -> masking, batches
"""
