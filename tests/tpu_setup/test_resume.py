"""The loop that keeps a run alive, against a slice whose states and exit codes are played."""

TRAINING = ["--", "configs/pretrain_base.py", "--run-dir", "/mnt/bucket/it's a run"]
LAUNCH = "--command=roformer_jax/tpu_setup/worker.sh start -- configs/pretrain_base.py --run-dir "


def play(states, reports):
    """Answers: the states of the queue and what the workers say, a line each; None where they cannot be reached."""
    lines = [["", 255] if report is None else [workers(*report), 0] for report in reports]
    return [
        [["queued-resources list"], [["" if state is None else f"pod\t{state}\n", 0] for state in states]],
        [["worker.sh status"], lines],
    ]


def workers(*words):
    return "".join(f"worker host-{index}: {word}\n" for index, word in enumerate(words))


def resume(cloud, states, reports, *options, extra=()):
    answers = [*extra, *play(states, reports)]
    return cloud.run("resume.sh", "pod", "--every", "0", *options, *TRAINING, answers=answers)


def steps(cloud):
    """The calls by name, without looks at the queue and at the workers."""
    names = {
        "queued-resources create": "create", "queued-resources delete": "delete", "scp": "copy",
        "worker.sh install": "install", "worker.sh start": "launch",
    }  # fmt: skip
    return [name for call in cloud.calls() for words, name in names.items() if words in " ".join(call)]


START = ["copy", "install", "launch"]
RUNNING, DONE, NONE = ["running"] * 2, ["exit 0"] * 2, ["none"] * 2


def test_from_nothing_to_the_end(cloud):
    done = resume(cloud, [None, "ACTIVE"], [RUNNING, RUNNING, DONE])
    assert (done.returncode, steps(cloud)) == (0, ["create", *START])
    assert "the slice still costs money" in done.stderr


def test_a_preempted_slice_is_made_again_and_the_same_command_launched(cloud):
    states = ["ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "PROVISIONING", "ACTIVE"]
    done = resume(cloud, states, [NONE, RUNNING, RUNNING, DONE], "--bucket", "bucket")
    launches = [word for call in cloud.calls() for word in call if word.startswith(LAUNCH)]
    installs = [word for call in cloud.calls() for word in call if "worker.sh install" in word]
    assert (done.returncode, steps(cloud)) == (0, [*START, "delete", "create", *START])
    assert launches[0] == launches[1] and launches[0].endswith("--distributed")
    assert installs[0] == installs[1] and installs[0].endswith("--bucket=bucket")


def test_a_failed_slice_is_made_again(cloud):
    assert resume(cloud, ["FAILED", "ACTIVE"], [DONE]).returncode == 0
    assert steps(cloud) == ["delete", "create", *START]


def test_a_run_that_is_going_is_watched_not_started(cloud):
    assert resume(cloud, ["ACTIVE"], [RUNNING, DONE]).returncode == 0
    assert steps(cloud) == []


def test_what_ended_before_is_history(cloud):
    """Who mends a config and starts the loop again wants a run, not the old exit code."""
    assert resume(cloud, ["ACTIVE"], [["exit 2", "exit 2"], DONE]).returncode == 0
    assert steps(cloud) == START


def test_a_run_that_saved_itself_is_launched_again_without_counting(cloud):
    saved = ["exit 75", "exit 75"]
    assert resume(cloud, ["ACTIVE"], [RUNNING, saved, saved, DONE], "--crashes", "1").returncode == 0
    assert steps(cloud) == START * 2


def test_what_a_retry_would_not_mend_is_not_retried(cloud):
    for code in (2, 3, 4):
        done = resume(cloud, ["ACTIVE"], [RUNNING, ["exit 134", f"exit {code}"]])
        assert (done.returncode, steps(cloud)) == (code, [])
        assert f"train.py ended with code {code}" in done.stderr


def test_crashes_are_bounded(cloud):
    crash = ["exit 1", "exit 134"]
    done = resume(cloud, ["ACTIVE"], [RUNNING, crash], "--crashes", "2")
    assert (done.returncode, steps(cloud)) == (1, START)
    assert "given up after 2 crashes" in done.stderr


def test_a_worker_that_lost_its_run_counts_as_a_crash(cloud):
    done = resume(cloud, ["ACTIVE"], [RUNNING, NONE], "--crashes", "1")
    assert (done.returncode, steps(cloud)) == (1, [])


def test_one_running_worker_is_waited_for(cloud):
    """The others' exit codes are judged when all have ended: peers of a crash end after their heartbeat."""
    assert resume(cloud, ["ACTIVE"], [["running", "exit 1"], DONE]).returncode == 0
    assert steps(cloud) == []


def test_crashes_of_a_lost_slice_do_not_count_on_the_next(cloud):
    states = ["ACTIVE", "ACTIVE", "SUSPENDED", "ACTIVE"]
    reports = [RUNNING, ["exit 134", "exit 134"], ["exit 134", "exit 134"], DONE]
    assert resume(cloud, states, reports, "--crashes", "2").returncode == 0
    assert steps(cloud) == [*START, "delete", "create", *START, *START]


def test_a_slice_lost_while_it_is_installed_is_made_again(cloud):
    lost = [[["worker.sh install"], [["", 255], ["", 0]]]]
    assert resume(cloud, ["ACTIVE", "SUSPENDED", "ACTIVE"], [NONE, DONE], extra=lost).returncode == 0
    assert steps(cloud) == ["copy", "install", "delete", "create", *START]


def test_a_launch_that_a_worker_refuses_is_not_retried(cloud):
    done = resume(cloud, ["ACTIVE"], [NONE], extra=[[["worker.sh start"], [["", 2]]]])
    assert (done.returncode, steps(cloud)) == (2, START)


def test_requests_that_fail_are_bounded(cloud):
    done = resume(cloud, [None, "FAILED"], [], "--crashes", "2")
    assert (done.returncode, steps(cloud)) == (1, ["create", "delete", "create"])


def test_stop_ends_the_loop_too(cloud):
    done = resume(cloud, ["ACTIVE"], [RUNNING, ["stopped (exit 75)", "stopped (exit 75)"]])
    assert (done.returncode, steps(cloud)) == (75, [])


def test_workers_that_do_not_answer_end_it_in_the_end(cloud):
    done = resume(cloud, ["ACTIVE"], [RUNNING, None, None, RUNNING, None], "--unreachable", "3")
    assert (done.returncode, steps(cloud)) == (1, [])
    assert "workers do not answer" in done.stderr


def test_a_slice_that_was_only_created_is_installed(cloud):
    bare = [[["worker.sh status"], [["", 127], [workers(*DONE), 0]]]]
    assert resume(cloud, ["ACTIVE"], [], extra=bare).returncode == 0
    assert steps(cloud) == START


def test_an_installation_that_fails_is_tried_again(cloud):
    bare = [[["worker.sh status"], [["", 127], ["", 127], [workers(*DONE), 0]]]]
    fails = [[["worker.sh install"], [["", 1], ["", 0]]]]
    assert resume(cloud, ["ACTIVE"], [], "--crashes", "3", extra=bare + fails).returncode == 0
    assert steps(cloud) == ["copy", "install", *START]


def test_machines_that_are_gone_before_the_queue_says_so_are_made_again(cloud):
    node = [[["tpu-vm list"], [["pod-2\tREADY\npod\tPREEMPTED\n", 0]]]]
    assert resume(cloud, ["ACTIVE"], [RUNNING, None, DONE], extra=node).returncode == 0
    assert steps(cloud) == ["delete", "create", *START]


def test_a_network_that_is_down_is_waited_for(cloud):
    answers = [[["queued-resources list"], [["", 1], ["", 1], ["pod\tACTIVE\n", 0]]], *play([], [RUNNING, DONE])[1:]]
    assert cloud.run("resume.sh", "pod", "--every", "0", *TRAINING, answers=answers).returncode == 0
