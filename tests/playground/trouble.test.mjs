// The playground where something goes wrong: keys, full queues, broken connections, hostile texts.

import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import {
  breakable,
  cells,
  choose,
  count,
  ended,
  launch,
  open,
  quit,
  ready,
  run,
  seek,
  serve,
  shot,
} from './support.mjs';

const MODEL = process.env.SUDOKU; // the directory of the built-in model

/** A policy with which a puzzle takes many seconds: it reads a row for each filled cell. */
const SLOW =
  '{"diffusion": {"remasking": {"policy": "exact", "budget": 60}, "proofreading": "off"}}';

/** Room for these rows. */
const WIDE = ['--max-batch-tokens', '8192'];

/** Starts what takes long, and waits for its first events. */
async function startSlow(page, extra = SLOW) {
  await page.click('#settings > summary');
  await page.fill('#extra', extra);
  await page.selectOption('#speed', '0');
  await page.click('#run');
  await page.waitForFunction(() => Number(document.querySelector('#time').max) >= 3);
}

before(launch);
after(quit);

test('a wrong key is told in the server’s words, and the right one is kept as chosen', async () => {
  const server = await serve(['--model-id', 'toy', '--api-key', 'right-key']);
  const { page, close } = await open(server.url);
  assert.match(await page.textContent('#error'), /this server asks for an API key.*status 401/);
  await shot(page, 'no-key');
  await page.fill('#key', 'right-key');
  await page.press('#key', 'Enter');
  await page.waitForSelector('.canvas', { state: 'attached' });
  await page.fill('#key', 'wrong-key');
  await run(page);
  assert.match(await page.textContent('#error'), /invalid_api_key/);
  await shot(page, 'wrong-key');
  await page.fill('#key', 'right-key');
  await run(page);
  assert.ok(!(await page.isVisible('#error')));
  assert.ok((await page.textContent('#result')).length > 10);
  await page.click('#share');
  assert.ok(page.url().includes('#play='));
  const shared = Buffer.from(page.url().split('#play=')[1], 'base64url').toString();
  assert.ok(shared.includes('Once upon a time') && !shared.includes('right-key'), shared);
  await page.click('#code-open');
  for (const language of ['curl', 'python', 'javascript']) {
    await page.check(`input[name="language"][value="${language}"]`, { force: true });
    const code = await page.textContent('#snippet');
    assert.ok(code.includes('REMASK_API_KEY') && !code.includes('right-key'), code);
  }
  await page.click('#code-close');
  // kept in memory only, unless it was chosen to keep it in this tab
  await page.reload();
  await ready(page);
  assert.equal(await page.inputValue('#key'), '');
  assert.match(await page.textContent('#error'), /status 401/);
  await page.fill('#key', 'right-key');
  await page.check('#key-keep');
  await page.waitForSelector('.canvas', { state: 'attached' });
  await page.reload();
  await ready(page);
  assert.equal(await page.inputValue('#key'), 'right-key');
  await run(page);
  assert.ok(!(await page.isVisible('#error')));
  await close(/401/);
  await server.stop();
});

test('a full queue is told with the time to wait, which is counted down', async () => {
  const server = await serve([...WIDE, '--max-concurrent-requests', '1', '--max-queue', '0']);
  const slow = await open(server.url);
  await startSlow(slow.page);
  const { page, close } = await open(server.url);
  await run(page);
  assert.match(await page.textContent('#error'), /status 429 · queue_full/);
  const left = async () => Number(/wait (\d+) s/.exec(await page.textContent('#wait'))?.[1] ?? 0);
  const first = await left();
  assert.ok(first >= 1, await page.textContent('#wait'));
  await shot(page, 'full-queue');
  await page.waitForFunction(
    (was) => !document.querySelector('#wait').textContent.includes(`${was} s`),
    first,
  );
  assert.ok((await left()) < first);
  // cancelled on the server, whose place is free at once
  await slow.page.click('#cancel');
  await ended(slow.page);
  assert.match(await slow.page.textContent('#error'), /^Cancelled/);
  await slow.close();
  await page.getByRole('button', { name: 'Try again' }).click();
  await ended(page);
  assert.match(await page.textContent('.verdict'), /^✓/);
  await close(/429/);
  await server.stop();
});

test('a stream whose connection breaks is read on without a gap', async () => {
  const server = await serve(WIDE);
  const between = await breakable(server.port);
  const { page, close } = await open(between.url);
  await startSlow(page);
  between.cut();
  await page.waitForFunction(() =>
    document.querySelector('#error').textContent.includes('connection broke'),
  );
  const before = Number(await page.getAttribute('#time', 'max'));
  await page.waitForFunction((was) => Number(document.querySelector('#time').max) > was, before);
  await page.click('#cancel');
  await ended(page);
  const length = Number(await page.getAttribute('#time', 'max'));
  await seek(page, length);
  // a gap would show here: the blanks on the canvas are those that the last event tells
  const told = Number(/(\d+) blank\./.exec(await page.textContent('#narration'))?.[1] ?? 0);
  assert.equal((await cells(page)).length, 81);
  assert.equal(await page.locator('.canvas .cell.blank').count(), told);
  await close(/ERR_|404/);
  between.close();
  await server.stop();
});

test('a completion whose connection breaks is told to be lost, and what came is kept', async () => {
  const server = await serve(WIDE);
  const between = await breakable(server.port);
  const { page, close } = await open(between.url);
  await choose(page, 'prompt');
  await startSlow(page, '{"diffusion": {"proofreading": {"steps": 20000, "below": 1}}}');
  between.cut();
  await ended(page);
  assert.match(
    await page.textContent('#error'),
    /The connection broke. Streams of completions cannot be read on/,
  );
  assert.ok(Number(await page.getAttribute('#time', 'max')) >= 3);
  await close(/ERR_/);
  between.close();
  await server.stop();
});

test('a server that is restarted in the middle is told, and what came is kept', async () => {
  const first = await serve(WIDE);
  const { page, close } = await open(first.url);
  await startSlow(page);
  await first.stop();
  const second = await serve(WIDE, first.port);
  await ended(page);
  assert.match(
    await page.textContent('#error'),
    /The connection broke, and the server cannot go on: .*request/,
  );
  assert.ok(Number(await page.getAttribute('#time', 'max')) >= 3);
  await shot(page, 'restarted');
  await page.fill('#extra', '');
  await run(page);
  assert.match(await page.textContent('.verdict'), /^✓/);
  await close(/ERR_|404/);
  await second.stop();
});

test('what is exported can be imported, and what is malformed is refused by its line', async () => {
  const server = await serve(['--model-id', 'toy']);
  const { page, close } = await open(server.url);
  const folder = await mkdtemp(path.join(tmpdir(), 'playground-'));
  for (const [mode, isCompared] of [
    ['infill', true],
    ['prompt', false],
    ['chat', false],
    ['repair', false],
    ['score', false],
  ]) {
    await choose(page, mode);
    if (await page.isVisible('#compare')) await page.setChecked('#compare', isCompared);
    await run(page);
    const lanes = isCompared ? [0, 1] : [0];
    await page.waitForFunction(
      () => document.querySelector('#time').value === document.querySelector('#time').max,
    );
    const shown = await Promise.all(lanes.map((lane) => cells(page, lane)));
    const erased = await count(page, 'erase');
    const titles = await page.locator('.lane-title').allTextContents();
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#export')]);
    const file = path.join(folder, `${mode}.jsonl`);
    await download.saveAs(file);
    await page.reload();
    await ready(page);
    await page.selectOption('#speed', '0');
    await page.setInputFiles('#file', file);
    await page.waitForFunction(
      (length) => document.querySelectorAll('.lane .canvas .cell').length === length,
      shown.flat().length,
    );
    await seek(page, await page.getAttribute('#time', 'max'));
    assert.deepEqual(await Promise.all(lanes.map((lane) => cells(page, lane))), shown, mode);
    assert.equal(await count(page, 'erase'), erased);
    if (isCompared)
      assert.deepEqual(await page.locator('.lane-title').allTextContents(), titles, mode);
    assert.ok(!(await page.isVisible('#error')), await page.textContent('#error'));
  }
  const lines = (await readFile(path.join(folder, 'prompt.jsonl'), 'utf8')).trim().split('\n');
  const start = lines.findIndex((line) => line.includes('canvas_length'));
  for (const [change, message] of [
    [['{'], /^Line 1 .*no JSON object/],
    [['{"edits": [], "step": 0}'], /^Line 1 .*no start came before it/],
    [['{"canvas_length": -1}'], /canvas_length is no number/],
    [['{"canvas_length": 1, "pinned": [{"at": 1, "token": 2}]}'], /outside the canvas/],
    [[...lines.slice(0, start + 2), lines[start + 1]], /filled twice/],
    [
      [lines[start], '{"step": 0, "edits": [{"kind": "erase", "at": 0, "was": 7}]}'],
      /has not the token 7/,
    ],
    [
      [lines[start], '{"step": 0, "edits": [{"kind": "fill", "at": 9999, "token": 7}]}'],
      /outside the canvas/,
    ],
    [[lines[start], '{"object": "infill", "choices": 5}'], /^Line 2 .*no line of a trajectory/],
    [[lines[start], '{"object": "infill", "tokens": [null]}'], /^Line 2 .*lists are malformed/],
    [[lines[start], '{"object": "score", "doubtful": 5}'], /^Line 2 .*lists are malformed/],
    [[''], /no trajectory/],
  ]) {
    const file = path.join(folder, 'malformed.jsonl');
    await writeFile(file, change.join('\n'));
    await page.setInputFiles('#file', file);
    await page.waitForFunction(() => !document.querySelector('#error').hidden);
    assert.match(await page.textContent('#error'), message);
    await page.setInputFiles('#file', path.join(folder, 'prompt.jsonl'));
    await page.waitForFunction(() => document.querySelector('#error').hidden);
  }
  await rm(folder, { recursive: true });
  await close();
  await server.stop();
});

test('a link has all settings', async () => {
  const server = await serve(['--model-id', 'toy']);
  const { page, close } = await open(server.url);
  await choose(page, 'prompt');
  await page.fill('#prompt', 'Ünïcödé 𝄞 & <b>');
  await page.click('#settings > summary');
  await page.fill('#seed', '7');
  await page.check('#compare');
  await page.getByLabel('Remasking').first().selectOption('t2m');
  await page.getByLabel('below', { exact: true }).first().fill('0.2');
  await page.click('#share');
  const link = page.url();
  await close();
  const other = await open(link);
  assert.equal(await other.page.inputValue('#prompt'), 'Ünïcödé 𝄞 & <b>');
  assert.equal(await other.page.inputValue('#seed'), '7');
  const [request] = await Promise.all([
    other.page.waitForRequest('**/v1/completions'),
    run(other.page),
  ]);
  const { diffusion, seed } = request.postDataJSON();
  assert.deepEqual([diffusion.remasking, seed], [{ policy: 't2m', below: 0.2 }, 7]);
  assert.equal(await other.page.locator('.lane').count(), 2);
  await other.close();
  const damaged = await open(`${server.url}/#play=damaged!`);
  assert.equal(await damaged.page.inputValue('#prompt'), 'Once upon a time');
  assert.match(await damaged.page.textContent('#error'), /The link is damaged/);
  const fragment = (settings) =>
    `#play=${Buffer.from(JSON.stringify(settings)).toString('base64url')}`;
  await damaged.page.evaluate((hash) => {
    location.hash = hash;
  }, fragment({ policies: [{ unmasking: 5 }], prompt: 'Taken' }));
  await damaged.page.waitForFunction(() => document.querySelector('#prompt').value === 'Taken');
  assert.match(await damaged.page.textContent('#error'), /The link is damaged/);
  await damaged.page.evaluate((hash) => {
    location.hash = hash;
  }, fragment({ model: 'other', prompt: 'Mine' }));
  await damaged.page.waitForFunction(() => document.querySelector('#prompt').value === 'Mine');
  assert.match(await damaged.page.textContent('#error'), /for the model “other”, which is not/);
  await choose(damaged.page, 'prompt');
  await damaged.page.fill('#prompt', 'x'.repeat(100_000));
  await damaged.page.click('#share');
  assert.match(await damaged.page.textContent('#error'), /too long for a link/);
  await damaged.page.fill('#prompt', 'Once');
  await damaged.page.click('#settings > summary');
  await damaged.page.fill('#extra', '{bad');
  await damaged.page.click('#run');
  assert.doesNotMatch(await damaged.page.textContent('#error'), /null/);
  // of several choices the first is shown
  await damaged.page.fill('#extra', '{"n": 3, "temperature": 1, "stream": false}');
  await run(damaged.page);
  const shown = await damaged.page.textContent('#result');
  assert.equal((await cells(damaged.page)).length, 64);
  assert.ok(shown.length > 0 && shown.length <= 64, shown);
  await damaged.close();
  await server.stop();
});

test('markup is text: in a prompt, and in tokens that a model writes', async () => {
  const markup = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
  const toy = await serve(['--model-id', 'toy']);
  const { page, close } = await open(toy.url);
  const title = await page.title();
  const check = async (shown, place) => {
    assert.equal(await shown.title(), title, place);
    assert.equal(await shown.locator('img, .canvas script, b i').count(), 0, place);
  };
  await page.fill('#template', `${markup}<blank:8>`);
  await run(page);
  assert.ok((await page.textContent('.canvas')).startsWith(markup));
  assert.ok((await page.textContent('#result')).startsWith(markup));
  await page.locator('.cell').nth(3).hover();
  await check(page, 'infill');
  await choose(page, 'chat');
  await page.fill('#message', markup);
  await run(page);
  assert.ok((await page.textContent('#turns')).includes(markup));
  await check(page, 'chat');
  await choose(page, 'prompt');
  await page.click('#settings > summary');
  await page.fill('#extra', '{"nonsense<img src=x>": 1}');
  await run(page);
  assert.match(await page.textContent('#error'), /nonsense<img src=x>/);
  await check(page, 'error');
  await close(/400/);
  await toy.stop();

  // a model one of whose tokens is markup
  const folder = await mkdtemp(path.join(tmpdir(), 'markup-'));
  await cp(MODEL, folder, { recursive: true });
  const tokenizer = path.join(folder, 'tokenizer.json');
  const text = await readFile(tokenizer, 'utf8');
  await writeFile(tokenizer, text.replace('"7": 7', `${JSON.stringify(markup)}: 7`));
  const server = await serve(['--model-id', folder]);
  const hostile = await open(server.url);
  await hostile.page.click('#template-box > summary');
  await hostile.page.fill('#template', '<blank:89>');
  await hostile.page.fill('#blank', '<blank>');
  await hostile.page.click('#settings > summary');
  const few = { steps: 8, remasking: 'off', proofreading: 'off' };
  await hostile.page.fill('#extra', JSON.stringify({ diffusion: few }));
  await run(hostile.page);
  assert.ok((await cells(hostile.page)).includes(markup));
  await hostile.page.locator('.cell', { hasText: '<img' }).first().hover();
  assert.ok((await hostile.page.textContent('#cell')).includes(markup));
  await check(hostile.page, 'a model’s token');
  await hostile.close();
  await server.stop();
  await rm(folder, { recursive: true });
});
