"""A real Kubernetes cluster of one node on this machine, without Docker and without a registry: `up`, `run`, `down`, `load`.

Everything of a cluster is in one folder and below one process. That process, `pause`, is the first of a PID namespace with
mounts and network of its own: when it is killed, the kernel ends daemons and containers, undoes every mount and removes the
network. So `down` needs no list of what was started, and finds all of it even if `up` was killed half-way. What would be
written to the machine's /run, /var/lib and /var/log goes to the folder instead.

Several clusters can be up at once: PORTCULLIS_TEST_CLUSTER is a number, 0 by default. Cluster N has the folder
portcullis-cluster-N in the temporary folder, the node at 10.231.N.2, the machine (as pods see it) at 10.231.N.1, pods in
10.232.N.0/24 and Services in 10.233.N.0/24, all reachable from the machine by route.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import manifests

HERE = Path(__file__).resolve().parent
PAUSE_IMAGE = "portcullis.test/pause:1"
PATIENCE = 180  # seconds until a part that is not ready fails the start


class Failure(Exception):
    """What is said to the person, who needs no stack trace."""


def say(what):
    print(f"cluster: {what}", file=sys.stderr, flush=True)


def run(*command, **options):
    """Runs a command to its end; its words are shown if it fails."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, **(options or {"stdin": subprocess.DEVNULL}))
    if done.returncode != 0:
        raise Failure(f"`{' '.join(command)}` failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def until(what, holds, alive=lambda: None):
    """Waits until `holds()` gives something true, and gives it back. `alive` raises when waiting is in vain."""
    end = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < end:
        alive()
        try:
            if found := holds():
                return found
        except (OSError, Failure) as error:
            last = error
        time.sleep(0.1)
    raise Failure(f"{what}: not within {PATIENCE} s" + (f" ({last})" if last else ""))


def install(*options):
    """The folder that the installer prints."""
    script = HERE.parent / "testbed/kube/install"
    done = subprocess.run([script, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure("the parts of the cluster are not there (see above)")
    return Path(done.stdout.splitlines()[-1])


class Cluster:
    def __init__(self, number):
        self.number = number
        self.name = f"portcullis-cluster-{number}"
        self.folder = Path(tempfile.gettempdir()).resolve() / self.name
        self.kubeconfig = self.folder / "kubeconfig"  # written last: it is there when the cluster is up
        self.link = f"portcullis{number}"
        self.host = f"10.231.{number}.1"
        self.node = f"10.231.{number}.2"
        self.pods = f"10.232.{number}.0/24"
        self.services = f"10.233.{number}.0/24"
        self.dns = f"10.233.{number}.10"
        self.cgroup = f"/{self.name}"
        self.processes = {}

    # --- Ending it -------------------------------------------------------------------------------------------------------

    def first_process(self):
        """The pid of the cluster's first process, found by its arguments: a pid in a file could be another's by now."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == os.geteuid():
                    words = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
                    if len(words) == 2 and words[0].endswith(b"/pause") and words[1] == self.name.encode():
                        return int(entry.name)
        return None

    def down(self):
        while pid := self.first_process():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            # The kernel has ended everything in the namespace before the first process itself is gone.
            until("ending the cluster's processes", lambda: self.first_process() != pid)
        # The kernel removes it with the namespace, but in its own time. With it go the routes.
        subprocess.run(["ip", "link", "delete", self.link], stdin=subprocess.DEVNULL, capture_output=True)
        for root in cgroup_roots():
            remove_cgroup(root / self.name)
        if self.folder.is_symlink() or (self.folder.exists() and self.folder.stat().st_uid != os.geteuid()):
            raise Failure(f"{self.folder} is not ours: remove it, or set TMPDIR to another folder")
        if self.folder.exists():
            if any(f" {self.folder}/" in line for line in Path("/proc/self/mountinfo").read_text().splitlines()):
                raise Failure(f"something is mounted below {self.folder}: not removing it")
            shutil.rmtree(self.folder)

    # --- Starting it -----------------------------------------------------------------------------------------------------

    def up(self):
        if self.first_process() and self.kubeconfig.exists():
            raise Failure(
                f"cluster {self.number} is up already (KUBECONFIG={self.kubeconfig}): "
                "end it with hack/cluster/down, or set PORTCULLIS_TEST_CLUSTER to another number"
            )
        self.kube, self.parts = install(), install("--node")
        self.down()  # what an `up` that was killed left behind
        self.folder.mkdir(mode=0o711)
        try:
            self.namespaces()
            self.secrets()
            self.control_plane()
            self.runtime()
            self.node_parts()
            self.dns_server()
            self.settle()
            self.record()
        except BaseException as error:
            if isinstance(error, Failure):
                self.show_logs()
            self.down()
            raise

    def namespaces(self):
        """The first process, the mounts and the network."""
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation=private"]
        self.spawn("pause", *unshare, self.parts / "pause", self.name)
        self.first = until("making namespaces", self.first_process, self.alive)
        # kubelet and containerd hand mounts on to containers.
        self.inside("mount", "--make-rshared", "/")
        # The programs too, since the cache may itself lie below what is hidden next.
        for name, source in (("kube", self.kube), ("node", self.parts)):
            (self.folder / name).mkdir()
            self.inside("mount", "--bind", source, self.folder / name)
        for name, place in (("run", "/run"), ("lib", "/var/lib"), ("log", "/var/log")):
            (self.folder / name).mkdir()
            self.inside("mount", "--bind", self.folder / name, place)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.first)
        run("ip", "address", "add", f"{self.host}/30", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "address", "add", f"{self.node}/30", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")
        self.inside("ip", "route", "add", "default", "via", self.host)
        self.inside("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        for network in (self.pods, self.services):
            run("ip", "route", "add", network, "via", self.node)
        for root in cgroup_roots():
            make_cgroup(root / self.name)

    def secrets(self):
        """Keys, and a token for each who talks to the API server."""
        curve = ("-pkeyopt", "ec_paramgen_curve:P-256")
        run("openssl", "genpkey", "-algorithm", "EC", *curve, "-out", self.folder / "sa.key")
        run("openssl", "pkey", "-in", self.folder / "sa.key", "-pubout", "-out", self.folder / "sa.pub")
        # The API server shows this certificate to kubelet, which trusts it and no other.
        client = self.folder / "kubelet-client"
        run("openssl", "req", "-x509", "-newkey", "ec", *curve, "-nodes", "-days", "3650",
            "-subj", "/O=system:masters/CN=kube-apiserver", "-keyout", f"{client}.key", "-out", f"{client}.crt")
        self.tokens = {user: secrets.token_hex(24) for user in manifests.USERS}
        lines = [f'{self.tokens[user]},{name},{user},"{group}"\n' for user, (name, group) in manifests.USERS.items()]
        private(self.folder / "tokens.csv", "".join(lines))

    def control_plane(self):
        folder, etcd = self.folder, f"unix://{self.folder}/etcd.sock"
        self.start(
            "etcd", "--name=node", f"--data-dir={folder}/etcd", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}", "--listen-peer-urls=http://127.0.0.1:0",
        )
        self.start(
            "kube-apiserver", f"--etcd-servers={etcd}", f"--advertise-address={self.node}", "--secure-port=6443",
            f"--cert-dir={folder}/certs", f"--service-cluster-ip-range={self.services}", "--allow-privileged",
            "--authorization-mode=Node,RBAC", f"--token-auth-file={folder}/tokens.csv",
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-signing-key-file={folder}/sa.key", f"--service-account-key-file={folder}/sa.pub",
            f"--kubelet-client-certificate={folder}/kubelet-client.crt", f"--kubelet-client-key={folder}/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
        )
        until("the API server", lambda: self.ask("/readyz") == b"ok", self.alive)
        for user in manifests.USERS:
            self.write_kubeconfig(f"{user}.kubeconfig", user)
        self.start(
            "kube-controller-manager", f"--kubeconfig={folder}/controller-manager.kubeconfig", "--leader-elect=false",
            "--use-service-account-credentials", f"--service-account-private-key-file={folder}/sa.key",
            f"--root-ca-file={folder}/certs/apiserver.crt",
        )
        self.start("kube-scheduler", f"--kubeconfig={folder}/scheduler.kubeconfig", "--leader-elect=false")

    def runtime(self):
        (self.folder / "cni").mkdir()
        (self.folder / "cni/10-pods.conflist").write_text(json.dumps(manifests.network(self.pods)))
        (self.folder / "containerd.toml").write_text(manifests.containerd(self.folder, PAUSE_IMAGE))
        self.start("containerd", f"--config={self.folder}/containerd.toml")
        archive = self.folder / "pause.tar"
        write_image(archive, PAUSE_IMAGE, self.parts / "pause")
        until("containerd", lambda: self.load(archive), self.alive)

    def node_parts(self):
        folder = self.folder
        (folder / "resolv.conf").write_text(f"nameserver {self.node}\n")
        (folder / "kubelet.json").write_text(json.dumps(manifests.kubelet(self)))
        self.start(
            "kubelet", f"--config={folder}/kubelet.json", f"--kubeconfig={folder}/kubelet.kubeconfig",
            f"--cert-dir={folder}/kubelet-certs", "--hostname-override=node", f"--node-ip={self.node}",
        )
        # The limits of conntrack belong to the machine, not to a network namespace.
        self.start(
            "kube-proxy", f"--kubeconfig={folder}/proxy.kubeconfig", "--hostname-override=node", "--proxy-mode=nftables",
            f"--cluster-cidr={self.pods}", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )

    def dns_server(self):
        objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests.dns(self)})
        run(self.kube / "kubectl", f"--kubeconfig={self.folder}/admin.kubeconfig", "apply", "--server-side", "--filename=-",
            input=objects)
        (self.folder / "Corefile").write_text(manifests.corefile(self))
        self.start("coredns", f"-conf={self.folder}/Corefile")

    def settle(self):
        until("the node", self.node_is_ready, self.alive)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        until("the default ServiceAccount", lambda: self.ask(account), self.alive)
        until("DNS at its Service's address", lambda: resolves(self.dns, "kubernetes.default.svc.cluster.local"), self.alive)

    def node_is_ready(self):
        nodes = json.loads(self.ask("/api/v1/nodes"))["items"]
        conditions = [condition for node in nodes for condition in node["status"].get("conditions", [])]
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def record(self):
        """Writes the daemons' pids, for tests that end one, and last of all the kubeconfig."""
        pids = {}
        for program, process in self.processes.items():
            # What enters a PID namespace is a child of the one that was started.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            pids[program] = int(children[0])
        (self.folder / "pids.json").write_text(json.dumps(pids, indent=1) + "\n")
        self.write_kubeconfig("kubeconfig", "admin")

    # --- Tools -----------------------------------------------------------------------------------------------------------

    def nsenter(self):
        return ["nsenter", f"--target={self.first}", "--mount", "--net", "--pid", "--"]

    def inside(self, *command):
        return run(*self.nsenter(), *command)

    def start(self, program, *arguments):
        """Starts a daemon inside, with nothing of this process's environment."""
        path = f"PATH={self.folder}/kube:{self.folder}/node:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.spawn(program, *self.nsenter(), "env", "-i", path, f"HOME={self.folder}", program, *arguments)

    def spawn(self, name, *command):
        """Starts what goes on after this program, with a log file in the folder."""
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )

    def alive(self):
        for program, process in self.processes.items():
            if process.poll() is not None:
                raise Failure(f"{program} ended with status {process.returncode}")

    def ask(self, path):
        url, token = f"https://{self.node}:6443{path}", self.tokens["admin"]
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        trust = ssl.create_default_context(cafile=str(self.folder / "certs/apiserver.crt"))
        with urllib.request.urlopen(request, context=trust, timeout=5) as answer:
            return answer.read()

    def load(self, archive):
        """Imports an image archive (OCI or docker) into the node."""
        address = f"--address={self.folder}/run/containerd/containerd.sock"
        return run(install("--node") / "ctr", address, "--namespace=k8s.io", "images", "import", archive)

    def write_kubeconfig(self, name, user):
        trust = (self.folder / "certs/apiserver.crt").read_bytes()
        config = manifests.kubeconfig(self, trust, self.tokens[user])
        private(self.folder / name, json.dumps(config, indent=1) + "\n")

    def show_logs(self):
        for program in self.processes:
            tail = (self.folder / f"{program}.log").read_text(errors="replace").splitlines()[-8:]
            print(f"--- the end of {program}'s log", *tail, sep="\n", file=sys.stderr)


def private(path, text):
    """Writes a file that only its owner reads, and that is there whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.rename(path)


# --- Control groups ------------------------------------------------------------------------------------------------------


def cgroup_roots():
    """Where the machine's hierarchies of control groups are mounted: one (version 2) or one for each controller."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(place) for _, place, kind, *_ in mounts if kind in ("cgroup", "cgroup2")]


def make_cgroup(group):
    """The group below which kubelet keeps those of the pods."""
    group.mkdir(exist_ok=True)
    if (group / "cpuset.cpus").exists() and not (group / "cgroup.controllers").exists():
        for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1, which then takes no process
            (group / name).write_text((group.parent / name).read_text())
    if (group / "cgroup.controllers").exists():
        for place in (group.parent, group):
            controllers = (place / "cgroup.controllers").read_text().split()
            (place / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def remove_cgroup(group):
    for folder, _, _ in os.walk(group, topdown=False):
        # A group can be removed a moment after its last process has gone.
        until(f"removing {folder}", lambda: (os.path.isdir(folder) and os.rmdir(folder), True)[1])


# --- Images and names ----------------------------------------------------------------------------------------------------


def write_image(archive, name, program):
    """An archive, in docker's format, of an image that has one static program and runs it."""

    def member(into, path, content, mode=0o644):
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = len(content), mode
        into.addfile(entry, io.BytesIO(content))

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        member(files, program.name, program.read_bytes(), 0o755)
    layer = layer.getvalue()
    config = json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode()
    with tarfile.open(archive, mode="w") as files:
        member(files, "layer.tar", layer)
        member(files, "config.json", config)
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        member(files, "manifest.json", json.dumps(manifest).encode())


def resolves(server, name):
    """Whether the DNS server has an address for the name (RFC 1035, 4.1)."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0" + b"\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(1)
        udp.connect((server, 53))
        udp.send(b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + question)
        answer = udp.recv(512)
    return answer[:2] == b"\x12\x34" and answer[3] & 15 == 0 and int.from_bytes(answer[6:8], "big") > 0


# --- The verbs -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone(cluster):
    """One `up` or `down` of a cluster at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portcullis"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{cluster.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(cluster):
    started = time.monotonic()
    with alone(cluster):
        cluster.up()
    say(f"cluster {cluster.number} is up, after {time.monotonic() - started:.0f} s")
    print(cluster.kubeconfig, flush=True)


def down(cluster):
    with alone(cluster):
        cluster.down()
    say(f"cluster {cluster.number} is down")


def hold(cluster):
    """Up until Ctrl-C or SIGTERM."""
    up(cluster)
    say(f"`export KUBECONFIG={cluster.kubeconfig}` in another shell; Ctrl-C ends the cluster")
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        signal.pause()
    down(cluster)


def load(cluster, archive):
    if not cluster.kubeconfig.exists():
        raise Failure(f"cluster {cluster.number} is not up: hack/cluster/up brings it up")
    say(cluster.load(archive).strip())


VERBS = {"up": (up, ""), "run": (hold, ""), "down": (down, ""), "load": (load, "ARCHIVE")}


def main(verb, *arguments):
    number = os.environ.get("PORTCULLIS_TEST_CLUSTER", "0")
    if not (number.isdecimal() and int(number) < 256):
        raise Failure(f"PORTCULLIS_TEST_CLUSTER={number} is not a number from 0 to 255")
    act, wants = VERBS[verb]
    if len(arguments) != len(wants.split()):
        raise Failure(f"usage: hack/cluster/{verb} {wants}".rstrip())
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Failure("a cluster needs Linux and root: it makes namespaces, mounts and control groups")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    act(Cluster(int(number)), *arguments)


try:
    main(*sys.argv[1:])
except Failure as failure:
    say(failure)
    sys.exit(1)
except KeyboardInterrupt:
    sys.exit(130)
