// What is sent: the path and the body of a request, from the settings of the page.

/** The paths of the modes. They are relative, so that the page works behind a prefix. */
export const PATHS = {
  infill: 'v1/infill',
  prompt: 'v1/completions',
  chat: 'v1/chat/completions',
  repair: 'v1/repair',
  score: 'v1/score',
};

const given = (fields) =>
  Object.fromEntries(
    Object.entries(fields).filter(
      ([, value]) => value !== null && value !== '' && value !== undefined,
    ),
  );

/** The path and the body that settings stand for, with one of their policies. */
export function requestOf(settings, policy, { hasHead }) {
  const { mode, model, seed, temperature, below } = settings;
  const path = PATHS[mode];
  const extra = extraOf(settings.extra);
  const common = given({ model, seed, temperature });
  const quality = hasHead ? { return_quality: true } : {};
  const { diffusion: ofExtra = {}, ...rest } = extra;
  const body = {
    infill: () => ({
      ...common,
      template: settings.template,
      ...given({ blank: settings.blank }),
      diffusion: { ...quality, ...policy, ...ofExtra },
    }),
    prompt: () => ({
      ...common,
      prompt: wordsOf(settings.prompt, settings.ids),
      ...given({ max_tokens: settings.maxTokens }),
      diffusion: { ...quality, ...policy, stream_edits: true, ...ofExtra },
    }),
    chat: () => ({
      ...common,
      messages: [...settings.turns, { role: 'user', content: settings.message }],
      ...given({ max_tokens: settings.maxTokens }),
      diffusion: { ...quality, ...policy, stream_edits: true, ...ofExtra },
    }),
    repair: () => ({
      ...common,
      text: wordsOf(settings.text, settings.ids),
      ...given({ below, worst: settings.worst, steps: settings.rounds }),
      diffusion: { ...quality, ...ofExtra },
    }),
    score: () => ({
      ...given({ model, below }),
      text: wordsOf(settings.text, settings.ids),
      ...(settings.likelihood ? { likelihood: true } : {}),
    }),
  }[mode]();
  const streamed = mode === 'score' ? {} : { stream: true };
  return { path, body: { ...body, ...rest, ...streamed } };
}

/** A text, or the token ids that it lists: a model may have no tokenizer. */
function wordsOf(text, isIds) {
  if (!isIds) return text;
  const ids = text
    .split(/[\s,[\]]+/)
    .filter(Boolean)
    .map(Number);
  if (!ids.length || !ids.every((id) => Number.isInteger(id) && id >= 0)) {
    throw new Error('The text is no list of token ids. Write one, such as [1, 2, 3].');
  }
  return ids;
}

function extraOf(text) {
  if (!text.trim()) return {};
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    // said below
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new Error(
      '“More fields” is no JSON object. Write one, such as {"top_p": 0.9}, or leave it empty.',
    );
  }
  return value;
}
