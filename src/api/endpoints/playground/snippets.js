// A request as code to copy.

const json = (value) => JSON.stringify(value, null, 2);

/** A value as Python writes it. Escapes of JSON are escapes of Python, too. */
function python(value, indent = '') {
  const inner = `${indent}    `;
  if (value === null) return 'None';
  if (value === true || value === false) return value ? 'True' : 'False';
  if (typeof value !== 'object') return JSON.stringify(value);
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((item) => python(item, inner))
    : Object.entries(value).map(
        ([name, item]) => `${JSON.stringify(name)}: ${python(item, inner)}`,
      );
  const [open, close] = isList ? '[]' : '{}';
  return items.length
    ? `${open}\n${inner}${items.join(`,\n${inner}`)},\n${indent}${close}`
    : open + close;
}

const LANGUAGES = {
  curl({ url, body, hasKey }) {
    const key = hasKey ? ' \\\n  -H "Authorization: Bearer $REMASK_API_KEY"' : '';
    const noBuffer = body.stream ? 'N' : '';
    return `curl -s${noBuffer} '${url}'${key} \\\n  -d '${json(body).replaceAll("'", "'\\''")}'\n`;
  },
  python({ url, body, hasKey }) {
    const key = hasKey ? ', "Authorization": "Bearer " + os.environ["REMASK_API_KEY"]' : '';
    return `import json\n${hasKey ? 'import os\n' : ''}import urllib.request\n
body = ${python(body)}
request = urllib.request.Request(
    ${JSON.stringify(url)}, json.dumps(body).encode(),
    {"Content-Type": "application/json"${key}})
with urllib.request.urlopen(request) as answer:
    for line in answer:
        print(line.decode(), end="")
`;
  },
  javascript({ url, body, hasKey }) {
    const key = hasKey ? ',\n    Authorization: `Bearer ${process.env.REMASK_API_KEY}`' : '';
    return `const response = await fetch(${JSON.stringify(url)}, {
  method: 'POST',
  headers: {
    'Content-Type': 'application/json'${key},
  },
  body: JSON.stringify(${json(body).replaceAll('\n', '\n  ')}),
});
const decoder = new TextDecoder();
for await (const chunk of response.body) {
  console.log(decoder.decode(chunk, { stream: true }));
}
`;
  },
};

/** A request to `url` in a language: `curl`, `python` or `javascript`. */
export function snippet(language, request) {
  return LANGUAGES[language](request);
}
