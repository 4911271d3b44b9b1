"""A Ray cluster of two nodes on this machine, bound to loopback, that is surely ended."""

import os
import shutil
import tempfile
from contextlib import contextmanager

HEAD, OTHER = "127.0.0.2", "127.0.0.3"


@contextmanager
def two_nodes():
    """The cluster, and the node that may be taken away; one trial at a time on each."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-")  # pytest's would make the names of sockets too long
    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    head = {**size, "node_ip_address": HEAD, "include_dashboard": False, "temp_dir": folder}
    cluster = None
    try:
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield cluster, cluster.add_node(**size, node_ip_address=OTHER)
    finally:
        if cluster is not None:
            cluster.shutdown()
        os.environ.pop("RAY_ADDRESS", None)
        shutil.rmtree(folder, ignore_errors=True)


def address_of_node():
    """Where this code runs."""
    import ray

    return ray.util.get_node_ip_address()
