"""A real one-node cluster: containerd, kubelet, kube-proxy and DNS beside the control plane.

* In namespaces of its own (`tests/cluster/node/up`): the machine keeps its addresses, netfilter
  tables, mounts and sysctls, and one kill ends everything.
* Its addresses exist inside only: kubectl, helm and probes run there through `enter`.
* Images are imported, never pulled; their names begin with ``localhost/``.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from support.cluster import NODE_SCRIPTS, ControlPlane, Document, Place
from support.cluster_images import pack_pause

NODE = "node-0"
ADDRESS = "10.89.0.1"
POD_NETWORK = "10.88.0.0/16"
DNS_ADDRESS = "10.96.0.10"
SOCKET = "/run/containerd/containerd.sock"
PAUSE = "localhost/pause:1"
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")


class Node(ControlPlane):
    """One node that runs pods."""

    def __init__(self, programs: Path, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        enter = (str(NODE_SCRIPTS / "enter"), str(state))
        place = Place(programs=programs, state=state, enter=enter)
        super().__init__(place, has_controllers=True, advertised=ADDRESS)

    @classmethod
    @contextmanager
    def up(cls, programs: Path, state: Path) -> Iterator[Node]:
        """A node that is Ready, gone afterwards with its processes, mounts and cgroups."""
        node = cls(programs, state)
        try:
            node.start()
            yield node
        finally:
            node.stop()

    def start(self) -> None:
        """Start everything and wait until pods may be made."""
        state, programs = self.place.state, self.place.programs
        subprocess.run([str(NODE_SCRIPTS / "up"), str(state), str(programs)], check=True)
        self._write_configuration()
        self.processes.start("containerd", "containerd", f"--config={state}/containerd.toml")
        super().start()
        self._import_pause()
        self._start_node()
        self._start_dns()
        ready = ("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=5s")
        self.until(lambda: self.kubectl(*ready), "the node")

    def stop(self) -> None:
        """End the namespaces, then what stood outside of them."""
        subprocess.run([str(NODE_SCRIPTS / "down"), str(self.place.state)], check=True)
        super().stop()

    def import_image(self, archive: Path) -> None:
        """Make an image archive known to the kubelet."""
        options = ("-a", SOCKET, "-n", "k8s.io")
        self.run("ctr", *options, "images", "import", str(archive), seconds=600)

    def _import_pause(self) -> None:
        self.until(lambda: self.run("ctr", "-a", SOCKET, "version"), "containerd")
        with tempfile.TemporaryDirectory(dir=self.place.state) as folder:
            self.import_image(
                pack_pause(self.place.programs / "pause", PAUSE, Path(folder) / "pause.tar")
            )

    def _start_node(self) -> None:
        state = self.place.state
        self.processes.start(
            "kubelet",
            "kubelet",
            f"--config={state}/kubelet.yaml",
            f"--kubeconfig={state}/pki/{NODE}.kubeconfig",
            f"--root-dir={state}/kubelet",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        )
        self.processes.start("proxy", "kube-proxy", f"--config={state}/proxy.yaml")

    def _start_dns(self) -> None:
        self.processes.start("dns", "coredns", "-conf", f"{self.place.state}/Corefile")
        for document in _dns_objects():
            self.apply(document)

    def _write_configuration(self) -> None:
        state, programs = self.place.state, self.place.programs
        plugins = state / "cni" / "bin"
        for folder in (plugins, state / "cni" / "conf", state / "plugins"):
            folder.mkdir(parents=True)
        for plugin in CNI_PLUGINS:
            (plugins / plugin).symlink_to(programs / plugin)
        (state / "cni" / "conf" / "10-pods.conflist").write_text(json.dumps(_network()))
        (state / "containerd.toml").write_text(_containerd(state, programs))
        (state / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        (state / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(state)))
        (state / "proxy.yaml").write_text(yaml.safe_dump(_proxy(state)))
        (state / "Corefile").write_text(
            f".:53 {{\n  bind {ADDRESS}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n"
            f"    kubeconfig {state}/pki/admin.kubeconfig\n  }}\n}}\n"
        )


def _network() -> Document:
    ranges = [[{"subnet": POD_NETWORK}]]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {"type": "host-local", "ranges": ranges, "dataDir": "/run/cni"},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}


def _containerd(state: Path, programs: Path) -> str:
    return f"""version = 3
root = "{state}/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{programs}/runc"
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{state}/cni/bin"]
  conf_dir = "{state}/cni/conf"
"""


def _kubelet(state: Path) -> Document:
    """cgroup v1 and no CAP_SYS_RESOURCE, hence ``failCgroupV1`` and ``oomScoreAdj``."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{state}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{state}/resolv.conf",
        "volumePluginDir": f"{state}/plugins",
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }


def _proxy(state: Path) -> Document:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{state}/pki/proxy.kubeconfig"},
        "mode": "nftables",
        "clusterCIDR": POD_NETWORK,
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def _dns_objects() -> list[Document]:
    """The Service of the DNS server, which runs on the node and not in a pod."""
    ports = [{"name": name, "port": 53, "protocol": name.upper()} for name in ("udp", "tcp")]
    where = {"namespace": "kube-system"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": where | {"name": "kube-dns"},
            "spec": {"clusterIP": DNS_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": where
            | {"name": "kube-dns", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
    ]
