#!/usr/bin/env bash
# What building needs, from Debian's packages: installs what is missing, and only that. ./quickstart
# and ./test call it.
# usage: tools/setup.sh [--no-install]     with it, says what is missing and exits 1
set -euo pipefail

packages=(g++ cmake ninja-build pkg-config python3 libfmt-dev libhwy-dev nlohmann-json3-dev
  libpcre2-dev libutf8proc-dev zlib1g-dev libtomlplusplus-dev libgtest-dev)
cmake_needed=3.25

fail() {
  echo "setup: $*" >&2
  exit 1
}

install=yes
case "${1-}" in
  "") ;;
  --no-install) install=no ;;
  *) fail "unknown argument $1, expected --no-install or nothing" ;;
esac

if command -v dpkg-query >/dev/null; then
  # It complains of packages that it has never heard of: those are missing too.
  states="\${db:Status-Status} \${Package}\\n"
  installed=$(dpkg-query -W -f "$states" "${packages[@]}" 2>/dev/null) || true
  missing=()
  for package in "${packages[@]}"; do
    grep -qxF "installed $package" <<<"$installed" || missing+=("$package")
  done
  if ((${#missing[@]})); then
    [[ $install == yes ]] || fail "missing packages: ${missing[*]}"
    as_root=()
    if ((EUID)); then
      command -v sudo >/dev/null ||
        fail "neither root nor sudo; have installed: ${missing[*]}"
      as_root=(sudo)
    fi
    echo "setup: installing ${missing[*]}"
    apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
      apt-get -q -o DPkg::Lock::Timeout=300)
    "${apt_get[@]}" update || fail "apt-get update failed"
    "${apt_get[@]}" install --yes --no-install-recommends "${missing[@]}" ||
      fail "apt-get could not install ${missing[*]}"
  fi
else
  echo "setup: not a Debian system; needed are what Debian calls ${packages[*]}" >&2
fi

command -v cmake >/dev/null || fail "cmake is not on the path"
found=$(cmake --version | awk 'NR == 1 { print $3 }')
if [[ $(printf '%s\n' "$cmake_needed" "$found" | sort -V | head -n 1) != "$cmake_needed" ]]; then
  fail "cmake $found is too old, expected $cmake_needed or newer"
fi
