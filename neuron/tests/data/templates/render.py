"""What the Python library transformers makes of chat templates: `renderings.json`, which neuron's is compared with.

Run it in this folder after a change (`pip install transformers jinja2`):

    python render.py

Or with a folder of other templates, each NAME.jinja, to get a `renderings.json` there:

    python render.py FOLDER

Or to get no more than the hashes of those renderings, which say nothing of what the templates say, into `real.json`:

    python render.py FOLDER --hashes
"""

import copy
import hashlib
import json
import sys
from pathlib import Path

from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent

# What the templates of this folder are rendered with, beside what all have: the spellings of the start and end
# tokens, and the variables of which each is tried by itself.
SETTINGS = {
    "deepseek_format": {"bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>"},
    "gemma_format": {"bos": "<bos>", "eos": "<eos>"},
    "glm_format": {"eos": "<|endoftext|>"},
    "gpt_oss_format": {
        "eos": "<|return|>",
        "variables": [{"reasoning_effort": "high"}, {"model_identity": "You are \"Ø\"."}],
    },
    "granite_format": {"eos": "<|end_of_text|>", "variables": [{"thinking": True}, {"thinking": False}]},
    "hermes_format": {"bos": "<|begin_of_text|>", "eos": "<|im_end|>"},
    "kimi_format": {"bos": "[BOS]", "eos": "[EOS]"},
    "lfm_format": {"bos": "<|startoftext|>", "eos": "<|im_end|>"},
    "llama3_format": {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"},
    "olmo_format": {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
    "phi4_format": {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
    "qwen2_format": {"eos": "<|im_end|>"},
    "qwen3_format": {"eos": "<|im_end|>"},
    "seed_format": {
        "bos": "<seed:bos>",
        "eos": "<seed:eos>",
        "variables": [{"thinking_budget": 0}, {"thinking_budget": 700}, {"thinking_budget": 99999}],
    },
    "smollm3_format": {"eos": "<|im_end|>", "variables": [{"xml_tools": True}]},
}
# For templates that are not named above.
DEFAULTS = {"bos": "<s>", "eos": "</s>", "variables": []}

ODD = "Grüße, 你好 🦀 “a” 'b' \"c\" <b>&amp;</b> \\n {{ d }} {% e %}\n\tnext\u00a0line"

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather <now> & \"later\", in °C.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where it's"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                    "days": {"type": "integer", "minimum": 1, "maximum": 7},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "plan",
            "description": "Plans a trip",
            "parameters": {
                "type": "object",
                "properties": {
                    "stops": {
                        "type": "array",
                        "description": "In their order",
                        "items": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}, "nights": {"type": "number"}},
                            "required": ["name"],
                        },
                    },
                    "dry_run": {"type": "boolean"},
                    "note": {"type": ["string", "null"]},
                },
                "required": ["stops", "dry_run"],
            },
        },
    },
]


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def call(number, name, arguments):
    """A call as OpenAI's API has it: the arguments are a text."""
    text = json.dumps(arguments, ensure_ascii=False)
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": text}}


def result(number, name, content):
    return said("tool", content, tool_call_id=f"call{number:05}", name=name)


WEATHER = [
    said("user", "How is Zürich?"),
    said("assistant", "", tool_calls=[call(1, "get_weather", {"city": "Zürich \"HB\"", "days": 2})]),
    result(1, "get_weather", '{"sky": "clear", "high": 21.5}'),
]
STOPS = {"stops": [{"name": "Bern", "nights": 1.5}, {"name": "<Genève>"}], "dry_run": False, "note": None}

CONVERSATIONS = {
    "user": {"messages": [said("user", "Hello")]},
    "system": {"messages": [said("system", "Be brief."), said("user", "Hello")]},
    "turns": {
        "messages": [
            said("system", "Be brief."),
            said("user", "One?"),
            said("assistant", "Two."),
            said("user", "Three?"),
            said("assistant", "Four."),
            said("user", "Five?"),
        ]
    },
    "answered": {"messages": [said("user", "One?"), said("assistant", "Two.")]},
    "odd": {
        "messages": [
            said("system", f" {ODD}"),
            said("user", f"\n {ODD} \n"),
            said("assistant", ODD),
            said("user", " "),
        ]
    },
    "thought": {
        "messages": [
            said("user", "17 + 4?"),
            said("assistant", "21", reasoning_content="\nCarry 1.\n\nSo 21."),
            said("user", "And 5 more?"),
        ]
    },
    "thought in content": {
        "messages": [
            said("user", "17 + 4?"),
            said("assistant", "<think>\nCarry 1.\n</think>\n\n21"),
            said("user", "And 5 more? /no_think"),
        ]
    },
    "two users": {"messages": [said("user", "One?"), said("user", "Two?")]},
    "assistant first": {"messages": [said("assistant", "Hi."), said("user", "Hello")]},
    "tools": {"messages": [said("user", "Hello")], "tools": TOOLS},
    "tools, system": {"messages": [said("system", "Be brief."), said("user", "Hello")], "tools": TOOLS},
    "call": {"messages": WEATHER, "tools": TOOLS},
    "call, then more": {
        "messages": [
            said("system", "Be brief."),
            *WEATHER,
            said("assistant", "Clear, 21.5 °C."),
            said("user", "Then to Bern."),
            said(
                "assistant",
                "I'll plan.",
                reasoning_content="Both at once.",
                tool_calls=[call(2, "plan", STOPS), call(3, "get_weather", {"city": "Bern"})],
            ),
            result(2, "plan", "planned\n<ok>"),
            result(3, "get_weather", "rain"),
        ],
        "tools": TOOLS,
    },
    "call without tools": {"messages": [*WEATHER, said("assistant", "Clear."), said("user", "Thanks.")]},
}
# These are also rendered as a history, with nothing to go on from.
HISTORIES = ["answered", "turns", "call, then more"]
# With these, each variable of a template is tried.
VARIED = ["system", "thought", "call, then more"]


class Today:
    """Stands in for the clock: dates are left for the reader to fill in, as `{DATE:%d %B %Y}`."""

    @staticmethod
    def now():
        return Today

    @staticmethod
    def strftime(form):
        return f"{{DATE:{form}}}"


def with_maps(messages):
    """The same with the arguments of calls as maps, which is what most templates are written for."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for made in message.get("tool_calls", []):
            made["function"]["arguments"] = json.loads(made["function"]["arguments"])
    return messages


def cases(source, variables):
    """Conversation, whether to go on, and variables."""
    # For a template that knows no tools neuron puts them into words of its own.
    knows_tools = "tools" in source or "tool_calls" in source
    for name, conversation in CONVERSATIONS.items():
        if not knows_tools and (conversation.get("tools") or any("tool_calls" in m for m in conversation["messages"])):
            continue
        yield name, True, {}
        if name in HISTORIES:
            yield name, False, {}
        if name in VARIED:
            yield from ((name, True, given) for given in variables)


def rendering(tokenizer, source, name, go_on, variables):
    case = {"conversation": name, "add_generation_prompt": go_on, "kwargs": variables}
    conversation = CONVERSATIONS[name]
    # Some, such as DeepSeek's, are written for the text, and stop with an error at a map.
    forms = [with_maps(conversation["messages"]), conversation["messages"]]
    for messages in forms if forms[0] != forms[1] else forms[:1]:
        try:
            rendered = tokenizer.apply_chat_template(
                messages,
                tools=conversation.get("tools"),
                chat_template=source,
                add_generation_prompt=go_on,
                tokenize=False,
                **variables,
            )
            return {**case, "rendered": rendered}
        except TemplateSyntaxError:
            raise
        except Exception as error:  # a template stops by any of jinja's errors, or by Python's own
            print(f"  {name}: {type(error).__name__}: {error}")
    return {**case, "error": True}


def template(path):
    settings = {**DEFAULTS, **SETTINGS.get(path.stem, {})}
    source = path.read_text()
    variables = list(settings["variables"])
    if "enable_thinking" in source:
        variables += [{"enable_thinking": True}, {"enable_thinking": False}]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")),
        bos_token=settings["bos"],
        eos_token=settings["eos"],
    )
    print(path.stem)
    renderings = [rendering(tokenizer, source, *case) for case in cases(source, variables)]
    return {"bos": settings["bos"], "eos": settings["eos"], "renderings": renderings}


def line(value):
    return json.dumps(value, ensure_ascii=False)


def write_hashes(made):
    """One line a template: what each rendering is, by the first half of its SHA-256."""
    lines = []
    for name, value in made.items():
        cases = []
        for case in value["renderings"]:
            case = dict(case)
            rendered = case.pop("rendered", None)
            if rendered is not None:
                # Dates change from day to day, and so would the hash.
                if "{DATE:" in rendered:
                    continue
                case["sha256"] = hashlib.sha256(rendered.encode()).hexdigest()[:32]
            cases.append(case)
        spellings = f'"bos": {line(value["bos"])}, "eos": {line(value["eos"])}'
        renderings = ",\n".join(map(line, cases))
        lines.append(f'{line(name)}: {{{spellings}, "renderings": [\n{renderings}\n]}}')
    (HERE / "real.json").write_text('{{"templates": {{\n{}\n}}}}\n'.format(",\n".join(lines)))


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    chat_template_utils.datetime = Today
    made = {path.stem: template(path) for path in sorted(folder.glob("*.jinja"))}
    if "--hashes" in sys.argv:
        # Those for training differ in marks that no prompt shows.
        write_hashes({name: value for name, value in made.items() if not name.endswith("_training")})
        return

    # One line a rendering, so that a change shows as the lines that it changes.
    conversations = [f"{line(name)}: {line({'tools': [], **value})}" for name, value in CONVERSATIONS.items()]
    templates = []
    for name, value in made.items():
        renderings = ",\n".join(map(line, value["renderings"]))
        spellings = f'"bos": {line(value["bos"])}, "eos": {line(value["eos"])}'
        templates.append(f'{line(name)}: {{{spellings}, "renderings": [\n{renderings}\n]}}')
    text = '{{"conversations": {{\n{}\n}},\n"templates": {{\n{}\n}}}}\n'.format(
        ",\n".join(conversations), ",\n".join(templates)
    )
    json.loads(text)
    (folder / "renderings.json").write_text(text)
    renderings = [case for value in made.values() for case in value["renderings"]]
    refused = sum("error" in case for case in renderings)
    print(f"{len(made)} templates, {len(renderings)} renderings, {refused} of them refused, {len(text)} bytes")


if __name__ == "__main__":
    main()
