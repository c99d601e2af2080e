"""The official OpenAI SDK's Responses against a running pair. CORTEX_URL, CORTEX_MODEL and CORTEX_ALIAS say where and what."""

import os
import unittest

import openai

URL = os.environ["CORTEX_URL"]
MODEL = os.environ["CORTEX_MODEL"]
ALIAS = os.environ["CORTEX_ALIAS"]


def client(**more):
    return openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", **more)


def create(input="Say hello.", **more):
    return client().responses.create(model=MODEL, input=input, temperature=0, **{"max_output_tokens": 16, **more})


class Responses(unittest.TestCase):
    def test_plain(self):
        response = create()
        self.assertTrue(response.output_text.strip())
        self.assertEqual((response.object, response.model), ("response", MODEL))
        self.assertIn(response.status, ("completed", "incomplete"))
        self.assertGreater(response.usage.input_tokens, 0)
        self.assertGreater(response.created_at, 1_700_000_000)

    def test_the_alias_is_what_comes_back(self):
        self.assertEqual(client().responses.create(model=ALIAS, input="Hi", max_output_tokens=4).model, ALIAS)

    def test_streamed_equals_plain(self):
        plain = create("Count from 1 to 9 with commas.", max_output_tokens=24)
        stream = client().responses.stream(model=MODEL, input="Count from 1 to 9 with commas.", temperature=0,
                                           max_output_tokens=24)
        with stream as events:
            text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        self.assertEqual(text, plain.output_text)

    def test_its_length_is_said(self):
        response = create("Tell a long story.", max_output_tokens=3)
        self.assertEqual((response.status, response.incomplete_details.reason), ("incomplete", "max_output_tokens"))

    def test_counted_tokens_are_the_tokens_used(self):
        question = "How many tokens are these, naïve or not?"
        counted = client().responses.input_tokens.count(model=MODEL, input=question, instructions="Be brief.")
        used = create(question, instructions="Be brief.")
        self.assertEqual(counted.input_tokens, used.usage.input_tokens)

    def test_a_conversation(self):
        turns = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Hello Ada."},
                 {"role": "user", "content": "What is my name?"}]
        self.assertGreater(create(turns).usage.input_tokens, create().usage.input_tokens)

    def test_leaving(self):
        stream = client().responses.create(model=MODEL, input="Tell a long story.", stream=True, max_output_tokens=900)
        for event in stream:
            if event.type == "response.output_text.delta":
                break
        stream.close()
        self.assertTrue(create().output_text)

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError):
            client().responses.create(model=MODEL[:-2], input="x")
        with self.assertRaises(openai.BadRequestError) as caught:
            create("word " * 20000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")


if __name__ == "__main__":
    unittest.main()
