# shellcheck shell=bash
# What the scripts of this folder share: options, --help, --dry-run, quoting, errors, gcloud. Sourced, never run.
#
# A script gives `option` its defaults before it calls `parse`; a default of `no` makes a flag.

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || {
  echo "error: bash $BASH_VERSION is too old, 4.4 or newer is needed (macOS: brew install bash)" >&2
  exit 2
}

readonly BAD_INPUT=2 MOUNTS=/mnt
declare -A option
arguments=() training=() # of the command line: what stands before `--` and is no option; what stands after it
exec 3>&1                # where a dry run prints its commands, also those whose output a script reads

say() { printf '%s\n' "$1" >&2; }

fail() { # CODE MESSAGE
  say "error: $2"
  exit "$1"
}

bad_input() { fail "$BAD_INPUT" "$1; see ${0##*/} --help"; }

help() { # the comment at the head of the script, and its defaults
  awk 'NR > 1 && !/^#( |$)/ {exit} NR > 1 && !/^# shellcheck/ {sub(/^# ?/, ""); print}' "$0"
  printf '\nDefaults:\n'
  local name
  for name in "${!option[@]}"; do
    [[ ${option[$name]} == no ]] || printf '  --%s %s\n' "$name" "${option[$name]:-(none)}"
  done | sort
}

parse() { # the command line into option, arguments and training
  local name
  while (($#)); do
    case $1 in
      -h | --help)
        help
        exit 0
        ;;
      --)
        training=("${@:2}")
        return
        ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;&
      --*)
        name=${1#--}
        [[ $name =~ ^[a-z][a-z-]*$ && -v option[$name] ]] || bad_input "there is no option $1"
        if [[ ${option[$name]} == no ]]; then
          option[$name]=yes
          shift
        else
          [[ $# -ge 2 && -n $2 && $2 != --* ]] || bad_input "$1 needs a value"
          option[$name]=$2
          shift 2
        fi
        ;;
      -*) bad_input "there is no option $1" ;;
      *)
        arguments+=("$1")
        shift
        ;;
    esac
  done
}

check_name() { # the only argument, a name that clouds accept
  ((${#arguments[@]} == 1)) || bad_input "give one name, not ${#arguments[@]}: ${arguments[*]@Q}"
  [[ ${arguments[0]} =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    bad_input "the name ${arguments[0]@Q} must be at most 40 of a-z, 0-9 and -, and begin with a letter"
}

check_number() { # OPTION
  [[ ${option[$1]} =~ ^[0-9]+$ ]] || bad_input "--$1 ${option[$1]@Q} must be a whole number"
}

check_no_training() { ((${#training[@]} == 0)) || bad_input "nothing may follow --, there is ${training[*]@Q}"; }

run_dirs() { # the values of --run-dir, --base.run-dir, ... among the arguments, one a line
  local previous='' word
  for word; do
    [[ $previous =~ ^--([a-z_-]+\.)*run[-_]dir$ ]] && printf '%s\n' "$word"
    [[ $word =~ ^--([a-z_-]+\.)*run[-_]dir= ]] && printf '%s\n' "${word#*=}"
    previous=$word
  done
}

check_training() { # a config file, and a folder for the run that outlives the machines
  local folder folders
  [[ -n ${training[0]:-} && ${training[0]} != -* ]] ||
    bad_input "name what to train after --, e.g. -- configs/pretrain_base.py --run-dir $MOUNTS/BUCKET/RUN"
  folders=$(run_dirs "${training[@]}")
  [[ -n $folders ]] ||
    bad_input "add --run-dir $MOUNTS/BUCKET/RUN: the config's own folder would vanish with the machines"
  while IFS= read -r folder; do
    [[ $folder == "$MOUNTS"/?* && $folder != *..* ]] ||
      bad_input "--run-dir $folder would vanish with the machines: name a folder on a bucket or disk that is mounted \
under $MOUNTS (train.py writes to folders: for gs://BUCKET/RUN give $MOUNTS/BUCKET/RUN)"
  done <<<"$folders"
}

quote() { # the arguments as one line that a shell reads back as the same arguments
  local word words=()
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
    words+=("$word")
  done
  printf '%s\n' "${words[*]}"
}

run() { # a command; a dry run prints it instead
  if [[ ${option[dry-run]} == yes ]]; then
    quote "$@" >&3
  else
    "$@"
  fi
}

gcloud_tpus() { # GROUP VERB [WORD ...], in the zone and project of the options
  run gcloud compute tpus "$@" "--zone=${option[zone]}" ${option[project]:+"--project=${option[project]}"}
}

on_workers() { # WORKERS COMMAND [WORD ...]: the command on those workers of the slice at once
  gcloud_tpus tpu-vm ssh "${arguments[0]}" "--worker=$1" "--command=$(quote "${@:2}")"
}

listed() { # GROUP FIELD: what the list of that group says of the slice, or NONE; ACTIVE in a dry run
  local rows
  rows=$(gcloud_tpus "$1" list "--format=value(name.basename(),$2)") || return
  [[ ${option[dry-run]} == no ]] || rows="${arguments[0]} ACTIVE"
  awk -v name="${arguments[0]}" '$1 == name {state = $2} END {print state ? state : "NONE"}' <<<"$rows"
}

slice_state() { listed queued-resources state.state; }
