// A routing policy in C: of the nodes that are readiest for the model, the one with the fewest requests.
//
// `cargo xtask build-samples` generates routing_policy.h and .c from wit/ and compiles the two files with
// the C library's headers and allocator, but nothing that would ask WebAssembly for more than memory.

#include "routing_policy.h"
#include <stdlib.h>

#define UNKNOWN UINT32_MAX

// In the order of a row: what docs/facts.md calls them.
static const char *const FACTS[] = {"state", "running", "queued"};
enum { STATE, RUNNING, QUEUED, COLUMNS };

void exports_cortex_policy_lifecycle_describe(exports_cortex_policy_lifecycle_metadata_t *about) {
  routing_policy_string_dup(&about->name, "c-routing");
  routing_policy_string_dup(&about->version, "0.1.0");
  routing_policy_string_dup(&about->config_schema, "");
}

// True = fine. There are no settings, so anything but an empty object vetoes the swap.
bool exports_cortex_policy_lifecycle_configure(routing_policy_string_t *json,
                                               exports_cortex_policy_lifecycle_policy_error_t *error) {
  bool empty = json->len == 2 && json->ptr[0] == '{' && json->ptr[1] == '}';
  if (!empty) {
    error->tag = CORTEX_POLICY_TYPES_POLICY_ERROR_INVALID_REQUEST;
    routing_policy_string_dup(&error->val.invalid_request, "c-routing takes no settings");
  }
  routing_policy_string_free(json);
  return empty;
}

// Smaller is better: readier nodes first, then those with fewer requests. 0 = it cannot serve.
static uint64_t rank(const uint32_t *row) {
  if (row[STATE] == 0 || row[STATE] == UNKNOWN) return 0;
  uint64_t load = (row[RUNNING] == UNKNOWN ? 0 : (uint64_t)row[RUNNING]) +
                  (row[QUEUED] == UNKNOWN ? 0 : (uint64_t)row[QUEUED]);
  return (uint64_t)(UNKNOWN - row[STATE]) << 33 | load;
}

// Writes the indices of the nodes that can serve, best first; returns how many.
static size_t choose(const uint32_t *rows, size_t nodes, uint16_t *picks) {
  size_t picked = 0;
  for (size_t node = 0; node < nodes; node++) {
    uint64_t key = rank(rows + node * COLUMNS);
    if (key == 0) continue;
    size_t at = picked++;
    for (; at > 0 && rank(rows + picks[at - 1] * COLUMNS) > key; at--) picks[at] = picks[at - 1];
    picks[at] = (uint16_t)node;
  }
  return picked;
}

bool exports_cortex_policy_lifecycle_self_test(exports_cortex_policy_lifecycle_policy_error_t *error) {
  const uint32_t rows[] = {5, 9, 0, /**/ 0, 0, 0, /**/ 5, 1, UNKNOWN};
  uint16_t picks[3];
  if (choose(rows, 3, picks) == 2 && picks[0] == 2 && picks[1] == 0) return true;
  error->tag = CORTEX_POLICY_TYPES_POLICY_ERROR_INTERNAL;
  routing_policy_string_dup(&error->val.internal, "of two nodes, the busier came first");
  return false;
}

void exports_cortex_policy_router_facts(exports_cortex_policy_router_wanted_t *wanted) {
  wanted->node.len = COLUMNS;
  wanted->node.ptr = malloc(COLUMNS * sizeof(routing_policy_string_t));
  for (size_t i = 0; i < COLUMNS; i++) routing_policy_string_dup(&wanted->node.ptr[i], FACTS[i]);
  wanted->request.len = 0;
}

void exports_cortex_policy_router_on_topology(uint64_t epoch, exports_cortex_policy_router_list_node_t *nodes) {
  (void)epoch;
  exports_cortex_policy_router_list_node_free(nodes);
}

bool exports_cortex_policy_router_route(uint64_t epoch, exports_cortex_policy_router_request_t *request,
                                        routing_policy_list_u32_t *rows,
                                        exports_cortex_policy_router_decision_t *decision,
                                        exports_cortex_policy_router_policy_error_t *error) {
  (void)epoch, (void)error;
  size_t nodes = rows->len / COLUMNS;
  uint16_t *picks = nodes ? malloc(nodes * sizeof(uint16_t)) : NULL;
  size_t picked = choose(rows->ptr, nodes, picks);
  if (picked > 0) {
    decision->tag = EXPORTS_CORTEX_POLICY_ROUTER_DECISION_PICK;
    decision->val.pick.ptr = picks;
    decision->val.pick.len = picked;
  } else {
    free(picks);
    decision->tag = EXPORTS_CORTEX_POLICY_ROUTER_DECISION_REJECT;
    decision->val.reject.f0 = 503;
    routing_policy_string_dup(&decision->val.reject.f1, "no node can serve the model now");
  }
  exports_cortex_policy_router_request_free(request);
  routing_policy_list_u32_free(rows);
  return true;
}
