#!/usr/bin/env bash
# Builds images with docker or podman: images/build.sh [--any-base] cpu gpu mlflow
#
# Environment: REGISTRY (prefix of the names), TAG, BASE_IMAGE, ENGINE (docker or podman), and pip's PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_TRUSTED_HOST, which reach the build stage only. BUILD_NETWORK=host lets
# the build see servers on this machine's loopback.
#
# The references go to build/images.env (or to REFERENCES), one IMAGE_<NAME>=<reference> a line, as `make manifests`
# takes them.
#
# --any-base: where the base cannot be pulled, make one from Debian's packages (mmdebstrap, root). For tests only.
set -euo pipefail
cd "$(dirname "$0")/.."

say_usage() {
  echo "Usage: images/build.sh [--any-base] cpu|gpu|mlflow..." >&2
  exit 2
}

any_base=false
if [ "${1:-}" = --any-base ]; then any_base=true; shift; fi
[ $# -gt 0 ] || say_usage
for name in "$@"; do [ -f "images/$name/Dockerfile" ] || say_usage; done

engine=${ENGINE:-}
if [ -z "$engine" ]; then
  for candidate in docker podman; do
    if "$candidate" info >/dev/null 2>&1; then engine=$candidate; break; fi
  done
fi
if [ -z "$engine" ]; then
  echo "Neither docker nor podman answers. What to do: start one, or name it with ENGINE=" >&2
  exit 2
fi

commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
tag=${TAG:-git-${commit:0:12}}
if [ -z "${TAG:-}" ] && [ -n "$(git status --porcelain 2>/dev/null)" ]; then tag=$tag-dirty; fi

base=${BASE_IMAGE:-$(sed -n 's/^ARG BASE_IMAGE=//p' "images/$1/Dockerfile")}
if $any_base && ! "$engine" image inspect "$base" >/dev/null 2>&1 && ! "$engine" pull --quiet "$base" >/dev/null 2>&1; then
  base=searchr1-base:bookworm
  if ! "$engine" image inspect "$base" >/dev/null 2>&1; then
    echo "No registry is reachable: making a base from Debian's packages (a minute or two)"
    # It trusts the authorities this machine trusts, or an index behind an inspecting proxy would be refused.
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
      --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs' bookworm - \
      | "$engine" import - "$base" >/dev/null
  fi
fi

options=(--build-arg "BASE_IMAGE=$base" --build-arg "GIT_COMMIT=$commit")
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST; do
  # The value is taken from the environment, so it does not show in a list of processes.
  if [ -n "${!name:-}" ]; then options+=(--build-arg "$name"); fi
done
if [ -n "${BUILD_NETWORK:-}" ]; then options+=(--network "$BUILD_NETWORK"); fi

references=${REFERENCES:-build/images.env}
mkdir -p "$(dirname "$references")"
touch "$references"
for name in "$@"; do
  image=${REGISTRY:+$REGISTRY/}searchr1-$name:$tag
  echo "Building $image on $base"
  "$engine" build --file "images/$name/Dockerfile" --tag "$image" "${options[@]}" .
  variable=IMAGE_${name^^}
  sed -i "/^$variable=/d" "$references"
  echo "$variable=$image" >> "$references"
done
