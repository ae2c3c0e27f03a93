#!/bin/sh
# Docker for the tests of the sandbox: installed where it is missing (Debian, as root), started where no daemon answers,
# and the sandbox's image made of PYTHON's own files where it is not there.
# Usage: docker.sh start FOLDER PYTHON; docker.sh stop FOLDER. Whatever was started lives in FOLDER and ends with stop.
set -eu
folder=$2
case $1 in
stop)
  [ -f "$folder/pid" ] || exit 0
  kill "$(cat "$folder/pid")"
  timeout 30 sh -c 'while [ -f "$1" ]; do sleep 0.1; done' wait "$folder/pid" # which it removes as it ends
  ! mountpoint -q "$folder/data" || umount "$folder/data"
  rm -rf "$folder"
  exit 0
  ;;
start) python=$3 ;;
esac

answers() { "$python" -c 'import docker; docker.from_env(timeout=10).close()' 2>"$folder/error"; }

mkdir -p "$folder"
if ! answers; then
  if ! command -v dockerd >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # no service is to be started
    apt-get update -qq
    apt-get install -qq --no-install-recommends docker.io cgroupfs-mount >"$folder/install.log" 2>&1 ||
      { cat "$folder/install.log"; exit 1; }
  fi
  mountpoint -q /sys/fs/cgroup || cgroupfs-mount
  # containers of the sandbox have no network, so none is set up
  dockerd --host "${DOCKER_HOST:-unix:///var/run/docker.sock}" --data-root "$folder/data" --exec-root "$folder/exec" \
    --pidfile "$folder/pid" --bridge none --iptables=false --ip-forward=false >"$folder/dockerd.log" 2>&1 &
  tries=0
  until answers; do
    tries=$((tries + 1))
    if [ $tries -gt 60 ]; then
      tail -n 20 "$folder/error" "$folder/dockerd.log"
      exit 1
    fi
    sleep 0.5
  done
fi
"$python" "$(dirname "$0")/docker_image.py"
