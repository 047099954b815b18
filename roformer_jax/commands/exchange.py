"""What brings checkpoints in and takes them out: import, export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roformer_jax.commands.parsing import parse


def import_checkpoint(arguments: list[str]) -> None:
    """Make a run of a Hugging Face checkpoint."""
    import tyro

    @dataclass(frozen=True)
    class Import:
        """A run made of a Hugging Face checkpoint of RoFormer, RoFormerV2 or BERT; safetensors only."""

        checkpoint: tyro.conf.Positional[str]
        """Its folder (config.json, model.safetensors, a tokenizer), or package:NAME/FOLDER."""
        output: Path
        """Folder of the run to make."""

    options = parse(Import, arguments, prog="python -m roformer_jax import")
    from roformer_jax import exchange

    print("\n".join(exchange.import_checkpoint(options.checkpoint, options.output)))


def export_run(arguments: list[str]) -> None:
    """Write a run's model for others."""
    import tyro

    @dataclass(frozen=True)
    class Export:
        """A run's model for others, with its tokenizer and a model card."""

        run: tyro.conf.Positional[Path]
        """Folder of the run."""
        output: Path
        """Folder to write; it must not exist, or be empty."""
        format: Literal["huggingface", "jax"] = "huggingface"
        """huggingface: safetensors that transformers loads. jax: one program for any batch and length on CPU, CUDA and
        TPU, which needs JAX alone."""
        licence: str = ""
        """Licence of the data that the model was trained on, for the model card."""

    options = parse(Export, arguments, prog="python -m roformer_jax export")
    from roformer_jax import exchange

    for file in exchange.export_run(options.run, options.output, form=options.format, licence=options.licence):
        print(f"wrote {file}")
