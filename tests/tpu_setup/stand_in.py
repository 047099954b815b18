"""Stands in for a command of the cloud or of a worker: records how it was called, and plays a scripted answer.

Linked under the names of the commands. RECORD is the file that gets a JSON list per call; ANSWERS holds rules
`[words, [[stdout, exit code], ...]]`: the first rule whose words all occur in a call plays its answers in turn, the
last one again and again. Without a rule a call succeeds, and a few do what the command would do; WORKER is the home
folder of the machine that gcloud reaches.
"""

import json
import os
import sys


def scripted(calls, call):
    for words, answers in json.loads(os.environ["ANSWERS"]):
        if all(word in " ".join(call) for word in words):
            times = sum(all(word in " ".join(old) for word in words) for old in calls)
            return answers[min(times, len(answers) - 1)]
    return None


def wait_for(command, **environment):
    """The exit code of a command. No subprocess: importing it would take longer than all the rest."""
    return os.spawnvpe(os.P_WAIT, command[0], command, os.environ | environment)


def on_worker(command, folder=None, **environment):
    os.chdir(folder or os.environ["WORKER"])
    return wait_for(command, HOME=os.environ["WORKER"], **environment)


def option(call, name):
    return next((word.removeprefix(f"{name}=") for word in call if word.startswith(f"{name}=")), None)


def systemd_run(call):
    """Runs a service to its end, and then what it wants to be run."""
    code = on_worker(call[-2:], option(call, "--working-directory"))
    return on_worker(option(call, "--property=ExecStopPost").split(), EXIT_CODE="exited", EXIT_STATUS=str(code))


def act(call):
    """What a command without a scripted answer does; its exit code."""
    match call:
        case ["gcloud", "compute", "tpus", "tpu-vm", "ssh", *_] if "WORKER" in os.environ:
            return on_worker(["bash", "-c", option(call, "--command")])
        case ["gcloud", "compute", "tpus", "tpu-vm", "scp", file, *_] if "WORKER" in os.environ:
            return wait_for(["cp", file, os.environ["WORKER"]])
        case ["sudo", *command]:
            return wait_for(command)
        case ["systemd-run", *_] if "WORKER" in os.environ:
            return systemd_run(call)
        case ["uv", "venv", *_, folder]:
            os.makedirs(f"{folder}/bin")
            os.symlink(os.path.realpath(sys.argv[0]), f"{folder}/bin/python")
        case ["systemctl", "show", *_]:
            print("inactive")
        case ["stat", *_]:
            print("/mnt/bucket")
        case ["srun", *_]:
            return wait_for(call[call.index("bash") :], SLURM_PROCID="1", SLURM_NTASKS="2")
    return 0


def main():
    call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    with open(os.environ["RECORD"], "a+") as record:
        record.seek(0)
        calls = [json.loads(line) for line in record]
        record.write(json.dumps(call) + "\n")
    answer = scripted(calls, call)
    if answer is None:
        return act(call)
    print(answer[0], end="")
    return answer[1]


if __name__ == "__main__":
    sys.exit(main())
