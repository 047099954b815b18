#!/usr/bin/env bash
# Show the end of the training log of a worker, or of all.
#
#   logs.sh NAME [--worker 0] [--lines 20] [--follow] [--zone ZONE]
#
#   --worker WORKER     a number from 0, a range like 0-3, or all
#   --lines LINES       how many
#   --follow            stay and show what is added; Ctrl-C ends this, not the run
#   --zone ZONE         of the slice
#   --project PROJECT   the gcloud configuration's where not given
#   --dry-run           print the commands and run none
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

declare -A option=(
  [worker]=0
  [lines]=20
  [follow]=no
  [zone]=us-west4-a
  [project]=""
  [dry-run]=no
)

parse "$@"
check_name
check_no_training
check_number lines
[[ ${option[worker]} =~ ^(all|[0-9]+([,-][0-9]+)*)$ ]] ||
  bad_input "--worker ${option[worker]@Q} must be all, a number or a range"
follow=()
[[ ${option[follow]} == no ]] || follow=(--follow)
on_workers "${option[worker]}" roformer_jax/tpu_setup/worker.sh log "--lines=${option[lines]}" "${follow[@]}"
