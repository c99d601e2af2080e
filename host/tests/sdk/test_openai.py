"""The official OpenAI SDK against a running pair. CORTEX_URL and CORTEX_MODEL say where and what."""

import os
import unittest

import openai

URL = os.environ["CORTEX_URL"]
MODEL = os.environ["CORTEX_MODEL"]
ALIAS = os.environ["CORTEX_ALIAS"]


def client(**more):
    return openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", **more)


def ask(text="Say hello.", **more):
    more.setdefault("model", MODEL)
    more.setdefault("max_tokens", 8)
    more.setdefault("temperature", 0)
    messages = more.pop("messages", [{"role": "user", "content": text}])
    return client().chat.completions.create(messages=messages, **more)


class OpenAi(unittest.TestCase):
    def test_models(self):
        ids = [model.id for model in client().models.list()]
        self.assertIn(MODEL, ids)
        self.assertIn(ALIAS, ids)
        self.assertEqual(client().models.retrieve(MODEL).id, MODEL)

    def test_plain(self):
        answer = ask()
        choice = answer.choices[0]
        self.assertTrue(choice.message.content.strip())
        self.assertIn(choice.finish_reason, ("stop", "length"))
        self.assertEqual(answer.model, MODEL)
        usage = answer.usage
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

    def test_the_alias_is_what_comes_back(self):
        self.assertEqual(ask(model=ALIAS).model, ALIAS)

    def test_streamed_equals_plain(self):
        plain = ask(max_tokens=16).choices[0].message.content
        chunks = list(ask(max_tokens=16, stream=True))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, plain)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        self.assertEqual(len(reasons), 1)
        self.assertTrue(all(c.usage is None for c in chunks), "usage came unasked")
        self.assertTrue(all(c.model == MODEL for c in chunks))

    def test_streamed_usage_on_request(self):
        chunks = list(ask(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[-1].choices, [])
        self.assertGreater(chunks[-1].usage.completion_tokens, 0)

    def test_system_prompt_changes_the_prompt(self):
        system = [{"role": "system", "content": "You are a pirate. " * 5}, {"role": "user", "content": "Hi"}]
        user = [{"role": "user", "content": "Hi"}]
        self.assertGreater(ask(messages=system).usage.prompt_tokens, ask(messages=user).usage.prompt_tokens)

    def test_seed_makes_it_repeatable(self):
        draw = lambda: ask("Tell me a story.", temperature=1.0, seed=7, max_tokens=12).choices[0].message.content
        self.assertEqual(draw(), draw())

    def test_stop(self):
        answer = ask("Count from 1 to 9 with commas.", max_tokens=24, stop=[" "])
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertNotIn(" ", answer.choices[0].message.content)

    def test_completions(self):
        answer = client().completions.create(model=MODEL, prompt="Once upon a", max_tokens=4, temperature=0)
        self.assertTrue(answer.choices[0].text)

    def test_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            ask(model=MODEL[:-2])
        self.assertEqual(caught.exception.code, "model_not_found")
        self.assertIn(MODEL, caught.exception.message)
        self.assertTrue(caught.exception.request_id.startswith("req_"))

    def test_bad_requests(self):
        for more in ({"temperature": "hot"}, {"messages": "hi"}, {"max_tokens": -1}, {"top_p": 7}):
            with self.subTest(more), self.assertRaises(openai.BadRequestError) as caught:
                ask(**more)
            self.assertIn(next(iter(more)), str(caught.exception))

    def test_too_long(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            ask("word " * 20000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")


if __name__ == "__main__":
    unittest.main()
