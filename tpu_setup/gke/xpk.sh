#!/usr/bin/env bash
# Run on a TPU slice of a GKE cluster that XPK made, through `xpk workload create`; XPK restarts it.
#
#   gke/xpk.sh NAME --cluster CLUSTER --image IMAGE -- CONFIG --run-dir /mnt/BUCKET/RUN [--field.name value ...]
#
#   --cluster CLUSTER   made by `xpk cluster create`; with a bucket at /mnt/BUCKET: `xpk storage attach --type=gcsfuse
#                       --mount-point=/mnt/BUCKET --auto-mount=true --readonly=false ...`
#   --image IMAGE       built from gke/Dockerfile and pushed
#   --type TYPE         of the slice, as for create.sh
#   --restarts COUNT    crashes and preemptions together; codes 2 and 3 are never restarted
#   --zone ZONE         of the cluster
#   --project PROJECT   the gcloud configuration's where not given
#   --dry-run           print the command and run none
#
# `xpk workload list --cluster CLUSTER` shows it, `xpk workload delete --workload NAME --cluster CLUSTER` ends it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

declare -A option=(
  [cluster]=""
  [image]=""
  [type]=v5litepod-16
  [restarts]=20
  [zone]=us-west4-a
  [project]=""
  [dry-run]=no
)

parse "$@"
check_name
check_training
check_number restarts
for needed in cluster image; do
  [[ -n ${option[$needed]} ]] || bad_input "--$needed is missing"
done
run xpk workload create "--workload=${arguments[0]}" "--cluster=${option[cluster]}" "--tpu-type=${option[type]}" \
  --num-slices=1 "--docker-image=${option[image]}" "--max-restarts=${option[restarts]}" \
  --restart-on-exit-codes=1,75 --termination-grace-period-seconds=25 "--zone=${option[zone]}" \
  ${option[project]:+"--project=${option[project]}"} \
  "--command=$(quote python -u train.py "${training[@]}" --distributed)"
