#!/usr/bin/env bash
# Copy this repository at a commit to all workers of a slice, install it there, and mount a bucket at /mnt/BUCKET.
#
#   install.sh NAME [--commit HEAD] [--bucket BUCKET] [--zone ZONE]
#
#   --commit COMMIT     what to copy; changes that are not committed are not copied
#   --bucket BUCKET     without gs://; runs and data lie there as folders and outlive the slice. It needs a
#                       hierarchical namespace, because a checkpoint is finished by renaming its folder
#   --zone ZONE         of the slice
#   --project PROJECT   the gcloud configuration's where not given
#   --dry-run           print the commands and run none
#
# What was installed before is replaced; logs stay. Refused while a run is active on a worker.
# Exit codes: 0 installed on all workers; 2 wrong arguments; another: of gcloud or of the worker that failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

declare -A option=(
  [commit]=HEAD
  [bucket]=""
  [zone]=us-west4-a
  [project]=""
  [dry-run]=no
)

parse "$@"
check_name
check_no_training
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
commit=$(git -C "$root" rev-parse --verify --quiet --end-of-options "${option[commit]}^{commit}") ||
  bad_input "there is no commit ${option[commit]@Q} in $root"
git -C "$root" cat-file -e "$commit:tpu_setup/worker.sh" 2>/dev/null ||
  bad_input "commit $commit has no tpu_setup/worker.sh, which runs on the workers; choose a later one"
[[ -z ${option[bucket]} || ${option[bucket]} =~ ^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$ ]] ||
  bad_input "--bucket ${option[bucket]@Q} is no bucket name (give it without gs://)"

say "installing commit $commit; changes that are not committed stay here"
copy=roformer_jax-$commit
run mkdir -p "$root/build"
run git -C "$root" archive --format=tar.gz "--prefix=$copy/" "--output=$root/build/$copy.tar.gz" "$commit"
gcloud_tpus tpu-vm scp "$root/build/$copy.tar.gz" "${arguments[0]}:" --worker=all
run rm "$root/build/$copy.tar.gz"
on_workers all tar -xzf "$copy.tar.gz"
on_workers all "$copy/tpu_setup/worker.sh" install ${option[bucket]:+"--bucket=${option[bucket]}"}
