// Keys and values in eight bits, of which halves hold every one. A file of its own, so that they are compiled side by side.
#include "prefill.cuh"

PREFILL(f8, f8, f16)
