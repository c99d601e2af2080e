"""A routing policy in Python: of the nodes that are readiest for the model, the one with the fewest
requests. docs/writing-a-policy.md says how it becomes a component."""

from componentize_py_types import Err
from wit_world.exports import lifecycle, router
from wit_world.imports.types import PolicyError_Internal, PolicyError_InvalidRequest

UNKNOWN = 0xFFFFFFFF
FACTS = ["state", "running", "queued"]


def choose(rows):
    """Indices of the nodes that can serve, best first."""
    known = lambda fact: 0 if fact == UNKNOWN else fact
    nodes = []
    for i in range(len(rows) // len(FACTS)):
        state, running, queued = rows[i * len(FACTS) : (i + 1) * len(FACTS)]
        if known(state) > 0:
            nodes.append((-state, known(running) + known(queued), i))
    return [i for _, _, i in sorted(nodes)]


class Lifecycle:
    def describe(self):
        return lifecycle.Metadata(name="python-routing", version="0.1.0", config_schema="")

    def configure(self, json):
        if json.strip() != "{}":
            raise Err(PolicyError_InvalidRequest("python-routing takes no settings"))

    def self_test(self):
        if choose([5, 9, 0, 0, 0, 0, 5, 1, UNKNOWN]) != [2, 0]:
            raise Err(PolicyError_Internal("of two nodes, the busier came first"))


class Router:
    def facts(self):
        return router.Wanted(node=FACTS, request=[])

    def on_topology(self, epoch, nodes):
        pass

    def route(self, epoch, request, nodes):
        picks = choose(nodes)
        if picks:
            return router.Decision_Pick(picks)
        return router.Decision_Reject((503, f"no node can serve {request.model} now"))
