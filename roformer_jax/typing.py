"""The glossary of axis letters, and the array types of public signatures.

Names of arrays carry their axes as a suffix (`q_BLHD`); jaxtyping signatures spell the same axes in words.

    B  batch (rows)            H  heads                 V  vocabulary
    L  query length (tokens)   K  key-value heads       P  masked positions of a row
    S  key length (tokens)     D  head size             E  examples of a row
    M  model width             F  rotary pairs          C  classes
    A  position axes           N  layers
"""

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped, UInt, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "PRNGKeyArray", "PyTree", "Shaped", "UInt", "UInt8"]
