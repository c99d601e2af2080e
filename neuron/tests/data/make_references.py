#!/usr/bin/env python3
"""Make tiny models with random weights, and what PyTorch transformers makes of them.

    make_references.py OUTPUT_FOLDER

Writes references.json with the prompt, and for each architecture a folder that
is a whole model (config.json, weights in safetensors, tokenizer.json and
tokenizer_config.json) with logits.f32 beside it: the logits after every token
of the prompt, [tokens, vocabulary], float32, little endian.

Weights are drawn as numbers that float16 holds exactly and are stored so; the
reference computes in float32 on exactly these numbers, with eager attention.
Needs torch, transformers and gguf; everything follows from SEED.
"""

import json
import os
import sys

import gguf
import torch
import transformers
from transformers import AutoModelForCausalLM

SEED = 20240
TOKENS = 40
CONTEXT = 128
# 256 bytes, then these.
CONTROL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>"]
VOCAB = 256 + len(CONTROL)

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# What all have, unless they say otherwise.
BASE = dict(
    vocab_size=VOCAB,
    hidden_size=64,
    intermediate_size=72,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=CONTEXT,
    bos_token_id=VOCAB - 1,
    eos_token_id=256,
    pad_token_id=None,
)

# The scaled frequencies lie on all three sides of the two bounds.
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)


def architectures():
    """Folder, configuration, bytes of a file of weights at most."""
    c = transformers
    whole = "1GB"
    yield "llama", c.LlamaConfig(**BASE, rope_parameters=LLAMA3, rms_norm_eps=1e-5), whole
    yield "mistral", c.MistralConfig(**BASE, sliding_window=8, head_dim=24), whole
    yield "qwen2", c.Qwen2Config(**BASE, tie_word_embeddings=True), whole
    # In several files, so that these are read too.
    yield "qwen3", c.Qwen3Config(**BASE, head_dim=24), "90KB"
    yield "qwen3_moe", c.Qwen3MoeConfig(
        **BASE,
        head_dim=16,
        moe_intermediate_size=32,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=True,
    ), whole
    # The sixth layer sees everything.
    gemma = dict(BASE, hidden_size=32, num_hidden_layers=7, num_key_value_heads=1)
    yield "gemma3", c.Gemma3TextConfig(
        **gemma,
        head_dim=16,
        sliding_window=8,
        query_pre_attn_scalar=24,
        rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=10000.0),
            full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
        ),
    ), whole


# Of those that candle-transformers computes: small, for there are many.
SMALL = dict(BASE, hidden_size=32, intermediate_size=40, num_attention_heads=2, num_key_value_heads=1)


def others():
    """Folder and configuration."""
    c = transformers
    both = dict(SMALL, num_key_value_heads=2)
    rope = dict(rope_type="default", rope_theta=10000.0)
    yield "deepseek_v2", c.DeepseekV2Config(
        **both,
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        topk_method="greedy",
        q_lora_rank=None,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
    )
    yield "falcon", c.FalconConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        new_decoder_architecture=False,
        multi_query=True,
        parallel_attn=True,
        alibi=False,
        bias=False,
        bos_token_id=VOCAB - 1,
        eos_token_id=256,
    )
    yield "gemma", c.GemmaConfig(**SMALL, head_dim=16, rope_parameters=rope)
    yield "gemma2", c.Gemma2Config(
        **SMALL, head_dim=16, query_pre_attn_scalar=16, sliding_window=64, rope_parameters=rope
    )
    yield "glm4", c.Glm4Config(**SMALL, head_dim=16, partial_rotary_factor=0.5)
    yield "gpt_bigcode", c.GPTBigCodeConfig(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_inner=40,
        n_positions=CONTEXT,
        multi_query=True,
        bos_token_id=VOCAB - 1,
        eos_token_id=256,
    )
    yield "granitemoehybrid", c.GraniteMoeHybridConfig(
        **SMALL,
        layer_types=["attention"] * 2,
        num_local_experts=0,
        shared_intermediate_size=40,
        position_embedding_type="rope",
        mamba_n_heads=4,
        attention_multiplier=0.2,
        embedding_multiplier=3.0,
        residual_multiplier=0.5,
        logits_scaling=2.0,
        tie_word_embeddings=True,
    )
    yield "helium", c.HeliumConfig(**SMALL, head_dim=16)
    yield "lfm2", c.Lfm2Config(
        **dict(SMALL, num_hidden_layers=3),
        layer_types=["conv", "full_attention", "conv"],
        block_multiple_of=8,
        block_ffn_dim_multiplier=1.0,
        block_auto_adjust_ff_dim=True,
        conv_L_cache=3,
    )
    yield "mamba", c.MambaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, bos_token_id=VOCAB - 1, eos_token_id=256
    )
    yield "mamba2", c.Mamba2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=16,
        n_groups=1,
        state_size=16,
        bos_token_id=VOCAB - 1,
        eos_token_id=256,
        tie_word_embeddings=True,
    )
    yield "mixtral", c.MixtralConfig(**SMALL, num_local_experts=3, num_experts_per_tok=2, sliding_window=None)
    yield "olmo", c.OlmoConfig(**SMALL)
    yield "olmo2", c.Olmo2Config(**SMALL)
    yield "phi", c.PhiConfig(**both, partial_rotary_factor=0.5)
    yield "phi3", c.Phi3Config(**SMALL, sliding_window=64)
    yield "qwen2_moe", c.Qwen2MoeConfig(
        **SMALL,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=False,
    )
    yield "recurrent_gemma", c.RecurrentGemmaConfig(
        **SMALL, head_dim=16, lru_width=32, attention_window_size=64, block_types=["recurrent", "attention"]
    )
    yield "smollm3", c.SmolLM3Config(**dict(SMALL, num_hidden_layers=4), no_rope_layer_interval=4)
    yield "stablelm", c.StableLmConfig(**both, partial_rotary_factor=0.5, use_qkv_bias=True)
    yield "starcoder2", c.Starcoder2Config(**SMALL, use_bias=True, sliding_window=64)


def fill(model, generator):
    """Random weights of such a size that every part of the model shows in logits of up to about ten."""
    lack_one = model.config.model_type.startswith(("gemma", "recurrent_gemma"))
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith((".A_log", ".D", "dt_bias", "rg_lru.recurrent_param")):
            # As they begin: their sizes decide how long a state lasts.
            value = weight.data + 0.1 * noise
        elif "norm" in name:
            value = 0.2 * noise + (0.0 if lack_one else 1.0)
        elif "embed" in name or "wte" in name or "wpe" in name:
            # Gemma's are scaled up, and its tied head is not scaled down.
            value = noise * (0.3 if model.config.tie_word_embeddings else 1.0)
        elif weight.dim() == 1:
            value = 0.3 * noise
        else:
            value = noise * 1.5 / weight.shape[-1] ** 0.5
        weight.data = value.half().float()


def tokenizer():
    """Every byte is a token, in the byte-level alphabet; no merges."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    alphabet = {byte: chr(byte) if byte in printable else chr(next(others)) for byte in range(256)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 256 + i,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, text in enumerate(CONTROL)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {alphabet[byte]: byte for byte in range(256)},
            "merges": [],
        },
    }


# GGUF's names for tensors of a layer.
GGUF_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "conv.conv": "shortconv.conv",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
}


def write_gguf(path, config, tensors):
    """The same numbers as a GGUF file, without a tokenizer: matrices in F16, the rest in F32."""
    name = config.model_type
    w = gguf.GGUFWriter(path, name)
    layers = config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    w.add_context_length(CONTEXT)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_key_length(head_dim)
    if name == "lfm2":
        kinds = config.layer_types
        w.add_head_count_kv([0 if kind == "conv" else config.num_key_value_heads for kind in kinds])
        w.add_layer_norm_rms_eps(config.norm_eps)
        w.add_shortconv_l_cache(config.conv_L_cache)
    else:
        w.add_head_count_kv(config.num_key_value_heads)
        w.add_layer_norm_rms_eps(config.rms_norm_eps)
        w.add_rope_dimension_count(head_dim // 2)
    fixed = {
        "lm_head.weight": "output.weight",
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.embedding_norm.weight": "output_norm.weight",
    }
    for key, value in tensors.items():
        if key in fixed:
            to = fixed[key]
        else:
            _, _, layer, part = key.split(".", 3)
            part, kind = part.rsplit(".", 1)
            to = "blk.%s.%s.%s" % (layer, GGUF_PARTS[part], kind)
        if part_is_conv(to):
            value = value.squeeze(1)
        matrix = value.dim() == 2 and not part_is_conv(to)
        w.add_tensor(to, value.numpy().astype("<f2" if matrix else "<f4"))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def part_is_conv(name):
    return name.endswith("shortconv.conv.weight")


def write(path, value):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def make(folder, config, shard, prompt, seed):
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.eval()
    fill(model, torch.Generator().manual_seed(seed))
    model.tie_weights()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0]
    assert logits.dtype == torch.float32 and list(logits.shape) == [TOKENS, VOCAB]
    size = logits.abs().max().item()
    assert torch.isfinite(logits).all() and 1 < size < 40, size
    logits.numpy().astype("<f4").tofile(folder + "/logits.f32")
    if config.model_type in ("glm4", "lfm2"):
        state = dict(model.state_dict())
        if config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        write_gguf(folder + "/model.gguf", config, state)
    model.half().save_pretrained(folder, max_shard_size=shard)
    write(folder + "/tokenizer.json", tokenizer())
    settings = {
        "bos_token": CONTROL[2],
        "eos_token": CONTROL[0],
        "add_bos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write(folder + "/tokenizer_config.json", settings)
    paths = [folder + "/" + name for name in os.listdir(folder)]
    for path in paths:
        os.chmod(path, 0o644)
    files = sum(os.path.getsize(path) for path in paths)
    print("%s: logits up to %.2f, %d bytes" % (folder, size, files))


def main():
    (out,) = sys.argv[1:]
    torch.set_num_threads(1)
    prompt = [(i * i * 7 + i * 31 + 65) % 256 for i in range(TOKENS)]
    for i, (name, config, shard) in enumerate(architectures()):
        make(out + "/" + name, config, shard, prompt, SEED + i)
    for i, (name, config) in enumerate(others()):
        make(out + "/" + name, config, "1GB", prompt, SEED + 100 + i)
    source = "PyTorch %s, transformers %s, float32, eager attention" % (
        torch.__version__.split("+")[0],
        transformers.__version__,
    )
    write(out + "/references.json", {"source": source, "prompt": prompt, "vocab": VOCAB})


if __name__ == "__main__":
    main()
