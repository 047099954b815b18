#!/usr/bin/env bash
# Say how a slice and the run on each of its workers stand.
#
#   status.sh NAME [--zone ZONE]
#
#   --zone ZONE         of the slice
#   --project PROJECT   the gcloud configuration's where not given
#   --dry-run           print the commands and run none
#
# A worker is `running`, has ended with `exit CODE` (0 done, 2 bad input, 3 not finite, 4 damaged, 75 stopped by a signal
# with the state saved, another a crash), was `stopped` by stop.sh, or has `none`.
# Exit codes: 0 said; 1 the slice is not ACTIVE; 2 wrong arguments.
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
state=$(slice_state)
[[ ${option[dry-run]} == yes ]] || printf '%s: %s\n' "${arguments[0]}" "$state"
[[ $state == ACTIVE ]] || exit 1
on_workers all roformer_jax/tpu_setup/worker.sh status
