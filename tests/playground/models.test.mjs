// The playground of a server with several models.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { choose, launch, open, quit, run, serve, shot } from './support.mjs';

let server = null;

before(async () => {
  await launch();
  server = await serve(['--model-id', 'sudoku', '--model-id', 'toy']);
});

after(async () => {
  await Promise.all([quit(), server?.stop()]);
});

test('each model has its own examples, and a request names the one that is chosen', async () => {
  const { page, close } = await open(server.url);
  const names = await page.locator('#models option').allTextContents();
  assert.deepEqual(names, ['sudoku', 'toy']);
  assert.match(await page.textContent('#model'), /^sudoku · /);
  assert.equal(await page.textContent('#run'), 'Solve');
  await page.selectOption('#models', 'toy');
  assert.match(await page.textContent('#model'), /^toy · /);
  assert.ok(!(await page.isVisible('#puzzle-box')));
  assert.equal(await page.inputValue('#template'), 'Once upon a time<blank:48>');
  await choose(page, 'chat');
  const [request] = await Promise.all([page.waitForRequest('**/v1/chat/completions'), run(page)]);
  assert.equal(request.postDataJSON().model, 'toy');
  assert.match(await page.textContent('#result'), /judge my vow/);
  await shot(page, 'models');
  await close();
});

test('what was written stays when the model changes', async () => {
  const { page, close } = await open(server.url);
  await choose(page, 'prompt');
  await page.fill('#prompt', 'Mine');
  await page.selectOption('#models', 'toy');
  assert.equal(await page.inputValue('#prompt'), 'Mine');
  assert.equal(await page.inputValue('#message'), 'Write a haiku.', 'an example');
  assert.equal(await page.locator('input[name="mode"]:checked').inputValue(), 'prompt');
  // a puzzle of the page is an example; a template of one's own keeps its blank
  await choose(page, 'infill');
  assert.equal(await page.inputValue('#blank'), '<blank>');
  await page.selectOption('#models', 'sudoku');
  await page.selectOption('#puzzle', '1');
  await page.selectOption('#models', 'toy');
  assert.equal(await page.inputValue('#template'), 'Once upon a time<blank:48>');
  await page.fill('#template', 'a_b_');
  await page.fill('#blank', '_');
  await page.selectOption('#models', 'sudoku');
  assert.equal(await page.inputValue('#template'), 'a_b_');
  assert.equal(await page.inputValue('#blank'), '_');
  await page.selectOption('#models', 'toy');
  await choose(page, 'prompt');
  await page.click('#share');
  const link = page.url();
  await close();
  const other = await open(link);
  assert.equal(await other.page.inputValue('#models'), 'toy');
  assert.equal(await other.page.inputValue('#prompt'), 'Mine');
  await other.close();
});

test('what the model refuses cannot be chosen, and has the reason beside it', async () => {
  const { page, close } = await open(server.url);
  await page.click('#settings > summary');
  const remasking = () => page.locator('.policy').first().getByLabel('Remasking');
  const remedi = () => remasking().locator('option[value="remedi"]');
  assert.ok(await remedi().isDisabled());
  assert.match(await remedi().textContent(), /^remedi: needs a model that judges blanks/);
  // the toy does judge blanks: what is chosen there is dropped where it is refused
  await page.selectOption('#models', 'toy');
  assert.ok(!(await remedi().isDisabled()));
  await remasking().selectOption('remedi');
  await page.selectOption('#models', 'sudoku');
  assert.equal(await remasking().inputValue(), '');
  assert.match(
    await page.textContent('#error'),
    /^Remasking “remedi” needs a model that judges blanks.* The default was taken\.$/,
  );
  await run(page);
  assert.match(await page.textContent('.verdict'), /^✓/);
  await close();
});

test('a mode that the model refuses cannot be chosen', async () => {
  const tiny = await serve(['--model-id', process.env.HEADLESS]);
  const { page, close } = await open(tiny.url);
  for (const mode of ['chat', 'repair'])
    assert.ok(await page.isDisabled(`input[name="mode"][value="${mode}"]`), mode);
  assert.match(
    await page.textContent('#mode-note'),
    /^Chat needs a chat template, .* Repair needs a quality head, which this model does not have\.$/,
  );
  await choose(page, 'score');
  assert.ok((await page.isChecked('#likelihood')) && (await page.isDisabled('#likelihood')));
  await page.fill('#text', '1 2 3');
  await page.click('#settings > summary');
  await page.check('#ids');
  await run(page);
  assert.ok(!(await page.isVisible('#error')), await page.textContent('#error'));
  assert.match(await page.textContent('#narration'), /^Each token is shaded by its likelihood/);
  assert.equal(await page.textContent('.verdict'), '');
  assert.equal(await page.locator('.canvas .cell.unknown').count(), 0);
  await shot(page, 'headless');
  await close();
  await tiny.stop();
});

test('a server with one model offers no choice', async () => {
  const alone = await serve(['--model-id', 'toy']);
  const { page, close } = await open(alone.url);
  assert.ok(!(await page.isVisible('#models-box')));
  await close();
  await alone.stop();
});
