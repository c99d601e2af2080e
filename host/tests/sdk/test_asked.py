"""What a model can be asked, by the official SDKs' own helpers, over every dialect: forms, tools, several answers, how
likely tokens were, embeddings. CORTEX_URL and CORTEX_MODEL say where and what."""

import json
import math
import os
import unittest

import anthropic
import openai
from pydantic import BaseModel, ConfigDict, Field

URL = os.environ["CORTEX_URL"]
MODEL = os.environ["CORTEX_MODEL"]
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


class GetWeather(BaseModel):
    """The weather of a city."""

    model_config = ConfigDict(extra="forbid")
    city: str = Field(max_length=20)
    days: int = Field(ge=1, le=9)


def client():
    return openai.OpenAI(base_url=f"{URL}/v1", api_key="unused")


def said(text):
    return [{"role": "user", "content": text}]


SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
          "required": ["city", "days"], "additionalProperties": False}


class Forms(unittest.TestCase):
    def test_parse(self):
        answer = client().chat.completions.parse(
            model=MODEL, messages=said("Name a person."), response_format=Person, max_tokens=80, temperature=0)
        self.assertIsInstance(answer.choices[0].message.parsed, Person)

    def test_stream_and_parse(self):
        with client().chat.completions.stream(
                model=MODEL, messages=said("Name a person."), response_format=Person, max_tokens=80, temperature=0) as stream:
            for _ in stream:
                pass
            self.assertIsInstance(stream.get_final_completion().choices[0].message.parsed, Person)

    def test_responses(self):
        answer = client().responses.parse(
            model=MODEL, input="Name a person.", text_format=Person, max_output_tokens=80, temperature=0)
        self.assertIsInstance(answer.output_parsed, Person)

    def test_a_schema_that_cannot_be(self):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "not": {}}}}
        with self.assertRaises(openai.BadRequestError) as raised:
            client().chat.completions.create(model=MODEL, messages=said("x"), response_format=form)
        self.assertIn('"not"', str(raised.exception))
        self.assertEqual(raised.exception.param, "response_format")


class Tools(unittest.TestCase):
    def test_parse(self):
        answer = client().chat.completions.parse(
            model=MODEL, messages=said("Weather in Rome?"), tools=[openai.pydantic_function_tool(GetWeather)],
            tool_choice="required", parallel_tool_calls=False, max_tokens=120, temperature=0)
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        [call] = answer.choices[0].message.tool_calls
        self.assertIsInstance(call.function.parsed_arguments, GetWeather)

    def test_stream(self):
        with client().chat.completions.stream(
                model=MODEL, messages=said("Weather in Rome?"), tools=[openai.pydantic_function_tool(GetWeather)],
                tool_choice="required", parallel_tool_calls=False, max_tokens=120, temperature=0) as stream:
            done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        [event] = done
        self.assertIsInstance(event.parsed_arguments, GetWeather)

    def test_responses(self):
        tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}]
        answer = client().responses.create(
            model=MODEL, input="Weather in Rome?", tools=tools, tool_choice="required", parallel_tool_calls=False,
            max_output_tokens=120)
        [call] = [item for item in answer.output if item.type == "function_call"]
        self.assertLessEqual(json.loads(call.arguments)["days"], 9)

    def test_anthropic(self):
        tools = [{"name": "weather", "description": "d", "input_schema": SCHEMA}]
        messages = said("Weather in Rome?")
        sdk = anthropic.Anthropic(base_url=URL, api_key="unused")
        choice = {"type": "any", "disable_parallel_tool_use": True}
        answer = sdk.messages.create(model=MODEL, max_tokens=120, messages=messages, tools=tools, tool_choice=choice)
        self.assertEqual(answer.stop_reason, "tool_use")
        [call] = [block for block in answer.content if block.type == "tool_use"]
        self.assertEqual(set(call.input), {"city", "days"})
        messages += [{"role": "assistant", "content": answer.content},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}]
        with sdk.messages.stream(model=MODEL, max_tokens=12, messages=messages, tools=tools,
                                 tool_choice={"type": "none"}) as stream:
            self.assertTrue(stream.get_final_text().strip())


class Answers(unittest.TestCase):
    def test_several_and_how_likely(self):
        answer = client().chat.completions.create(
            model=MODEL, messages=said("Say a word."), n=3, seed=5, max_tokens=6, logprobs=True, top_logprobs=2)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])
        for choice in answer.choices:
            for token in choice.logprobs.content:
                self.assertLessEqual(token.logprob, 0)
                self.assertEqual(len(token.top_logprobs), 2)

    def test_echo(self):
        answer = client().completions.create(model=MODEL, prompt="The capital of France is", max_tokens=2, echo=True,
                                             logprobs=1, temperature=0)
        self.assertEqual(answer.choices[0].text, "The capital of France is Paris.")
        self.assertEqual(len(answer.choices[0].logprobs.tokens), 7)

    def test_extensions(self):
        answer = client().chat.completions.create(model=MODEL, messages=said("Is Rome in Italy?"), max_tokens=8,
                                                  extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
        self.assertIn(answer.choices[0].message.content, ("yes", "no"))


class Embeddings(unittest.TestCase):
    def test_vectors(self):
        answer = client().embeddings.create(model=EMBEDDER, input=["a cat", "a kitten", "tax law"])
        cat, kitten, law = (item.embedding for item in answer.data)
        self.assertEqual(len(cat), 384)
        self.assertAlmostEqual(math.sumprod(cat, cat) if hasattr(math, "sumprod") else sum(x * x for x in cat), 1, 4)
        dot = lambda a, b: sum(x * y for x, y in zip(a, b))
        self.assertGreater(dot(cat, kitten), dot(cat, law) + 0.2)
        self.assertGreater(answer.usage.total_tokens, 9)

    def test_what_is_wrong(self):
        for wrong in ([], [""], "word " * 600):
            with self.assertRaises(openai.BadRequestError):
                client().embeddings.create(model=EMBEDDER, input=wrong)
        with self.assertRaises(openai.BadRequestError):
            client().embeddings.create(model=EMBEDDER, input="a", dimensions=12)


if __name__ == "__main__":
    unittest.main()
