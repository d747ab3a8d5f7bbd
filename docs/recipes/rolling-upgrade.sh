#!/bin/sh
# Restart the workers of a fleet behind a pause, and let it run again little by little.
#
#   docs/recipes/rolling-upgrade.sh "REASON" COMMAND [ARGUMENT…]
#
# COMMAND restarts the workers, however that is done here (systemctl, kubectl, ansible), and returns when it has.
# Needs SLUICEGATE_URL and SLUICEGATE_TOKEN, as `sluicegate` does. May be set in the environment:
#   MODE=quiesce      drain: running tasks finish; quiesce: they also stop at their next checkpoint
#   SCOPE=global      host:NAME, queue:NAME, label:KEY=VALUE: a part of the fleet
#   WAIT=30m          how long running tasks may take to come to an end
#   BACK_WITHIN=300   how many seconds the workers may take to come back
#   RAMP=10%/s        how fast it is reopened
# Exit codes: those of `sluicegate` where a verb failed, that of COMMAND where it failed. The pause then stands, and the
# last line says so.
set -eu

if [ $# -lt 2 ]; then
  sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
reason=$1
shift
mode=${MODE:-quiesce} scope=${SCOPE:-global}

stands() {
  code=$1
  echo "rolling-upgrade: $2. The pause stands: sluicegate resume --scope $scope --reason …" >&2
  exit "$code"
}

# Those of the scope that beat; one that is unknown or gone is not waited for afterwards.
count_alive() {
  sluicegate pause --scope "$scope" --dry-run --json | grep -oE '"state": ?"(running|pausing|paused)"' | wc -l
}

before=$(count_alive)
sluicegate pause --mode "$mode" --scope "$scope" --reason "$reason" --wait --timeout "${WAIT:-30m}" ||
  stands $? "work is left"

echo "restarting: $*"
"$@" || stands $? "the restart failed"

tries=0
while [ "$(count_alive)" -lt "$before" ]; do
  tries=$((tries + 1))
  [ "$tries" -le "${BACK_WITHIN:-300}" ] || stands 4 "only $(count_alive) of $before workers are back"
  sleep 1
done
# The same order again changes nothing; its wait ends when every worker that is back has it in force.
sluicegate pause --mode "$mode" --scope "$scope" --reason "$reason" --wait --timeout 5m || stands $? "not all have it in force"

sluicegate resume --scope "$scope" --reason "$reason" --ramp "${RAMP:-10%/s}" || stands $? "it was not resumed"
