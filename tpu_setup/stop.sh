#!/usr/bin/env bash
# Stop the run on all workers: each saves its state after the current step and exits with code 75.
#
#   stop.sh NAME [--zone ZONE]
#
#   --zone ZONE         of the slice
#   --project PROJECT   the gcloud configuration's where not given
#   --dry-run           print the commands and run none
#
# launch.sh with the same command continues the run. The slice stays and costs money: teardown.sh ends that.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

declare -A option=(
  [zone]=us-west4-a
  [project]=""
  [dry-run]=no
)

parse "$@"
check_name
check_no_training
on_workers all roformer_jax/tpu_setup/worker.sh stop
