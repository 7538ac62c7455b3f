#!/usr/bin/env python3
"""Contexts: what it takes to get them to the daemon. Called by run.sh.

Each round has a directory of its own on each side, made beforehand and written out, so that neither side finds
anything of an earlier round, and ext4 does not look for inodes that were freed just now.
"""
import os, random, shutil, socket, statistics, subprocess, sys, time

case, work, buildctl, rbuildctl, runs = sys.argv[1:]
runs = min(int(runs), 5)


def client(side, own):
    address = f"unix://{work}/{side}.sock"
    if side == "ours" and own:
        return [rbuildctl, "--addr", address, "solve"]
    return [buildctl, "--addr", address, "build"]


def build(side, own, *args):
    command = client(side, own) + ["--progress=rawjson", "--frontend", "dockerfile.v0", *args]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return took


def local(side, path):
    return build(side, True, "--local", f"context={path}", "--local", f"dockerfile={path}")


def show(name, times):
    peer, ours = (statistics.median(times[side]) for side in ("peer", "ours"))
    print(f"{name:<34} peer {peer*1000:9.1f} ms   ours {ours*1000:9.1f} ms   ratio {ours/peer:.2f}", flush=True)


def files(path):
    for number in range(10_000):
        folder = f"{path}/files/{number % 100:02}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{number}", "wb") as out:
            out.write(random.randbytes(4096))
    with open(f"{path}/Dockerfile", "w") as out:
        out.write("FROM scratch\nCOPY files /\n")


def large(path):
    os.makedirs(path)
    with open(f"{path}/large", "wb") as out:
        for _ in range(512):
            out.write(random.randbytes(1 << 20))
    with open(f"{path}/Dockerfile", "w") as out:
        out.write("FROM scratch\nCOPY large /\n")


def settle():
    os.sync()
    time.sleep(1)


def transfer():
    cold, one, big = ({"peer": [], "ours": []} for _ in range(3))
    for turn in range(runs):
        for side in ("peer", "ours"):
            path = f"{work}/transfer-{side}-{turn}"
            files(path)
            settle()
            cold[side].append(local(side, path))
            with open(f"{path}/files/05/5", "wb") as out:
                out.write(random.randbytes(4096))
            one[side].append(local(side, path))
    show("10,000 x 4 KiB, own clients", cold)
    show("the same, one file changed", one)
    for turn in range(min(runs, 3)):
        for side in ("peer", "ours"):
            path = f"{work}/large-{side}-{turn}"
            large(path)
            settle()
            big[side].append(local(side, path))
            shutil.rmtree(path)
    show("512 MiB in one file, own clients", big)


def git(path, *args):
    name = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *name, "-C", path, *args], check=True, capture_output=True)


def repository():
    """5,000 files with 20 commits behind them, served over git:// on loopback."""
    tree = f"{work}/git/repo"
    os.makedirs(tree)
    git(tree, "init")
    for commit in range(20):
        for number in range(250):
            folder = f"{tree}/src/{commit:02}"
            os.makedirs(folder, exist_ok=True)
            with open(f"{folder}/{number}", "w") as out:
                out.write(f"{random.random()}\n" * 100)
        git(tree, "add", ".")
        git(tree, "commit", "-m", f"{commit}")
    with open(f"{tree}/Dockerfile", "w") as out:
        out.write("FROM scratch\nCOPY src /\n")
    git(tree, "add", ".")
    git(tree, "commit", "-m", "last")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all", f"--base-path={work}/git"],
        stderr=subprocess.DEVNULL,
    )
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.05)
    return server, f"git://127.0.0.1:{port}/repo"


def contexts():
    server, url = repository()
    times = {"peer": [], "ours": []}
    try:
        for _ in range(runs):
            for side in ("peer", "ours"):
                prune = [buildctl, "--addr", f"unix://{work}/{side}.sock", "prune", "--all"]
                subprocess.run(prune, check=True, capture_output=True)
                settle()
                times[side].append(build(side, False, "--opt", f"context={url}"))
    finally:
        server.terminate()
        server.wait()
    show("git context of 5,000 files, cold", times)


{"transfer": transfer, "git": contexts}[case]()
