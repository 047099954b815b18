#!/usr/bin/env bash
# Delete a slice with its machines and their disks, or take its request out of the queue. Billing of it ends.
#
#   teardown.sh NAME [--yes] [--zone ZONE]
#
#   --yes               do not ask first
#   --zone ZONE         of the slice
#   --project PROJECT   the gcloud configuration's where not given
#   --dry-run           print the commands and run none
#
# Buckets stay, and cost what storage costs. A run that is active saves its state if 30 s are enough: better stop.sh
# first. Exit codes: 0 deleted; 1 not deleted; 2 wrong arguments.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

declare -A option=(
  [yes]=no
  [zone]=us-west4-a
  [project]=""
  [dry-run]=no
)

parse "$@"
check_name
check_no_training
if [[ ${option[yes]} == no && ${option[dry-run]} == no ]]; then
  printf 'Delete %s in %s, its machines and their disks? [y/N] ' "${arguments[0]}" "${option[zone]}" >&2
  answer=
  read -r answer || say "" # the end of the input is a no
  [[ $answer == [yY] || $answer == [yY][eE][sS] ]] || fail 1 "not deleted"
fi
gcloud_tpus queued-resources delete "${arguments[0]}" --force --quiet
