"""Mounting a bucket on a worker, and the exit codes that systemd reports. No command is really run."""

import pytest

EVERYTHING = ("mkdir", "touch", "mv", "rm", "chown")


@pytest.fixture
def worker(cloud):
    cloud.add(*EVERYTHING)
    return cloud


def install(worker, *answers):
    return worker.run("worker.sh", "install", "--bucket", "bucket", answers=list(answers))


NOT_MOUNTED = [["mountpoint"], [["", 1]]]
DAEMON = ["systemd-run", "--quiet", "--collect", "--service-type=forking", "--unit=roformer-bucket"]


def test_a_bucket_is_mounted_without_caches_by_a_service(worker):
    done = install(worker, NOT_MOUNTED)
    (mount,) = worker.calls("systemd-run")
    assert done.returncode == 0, done.stderr
    assert mount[:5] == DAEMON
    assert mount[7:] == [
        "gcsfuse", "--implicit-dirs", "--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0",
        "--rename-dir-limit=0", "bucket", "/mnt/bucket",
    ]  # fmt: skip
    assert not worker.calls("apt-get")


def test_a_bucket_that_is_mounted_is_left_alone(worker):
    assert install(worker).returncode == 0
    assert not worker.calls("systemd-run")


def test_gcsfuse_is_installed_where_it_is_missing(worker):
    (worker.bin / "gcsfuse").unlink()
    install(worker, NOT_MOUNTED)
    assert [call[-1] for call in worker.calls("apt-get")] == ["DPkg::Lock::Timeout=300", "gcsfuse"]


def test_a_bucket_that_cannot_be_mounted_is_an_error(worker):
    done = install(worker, NOT_MOUNTED, [["systemd-run"], [["", 1]]])
    assert done.returncode == 1
    assert "the bucket bucket cannot be mounted" in done.stderr


def test_a_bucket_whose_folders_cannot_be_renamed_is_refused(worker):
    done = install(worker, [["mv", ".probe"], [["", 1]]])
    assert done.returncode == 2
    assert "--enable-hierarchical-namespace" in done.stderr


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [("exited", "75", 75), ("killed", "KILL", 137), ("dumped", "ABRT", 134), ("killed", "TERM", 143)],
)
def test_the_end_of_training_is_kept_as_a_shell_would_say_it(cloud, how, status, code):
    (cloud.worker / "roformer_run").mkdir()
    assert cloud.run("worker.sh", "ended", EXIT_CODE=how, EXIT_STATUS=status).returncode == 0
    assert cloud.run("worker.sh", "status").stdout.endswith(f": exit {code}\n")


@pytest.mark.parametrize("state", ["active", "activating", "deactivating"])
def test_a_run_that_is_not_over_is_running(cloud, state):
    done = cloud.run("worker.sh", "status", answers=[[["systemctl"], [[f"{state}\n", 0]]]])
    assert done.stdout.endswith(": running\n")


def test_a_worker_without_a_run_has_none(cloud):
    assert cloud.run("worker.sh", "status").stdout.endswith(": none\n")
