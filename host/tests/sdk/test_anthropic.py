"""The official Anthropic SDK against a running pair. CORTEX_URL and CORTEX_MODEL say where and what."""

import os
import unittest

import anthropic

URL = os.environ["CORTEX_URL"]
MODEL = os.environ["CORTEX_MODEL"]


def client(**more):
    return anthropic.Anthropic(base_url=URL, api_key="unused", **more)


def request(text="Say hello.", **more):
    return {"model": MODEL, "max_tokens": 8, "temperature": 0,
            "messages": [{"role": "user", "content": text}], **more}


def create(**more):
    # Fields that newer SDKs have no argument for still travel.
    body = request(**more)
    extra = {"temperature": body.pop("temperature")}
    return client().messages.create(extra_body=extra, **body)


class Anthropic(unittest.TestCase):
    def test_models(self):
        self.assertIn(MODEL, [model.id for model in client().models.list(limit=1000)])
        model = client().models.retrieve(MODEL)
        self.assertEqual((model.id, model.type), (MODEL, "model"))
        self.assertGreater(model.created_at.year, 2024)

    def test_plain(self):
        answer = create()
        self.assertEqual([block.type for block in answer.content], ["text"])
        self.assertTrue(answer.content[0].text.strip())
        self.assertIn(answer.stop_reason, ("end_turn", "max_tokens"))
        self.assertEqual(answer.model, MODEL)
        self.assertGreater(answer.usage.input_tokens, 0)
        self.assertGreater(answer.usage.output_tokens, 0)

    def test_streamed_equals_plain(self):
        plain = create(max_tokens=16).content[0].text
        body = request(max_tokens=16)
        extra = {"temperature": body.pop("temperature")}
        with client().messages.stream(extra_body=extra, **body) as stream:
            text = "".join(stream.text_stream)
            message = stream.get_final_message()
        self.assertEqual(text, plain)
        self.assertEqual(message.content[0].text, plain)
        self.assertIsNotNone(message.stop_reason)
        self.assertGreater(message.usage.output_tokens, 0)

    def test_system_prompt(self):
        short = create().usage.input_tokens
        blocks = [{"type": "text", "text": "You are a pirate."}, {"type": "text", "text": "Speak like one. " * 5}]
        self.assertGreater(create(system=blocks).usage.input_tokens, short)
        self.assertGreater(create(system="You are a pirate. " * 5).usage.input_tokens, short)

    def test_counted_tokens_are_the_tokens_used(self):
        messages = request("How many tokens are these, naïve or not?")["messages"]
        counted = client().messages.count_tokens(model=MODEL, messages=messages, system="Be brief.")
        used = create(messages=messages, system="Be brief.")
        self.assertEqual(counted.input_tokens, used.usage.input_tokens)

    def test_stop_sequence(self):
        answer = create(messages=request("Count from 1 to 9 with commas.")["messages"], max_tokens=24, stop_sequences=[" "])
        self.assertEqual((answer.stop_reason, answer.stop_sequence), ("stop_sequence", " "))

    def test_unknown_model(self):
        with self.assertRaises(anthropic.NotFoundError) as caught:
            create(model=MODEL[:-2])
        self.assertEqual(caught.exception.body["error"]["type"], "not_found_error")
        self.assertIn(MODEL, str(caught.exception))
        self.assertTrue(caught.exception.request_id.startswith("req_"))

    def test_bad_requests(self):
        for more in ({"max_tokens": 0}, {"messages": []}, {"system": 5}):
            with self.subTest(more), self.assertRaises(anthropic.BadRequestError) as caught:
                create(**more)
            self.assertIn(next(iter(more)), str(caught.exception))

    def test_too_long(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            create(messages=request("word " * 20000)["messages"])
        self.assertIn("prompt is too long", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
