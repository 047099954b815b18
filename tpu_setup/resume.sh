#!/usr/bin/env bash
# Keep a run alive until it is done: create the slice, install, launch; after a preemption or a crash do it again.
#
#   resume.sh NAME [--type ...] [--bucket BUCKET] -- CONFIG --run-dir /mnt/BUCKET/RUN [--field.name value ...]
#
#   --type, --capacity, --runtime, --zone, --project   as for create.sh
#   --commit, --bucket                                 as for install.sh; the commit is fixed when this starts
#   --crashes COUNT     give up when the run has crashed that often on one slice
#   --unreachable COUNT give up when that many looks in a row did not reach all workers of an ACTIVE slice
#   --every SECONDS     how long to wait between two looks
#   --dry-run           print the commands of one round (lost, made again, launched, looked at) and run none
#
# A slice that is SUSPENDED or FAILED (spot: taken back) is deleted, created, installed and launched with the same
# command, which continues from the newest checkpoint. It runs where you start it, best in tmux on a machine that stays
# awake; Ctrl-C ends the watching, not the run. It never ends the billing: teardown.sh does.
# Exit codes: 0 the run is done; 1 given up; of train.py, which a retry would not mend: 2 bad input, 3 not finite, 4 every
# checkpoint damaged; 75 stopped by stop.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

declare -A option=(
  [type]=v5litepod-16
  [capacity]=spot
  [runtime]=auto
  [zone]=us-west4-a
  [project]=""
  [commit]=HEAD
  [bucket]=""
  [crashes]=3
  [unreachable]=10
  [every]=60
  [dry-run]=no
)
readonly NOT_FINITE=3 DAMAGED=4 SAVED=75
readonly NOT_INSTALLED=127 # what a shell says of a command that is not there; gcloud hands it on
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
crashes=0 unreachable=0 launched=no

step() { # SCRIPT [WORD ...]: one of the other scripts, on this slice
  local words=("$here/$1" "$name" "--zone=${option[zone]}" ${option[project]:+"--project=${option[project]}"})
  [[ ${option[dry-run]} == no ]] || words+=(--dry-run)
  say "$(date '+%F %T') $1"
  "${words[@]}" "${@:2}"
}

attempt() { # a step; bad input ends all, another failure is counted, and the next look says if the slice was lost
  local code=0
  step "$@" || code=$?
  ((code != BAD_INPUT)) || exit "$BAD_INPUT"
  ((code == 0)) || count_crash "$1 failed with code $code"
  return "$code"
}

create() {
  if attempt create.sh "--type=${option[type]}" "--capacity=${option[capacity]}" "--runtime=${option[runtime]}" \
    "--every=${option[every]}"; then
    crashes=0 unreachable=0 # what lost machines did as they went counts no more
    start
  fi
}

start() {
  launched=yes
  if attempt install.sh "--commit=$commit" ${option[bucket]:+"--bucket=${option[bucket]}"}; then
    attempt launch.sh -- "${training[@]}" || true
  fi
}

recreate() {
  if attempt teardown.sh --yes; then create; fi
}

count_crash() { # WHAT
  crashes=$((crashes + 1))
  say "$name: $1 ($crashes of ${option[crashes]})"
  ((crashes < option[crashes])) || fail 1 "given up after ${option[crashes]} crashes; logs.sh $name --worker all \
shows the logs; the slice still costs money: teardown.sh $name"
}

verdict() { # the lines of `worker.sh status` -> running, stopped, done, saved, crashed, none or refused CODE
  awk '/^worker / {count[$3]++; n++; if ($3 == "exit") {codes[$4]++; if ($4 >= 2 && $4 <= 4) refused = $4}}
    END {
      if (!n || count["none"] == n) print "none"
      else if (count["running"]) print "running"
      else if (count["stopped"]) print "stopped"
      else if (refused) print "refused", refused
      else if (codes[0] == n) print "done"
      else if (codes[0] + codes[75] == n) print "saved"
      else print "crashed"
    }'
}

lost_or_unreachable() { # not all workers of an ACTIVE slice have answered
  local node
  node=$(listed tpu-vm state) || node=UNKNOWN
  if [[ $node == PREEMPTED || $node == TERMINATED ]]; then
    recreate
    return
  fi
  unreachable=$((unreachable + 1))
  say "$name: ACTIVE, its machines $node, but not all workers answer ($unreachable of ${option[unreachable]})"
  ((unreachable < option[unreachable])) || fail 1 "given up: workers do not answer; the slice still costs money: \
teardown.sh $name"
}

look() { # at the workers of an ACTIVE slice, and do what they need
  local report found code=0
  report=$(on_workers all roformer_jax/tpu_setup/worker.sh status) || code=$?
  if ((code != 0 && code != NOT_INSTALLED)); then
    lost_or_unreachable
    return
  fi
  unreachable=0
  found=$(verdict <<<"$report")
  if [[ $found == running ]]; then
    launched=yes
  elif [[ $launched == no ]]; then # what ended before this script began is history
    start
  else
    case $found in
      done)
        say "$name: the run is done; the slice still costs money: teardown.sh $name"
        exit 0
        ;;
      stopped)
        say "$name: stopped by stop.sh"
        exit "$SAVED"
        ;;
      "refused $BAD_INPUT" | "refused $NOT_FINITE" | "refused $DAMAGED")
        fail "${found#refused }" "train.py ended with code ${found#refused }, a retry would not mend that; \
logs.sh $name says why"
        ;;
      saved) start ;;
      *)
        count_crash "the run crashed"
        start
        ;;
    esac
  fi
}

watch() {
  local state
  while true; do
    state=$(slice_state) || state=UNKNOWN # the network here may be down: look again
    case $state in
      ACTIVE) look ;;
      SUSPENDED | FAILED) recreate ;;
      NONE) create ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) ;;
      *) say "$name: $state" ;;
    esac
    sleep "${option[every]}"
  done
}

parse "$@"
check_name
check_training
for number in crashes unreachable every; do check_number "$number"; done
name=${arguments[0]}
commit=$(git -C "$here" rev-parse --verify --quiet --end-of-options "${option[commit]}^{commit}") ||
  bad_input "there is no commit ${option[commit]@Q} in $here"
if [[ ${option[dry-run]} == yes ]]; then
  slice_state >/dev/null
  recreate
  on_workers all roformer_jax/tpu_setup/worker.sh status
else
  watch
fi
