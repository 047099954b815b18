"""From nothing to a running slice and back: the exact commands, their order, and what arrives on a worker."""

import json

import pytest

TPUS = ["gcloud", "compute", "tpus"]
ZONE = "--zone=us-west4-a"
LIST = [*TPUS, "queued-resources", "list", "--format=value(name.basename(),state.state)", ZONE]
DELETE = [*TPUS, "queued-resources", "delete", "pod", "--force", "--quiet", ZONE]
TRAINING = ["configs/pretrain_base.py", "--run-dir", "/mnt/bucket/run"]


def queue(*states):
    """Answers of the queue, in turn, with another resource whose name begins alike."""
    return [[["queued-resources list"], [[f"pod-2\tSUSPENDED\npod\t{state}\n", 0] for state in states]]]


class TestCreate:
    def test_asks_and_waits_until_the_slice_is_active(self, cloud):
        states = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
        done = cloud.run("create.sh", "pod", "--every", "0", answers=queue(*states))
        create = [
            *TPUS, "queued-resources", "create", "pod", "--node-id=pod", "--accelerator-type=v5litepod-16",
            "--runtime-version=v2-alpha-tpuv5-lite", "--spot", ZONE,
        ]  # fmt: skip
        assert (done.returncode, cloud.calls()) == (0, [create, *[LIST] * 5])
        assert "costs money until teardown.sh pod" in done.stderr

    @pytest.mark.parametrize(
        ("kind", "runtime"),
        [
            ("v4-32", "tpu-ubuntu2204-base"),
            ("v5litepod-256", "v2-alpha-tpuv5-lite"),
            ("v5p-16", "v2-alpha-tpuv5"),
            ("v6e-8", "v2-alpha-tpuv6e"),
        ],
    )
    def test_takes_the_runtime_of_the_chip(self, cloud, kind, runtime):
        cloud.run("create.sh", "pod", "--type", kind, answers=queue("ACTIVE"))
        assert {f"--accelerator-type={kind}", f"--runtime-version={runtime}"} < set(cloud.calls()[0])

    @pytest.mark.parametrize(
        ("arguments", "flags"),
        [
            (["--capacity", "reserved"], ["--reserved"]),
            (["--capacity=on-demand"], []),
            (["--project", "my project; ls", "--zone=it's"], ["--spot", "--zone=it's", "--project=my project; ls"]),
        ],
    )
    def test_passes_every_option_on_as_one_argument(self, cloud, arguments, flags):
        cloud.run("create.sh", "pod", *arguments, answers=queue("ACTIVE"))
        expected = flags if "--zone=it's" in flags else [*flags, ZONE]
        assert cloud.calls()[0][9:] == expected

    @pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
    def test_a_request_that_failed_ends_the_waiting(self, cloud, state):
        done = cloud.run("create.sh", "pod", answers=queue(state))
        assert (done.returncode, len(cloud.calls())) == (1, 2)
        assert f"pod is {state} instead of ACTIVE" in done.stderr

    def test_an_error_of_gcloud_ends_it(self, cloud):
        done = cloud.run("create.sh", "pod", answers=[[["create"], [["", 9]]]])
        assert (done.returncode, len(cloud.calls())) == (9, 1)


class TestInstall:
    def test_copies_the_commit_and_calls_the_worker(self, cloud, commit):
        done = cloud.run("install.sh", "pod", "--bucket", "bucket")
        copy = f"roformer_jax-{commit}"
        ssh = [*TPUS, "tpu-vm", "ssh", "pod", "--worker=all"]
        assert done.returncode == 0, done.stderr
        assert cloud.calls() == [
            [*TPUS, "tpu-vm", "scp", f"{cloud.root}/build/{copy}.tar.gz", "pod:", "--worker=all", ZONE],
            [*ssh, f"--command=tar -xzf {copy}.tar.gz", ZONE],
            [*ssh, f"--command={copy}/tpu_setup/worker.sh install --bucket=bucket", ZONE],
        ]
        assert list((cloud.root / "build").iterdir()) == []

    def test_a_worker_that_fails_is_an_error(self, cloud):
        done = cloud.run("install.sh", "pod", answers=[[["worker.sh install"], [["", 1]]]])
        assert done.returncode == 1


class TestOnAWorker:
    """gcloud runs the commands on a machine that is a folder, and systemd runs the service to its end."""

    @pytest.fixture
    def machine(self, cloud):
        environment = {"WORKER": str(cloud.worker)}
        assert cloud.run("install.sh", "pod", **environment).returncode == 0
        return environment

    def test_install_makes_an_environment_with_tpu_support(self, cloud, machine):
        home = cloud.worker / "roformer_jax"
        assert cloud.calls("uv", "python3", "systemctl") == [
            ["systemctl", "show", "--property=ActiveState", "--value", "roformer"],
            ["python3", "-m", "pip", "install", "--quiet", "--user", "uv==0.13.9"],
            ["uv", "venv", "--quiet", "--clear", "--python", "3.12", f"{home}/.venv"],
            [
                "uv", "pip", "install", "--quiet", "--python", f"{home}/.venv/bin/python",
                "--requirement", f"{home}/requirements.txt", "jax[tpu]",
            ],
        ]  # fmt: skip
        assert (home / "tpu_setup" / "worker.sh").is_file()
        assert not list(cloud.worker.glob("*.tar.gz"))

    def test_a_second_install_replaces_the_first(self, cloud, machine):
        left = cloud.worker / "roformer_jax" / "left_over.py"
        left.touch()
        assert cloud.run("install.sh", "pod", **machine).returncode == 0
        assert not left.exists()

    @pytest.mark.parametrize("code", [0, 75])
    def test_the_exit_code_of_training_is_kept_for_status(self, cloud, machine, code):
        cloud.run("launch.sh", "pod", "--", *TRAINING, answers=[[["train.py configs"], [["", code]]]], **machine)
        done = cloud.run("status.sh", "pod", answers=queue("ACTIVE"), **machine)
        assert done.stdout.endswith(f": exit {code}\n")
        assert (done.returncode, done.stderr) == (0, "")

    def test_arguments_arrive_as_they_were_given(self, cloud, machine):
        words = [
            "it's",
            'a "b" c',
            "$HOME `ls` %h ${x}",
            "a;b&c|d",
            "*",
            "",
            "two  blanks",
            "new\nline",
            "back\\slash",
            "é",
        ]
        training = ["configs/x y.py", "--run-dir", "/mnt/bucket/a run", *words]
        done = cloud.run("launch.sh", "pod", "--", *training, **machine)
        assert done.returncode == 0, done.stderr
        assert cloud.calls("python") == [["python", "-u", "train.py", *training, "--distributed"]]

    def test_training_is_a_service_of_its_own_that_may_save_before_it_ends(self, cloud, machine):
        cloud.run("launch.sh", "pod", "--", *TRAINING, **machine)
        (service,) = cloud.calls("systemd-run")
        assert service[:4] == ["systemd-run", "--quiet", "--collect", "--unit=roformer"]
        assert {
            f"--working-directory={cloud.worker}/roformer_jax",
            "--property=After=roformer-bucket.service",
            "--property=KillMode=mixed",
            "--property=TimeoutStopSec=120",
            "--property=LimitMEMLOCK=infinity",
            f"--property=StandardOutput=append:{cloud.worker}/roformer_run/train.log",
        } < set(service)

    def test_a_second_launch_is_refused_while_a_run_is_active(self, cloud, machine):
        active = [[["systemctl show"], [["active\n", 0]]]]
        for script, arguments in (("launch.sh", ["--", *TRAINING]), ("install.sh", [])):
            done = cloud.run(script, "pod", *arguments, answers=active, **machine)
            assert done.returncode == 1
            assert "a run is active" in done.stderr
            assert not cloud.calls("systemd-run", "uv")

    def test_a_run_folder_where_nothing_is_mounted_is_refused(self, cloud, machine):
        done = cloud.run("launch.sh", "pod", "--", *TRAINING, answers=[[["stat"], [["/\n", 0]]]], **machine)
        assert (done.returncode, cloud.calls("systemd-run")) == (2, [])
        assert "nothing is mounted at /" in done.stderr

    def test_a_stopped_run_says_so_until_it_is_launched_again(self, cloud, machine):
        cloud.run("launch.sh", "pod", "--", *TRAINING, answers=[[["train.py configs"], [["", 75]]]], **machine)
        done = cloud.run("stop.sh", "pod", answers=[[["systemctl show"], [["active\n", 0]]]], **machine)
        assert (done.returncode, cloud.calls("systemctl")[1:]) == (0, [["systemctl", "stop", "roformer"]])
        assert cloud.run("status.sh", "pod", answers=queue("ACTIVE"), **machine).stdout.endswith(
            ": stopped (exit 75)\n"
        )
        cloud.run("launch.sh", "pod", "--", *TRAINING, **machine)
        assert cloud.run("status.sh", "pod", answers=queue("ACTIVE"), **machine).stdout.endswith(": exit 0\n")

    def test_nothing_is_stopped_where_nothing_runs(self, cloud, machine):
        cloud.run("launch.sh", "pod", "--", *TRAINING, **machine)
        assert "no run is active" in cloud.run("stop.sh", "pod", **machine).stderr
        assert cloud.run("status.sh", "pod", answers=queue("ACTIVE"), **machine).stdout.endswith(": exit 0\n")

    def test_logs_shows_the_end_of_the_log(self, cloud, machine):
        folder = cloud.worker / "roformer_run"
        folder.mkdir()
        (folder / "train.log").write_text("".join(f"step {step}\n" for step in range(100)))
        done = cloud.run("logs.sh", "pod", "--lines", "2", **machine)
        assert done.stdout == "step 98\nstep 99\n"


class TestStatus:
    @pytest.mark.parametrize("state", ["WAITING_FOR_RESOURCES", "SUSPENDED"])
    def test_asks_no_worker_of_a_slice_that_is_not_there(self, cloud, state):
        done = cloud.run("status.sh", "pod", answers=queue(state))
        assert (done.returncode, done.stdout, cloud.calls()) == (1, f"pod: {state}\n", [LIST])

    def test_knows_that_there_is_no_such_slice(self, cloud):
        assert cloud.run("status.sh", "other", answers=queue("ACTIVE")).stdout == "other: NONE\n"

    def test_an_error_of_gcloud_is_not_an_absent_slice(self, cloud):
        done = cloud.run("status.sh", "pod", answers=[[["list"], [["", 5]]]])
        assert (done.returncode, done.stdout) == (5, "")


class TestTeardown:
    @pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
    def test_deletes_what_was_agreed_to(self, cloud, answer):
        done = cloud.run("teardown.sh", "pod", stdin=answer)
        assert (done.returncode, cloud.calls()) == (0, [DELETE])
        assert done.stderr == "Delete pod in us-west4-a, its machines and their disks? [y/N] "

    @pytest.mark.parametrize("answer", ["", "\n", "n\n", "yesterday\n"])
    def test_deletes_nothing_without_a_yes(self, cloud, answer):
        done = cloud.run("teardown.sh", "pod", stdin=answer)
        assert (done.returncode, cloud.calls()) == (1, [])
        assert "not deleted" in done.stderr

    def test_does_not_ask_with_yes(self, cloud):
        done = cloud.run("teardown.sh", "pod", "--yes")
        assert (done.returncode, done.stderr, cloud.calls()) == (0, "", [DELETE])


def test_the_record_tells_arguments_apart(cloud):
    """The stand-in itself: a blank within an argument is not one between two."""
    cloud.run("logs.sh", "pod", "--project", "a b")
    assert json.loads(cloud.record.read_text())[-1] == "--project=a b"
