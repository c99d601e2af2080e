// Keys and values in bfloat16. A file of its own, so that they are compiled side by side.
#include "prefill.cuh"

PREFILL(bf16, bf16, bf16)
