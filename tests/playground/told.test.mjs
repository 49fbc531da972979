// What the playground tells of a run: steps and passes, letters, the end, and why tokens are erased.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { cells, choose, count, launch, open, quit, run, seek, serve, shot } from './support.mjs';

let sudoku = null;
let toy = null;

before(async () => {
  await launch();
  [sudoku, toy] = await Promise.all([serve(), serve(['--model-id', 'toy'])]);
});

after(async () => {
  await Promise.all([quit(), sudoku?.stop(), toy?.stop()]);
});

test('steps are counted, and the forward passes that they took', async () => {
  const { page, close } = await open(toy.url);
  await choose(page, 'prompt');
  await run(page);
  const length = Number(await page.getAttribute('#time', 'max'));
  assert.equal(await count(page, 'steps'), length);
  assert.equal(await count(page, 'passes'), length + 1);
  assert.match(
    await page.textContent('#narration'),
    new RegExp(
      `^Step ${length} of at most \\d+: .* Finished in ${length + 1} forward passes: ` +
        'one for each step, and one to judge the finished answer\\.$',
    ),
  );
  await seek(page, 1);
  assert.equal(await count(page, 'steps'), 1);
  assert.equal(await page.textContent('.count.passes dd'), '–');
  await close();
});

test('a letter is drawn once its bytes are there, and so is the end of the answer', async () => {
  const { page, close } = await open(toy.url);
  await page.fill('#template', 'Café 日本<blank:4>');
  const given = page.locator('.canvas .cell');
  await run(page);
  const texts = await cells(page);
  assert.equal(texts.slice(0, 12).join('|'), 'C|a|f|é|| |日|||本||');
  assert.equal(await page.locator('.canvas .cell.joined').count(), 5);
  const box = await given.nth(8).boundingBox(); // a cell without text can be pointed at, too
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  assert.match(await page.textContent('#cell'), /^byte A5 .*a part of “日”/);
  await shot(page, 'letters');
  // as the model writes it: a placeholder until the last byte is there
  await choose(page, 'prompt');
  await page.click('#settings > summary');
  const format = { type: 'json_skeleton', skeleton: { day: '<日|月>' } };
  await page.fill('#extra', JSON.stringify({ response_format: format }));
  await run(page);
  const length = Number(await page.getAttribute('#time', 'max'));
  assert.equal(length, 3);
  for (const [t, shown] of [
    [1, /^\{"day": "[◌·]{3}"/],
    [2, /^\{"day": "[◌·]{3}"/],
    [3, /^\{"day": "\p{Script=Han}"/u],
  ]) {
    await seek(page, t);
    const text = (await cells(page)).join('');
    assert.match(text, shown, `after event ${t}`);
    assert.equal(text.includes('◌'), t < 3);
  }
  await page.fill('#extra', '');
  await page.fill('#prompt', 'Once');
  await run(page);
  const all = await cells(page);
  const end = all.indexOf('∎');
  assert.ok(end > 10 && !all.join('').includes('<|end|>'), all.join(''));
  assert.ok(
    all.slice(end).every((text) => ['∎', '·'].includes(text)),
    all.join(''),
  );
  assert.equal(await page.locator('.cell.behind').count(), all.length - end - 1);
  await page.locator('.cell.behind').first().hover();
  assert.match(await page.textContent('#cell'), /ends the answer/);
  await shot(page, 'end');
  await close();
});

test('the reason of an erasure is a quality, or the policy', async () => {
  const { page, close } = await open(toy.url);
  await page.click('#settings > summary');
  await page.locator('.policy').first().getByLabel('Remasking').selectOption('remdm');
  await run(page);
  await page.locator('.corrections button').last().click();
  assert.match(await page.textContent('.corrections li'), /by the remasking “remdm”/);
  assert.match(await page.textContent('#narration'), /erased by the remasking “remdm”/);
  await page.locator('.now-erase').first().hover();
  const cell = await page.textContent('#cell');
  assert.match(cell, /Erased by the remasking “remdm”\. What that erases: \w/);
  assert.doesNotMatch(cell, /not known/);
  await close();
  const other = await open(sudoku.url);
  await run(other.page);
  await other.page.locator('.corrections button').last().click();
  await other.page.locator('.now-erase').first().hover();
  assert.match(
    await other.page.textContent('#cell'),
    /Quality when erased.*erased by (the remasking “quality”|proofreading) for its quality of \d+ %/,
  );
  await other.close();
});

test('proofreading works as soon as it is switched on', async () => {
  const { page, close } = await open(toy.url);
  await page.click('#settings > summary');
  const form = page.locator('.policy').first();
  await form.getByLabel('Remasking').selectOption('off');
  await form.getByLabel('Proofreading').selectOption('on');
  const [request] = await Promise.all([page.waitForRequest('**/v1/infill'), run(page)]);
  assert.equal(request.postDataJSON().diffusion.proofreading, 'on');
  assert.ok(!(await page.isVisible('#error')), await page.textContent('#error'));
  assert.match(await page.textContent('#narration'), /Finished/);
  await close();
});
