"""The official Anthropic SDK against a model that follows orders: see host/tests/it/scripted.rs."""

import base64
import os
import unittest

import anthropic

URL = os.environ["CORTEX_URL"]
ADD = {"name": "add", "description": "Adds.", "input_schema": {
    "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def client(**more):
    return anthropic.Anthropic(base_url=URL, api_key="unused", **more)


def request(content, **more):
    return {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": content}], **more}


def both(**body):
    """The same, plain and streamed; the SDK's accumulator has to come to the same message."""
    plain = client().messages.create(**body)
    with client().messages.stream(**body) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds
    same = lambda message: [block.model_dump(exclude={"id", "signature"}) for block in message.content]
    assert same(plain) == same(streamed), (plain, streamed)
    assert (plain.stop_reason, plain.usage.output_tokens) == (streamed.stop_reason, streamed.usage.output_tokens)
    return streamed


class Scripted(unittest.TestCase):
    def test_words(self):
        message = both(**request("hello"))
        self.assertEqual([b.text for b in message.content], ["you said hello"])
        self.assertEqual((message.stop_reason, message.usage.input_tokens), ("end_turn", 7))

    def test_thoughts(self):
        message = both(**request("think"))
        self.assertEqual([b.type for b in message.content], ["thinking", "text"])
        self.assertEqual((message.content[0].thinking, message.content[1].text), ("Deep thought.", "42"))

    def test_a_tool_loop(self):
        for order, want in (("call", "it is 3"), ("call twice", "it is 3 and 7")):
            body = request(order, tools=[ADD])
            while True:
                message = both(**body)
                calls = [b for b in message.content if b.type == "tool_use"]
                if not calls:
                    break
                self.assertEqual(message.stop_reason, "tool_use")
                results = [{"type": "tool_result", "tool_use_id": c.id, "content": str(c.input["a"] + c.input["b"])}
                           for c in calls]
                body["messages"] += [{"role": "assistant", "content": message.content},
                                     {"role": "user", "content": results}]
            self.assertEqual(message.content[0].text, want)

    def test_the_sdks_own_loop(self):
        @anthropic.beta_tool
        def add(a: int, b: int) -> str:
            """Adds."""
            return str(a + b)

        runner = client().beta.messages.tool_runner(**request("call twice"), tools=[add])
        self.assertEqual(runner.until_done().content[0].text, "it is 3 and 7")

    def test_images(self):
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
        self.assertEqual(both(**request([image])).content[0].text, "an image")
        loop = request("call", tools=[ADD])
        loop["messages"] += [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "add", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [image]}]}]
        self.assertEqual(both(**loop).content[0].text, "an image")

    def test_structured_output(self):
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],
                  "additionalProperties": False}
        body = request("json", output_config={"format": {"type": "json_schema", "schema": schema}})
        self.assertEqual(both(**body).content[0].text, '{"name":"x"}')

    def test_every_error_has_its_class(self):
        impatient = client(max_retries=0)
        for order, kind, name in (
            ("status 429", anthropic.RateLimitError, "rate_limit_error"),
            ("status 500", anthropic.InternalServerError, "api_error"),
            ("too long", anthropic.BadRequestError, "invalid_request_error"),
        ):
            for stream in (False, True):
                with self.subTest(order), self.assertRaises(kind) as caught:
                    list(impatient.messages.create(**request(order), stream=stream))
                self.assertEqual(caught.exception.body["error"]["type"], name)
                self.assertTrue(caught.exception.request_id.startswith("req_"))
        with self.assertRaises(anthropic.NotFoundError):
            impatient.messages.create(**{**request("x"), "model": "none"})
        with self.assertRaises(anthropic.BadRequestError) as caught:
            impatient.messages.create(**request([{"type": "image", "source": {"type": "file", "file_id": "f"}}]))
        self.assertIn("messages.0.content.0.source.type", str(caught.exception))

    def test_it_tries_again(self):
        self.assertEqual(client().messages.create(**request("status 503 once")).content[0].text,
                         "you said status 503 once")

    def test_what_breaks_off_is_an_error(self):
        with self.assertRaises(anthropic.APIError):
            with client(max_retries=0).messages.stream(**request("break")) as stream:
                stream.get_final_message()

    def test_leaving(self):
        with client().messages.stream(**request("think")) as stream:
            next(iter(stream))
        self.assertEqual(both(**request("hello")).stop_reason, "end_turn")

    def test_large_bodies_are_refused_as_such(self):
        with self.assertRaises(anthropic.APIStatusError) as caught:
            client(max_retries=0).messages.create(**request("x" * (33 << 20)))
        self.assertEqual((caught.exception.status_code, caught.exception.body["error"]["type"]),
                         (413, "request_too_large"))


if __name__ == "__main__":
    unittest.main()
