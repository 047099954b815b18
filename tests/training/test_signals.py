import os
import signal
import subprocess
import sys
import threading

import pytest

from roformer_jax.errors import Interrupted
from roformer_jax.training import signals
from roformer_jax.training.signals import StopSignal

# A process that is deaf for minutes in compiled code, and says so, unless something ends it.
DEAF = """
import hashlib, threading
from roformer_jax.training.signals import StopSignal
with StopSignal():
    threading.Timer(1.0, print, ["deaf"], {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.fixture
def ended(monkeypatch):
    """The exit codes with which the process would have ended."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_update_a_signal_ends_the_run_there_and_then(number):
    before, threads = handlers(), threading.active_count()
    with pytest.raises(Interrupted, match="before its first update; nothing is lost"), StopSignal():
        os.kill(os.getpid(), number)
        pytest.fail("the run went on")
    assert handlers() == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_afterwards_the_first_signal_only_asks_and_the_handlers_come_back(number, capfd):
    before = handlers()
    with StopSignal() as stop:
        stop.begin()
        stop.check()
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
        with pytest.raises(Interrupted):
            stop.check()
    assert handlers() == before
    assert f"{number.name}: stopping after this step" in capfd.readouterr().err


def test_an_interruption_that_was_swallowed_is_not_forgotten():
    """A signal may come while Python calls back from C, where no exception gets out."""
    with StopSignal() as stop:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            stop.begin()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_the_process_at_once(first, ended, capfd):
    with StopSignal() as stop:
        stop.begin()
        os.kill(os.getpid(), first)
        assert ended == []
        os.kill(os.getpid(), signal.SIGINT)
    assert ended == [130]
    assert "\nended\n" in capfd.readouterr().err


def test_a_second_terminate_is_patient(ended):
    with StopSignal() as stop:
        stop.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()
    assert ended == []


def test_a_process_that_does_not_hear_is_ended():
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"deaf\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 75
    assert b"stopped by a signal before its first update; nothing is lost" in err


def test_a_run_that_ends_in_time_is_not_ended(monkeypatch, ended):
    monkeypatch.setattr(signals, "GRACE", 0.2)
    with pytest.raises(Interrupted), StopSignal():
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(0.5)
    assert ended == []


def test_off_the_main_thread_nothing_is_touched():
    before, seen = handlers(), []

    def work():
        with StopSignal() as stop:
            seen.append((handlers() == before, stop.requested()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
