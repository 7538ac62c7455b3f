#!/usr/bin/env python3
"""Layers: packed into caches and images, pulled and unpacked. Called by run.sh, which gives a registry and a configuration.

The tree is what Debian has below /usr, SIZE_MB of it (680), or TREE if that is set. Each round has a layer of its own
(the tree below another directory) or daemons with fresh roots; the sides take turns.
"""
import os, shutil, signal, statistics, subprocess, sys, time

case, work, peer_binary, buildctl, our_binary, registry, runs = sys.argv[1:]
runs = min(int(runs), 5)
SIDES = ("peer", "ours")
size_mb = int(os.environ.get("SIZE_MB", "680"))
tree = os.environ.get("TREE", f"{work}/context/tree")
contexts = os.path.dirname(tree)


def gather(share, roots):
    """Copies files from `roots`, in the order of their names, until they are `share` of the size."""
    left = int(size_mb * share * 1e6)
    for root in roots:
        for folder, dirs, names in os.walk(root):
            dirs.sort()
            target = tree + folder
            for name in sorted(names):
                path = f"{folder}/{name}"
                size = os.lstat(path).st_size
                if size > left or size > 32e6:
                    continue
                os.makedirs(target, exist_ok=True)
                shutil.copy2(path, f"{target}/{name}", follow_symlinks=False)
                left -= size
    return left


def make_tree():
    """Half programs and libraries, half scripts, headers and documents; and something static to run."""
    if "TREE" not in os.environ and not os.path.isdir(tree):
        text = ["python3.11", "python3", "perl", "git-core"]
        gather(0.5, ["/usr/lib/gcc", "/usr/lib/x86_64-linux-gnu", "/usr/bin"])
        gather(0.5, [f"/usr/lib/{name}" for name in text] + ["/usr/share/perl", "/usr/share/doc", "/usr/include", "/usr/share"])
    os.makedirs(f"{work}/empty", exist_ok=True)
    shutil.copy2("/bin/busybox", f"{tree}/busybox")
    count = sum(len(names) for _, _, names in os.walk(tree))
    total = sum(os.lstat(f"{folder}/{name}").st_size for folder, _, names in os.walk(tree) for name in names)
    print(f"  tree: {count} files, {total / 1e6:.0f} MB", flush=True)


def settle():
    os.sync()
    time.sleep(1)


def build(address, dockerfile, *args, context=None):
    """Seconds of one build of a Dockerfile given as text."""
    folder = f"{work}/dockerfile"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/Dockerfile", "w") as out:
        out.write(dockerfile)
    command = [buildctl, "--addr", address, "build", "--progress=rawjson", "--frontend", "dockerfile.v0"]
    command += ["--local", f"context={context or work + '/empty'}", "--local", f"dockerfile={folder}", *args]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return took


def prune(side):
    subprocess.run([buildctl, "--addr", f"unix://{work}/{side}.sock", "prune", "--all"], check=True, capture_output=True)


class Fresh:
    """A daemon with a root of its own, gone with it."""

    def __init__(self, side):
        self.root = f"{work}/fresh-{side}"
        self.address = f"unix://{work}/fresh-{side}.sock"
        binary = [peer_binary, "--oci-worker-net", "host"] if side == "peer" else [our_binary]
        self.log = open(f"{work}/fresh-{side}.log", "w")
        command = [*binary, "--root", self.root, "--addr", self.address, "--config", f"{work}/conf.toml"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        while subprocess.run([buildctl, "--addr", self.address, "debug", "workers"], capture_output=True).returncode:
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.root)


def show(name, times, note=""):
    peer, ours = (statistics.median(times[side]) for side in SIDES)
    print(f"{name:<34} peer {peer*1000:9.1f} ms   ours {ours*1000:9.1f} ms   ratio {ours/peer:.2f}{note}", flush=True)


def new():
    return {side: [] for side in SIDES}


def blobs_size(folder):
    """Bytes of the largest blob of a layout: the layer."""
    return max(entry.stat().st_size for entry in os.scandir(f"{folder}/blobs/sha256"))


def packed(name, args, sizes=None):
    """Times builds that pack a layer which was built, but never packed, before."""
    times = new()
    for turn in range(runs):
        for side in SIDES:
            address = f"unix://{work}/{side}.sock"
            dockerfile = f"FROM scratch\nCOPY tree /{name.replace(' ', '')}{turn}/\n"
            build(address, dockerfile, context=contexts)
            settle()
            took = build(address, dockerfile, *args(side, turn), context=contexts)
            times[side].append(took)
    note = ""
    if sizes:
        made = {side: sizes(side) for side in SIDES}
        note = f"   {made['peer'] / 1e6:.1f} and {made['ours'] / 1e6:.1f} MB"
    show(name, times, note)
    for side in SIDES:
        prune(side)


def cache_export():
    for kind in ("gzip", "zstd"):
        def args(side, turn):
            dest = f"{work}/cache-{side}"
            shutil.rmtree(dest, ignore_errors=True)
            return ["--export-cache", f"type=local,mode=max,compression={kind},dest={dest}"]
        packed(f"cache export, {kind}", args, lambda side: blobs_size(f"{work}/cache-{side}"))


def cache_import():
    dockerfile = "FROM scratch\nCOPY tree /\n"
    cache = f"{work}/cache"
    build(f"unix://{work}/peer.sock", dockerfile, "--export-cache", f"type=local,mode=max,dest={cache}", context=contexts)
    for name, output in (("cache import", []), ("cache import, image", ["--output", f"type=oci,dest={work}/out.tar"])):
        times = new()
        for _ in range(runs):
            for side in SIDES:
                with Fresh(side) as daemon:
                    settle()
                    args = ["--import-cache", f"type=local,src={cache}", *output]
                    times[side].append(build(daemon.address, dockerfile, *args, context=contexts))
        show(name, times)
    for side in SIDES:
        prune(side)


def export():
    for kind in ("gzip", "zstd"):
        packed(f"oci archive, {kind}", lambda side, turn: ["--output", f"type=oci,compression={kind},dest={work}/out.tar"])
    os.remove(f"{work}/out.tar")
    for kind in ("gzip", "zstd"):
        def args(side, turn):
            name = f"{registry}/export-{kind}-{side}:{turn}"
            return ["--output", f"type=image,compression={kind},oci-mediatypes=true,name={name},push=true"]
        packed(f"image pushed, {kind}", args)


def publish(name, dockerfile):
    output = f"type=image,name={registry}/{name},push=true"
    build(f"unix://{work}/peer.sock", dockerfile, "--output", output, context=contexts)


def pull():
    publish("tree:one", "FROM scratch\nCOPY tree /\n")
    publish("tree:four", "FROM scratch\nCOPY tree/busybox /\n" + "".join(
        f"COPY tree/{part} /{part}\n" for part in ("usr/bin", "usr/lib", "usr/include", "usr/share") if os.path.isdir(f"{tree}/{part}")))
    for name in ("one", "four"):
        times = new()
        for _ in range(runs):
            for side in SIDES:
                with Fresh(side) as daemon:
                    settle()
                    dockerfile = f'FROM {registry}/tree:{name}\nRUN ["/busybox", "true"]\n'
                    times[side].append(build(daemon.address, dockerfile))
        show(f"pulled and unpacked, {name} layer(s)", times)
    prune("peer")


def push():
    times = new()
    for turn in range(runs + 1):
        for side in SIDES:
            dockerfile = f"FROM scratch\nCOPY tree /\nLABEL turn={turn}\n"
            output = f"type=image,name={registry}/push-{side}:{turn},push=true"
            took = build(f"unix://{work}/{side}.sock", dockerfile, "--output", output, context=contexts)
            if turn:
                times[side].append(took)
    show("pushed again, other config", times)
    for side in SIDES:
        prune(side)


make_tree()
{"cache-export": cache_export, "cache-import": cache_import, "export": export, "pull": pull, "push": push}[case]()
