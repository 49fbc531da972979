"""LangChain's ChatOpenAI: whole, streamed, in batches, async. Usage: langchain_client.py URL"""

import asyncio
import sys
from importlib.metadata import version

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

url = f"{sys.argv[1]}/v1"
chat = ChatOpenAI(model="toy", base_url=url, api_key="none", max_tokens=60, temperature=0)
ask = [SystemMessage("Be brief."), HumanMessage("Hello")]
whole = chat.invoke(ask)
assert whole.content and whole.usage_metadata["output_tokens"] > 0
assert "".join(chunk.content for chunk in chat.stream(ask)) == whole.content
assert [answer.content for answer in chat.batch([ask, ask])] == [whole.content] * 2
assert asyncio.run(chat.ainvoke(ask)).content == whole.content
diffusing = ChatOpenAI(model="toy", base_url=url, api_key="none", extra_body={"diffusion": {"steps": 4}}, max_tokens=60)
assert diffusing.invoke(ask).content
assert OpenAI(model="toy", base_url=url, api_key="none", max_tokens=20, temperature=0).invoke("One")
print("langchain-openai", version("langchain-openai"))
