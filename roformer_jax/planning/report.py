"""Plans as text, and as JSON."""

from typing import Any

from roformer_jax.experiment import Experiment
from roformer_jax.planning.plan import Plan
from roformer_jax.planning.roofline import FORMULA
from roformer_jax.planning.topology import Slice

GB = 1e9
COLUMNS = f"{'mesh':44s} {'GB/device':>10s} {'step ms':>8s} {'MFU':>6s} {'sent':>6s} {'tokens/s':>11s}"


def describe(plan: Plan, experiment: Experiment, place: Slice) -> str:
    """A plan in words, one figure a line; all of one device where not said otherwise."""
    lines = [*_what(plan, experiment, place), *_memory(plan, place)]
    if plan.prediction is not None:
        lines += [*_work(plan), *_time(plan, experiment)]
        lines += ["", FORMULA.format(dtype=experiment.model.dtype)]
    return "\n".join(lines)


def row(plan: Plan) -> str:
    """A plan as a line under `COLUMNS`."""
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    held = f"{mesh:44s} {plan.compiled.memory.peak / GB:10.2f}"
    if plan.prediction is None:
        return f"{held}   does not fit"
    step = plan.prediction
    return (
        f"{held} {1e3 * step.step:8.1f} {step.mfu:6.1%} {step.communication_share:6.1%} {plan.tokens_per_second:11,.0f}"
    )


def as_json(plan: Plan, place: Slice) -> dict[str, Any]:
    """A plan as plain values: bytes, seconds, FLOPs."""
    compiled = plan.compiled
    return {
        "topology": place.name,
        "chips": place.chips,
        "devices": plan.devices,
        "changes": plan.changes,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "memory": compiled.memory._asdict() | {"of_chip": place.chip.memory},
        "model_flops": plan.model_flops,
        "program_flops": compiled.flops,
        "compiler_flops_loops_once": compiled.body_flops,
        "bytes": compiled.moved and compiled.moved._asdict(),
        "collectives": {kind: traffic._asdict() for kind, traffic in compiled.traffic.items()},
        "prediction": plan.prediction and plan.prediction._asdict(),
        "tokens_per_second": plan.tokens_per_second,
        "hours": plan.hours,
        "cost": plan.cost,
        "compile_seconds": compiled.seconds,
    }


def _what(plan: Plan, experiment: Experiment, place: Slice) -> list[str]:
    batch = {name: array.shape for name, array in experiment.problem().batch.items()}
    microbatches, rows, length = batch["ids"]
    return [
        f"{'slice':22s} {place.name}: {place.chips} chips, {plan.devices} devices, mesh {plan.mesh}",
        f"{'update':22s} {microbatches} x {rows} rows of {length} tokens, {experiment.model.dtype}; "
        f"compiled in {plan.compiled.seconds:.0f} s",
    ]


def _memory(plan: Plan, place: Slice) -> list[str]:
    memory, available = plan.compiled.memory, place.chip.memory
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    return [
        f"{'parameters':22s} {memory.parameters / GB:8.2f} GB",
        f"{'optimizer state':22s} {memory.optimizer / GB:8.2f} GB",
        f"{'temporaries':22s} {memory.temporaries / GB:8.2f} GB   activations and gradients, by the compiler",
        f"{'peak memory':22s} {memory.peak / GB:8.2f} GB   of {available / GB:.1f} GB: {verdict}",
    ]


def _work(plan: Plan) -> list[str]:
    compiled, moved = plan.compiled, plan.compiled.moved
    counted = "the compiler gives no count for this device"
    if compiled.body_flops is not None:
        counted = f"the compiler counts {compiled.body_flops / 1e12:.2f}, a loop's body once"
    lines = [
        f"{'model FLOPs':22s} {plan.model_flops / 1e12:8.2f} TFLOP",
        f"{'FLOPs of the program':22s} {compiled.flops / 1e12:8.2f} TFLOP of matrix products; {counted}",
        f"{'bytes accessed':22s} {moved.accessed / GB:8.2f} GB, {moved.in_memory / GB:.2f} of them in main memory",
    ]
    for kind, traffic in compiled.traffic.items():
        lines.append(f"{kind:22s} {traffic.sent / GB:8.3f} GB sent, {traffic.count} times")
    return lines


def _time(plan: Plan, experiment: Experiment) -> list[str]:
    step = plan.prediction
    parts = ", ".join(f"{name} {1e3 * getattr(step, name):.1f}" for name in ("compute", "memory", "communication"))
    run = "the config gives epochs, not training.steps, so the length of the run is not known"
    if plan.hours is not None:
        cost = "" if plan.cost is None else f", cost {plan.cost:,.2f}"
        run = f"{plan.hours:.2f} hours for {experiment.training.steps:,} updates{cost}"
    return [
        f"{'step time':22s} {1e3 * step.step:8.1f} ms predicted: {parts}",
        f"{'communication':22s} {step.communication_share:8.1%} of the step",
        f"{'MFU':22s} {step.mfu:8.1%} predicted",
        f"{'tokens/s of the slice':22s} {plan.tokens_per_second:8,.0f}",
        f"{'run':22s} {run}",
    ]
