"""litellm, as a client of an OpenAI-compatible server. Usage: litellm_client.py URL"""

import os
import sys
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched from elsewhere
import litellm  # noqa: E402

where = {"model": "openai/toy", "api_base": f"{sys.argv[1]}/v1", "api_key": "none"}
ask = [{"role": "user", "content": "Hello"}]
whole = litellm.completion(messages=ask, max_tokens=60, **where)
assert whole.choices[0].message.content and whole.usage.completion_tokens > 0
chunks = litellm.completion(messages=ask, max_tokens=60, stream=True, **where)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
plain = litellm.text_completion(prompt="One", max_tokens=20, **{**where, "model": "text-completion-openai/toy"})
assert plain.choices[0].text
print("litellm", version("litellm"))
