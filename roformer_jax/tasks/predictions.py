"""What `predict` writes: GLUE's submission files, and tables of labels and probabilities; "-" for standard output."""

from pathlib import Path

import numpy as np

from roformer_jax.tasks.scores import probabilities


def write_submission(path: Path, outputs: np.ndarray, label_names: tuple[str, ...]) -> None:
    """GLUE's submission form: `index<TAB>prediction`, label names, or scores clipped to 0..5 with three decimals."""
    if label_names:
        predictions = [label_names[index] for index in np.argmax(outputs, axis=-1)]
    else:
        predictions = [f"{value:.3f}" for value in np.clip(outputs[:, 0], 0.0, 5.0)]
    write_lines(path, ["index\tprediction", *(f"{i}\t{value}" for i, value in enumerate(predictions))])


def write_predictions(path: Path, outputs: np.ndarray, label_names: tuple[str, ...]) -> None:
    """One row per input: the predicted label and every label's probability, or the score."""
    if label_names:
        table = probabilities(outputs)
        rows = ("\t".join([label_names[int(np.argmax(row))], *(f"{p:.6f}" for p in row)]) for row in table)
        header = "\t".join(["label", *(f"p({name})" for name in label_names)])
    else:
        rows, header = (f"{value:.6f}" for value in outputs[:, 0]), "score"
    write_lines(path, [header, *rows])


def write_lines(path: Path, lines: list[str]) -> None:
    """Write a text file that is either absent or complete, or the standard output."""
    if str(path) == "-":
        print("\n".join(lines), flush=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)
