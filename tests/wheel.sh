#!/bin/sh
# The wheel in an empty folder that has a tasks package of its own: `harness.tasks` must still be ours.
# Usage: wheel.sh PYTHON (one that has `build`)
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" -m build --wheel --outdir "$folder/dist" "$root" >"$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }
"$1" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$root/constraints.txt" "$(echo "$folder"/dist/*.whl)[math]"
mkdir -p "$folder/elsewhere/tasks"
echo 'raise ImportError("the user'"'"'s own tasks package was imported")' >"$folder/elsewhere/tasks/__init__.py"
cd "$folder/elsewhere"
"$folder/venv/bin/harness" ls
for system in careful hasty; do
  "$folder/venv/bin/harness" eval --tasks first_steps --model first_steps --model_args "system=$system" --k 1,2,4 \
    --output_path "runs/$system"
done
"$folder/venv/bin/harness" report runs/careful runs/hasty
"$folder/venv/bin/harness" sweep demo --dry_run
"$folder/venv/bin/python" -c "import harness.tasks.gsm8k, harness.leaderboards.render; print('wheel: fine')"
