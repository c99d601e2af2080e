"""Vectors that embeddings are compared with: `embeddings.json`, made by sentence-transformers of all-MiniLM-L6-v2.

Run it in this folder with the folder of the model after a change: it needs `pip install sentence-transformers`.
"""

import json
import sys

from sentence_transformers import SentenceTransformer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A feline rests on a rug.",
    "Der Himmel über Berlin ist heute grau.",
    "日本の首都は東京です。",
    "naïve café, Zürich — Ærøskøbing",
    "x",
    "fn main() { println!(\"{}\", 6 * 7); }",
    # Names of control tokens are words here, and control tokens there: they are left out.
    "UPPER lower 123,456.78 </s>",
    "emoji 🦀 and\ttabs\nand lines",
    " ".join(f"word{n} is number {n}." for n in range(30)),
    "long " * 400,
]

model = SentenceTransformer(sys.argv[1], device="cpu")
vectors = model.encode(TEXTS, convert_to_numpy=True)
rows = [{"text": t, "vector": [round(float(x), 6) for x in v]} for t, v in zip(TEXTS, vectors)]
with open("embeddings.json", "w") as out:
    out.write("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
