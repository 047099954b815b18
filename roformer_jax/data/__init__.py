"""From files to batches: NumPy, grain, TFDS and tokenizers; nothing of the models.

sources, glue, tfds_source -> examples, tokenizer -> packing -> rows -> masking, batches
"""
