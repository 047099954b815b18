"""GKE, SkyPilot and Slurm: the fields that matter, and the sbatch script with a stand-in for srun."""

import shlex
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "tpu_setup"
TRAINING = ["configs/pretrain_base.py", "--run-dir", "/shared/it's a run"]
JOB = {"SLURM_JOB_NODELIST": "node[3-4]", "SLURM_JOB_ID": "17"}


@pytest.fixture
def jobset():
    return yaml.safe_load((FOLDER / "gke" / "jobset.yaml").read_text())


@pytest.fixture
def job(jobset):
    (group,) = jobset["spec"]["replicatedJobs"]
    return group["template"]["spec"]


@pytest.fixture
def pod(job):
    return job["template"]["spec"]


@pytest.fixture
def task():
    return yaml.safe_load((FOLDER / "skypilot.yaml").read_text())


class TestSlurm:
    def run(self, cloud, *codes, options=()):
        answers = [[["scontrol", "hostnames"], [["node3\nnode4\n", 0]]], [["srun"], [["", code] for code in codes]]]
        job = JOB | {"SLURM_SUBMIT_DIR": str(cloud.root)}
        return cloud.run("slurm.sbatch", *options, "--", *TRAINING, answers=answers if codes else answers[:1], **job)

    def test_every_task_gets_the_first_host_the_count_and_its_own_number(self, cloud):
        cloud.add("python")
        done = self.run(cloud, options=["--python", "python", "--port=999"])
        (task,) = cloud.calls("python")
        assert done.returncode == 0, done.stderr
        assert cloud.calls("scontrol") == [["scontrol", "show", "hostnames", "node[3-4]"]]
        assert task == [
            "python", "-u", "train.py", *TRAINING,
            "--coordinator", "node3:999", "--processes", "2", "--process-id", "1",
        ]  # fmt: skip

    def test_no_task_is_killed_because_another_has_ended_first(self, cloud):
        self.run(cloud, 0)
        assert cloud.calls("srun")[0][1:3] == ["--kill-on-bad-exit=0", "--wait=600"]

    def test_a_run_that_saved_itself_is_requeued(self, cloud):
        assert self.run(cloud, 75).returncode == 75
        assert [call[0] for call in cloud.calls()] == ["scontrol", "srun", "scontrol"]
        assert cloud.calls()[-1] == ["scontrol", "requeue", "17"]

    @pytest.mark.parametrize("code", [0, 2, 3, 4])
    def test_a_run_that_is_over_is_not_retried(self, cloud, code):
        assert self.run(cloud, code).returncode == code
        assert len(cloud.calls("srun")) == 1
        assert len(cloud.calls("scontrol")) == 1

    def test_a_crash_is_retried_on_the_same_nodes(self, cloud):
        assert self.run(cloud, 134, 0).returncode == 0
        assert len(cloud.calls("srun")) == 2

    def test_crashes_are_bounded(self, cloud):
        done = self.run(cloud, 134, options=["--crashes", "2"])
        assert (done.returncode, len(cloud.calls("srun"))) == (134, 2)
        assert "crashed with code 134 (2 of 2)" in done.stderr

    def test_it_is_submitted_from_the_repository(self, cloud, tmp_path):
        done = cloud.run("slurm.sbatch", "--", *TRAINING, SLURM_SUBMIT_DIR=str(tmp_path))
        assert (done.returncode, cloud.calls()) == (2, [])
        assert "submit from the root of the repository" in done.stderr

    def test_slurm_signals_before_the_time_is_up_and_may_requeue(self):
        text = (FOLDER / "slurm.sbatch").read_text()
        directives = dict(
            line.split()[1].partition("=")[::2] for line in text.splitlines() if line.startswith("#SBATCH")
        )
        assert directives["--signal"] == "TERM@180"
        assert {"--requeue", "--ntasks-per-node", "--gpus-per-node", "--nodes", "--time"} < set(directives)
        assert text.index("#SBATCH") < text.index("\nset -euo pipefail")  # later ones are ignored


class TestXPK:
    def test_creates_one_workload(self, cloud):
        training = ["configs/x.py", "--run-dir", "/mnt/bucket/it's a run"]
        cloud.run("gke/xpk.sh", "run", "--cluster", "my cluster", "--image=i:1", "--project", "p", "--", *training)
        (call,) = cloud.calls()
        assert call[:-1] == [
            "xpk", "workload", "create", "--workload=run", "--cluster=my cluster", "--tpu-type=v5litepod-16",
            "--num-slices=1", "--docker-image=i:1", "--max-restarts=20", "--restart-on-exit-codes=1,75",
            "--termination-grace-period-seconds=25", "--zone=us-west4-a", "--project=p",
        ]  # fmt: skip
        command = call[-1].removeprefix("--command=")
        assert shlex.split(command) == ["python", "-u", "train.py", *training, "--distributed"]


class TestJobSet:
    def test_is_a_jobset(self, jobset):
        assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")

    def test_has_one_pod_for_every_host_of_the_topology(self, job, pod):
        chips = 1
        for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
            chips *= int(side)
        resources = pod["containers"][0]["resources"]
        assert job["parallelism"] == job["completions"] == chips // resources["limits"]["google.com/tpu"]
        assert resources["limits"] == resources["requests"]
        assert job["completionMode"] == "Indexed"

    def test_retries_all_together_but_not_what_a_retry_would_not_mend(self, jobset, job, pod):
        (rule,) = job["podFailurePolicy"]["rules"]
        assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
        assert rule["action"] == "FailJob"
        assert rule["onExitCodes"] == {
            "containerName": pod["containers"][0]["name"],
            "operator": "In",
            "values": [2, 3, 4],
        }
        policy = jobset["spec"]["failurePolicy"]
        assert policy["maxRestarts"] > 0
        assert policy["rules"][0]["action"] == "FailJobSet"
        assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]

    def test_may_use_the_chips(self, pod):
        assert pod["containers"][0]["securityContext"]["privileged"] is True

    def test_the_run_lies_on_the_bucket(self, job, pod):
        (container,) = pod["containers"]
        (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
        command = container["command"]
        assert command[:3] == ["python", "-u", "train.py"] and "--distributed" in command
        assert command[command.index("--run-dir") + 1].startswith(mount["mountPath"] + "/")
        assert (volume["name"], volume["csi"]["driver"]) == (mount["name"], "gcsfuse.csi.storage.gke.io")
        assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
        assert set(volume["csi"]["volumeAttributes"]["mountOptions"].split(",")) == {
            "implicit-dirs",
            "metadata-cache:ttl-secs:0",
            "metadata-cache:negative-ttl-secs:0",
            "file-system:rename-dir-limit:0",
        }


class TestSkyPilot:
    def test_recovers_a_spot_slice(self, task):
        resources = task["resources"]
        chip = resources["accelerators"].split("-")[1]
        assert resources["use_spot"] is True
        assert resources["job_recovery"] == {"max_restarts_on_errors": 3, "recover_on_exit_codes": [75]}
        assert resources["accelerator_args"] == {"runtime_version": f"v2-alpha-tpu{chip}"}

    def test_the_run_lies_on_the_bucket(self, task):
        (folder,) = task["file_mounts"]
        assert task["file_mounts"][folder] == {"source": "gs://${BUCKET}", "mode": "MOUNT"}
        assert f"--run-dir {folder}/" in task["envs"]["ARGUMENTS"]
        assert task["envs"]["BUCKET"] is None  # SkyPilot refuses to start without it
        assert "train.py $CONFIG --distributed $ARGUMENTS" in task["run"]


def test_all_ways_install_the_same_packages():
    for file in ("worker.sh", "skypilot.yaml", "gke/Dockerfile"):
        text = (FOLDER / file).read_text()
        assert "--requirement" in text and "requirements.txt" in text, file
        assert "jax[tpu]" in text and "3.12" in text, file
    assert "UV=0.13.9" in (FOLDER / "worker.sh").read_text()
    assert "uv==0.13.9" in (FOLDER / "skypilot.yaml").read_text()
