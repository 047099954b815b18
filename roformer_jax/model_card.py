"""The page beside an exported model: what it is, what it has seen, how well it does, and what it is for."""

import json
from pathlib import Path

from roformer_jax import __version__
from roformer_jax.experiment import Experiment
from roformer_jax.run_folder import DATA, RESULTS, as_json, read_json
from roformer_jax.training.writer import read_metrics

CARD = "README.md"
USES = {
    "masked_lm": "To fill masked words, and as a start for fine-tuning. What it writes is likely, not true.",
    "causal_lm": "To continue texts in research on language models. What it writes is likely, not true.",
    "classifier": "To label texts like those that it was trained on; on others its scores say nothing.",
}


def model_card(run: Path, experiment: Experiment, form: str, licence: str) -> str:
    """The card, Markdown with the front matter that model hubs read.

    Args:
      run: the model's run; what it does not know of itself is said to be unknown.
      experiment: its resolved config.
      form: how it was exported, "huggingface" or "jax".
      licence: of the data that it was trained on.
    """
    config = as_json(experiment)
    kind = "A RoFormer" if experiment.model.position_encoding == "rope" else "An encoder like BERT"
    parts = [
        "---\nlibrary_name: " + ("transformers" if form == "huggingface" else "jax") + "\ntags: [roformer, rope]\n---",
        f"# {run.name}",
        f"{kind} ({experiment.head.replace('_', ' ')}, {experiment.model.position_encoding} positions), exported "
        f"for {'transformers' if form == 'huggingface' else 'JAX alone'} by roformer_jax {__version__}.",
        f"## Intended use\n\n{USES[experiment.head]}",
        f"## Data\n\n{_data(run, config)}\n\nLicence of the inputs: {licence or 'not stated by who exported it'}.",
        f"## Budget\n\n{_budget(run)}",
        f"## Scores\n\n{_scores(run)}",
        "## Config\n\n```json\n" + json.dumps(config, indent=2, sort_keys=True) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _data(run: Path, config: dict) -> str:
    data = config.get("data") or {}
    named = data.get("path") or config.get("folder") if "task" in config else data.get("path")
    task = f", task {config['task']}" if "task" in config else ""
    origin = f" It started from `{config['init_from']}`." if config.get("init_from") else ""
    source = read_json(run / DATA).get("source")
    if source:
        return f"None here: imported from `{source}`; see there for what it was trained on."
    return (f"Trained on `{named}`{task}." if named else "Not known.") + origin


def _budget(run: Path) -> str:
    rows = [row for row in read_metrics(run) if row["kind"] == "train"] if (run / "metrics.jsonl").exists() else []
    if not rows:
        return "No update was made here."
    seconds = sum(row["seconds"] for row in rows)
    return f"{rows[-1]['step']:,} updates in {seconds / 60:,.1f} minutes."


def _scores(run: Path) -> str:
    if not (run / RESULTS).exists():
        return "Not evaluated here."
    results = read_json(run / RESULTS)
    lines = [f"| {name} | {value:.4f} |" for name, value in results["metrics"].items()]
    return "\n".join(
        [f"On held-out data, after {results['step']:,} updates:", "", "| metric | value |", "| --- | --- |", *lines]
    )
