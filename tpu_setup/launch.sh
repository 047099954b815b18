#!/usr/bin/env bash
# Start `python train.py CONFIG ...` on all workers of a slice at once, each under systemd: it outlives this session.
#
#   launch.sh NAME [--zone ZONE] -- CONFIG --run-dir /mnt/BUCKET/RUN [--field.name value ...]
#
#   --zone ZONE         of the slice
#   --project PROJECT   the gcloud configuration's where not given
#   --dry-run           print the commands and run none
#
# Every worker gets the same command with --distributed added: all of them must start, or those that did wait for the
# others. The same command continues a run from its newest checkpoint, so its --run-dir must lie on a bucket or disk
# that is mounted under /mnt; another is refused here, one that is not mounted by the worker.
# Exit codes: 0 started on all workers; 2 wrong arguments; another: of gcloud or of the worker that failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

declare -A option=(
  [zone]=us-west4-a
  [project]=""
  [dry-run]=no
)

parse "$@"
check_name
check_training
on_workers all roformer_jax/tpu_setup/worker.sh start -- "${training[@]}" --distributed
