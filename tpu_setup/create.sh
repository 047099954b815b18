#!/usr/bin/env bash
# Ask for a Cloud TPU slice as a queued resource and wait until it is there. Billing begins when it is ACTIVE.
#
#   create.sh NAME [--type v5litepod-16] [--zone ZONE] [--capacity spot|reserved|on-demand]
#
#   --type TYPE         accelerator type: v4-*, v5litepod-* (v5e), v5p-*, v6e-*; v4 and v5p count two cores a chip
#   --zone ZONE         where; `gcloud compute tpus accelerator-types list --zone=ZONE` says what it has
#   --project PROJECT   the gcloud configuration's where not given
#   --capacity KIND     spot (cheap, may be taken back with 30 s notice), reserved (your reservation) or on-demand
#   --runtime VERSION   software of the machines; auto takes the one for the type
#   --every SECONDS     how long to wait between two looks at the queue
#   --dry-run           print the commands and run none
#
# Exit codes: 0 the slice is ACTIVE; 1 it failed; 2 wrong arguments.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

declare -A option=(
  [type]=v5litepod-16
  [zone]=us-west4-a
  [project]=""
  [capacity]=spot
  [runtime]=auto
  [every]=30
  [dry-run]=no
)

runtime_for() { # TYPE: the runtime that Google's page of TPU software versions gives for JAX
  case $1 in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) bad_input "--type $1 is none of v4-*, v5litepod-*, v5p-*, v6e-*; give its --runtime" ;;
  esac
}

wait_until_active() {
  local state
  while true; do
    state=$(slice_state)
    case $state in
      ACTIVE) return ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING)
        say "$name: $state; Ctrl-C ends the waiting, teardown.sh the request"
        sleep "${option[every]}"
        ;;
      *) fail 1 "$name is $state instead of ACTIVE; \`gcloud compute tpus queued-resources describe $name \
--zone=${option[zone]}\` says why, teardown.sh removes the request" ;;
    esac
  done
}

parse "$@"
check_name
check_no_training
check_number every
name=${arguments[0]}
case ${option[capacity]} in
  spot) capacity=(--spot) ;;
  reserved) capacity=(--reserved) ;;
  on-demand) capacity=() ;;
  *) bad_input "--capacity ${option[capacity]@Q} is none of spot, reserved, on-demand" ;;
esac
[[ ${option[runtime]} != auto ]] || option[runtime]=$(runtime_for "${option[type]}")

gcloud_tpus queued-resources create "$name" "--node-id=$name" "--accelerator-type=${option[type]}" \
  "--runtime-version=${option[runtime]}" "${capacity[@]}"
wait_until_active
[[ ${option[dry-run]} == yes ]] || say "$name is ACTIVE and costs money until teardown.sh $name --zone ${option[zone]}"
