"""The official OpenAI SDK against a model that follows orders: see host/tests/it/scripted.rs."""

import os
import unittest

import openai
from pydantic import BaseModel

URL = os.environ["CORTEX_URL"]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
              "required": ["a", "b"], "additionalProperties": False}
ADD = {"type": "function", "name": "add", "parameters": PARAMETERS, "strict": True}


class Person(BaseModel):
    name: str


def client(**more):
    return openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", **more)


def said(response):
    """The items without their ids, which are new in every answer."""
    return [item.model_dump(exclude={"id", "parsed_arguments"}, exclude_none=True) for item in response.output]


def both(**body):
    """The same, plain and streamed; what the events add up to has to be what the last one says."""
    plain = client().responses.create(**body)
    with client().responses.stream(**body) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed", kinds
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == len(streamed.output)
    done = [e.item.id for e in events if e.type == "response.output_item.done"]
    assert done == [item.id for item in streamed.output]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == streamed.output_text == plain.output_text, (text, streamed.output_text, plain.output_text)
    assert (plain.status, plain.usage.total_tokens) == ("completed", 9) == (streamed.status, streamed.usage.total_tokens)
    return plain


class Responses(unittest.TestCase):
    def test_words(self):
        response = both(model="m", input="hello", instructions="Be brief.", metadata={"k": "v"}, temperature=0.5)
        self.assertEqual(response.output_text, "you said hello")
        self.assertEqual((response.model, response.instructions, response.metadata, response.temperature),
                         ("m", "Be brief.", {"k": "v"}, 0.5))
        self.assertFalse(response.store)

    def test_thoughts_go_round(self):
        first = both(model="m", input="think", include=["reasoning.encrypted_content"], store=False)
        self.assertEqual([item.type for item in first.output], ["reasoning", "message"])
        self.assertEqual(first.output[0].content[0].text, "Deep thought.")
        again = [{"role": "user", "content": "think"}, *first.output, {"role": "user", "content": "hello"}]
        self.assertEqual(both(model="m", input=again).output_text, "you said hello")

    def test_a_tool_loop(self):
        for order, want in (("call", "it is 3"), ("call twice", "it is 3 and 7")):
            items = [{"role": "user", "content": order}]
            while True:
                response = both(model="m", input=items, tools=[ADD])
                calls = [item for item in response.output if item.type == "function_call"]
                if not calls:
                    break
                items += response.output
                for call in calls:
                    numbers = __import__("json").loads(call.arguments)
                    items.append({"type": "function_call_output", "call_id": call.call_id,
                                  "output": str(numbers["a"] + numbers["b"])})
            self.assertEqual(response.output_text, want)

    def test_custom_and_namespaced_tools(self):
        tools = [{"type": "custom", "name": "patch"},
                 {"type": "namespace", "name": "mcp__files", "description": "Files.",
                  "tools": [{"type": "function", "name": "find", "parameters": {"type": "object"}}]}]
        call = both(model="m", input="patch", tools=tools).output[0]
        self.assertEqual((call.type, call.name, call.input), ("custom_tool_call", "patch", '*** "x"\n'))
        call = both(model="m", input="find", tools=tools).output[0]
        self.assertEqual((call.type, call.name, call.namespace), ("function_call", "find", "mcp__files"))

    def test_images(self):
        image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"}
        self.assertEqual(both(model="m", input=[{"role": "user", "content": [image]}]).output_text, "an image")

    def test_structured_output(self):
        response = client().responses.parse(model="m", input="json", text_format=Person)
        self.assertEqual(response.output_parsed, Person(name="x"))
        with client().responses.stream(model="m", input="json", text_format=Person) as stream:
            self.assertEqual(stream.get_final_response().output_parsed, Person(name="x"))

    def test_every_error_has_its_class(self):
        impatient = client(max_retries=0)
        for order, kind in (("status 429", openai.RateLimitError), ("status 500", openai.InternalServerError),
                            ("too long", openai.BadRequestError)):
            for stream in (False, True):
                with self.subTest(order), self.assertRaises(kind):
                    list(impatient.responses.create(model="m", input=order, stream=stream))
        with self.assertRaises(openai.NotFoundError) as caught:
            impatient.responses.create(model="none", input="x")
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            impatient.responses.create(model="m", input="x", previous_response_id="resp_1")
        self.assertIn("stores nothing", str(caught.exception))

    def test_it_tries_again(self):
        response = client().responses.create(model="m", input="status 503 once")
        self.assertEqual(response.output_text, "you said status 503 once")

    def test_what_breaks_off_has_failed(self):
        events = list(client(max_retries=0).responses.create(model="m", input="break", stream=True))
        last = events[-1]
        self.assertEqual((last.type, last.response.status, last.response.error.code),
                         ("response.failed", "failed", "server_error"))
        self.assertEqual(last.response.output[0].status, "incomplete")


class Chat(unittest.TestCase):
    def ask(self, order, **more):
        return {"model": "m", "messages": [{"role": "user", "content": order}], **more}

    def test_a_tool_loop(self):
        tool = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS, "strict": True}}
        body = self.ask("call twice", tools=[tool])
        with client().chat.completions.stream(**body) as stream:
            list(stream)
            message = stream.get_final_completion().choices[0].message
        self.assertEqual([c.function.parsed_arguments for c in message.tool_calls], [{"a": 1, "b": 2}, {"a": 3, "b": 4}])
        plain = client().chat.completions.create(**body).choices[0].message
        self.assertEqual([c.function.name for c in plain.tool_calls], ["add", "add"])
        body["messages"] += [{"role": "assistant", "tool_calls": [c.model_dump() for c in plain.tool_calls]}]
        body["messages"] += [{"role": "tool", "tool_call_id": c.id, "content": str(n)}
                             for c, n in zip(plain.tool_calls, (3, 7))]
        self.assertEqual(client().chat.completions.create(**body).choices[0].message.content, "it is 3 and 7")

    def test_structured_output(self):
        answer = client().chat.completions.parse(**self.ask("json"), response_format=Person)
        self.assertEqual(answer.choices[0].message.parsed, Person(name="x"))

    def test_what_breaks_off_is_an_error(self):
        with self.assertRaises(openai.APIError):
            list(client(max_retries=0).chat.completions.create(**self.ask("break"), stream=True))


if __name__ == "__main__":
    unittest.main()
