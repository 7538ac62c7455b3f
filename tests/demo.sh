#!/usr/bin/env bash
# The main job in one go: a private registry with a base image, a private rbuildd, a multi-stage Dockerfile,
# an OCI image, and what the image prints. Everything lives in .demo/ and nothing is left running.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${RBUILD_BIN:-$PWD/${CARGO_TARGET_DIR:-target}/debug}
if [ "$(id -u)" != 0 ]; then exec sudo RBUILD_BIN="$bin" "$0"; fi

demo=$PWD/.demo
rm -rf "$demo"
mkdir -p "$demo"/{context,base/bin,base/etc,base/tmp,layout/blobs/sha256}
registry= daemon=
stop() {
  [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
  [ -z "$registry" ] || kill "$registry" 2>/dev/null || true
  wait 2>/dev/null || true
}
trap stop EXIT

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "a registry on loopback with a busybox base image"
port=$((20000 + RANDOM % 20000))
cat > "$demo/registry.yml" <<EOF
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $demo/registry}}
http: {addr: 127.0.0.1:$port}
EOF
docker-registry serve "$demo/registry.yml" >"$demo/registry.log" 2>&1 &
registry=$!
cp /bin/busybox "$demo/base/bin/"
for applet in $(/bin/busybox --list | grep -vx busybox); do ln -sf busybox "$demo/base/bin/$applet"; done
echo 'root:x:0:0:root:/root:/bin/sh' > "$demo/base/etc/passwd"
echo 'root:x:0:' > "$demo/base/etc/group"
blob() { # file → moves it among the blobs, prints "digest size"
  local sum size
  sum=$(sha256sum "$1" | cut -d' ' -f1); size=$(stat -c %s "$1")
  mv "$1" "$demo/layout/blobs/sha256/$sum"; echo "sha256:$sum $size"
}
tar --numeric-owner --owner=0 --group=0 -cf "$demo/layer" -C "$demo/base" .
diff=sha256:$(sha256sum "$demo/layer" | cut -d' ' -f1)
read -r layer layer_size < <(blob "$demo/layer")
arch=$(dpkg --print-architecture)
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["%s"]}}' "$arch" "$diff" > "$demo/config"
read -r config config_size < <(blob "$demo/config")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%s}]}' \
  "$config" "$config_size" "$layer" "$layer_size" > "$demo/manifest"
read -r manifest manifest_size < <(blob "$demo/manifest")
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%s}]}' "$manifest" "$manifest_size" > "$demo/layout/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' > "$demo/layout/oci-layout"
for _ in $(seq 100); do (: </dev/tcp/127.0.0.1/$port) 2>/dev/null && break; sleep 0.05; done
skopeo copy -q --dest-tls-verify=false "oci:$demo/layout" "docker://127.0.0.1:$port/library/busybox:latest"

say "a private rbuildd"
printf '[registry."docker.io"]\nmirrors = ["127.0.0.1:%s"]\n' "$port" > "$demo/rbuildd.toml"
"$bin/rbuildd" --root "$demo/state" --addr "unix://$demo/rbuildd.sock" --config "$demo/rbuildd.toml" >"$demo/rbuildd.log" 2>&1 &
daemon=$!
for _ in $(seq 200); do [ -S "$demo/rbuildd.sock" ] && break; sleep 0.02; done

cat > "$demo/context/Dockerfile" <<'EOF'
# syntax=docker/dockerfile:1
FROM busybox AS build
WORKDIR /src
COPY greeting .
RUN echo "compiling…" && mkdir -p /out/bin && cp /bin/busybox /out/bin/busybox && ln -s busybox /out/bin/cat && tr a-z A-Z < greeting > /out/greeting

FROM busybox AS check
COPY --from=build /out/greeting /greeting
RUN --mount=type=cache,target=/cache date >> /cache/runs && grep -q HELLO /greeting && touch /ok

FROM scratch
COPY --from=build /out /
COPY --from=check /ok /checked
ENTRYPOINT ["/bin/cat", "/greeting"]
EOF
echo "hello from a multi-stage build" > "$demo/context/greeting"

say "rbuildctl build"
ctl() { "$bin/rbuildctl" --addr "unix://$demo/rbuildd.sock" "$@"; }
ctl build --progress=plain -t demo:latest -o "type=oci,dest=$demo/image.tar" -o type=image "$demo/context"

say "the same again: everything is cached"
ctl build --progress=plain -t demo:latest "$demo/context"

say "the image, as skopeo sees it"
skopeo inspect "oci-archive:$demo/image.tar"
ctl images

say "the image's output"
skopeo copy -q "oci-archive:$demo/image.tar" "oci:$demo/unpacked:demo"
umoci unpack --image "$demo/unpacked:demo" "$demo/bundle" >/dev/null 2>&1
chroot "$demo/bundle/rootfs" /bin/cat /greeting
