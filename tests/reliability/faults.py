"""Configs whose runs do something to themselves at a certain event: what is certain need not be timed."""

from collections.abc import Mapping
from pathlib import Path

# The shipped experiment; each fault happens once, in the first start that reaches its event.
CONFIG = '''
import errno, itertools, os, resource, signal, threading, time
from pathlib import Path

import jax

from configs.pretrain_small import get_config as shipped
from roformer_jax import pretraining

FAULTS, PROCESS, MARKS = {faults!r}, {process!r}, Path({marks!r})


class EndOfData(Exception):
    pass


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def reach(event):
    mark = MARKS / event.replace(" ", "_")
    if event in FAULTS and jax.process_index() == PROCESS and not mark.exists():
        mark.touch()
        exec(FAULTS[event])


class Pretraining(pretraining.Pretraining):
    """Masked-LM pretraining."""

    def prepare(self, mesh):
        reach("preparation")
        task = super().prepare(mesh)
        iterate, last = task.batches.iterate, 0

        def iterate_watched(start, stop):
            nonlocal last
            for last, batch in enumerate(iterate(start, stop), start + 1):
                try:
                    reach(f"update {{last}}")
                except EndOfData:
                    return
                yield batch

        def evaluate_watched(params, between):
            numbers = itertools.count(1)

            def watched():
                reach(f"evaluation {{last}} batch {{next(numbers)}}")
                between()

            return task.evaluate(params, watched)

        def loss_watched(params, batch, key):
            if key is not None:
                reach("compilation")
            return task.loss(params, batch, key)

        task.batches.iterate = iterate_watched
        return task._replace(evaluate=evaluate_watched, problem=task.problem._replace(loss=loss_watched))


def get_config():
    return Pretraining(**vars(shipped()))


def rename(source, target, *, rename=os.rename):
    """A checkpoint appears under its number by a rename, which a thread of the background save makes."""
    if threading.current_thread() is not threading.main_thread():
        reach(f"save {{Path(target).name}}")
    rename(source, target)


os.rename = rename
'''


def faulty_config(folder: Path, faults: Mapping[str, str], *, process: int = 0) -> Path:
    """A config of the shipped pretraining whose runs execute a statement at an event, once.

    Args:
      folder: takes the config and, in `marks`, a file for every fault that has happened.
      faults: statements by event: "preparation", "compilation" (of the update), "update 3" (before it is dispatched),
        "evaluation 8 batch 2" (in the evaluation after update 8), "save 4" (of checkpoint 4, when all of it is written
        and it is about to appear). At an update, `raise EndOfData` ends the batches.
      process: the one to which they happen.
    """
    marks = folder / "marks"
    marks.mkdir(parents=True)
    config = folder / "faulty.py"
    config.write_text(CONFIG.format(faults=dict(faults), process=process, marks=str(marks)), encoding="utf-8")
    return config


def happened(config: Path) -> set[str]:
    """The events whose faults have happened."""
    return {mark.name.replace("_", " ") for mark in (config.parent / "marks").iterdir()}
