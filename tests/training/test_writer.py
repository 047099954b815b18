import contextlib
import errno
import io
import json
import math
import os
import struct

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from roformer_jax.errors import InputError
from roformer_jax.training.writer import FILE, MetricsWriter, read_metrics


def write_run(folder, steps):
    with MetricsWriter(folder) as writer:
        writer.write(0, "eval", {"loss": 9.0})
        for step in range(1, steps + 1):
            writer.write(step, "train", {"loss": 1 / step})


def test_a_line_is_readable_as_soon_as_it_is_written(tmp_path):
    with MetricsWriter(tmp_path / "new" / "run") as writer:
        writer.write(1, "train", {"loss": 0.5, "grad_norm": 2.0})
        assert (tmp_path / "new" / "run" / FILE).read_text() == (
            '{"step": 1, "kind": "train", "loss": 0.5, "grad_norm": 2.0}\n'
        )


def test_not_finite_values_are_strict_json_and_read_as_nan(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, "eval", {"a": math.nan, "b": math.inf, "c": 1.0})
    json.loads((tmp_path / FILE).read_text(), parse_constant=pytest.fail)
    (line,) = read_metrics(tmp_path)
    assert math.isnan(line["a"]) and math.isnan(line["b"]) and line["c"] == 1.0


def test_going_on_from_a_step_removes_what_came_after_it(tmp_path):
    write_run(tmp_path, 5)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 6, "kind": "tr')
    with MetricsWriter(tmp_path, start_step=3) as writer:
        writer.write(4, "train", {"loss": 7.0})
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[-1] == {"step": 4, "kind": "train", "loss": 7.0}
    assert {path.name for path in tmp_path.iterdir() if "tfevents" not in path.name} == {FILE}


def test_a_new_run_removes_an_attempt_that_left_no_checkpoint(tmp_path):
    write_run(tmp_path, 2)
    (tmp_path / FILE).write_text("garbage\n")
    write_run(tmp_path, 1)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]


def read_events(path):
    """Events of a TFRecord file: length u64, checksum u32, bytes, checksum u32."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_tensorboard_sees_the_values_and_the_restart(tmp_path):
    write_run(tmp_path, 2)
    (path,) = tmp_path.glob("*tfevents*")
    path.unlink()
    with MetricsWriter(tmp_path, start_step=1) as writer:
        writer.write(2, "train", {"loss": 0.25})
    (path,) = tmp_path.glob("*tfevents*")
    events = list(read_events(path))
    restarts = [event.step for event in events if event.session_log.status == event_pb2.SessionLog.START]
    assert restarts == [2], "TensorBoard hides older events from the step of a session start on"
    values = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert values == [(2, "train/loss", 0.25)]


def test_a_torn_last_line_is_left_out_and_a_damaged_one_is_named(tmp_path):
    write_run(tmp_path, 2)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 3')
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2]
    with (tmp_path / FILE).open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"metrics.jsonl, line 4: not a JSON object"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match=r"line 4"):
        MetricsWriter(tmp_path, start_step=2)


def test_a_folder_without_metrics_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*metrics.jsonl"):
        read_metrics(tmp_path)


@pytest.fixture
def full_disk(monkeypatch):
    """`with full_disk(room=10):` a file takes so many bytes of what is written to it, and then no more."""

    class File(io.FileIO):
        def __init__(self, file, room):
            super().__init__(os.dup(file.fileno()), "ab")
            self.room = room

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, "no space left on device")
            written = super().write(data[: self.room])
            self.room -= written
            return written

    @contextlib.contextmanager
    def full_disk(writer, room):
        whole = writer._file
        with File(whole, room) as writer._file:
            yield
        writer._file = whole

    return full_disk


@pytest.mark.parametrize("room", [0, 10])
def test_lines_wait_where_the_disk_is_full_and_none_is_torn(tmp_path, full_disk, room, capfd):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, "train", {"loss": 1.0})
        assert writer.flush()
        with full_disk(writer, room):
            for step in (2, 3):
                writer.write(step, "train", {"loss": 1 / step})
            assert not writer.flush()
        assert capfd.readouterr().err.count("WARNING") == 1, "told once, not with every line"
        assert [line["step"] for line in read_metrics(tmp_path)] == [1]
        writer.write(4, "train", {"loss": 0.25})
        assert writer.flush()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_tensorboard_goes_on_in_another_file_where_one_was_torn(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    with MetricsWriter(tmp_path) as writer:
        writer.write(1, "train", {"loss": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(EventsWriter, "write_event", fail)
            writer.write(2, "train", {"loss": 0.5})
        writer.write(3, "train", {"loss": 0.25})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    events = [event for path in tmp_path.glob("*tfevents*") for event in read_events(path)]
    assert sorted(value.simple_value for event in events for value in event.summary.value) == [0.25, 1.0]


def test_the_last_evaluation_that_was_kept_is_known(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        assert writer.last_evaluation == -1
        for step in range(4):
            writer.write(step, "train", {"loss": 1.0})
            if step % 2 == 0:
                writer.write(step, "eval", {"loss": 1.0})
    for start, last in ((3, 2), (2, 2), (1, 0)):
        with MetricsWriter(tmp_path, start_step=start) as writer:
            assert writer.last_evaluation == last
