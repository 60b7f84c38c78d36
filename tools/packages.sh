#!/usr/bin/env bash
# Installs what building graft needs, by package name (Debian and its relatives). Without root or sudo it names what is
# missing. Usage: packages.sh [--check] [EXTRA...]   --check: install nothing, exit 1 when something is missing.
set -euo pipefail
packages=(gcc cmake ninja-build pkg-config libpcre2-dev libutf8proc-dev libyaml-dev
  libcurl4-openssl-dev libedit-dev zlib1g-dev libcmocka-dev python3)
check=0
[ "${1:-}" = --check ] && { check=1; shift; }
packages+=("$@")
command -v dpkg-query >/dev/null || { echo "This system has no dpkg. graft needs the like of: ${packages[*]}" >&2; exit 1; }
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ $check -eq 1 ]; then echo "missing packages: ${missing[*]}" >&2; exit 1; fi
run=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then run=(sudo)
  else echo "missing packages: ${missing[*]}" >&2; echo "Install them, for example: sudo apt-get install ${missing[*]}" >&2; exit 1; fi
fi
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
"${run[@]}" apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
  { "${run[@]}" apt-get update -qq && "${run[@]}" apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null; }
