"""What the parts of a cluster are told: configuration files and objects, as plain data. Nothing here does anything."""

import base64

# Who talks to the API server: user name and group. RBAC knows all but the last from Kubernetes's own bootstrap roles.
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", "system:authenticated"),
    "scheduler": ("system:kube-scheduler", "system:authenticated"),
    "proxy": ("system:kube-proxy", "system:authenticated"),
    "kubelet": ("system:node:node", "system:nodes"),
    "dns": ("system:dns", "system:authenticated"),
}


def kubeconfig(cluster, trust, token):
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster.name, "cluster": {
            "server": f"https://{cluster.node}:6443",
            "certificate-authority-data": base64.b64encode(trust).decode(),
        }}],
        "users": [{"name": cluster.name, "user": {"token": token}}],
        "contexts": [{"name": cluster.name, "context": {"cluster": cluster.name, "user": cluster.name}}],
        "current-context": cluster.name,
    }


def containerd(folder, pause):
    return f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"

[plugins.'io.containerd.cri.v1.runtime']
  # Not every machine lets root lower a score.
  restrict_oom_score_adj = true

  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
    conf_dir = "{folder}/cni"
"""


def network(pods):
    """Each pod at a link of its own and everything routed. With a bridge, the answer to a pod that called a Service of a pod
    beside it would go back without being translated, unless the kernel shows bridged frames to its packet filter."""
    addresses = {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": addresses}]}


def kubelet(cluster):
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": cluster.node,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{cluster.folder}/kubelet-client.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cluster.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "clusterDNS": [cluster.dns],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{cluster.folder}/resolv.conf",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "healthzBindAddress": "127.0.0.1",
        # The machine's disk may be nearly full of other things; that must not empty the node.
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        # How soon a pod sees a changed Secret or ConfigMap: tests wait for that.
        "syncFrequency": "5s",
    }


def corefile(cluster):
    return f""".:53 {{
    bind {cluster.node}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {cluster.folder}/dns.kubeconfig
    }}
}}
"""


def dns(cluster):
    """CoreDNS is a process on the node; its Service has no selector but this slice."""
    rule = {"verbs": ["list", "watch"]}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    return [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:dns"}, "rules": [
            {"apiGroups": [""], "resources": ["namespaces", "services", "pods", "endpoints"], **rule},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], **rule},
        ]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:dns"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:dns"},
         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:dns"}]},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
         "spec": {"clusterIP": cluster.dns, "ports": ports}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
         "endpoints": [{"addresses": [cluster.node], "conditions": {"ready": True}}], "ports": ports},
    ]
