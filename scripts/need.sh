#!/usr/bin/env bash
# Installs Debian packages that a test needs, unless their programs are here.
#   scripts/need.sh 'PROGRAM ...' PACKAGE...
set -euo pipefail
for program in $1; do
  command -v "$program" >/dev/null || missing+=("$program")
done
[ -n "${missing[*]-}" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "${missing[*]}: not found. As root on Debian this installs it by itself; else: apt-get install ${*:2}" >&2
  exit 2
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -qq -y --no-install-recommends "${@:2}"; } >"$log" 2>&1 ||
  { tail -n 20 "$log" >&2; echo "apt-get could not install ${*:2}" >&2; exit 2; }
