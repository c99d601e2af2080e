"""Both SDKs against a gateway whose neuron is not up. `never`: it stays down. `soon`: it comes up meanwhile."""

import os
import sys
import threading

import anthropic
import openai

URL = os.environ["CORTEX_URL"]
MODEL = os.environ["CORTEX_MODEL"]
MESSAGES = [{"role": "user", "content": "Say hello."}]


def with_openai():
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="unused")
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=4).choices[0].message.content


def with_anthropic():
    client = anthropic.Anthropic(base_url=URL, api_key="unused")
    return client.messages.create(model=MODEL, messages=MESSAGES, max_tokens=4).content[0].text


def run(ask, name, outcomes):
    try:
        outcomes[name] = ask()
    except Exception as error:  # what is raised is the outcome
        outcomes[name] = error


outcomes = {}
threads = [
    threading.Thread(target=run, args=(ask, name, outcomes))
    for ask, name in ((with_openai, "openai"), (with_anthropic, "anthropic"))
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

if sys.argv[1] == "soon":
    assert all(isinstance(text, str) for text in outcomes.values()), outcomes
else:
    assert isinstance(outcomes["openai"], openai.InternalServerError), outcomes
    assert isinstance(outcomes["anthropic"], anthropic.InternalServerError), outcomes
    assert all(error.status_code == 503 for error in outcomes.values()), outcomes
