#!/usr/bin/env bash
# What the other scripts call on the workers of a slice: install this copy, start train.py and look after it.
#
#   worker.sh install [--bucket BUCKET]     Python, the packages, the bucket at /mnt/BUCKET; then ~/roformer_jax is this
#   worker.sh start -- CONFIG [--field ...]   train.py under systemd, which outlives the ssh session
#   worker.sh status                        one line: running, exit CODE, stopped (exit CODE), or none
#   worker.sh log [--lines 20] [--follow]   the end of the log, ~/roformer_run/train.log
#   worker.sh stop                          SIGTERM: train.py saves its state and exits with code 75
#   worker.sh ended                         systemd calls this when train.py has ended: keeps its exit code
#
#   --dry-run   print the commands and run none
#
# Exit codes: 0 done; 1 a run is active, or one of the commands failed; 2 wrong arguments, or the bucket will not do.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

declare -A option=(
  [bucket]=""
  [lines]=20
  [follow]=no
  [dry-run]=no
)
readonly UNIT=roformer
readonly SAVE_SECONDS=120 # what train.py gets to save its state, before systemd kills it
readonly UV=0.13.9 PYTHON=3.12 # the images' own Python 3.10 is too old
home=$HOME/roformer_jax
state=$HOME/roformer_run
host=$(uname -n)

is_active() {
  local word
  word=$(run systemctl show --property=ActiveState --value "$UNIT") || fail 1 "systemd does not answer on $host"
  [[ $word != inactive && $word != failed && ${option[dry-run]} == no ]]
}

refuse_if_active() {
  if is_active; then fail 1 "a run is active on $host; stop.sh stops it"; fi
}

install() {
  local here
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  refuse_if_active
  if [[ $here != "$home" ]]; then
    run rm -rf "$home"
    run mv "$here" "$home"
    run rm -f "$here.tar.gz"
  fi
  run python3 -m pip install --quiet --user "uv==$UV"
  run "$HOME/.local/bin/uv" venv --quiet --clear --python "$PYTHON" "$home/.venv"
  run "$HOME/.local/bin/uv" pip install --quiet --python "$home/.venv/bin/python" \
    --requirement "$home/requirements.txt" 'jax[tpu]'
  [[ -z ${option[bucket]} ]] || mount_bucket
  say "$host: installed"
}

# gcsfuse is a unit of its own and not a child of the ssh session: on a shutdown systemd then ends the run first.
# It caches no metadata, because a worker must see at once what another has written, and renames folders only where that
# is one operation, because gcsfuse would otherwise move a checkpoint file by file.
mount_bucket() {
  local bucket=${option[bucket]}
  local folder=$MOUNTS/$bucket
  if [[ ${option[dry-run]} == yes ]] || ! mountpoint --quiet "$folder"; then
    command -v gcsfuse >/dev/null || install_gcsfuse
    run sudo mkdir -p "$folder"
    run sudo chown "$(id -u):$(id -g)" "$folder"
    run sudo systemd-run --quiet --collect --service-type=forking "--unit=$UNIT-bucket" "--uid=$(id -u)" \
      "--gid=$(id -g)" gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
      --rename-dir-limit=0 "$bucket" "$folder" ||
      fail 1 "the bucket $bucket cannot be mounted on $host; \`journalctl --unit=$UNIT-bucket\` there says why"
  fi
  check_renames "$folder/.probe-$host"
}

check_renames() { # PROBE: a folder to make and rename
  run mkdir -p "$1"
  run touch "$1/file"
  run mv "$1" "$1-renamed" ||
    bad_input "folders of the bucket cannot be renamed: make it with --enable-hierarchical-namespace"
  run rm -r "$1-renamed"
}

install_gcsfuse() {
  local keys=/usr/share/keyrings/cloud.google.asc source=https://packages.cloud.google.com/apt codename
  codename=$(awk -F= '$1 == "VERSION_CODENAME" {print $2}' /etc/os-release)
  run sudo curl --fail --silent --show-error --output "$keys" "$source/doc/apt-key.gpg"
  run sudo bash -c 'echo "$1" >/etc/apt/sources.list.d/gcsfuse.list' write \
    "deb [signed-by=$keys] $source gcsfuse-$codename main"
  run sudo apt-get update --quiet --quiet --option DPkg::Lock::Timeout=300
  run sudo apt-get install --quiet --quiet --yes --option DPkg::Lock::Timeout=300 gcsfuse
}

check_mounted() { # every run folder lies on another file system than the machine's own
  local folder
  while IFS= read -r folder; do
    while [[ ! -e $folder ]]; do folder=$(dirname "$folder"); done
    [[ $(stat --format=%m "$folder") != / ]] ||
      bad_input "nothing is mounted at $folder on $host: install.sh --bucket mounts a bucket"
  done < <(run_dirs "${training[@]}")
}

write() { # TEXT FILE
  run bash -c 'printf "%s\n" "$1" >"$2"' write "$1" "$2"
}

# The command goes through a file, because systemd would expand the $ and % of its own arguments. TPU drivers lock more
# memory than systemd allows a service by itself.
start() {
  check_training
  refuse_if_active
  [[ ${option[dry-run]} == yes ]] || check_mounted
  run mkdir -p "$state"
  run rm -f "$state/exit" "$state/stopped"
  write "$(quote exec "$home/.venv/bin/python" -u train.py "${training[@]}")" "$state/command"
  run sudo systemd-run --quiet --collect "--unit=$UNIT" "--uid=$(id -u)" "--gid=$(id -g)" \
    "--working-directory=$home" "--property=After=$UNIT-bucket.service" "--property=KillMode=mixed" \
    "--property=TimeoutStopSec=$SAVE_SECONDS" "--property=ExecStopPost=$home/tpu_setup/worker.sh ended" \
    "--property=LimitMEMLOCK=infinity" "--property=LimitNOFILE=1048576" \
    "--property=StandardOutput=append:$state/train.log" "--property=StandardError=append:$state/train.log" \
    bash "$state/command"
  say "$host: started"
}

status() {
  local word=none
  [[ ! -e $state/exit ]] || word="exit $(<"$state/exit")"
  [[ ! -e $state/stopped ]] || word="stopped ($word)"
  if is_active; then word=running; fi
  [[ ${option[dry-run]} == yes ]] || printf 'worker %s: %s\n' "$host" "$word"
}

stop() {
  if ! is_active && [[ ${option[dry-run]} == no ]]; then
    say "$host: no run is active"
    return
  fi
  run touch "$state/stopped"
  run sudo systemctl stop "$UNIT"
  say "$host: stopped, exit $(cat "$state/exit" 2>/dev/null || echo unknown)"
}

ended() { # systemd says how in EXIT_CODE (exited, killed, dumped) and EXIT_STATUS (a number, or a signal's name)
  local code=${EXIT_STATUS:?is set by systemd}
  [[ $EXIT_CODE == exited ]] || code=$((128 + $(kill -l "$EXIT_STATUS")))
  write "$code" "$state/exit"
}

log() {
  local follow=()
  [[ ${option[follow]} == no ]] || follow=(--follow)
  say "==> $host"
  run tail "--lines=${option[lines]}" "${follow[@]}" "$state/train.log"
}

parse "$@"
((${#arguments[@]} == 1)) || bad_input "name one action, not ${arguments[*]@Q}"
[[ ${arguments[0]} == start ]] || check_no_training
check_number lines
case ${arguments[0]} in
  install | start | status | log | stop | ended) "${arguments[0]}" ;;
  *) bad_input "there is no action ${arguments[0]@Q}" ;;
esac
