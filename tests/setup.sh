#!/usr/bin/env bash
# Installs what building and testing need on Debian: packages only, nothing else. Does nothing if all is there.
set -euo pipefail

packages=(
  gcc libc6-dev make openssl ca-certificates
  busybox-static mmdebstrap docker-registry skopeo umoci podman runc git
  xz-utils bzip2 zstd attr util-linux iproute2 nftables qemu-user-static python3 openssh-client openssh-server
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if ! command -v cargo >/dev/null; then
  missing+=(rustup)
fi
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing: ${missing[*]}"
  sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  $sudo apt-get update -q
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends "${missing[@]}"
fi
if ! cargo --version >/dev/null 2>&1; then
  rustup default stable
fi
