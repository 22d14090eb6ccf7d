"""`python -m tests.served.hang GCS_ADDRESS APPLICATION DEPLOYMENT`: busy loops where nothing of the product makes any.

In each replica of a deployment, the event loop that serves requests computes without an end. A process of its own,
as Ray reads its token when it is imported.
"""

import sys
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_NAMESPACE


def spin(replica: Any) -> None:
    """Have the loop of a replica call what never returns."""

    def compute() -> None:
        while True:
            pass

    replica._replica_impl._user_callable_wrapper.event_loop.call_soon_threadsafe(compute)


def main(address: str, application: str, deployment: str) -> None:
    """Hang all replicas of a deployment."""
    ray.init(address=address, namespace="serve", log_to_driver=False)
    details = serve.context._get_global_client().get_serve_details()
    for replica in details["applications"][application]["deployments"][deployment]["replicas"]:
        actor: Any = ray.get_actor(replica["actor_name"], SERVE_NAMESPACE)
        ray.get(actor.__ray_call__.remote(spin))


if __name__ == "__main__":
    main(*sys.argv[1:])
