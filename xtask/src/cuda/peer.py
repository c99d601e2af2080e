"""PyTorch with transformers on the same card: a model of the shape of Llama 3 8B, with weights that mean nothing.

Prints one line of JSON: what the card copies and multiplies at, and tokens a second of one stream, of 64, and of a prompt.
"""

import json
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

SHAPE = dict(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, vocab_size=128256, max_position_embeddings=16384, rope_theta=5e5,
)


def seconds(run, rounds=3):
    best = float("inf")
    for n in range(rounds + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if n:
            best = min(best, time.perf_counter() - started)
    return best


@torch.inference_mode()
def main():
    torch.manual_seed(1)
    out = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    a = torch.zeros(1 << 28, dtype=torch.float32, device="cuda")
    b = torch.empty_like(a)
    out["copy_gb_s"] = 20 * a.nbytes / seconds(lambda: [b.copy_(a) for _ in range(10)]) / 1e9
    del a, b
    x = torch.zeros(4096, 8192, dtype=torch.bfloat16, device="cuda")
    w = torch.zeros(8192, 8192, dtype=torch.bfloat16, device="cuda")
    out["matmul_tflops"] = 8 * 4096 * 8192 * 8192 / seconds(lambda: [x @ w for _ in range(4)]) / 1e12
    del x, w

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    for count in (1, 64):
        ids = torch.randint(0, 128256, (count, 512), device="cuda")
        cache = StaticCache(config=model.config, max_batch_size=count, max_cache_len=1024, device="cuda", dtype=torch.bfloat16)
        model(ids, past_key_values=cache, cache_position=torch.arange(512, device="cuda"), logits_to_keep=1)
        one = ids[:, :1]

        def steps():
            for n in range(64):
                model(one, past_key_values=cache, cache_position=torch.tensor([512 + n], device="cuda"))

        out[f"decode_{count}"] = count * 64 / seconds(steps, 2)
        del cache
    for tokens in (2048, 8192):
        ids = torch.randint(0, 128256, (1, tokens), device="cuda")
        took = seconds(lambda: model(ids, use_cache=True, logits_to_keep=1))
        out[f"prefill_{tokens}"] = tokens / took
    print(json.dumps(out))


main()
