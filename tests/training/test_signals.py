import os
import signal
import threading

import pytest

from roformer_jax.training.signals import StopSignal


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_only_asks_and_the_handlers_come_back(number, capfd):
    before = handlers()
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert handlers() == before
    assert f"{number.name}: stopping after this step" in capfd.readouterr().err


def test_second_interrupt_is_obeyed_at_once():
    before = handlers()
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


def test_second_terminate_is_patient():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested


def test_off_the_main_thread_nothing_is_touched():
    before, seen = handlers(), []

    def work():
        with StopSignal() as stop:
            seen.append((handlers() == before, stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
