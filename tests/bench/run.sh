#!/usr/bin/env bash
# Measures rbuildd against a buildkitd in one run, as ratios. Both are driven by the same client (BUILDCTL), but for
# `transfer`: there each daemon has its own client.
#
#   BUILDKITD=… BUILDCTL=… tests/bench/run.sh [case…]      cases: start rss noop steps gather llb10k context transfer git
#                                                           cache-export cache-import export pull push
#
# Needs root, hyperfine and docker-registry; the base image is a static busybox made on the spot.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${BUILDKITD:?path of the buildkitd to compare with}" "${BUILDCTL:?path of its buildctl}"
BIN=${RBUILD_BIN:-$PWD/${CARGO_TARGET_DIR:-target}/release}
RUNS=${RUNS:-10}
cases=("${@:-start}")
[ $# -gt 0 ] || cases=(start rss noop steps gather context transfer git cache-export cache-import export pull push)

work=$(mktemp -d "${TMPDIR:-/tmp}/rbuild-bench.XXXXXX")
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT

port=$((20000 + RANDOM % 20000))
cat > "$work/registry.yml" <<EOF
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: 127.0.0.1:$port}
EOF
docker-registry serve "$work/registry.yml" >/dev/null 2>&1 & pids+=($!)
mkdir -p "$work/base/bin" "$work/base/etc"
cp /bin/busybox "$work/base/bin/"
for applet in $(/bin/busybox --list | grep -vx busybox); do ln -s busybox "$work/base/bin/$applet"; done
echo 'root:x:0:0:root:/root:/bin/sh' > "$work/base/etc/passwd"
umoci init --layout "$work/img"
umoci new --image "$work/img:b"
umoci unpack --image "$work/img:b" "$work/bundle" >/dev/null 2>&1
cp -a "$work/base/." "$work/bundle/rootfs/"
umoci repack --image "$work/img:b" "$work/bundle" >/dev/null 2>&1
umoci config --image "$work/img:b" --config.env PATH=/bin
until (: </dev/tcp/127.0.0.1/$port) 2>/dev/null; do sleep 0.05; done
skopeo copy -q --dest-tls-verify=false "oci:$work/img:b" "docker://127.0.0.1:$port/library/busybox:latest"
printf '[registry."docker.io"]\nmirrors = ["127.0.0.1:%s"]\n[registry."127.0.0.1:%s"]\nhttp = true\n' "$port" "$port" > "$work/conf.toml"

start_peer() {
  "$BUILDKITD" --root "$work/peer" --addr "unix://$work/peer.sock" --config "$work/conf.toml" --oci-worker-net host >"$work/peer.log" 2>&1 & pids+=($!)
  until "$BUILDCTL" --addr "unix://$work/peer.sock" debug workers >/dev/null 2>&1; do sleep 0.05; done
}
start_ours() {
  "$BIN/rbuildd" --root "$work/ours" --addr "unix://$work/ours.sock" --config "$work/conf.toml" >"$work/ours.log" 2>&1 & pids+=($!); ours_pid=$!
  until [ -S "$work/ours.sock" ]; do sleep 0.01; done
}
# name, prepare command with {sock} and {n}, command with {sock}
compare() {
  local name=$1 prepare=$2 command=$3 side times=()
  for side in peer ours; do
    hyperfine -N --warmup 1 --runs "$RUNS" --export-json "$work/$side.json" \
      --prepare "${prepare//\{sock\}/$work/$side.sock}" "${command//\{sock\}/$work/$side.sock}" >/dev/null
    times+=("$(python3 -c "import json;print(json.load(open('$work/$side.json'))['results'][0]['median'])")")
  done
  python3 -c "p,o=${times[0]},${times[1]};print(f'{\"$name\":<34} peer {p*1000:9.1f} ms   ours {o*1000:9.1f} ms   ratio {o/p:.2f}')"
}
build() { echo "$BUILDCTL --addr unix://{sock} build --progress=rawjson --frontend dockerfile.v0 --local context=$1 --local dockerfile=$1 $2"; }

start_peer
start_ours
for case in "${cases[@]}"; do
  case $case in
    start)
      python3 - "$BIN/rbuildd" "$work" <<'EOF'
import socket, statistics, subprocess, sys, time
binary, work = sys.argv[1:]
times = []
for i in range(20):
    path = f"{work}/start{i % 2}.sock"
    begin = time.perf_counter()
    child = subprocess.Popen([binary, "--root", f"{work}/start", "--addr", f"unix://{path}"], stderr=subprocess.DEVNULL)
    while True:
        try:
            s = socket.socket(socket.AF_UNIX); s.connect(path)
            # An HTTP/2 preface and an empty SETTINGS frame: the daemon answers with its own SETTINGS.
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
            if s.recv(9): break
        except OSError:
            time.sleep(0.0005)
    times.append(time.perf_counter() - begin)
    child.terminate(); child.wait()
print(f"start to first answer: median {statistics.median(times)*1000:.1f} ms, worst {max(times)*1000:.1f} ms")
EOF
      ;;
    rss) echo "idle RSS: $(awk '/VmRSS/{printf "%.1f MB", $2/1024}' /proc/$ours_pid/status)" ;;
    noop)
      mkdir -p "$work/noop"; echo x > "$work/noop/f"
      { echo "FROM busybox"; for i in $(seq 10); do echo "RUN echo $i > /r$i"; echo "COPY f /c$i"; done; } > "$work/noop/Dockerfile"
      compare "no-op rebuild of 20 steps" "true" "$(build "$work/noop" "")" ;;
    steps)
      mkdir -p "$work/steps"
      { echo "FROM busybox"; for i in $(seq 50); do echo "RUN true # $i"; done; } > "$work/steps/Dockerfile"
      compare "50 x RUN true" "true" "$(build "$work/steps" "--no-cache")" ;;
    llb10k)
      # The first build of it takes minutes on either side; hyperfine warms up with that one.
      python3 tests/bench/llb.py > "$work/llb10k.pb"
      RUNS=3 compare "10,001 cached vertices" "true" \
        "sh -c '$BUILDCTL --addr unix://{sock} build --progress=rawjson < $work/llb10k.pb'" ;;
    gather)
      mkdir -p "$work/gather"
      {
        for i in $(seq 64); do echo "FROM busybox AS s$i"; echo "RUN echo $i > /f$i"; done
        echo "FROM scratch"
        for i in $(seq 64); do echo "COPY --from=s$i /f$i /"; done
      } > "$work/gather/Dockerfile"
      compare "64 stages gathered" "true" "$(build "$work/gather" "--no-cache")" ;;
    context)
      mkdir -p "$work/context/files"
      python3 -c "
import os
for i in range(10000):
    d='$work/context/files/%02d'%(i%100); os.makedirs(d,exist_ok=True)
    open(f'{d}/{i}','wb').write(os.urandom(4096))"
      printf 'FROM scratch\nCOPY files /\n' > "$work/context/Dockerfile"
      # ext4 does not give out an inode again for five seconds and searches for others meanwhile: wait for that.
      compare "10,000 x 4 KiB sent cold" "sh -c '$BUILDCTL --addr unix://{sock} prune --all && sleep 6'" "$(build "$work/context" "")" ;;
    transfer | git)
      python3 "$PWD/tests/bench/transfer.py" "$case" "$work" "$BUILDCTL" "$BIN/rbuildctl" "${RUNS}" ;;
    cache-export | cache-import | export | pull | push)
      python3 "$PWD/tests/bench/layers.py" "$case" "$work" "$BUILDKITD" "$BUILDCTL" "$BIN/rbuildd" "127.0.0.1:$port" "$RUNS" ;;
    *) echo "unknown case $case" >&2; exit 2 ;;
  esac
done
