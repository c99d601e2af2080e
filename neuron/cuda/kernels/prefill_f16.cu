// Keys and values in halves. A file of its own, so that they are compiled side by side.
#include "prefill.cuh"

PREFILL(f16, f16, f16)
