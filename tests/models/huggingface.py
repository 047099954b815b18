"""Hugging Face's RoFormer state dict as our parameters: written out name by name, independently of the package."""

import numpy as np


def params_from_state_dict(state: dict[str, np.ndarray], num_heads: int) -> dict:
    """Every tensor is used exactly once; what is left over (tied copies) is checked to be derived."""
    left = dict(state)
    take = left.pop
    layers = 1 + max(int(name.split(".")[3]) for name in state if ".encoder.layer." in name)
    width = state["roformer.embeddings.LayerNorm.weight"].shape[0]
    heads = (num_heads, width // num_heads)

    def norm(name):
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    def dense(name):
        return {"kernel": take(f"{name}.weight").T, "bias": take(f"{name}.bias")}

    def block(i):
        layer = f"roformer.encoder.layer.{i}"
        query_key_value = [dense(f"{layer}.attention.self.{name}") for name in ("query", "key", "value")]
        output = dense(f"{layer}.attention.output.dense")
        return {
            "attention": {
                "query_key_value": {
                    "kernel": np.stack([part["kernel"].reshape(width, *heads) for part in query_key_value], axis=1),
                    "bias": np.stack([part["bias"].reshape(heads) for part in query_key_value]),
                },
                "output": {"kernel": output["kernel"].reshape(*heads, width), "bias": output["bias"]},
            },
            "attention_norm": norm(f"{layer}.attention.output.LayerNorm"),
            "up": dense(f"{layer}.intermediate.dense"),
            "down": dense(f"{layer}.output.dense"),
            "output_norm": norm(f"{layer}.output.LayerNorm"),
        }

    params = {
        "encoder": {
            "embeddings": {
                "token": {"embedding": take("roformer.embeddings.word_embeddings.weight")},
                "token_type": {"embedding": take("roformer.embeddings.token_type_embeddings.weight")},
                "norm": norm("roformer.embeddings.LayerNorm"),
            },
            "blocks": stack([block(i) for i in range(layers)]),
        }
    }
    take("roformer.encoder.embed_positions.weight", None)  # sines and cosines: computed, not stored
    if "cls.predictions.bias" in left:
        head = "cls.predictions.transform"
        params["head"] = {"dense": dense(f"{head}.dense"), "norm": norm(f"{head}.LayerNorm")}
        params["head"]["bias"] = take("cls.predictions.bias")
        np.testing.assert_array_equal(take("cls.predictions.decoder.bias"), params["head"]["bias"])
        table = params["encoder"]["embeddings"]["token"]["embedding"]
        np.testing.assert_array_equal(take("cls.predictions.decoder.weight"), table)
    else:
        params["head"] = {"dense": dense("classifier.dense"), "output": dense("classifier.out_proj")}
    assert not left, f"tensors without a place: {sorted(left)}"
    return params


def stack(trees: list[dict]) -> dict:
    """One tree whose leaves have a leading layer axis."""
    first = trees[0]
    return {
        name: stack([tree[name] for tree in trees])
        if isinstance(first[name], dict)
        else np.stack([tree[name] for tree in trees])
        for name in first
    }
