// The playground in a browser. `.ci/playground` runs it; REMASK is the program, CHROMIUM the
// browser, SHOTS the directory of the screenshots.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { createRequire } from 'node:module';
import { cells, choose, count, launch, open, quit, run, seek, serve, shot } from './support.mjs';

const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What axe finds wrong with the page as it is. */
async function violations(page) {
  await page.evaluate(AXE);
  const { violations: found } = await page.evaluate(() => globalThis.axe.run());
  return found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
}

let sudoku = null;
let toy = null;

before(async () => {
  await launch();
  [sudoku, toy] = await Promise.all([serve(), serve(['--model-id', 'toy'])]);
});

after(async () => {
  await Promise.all([quit(), sudoku?.stop(), toy?.stop()]);
});

describe('a Sudoku', () => {
  test('is solved with erasures, and its history can be replayed', async () => {
    const { page, close } = await open(sudoku.url);
    assert.match(await page.textContent('#model'), /sudoku.*with a quality head/);
    const first = await cells(page);
    assert.equal(first.filter((text) => text === '·').length, 51);
    await shot(page, 'sudoku-before');
    await run(page);
    assert.equal(await count(page, 'erase'), 5);
    assert.match(await page.textContent('.verdict'), /^✓/);
    assert.equal(await page.locator('.corrections li').count(), 5);
    const last = await cells(page);
    assert.ok(last.every((text) => /^[1-9]$/.test(text)));
    await shot(page, 'sudoku-after');

    await seek(page, 0);
    assert.deepEqual(await cells(page), first);
    // every step forward changes just what its event says
    let blanks = 51;
    const length = Number(await page.getAttribute('#time', 'max'));
    for (let t = 1; t <= length; t += 1) {
      await page.click('#forward');
      const [written, erased] = [
        await page.locator('.now-fill').count(),
        await page.locator('.now-erase').count(),
      ];
      blanks += erased - written;
      const shown = await page.locator('.canvas .cell.blank').count();
      assert.equal(shown, blanks, `after event ${t}`);
    }
    assert.deepEqual(await cells(page), last);

    // a correction leads back to its erasure, and the keyboard to the cell
    await page.locator('.corrections button').last().click();
    assert.equal(await page.locator('.now-erase').count(), 1);
    assert.match(
      await page.textContent('#narration'),
      /1 token erased, which it believes with \d+ % only/,
    );
    await shot(page, 'sudoku-erased');
    await page.focus('.canvas');
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('ArrowDown');
    assert.match(await page.textContent('#cell'), /row 2, column 2/);
    await page.locator('.now-erase').hover();
    assert.match(
      await page.textContent('#cell'),
      /erased; it was “\d”.*written, confidence.*erased by .* for its quality of \d+ %/s,
    );
    await page.keyboard.press('.');
    assert.equal(await page.locator('.now-erase').count(), 0);
    await close();
  });

  test('shows that a policy with corrections does better than one without', async () => {
    const { page, close } = await open(sudoku.url);
    await page.selectOption('#puzzle', { label: 'Second thoughts' });
    await page.check('#compare');
    await run(page);
    const verdicts = await page.locator('.verdict').allTextContents();
    assert.match(verdicts[0], /^✓/);
    assert.match(verdicts[1], /^✗/);
    assert.equal(await count(page, 'erase', 1), 0);
    assert.ok((await count(page, 'erase', 0)) > 5);
    assert.match(
      (await page.locator('.lane-title').allTextContents())[1],
      /remasking: off · proofreading: off/,
    );
    await shot(page, 'compare');
    // one slider for both: where the shorter one has ended, it stays
    await seek(page, 1);
    for (const lane of [0, 1]) assert.equal(await count(page, 'steps', lane), 1);
    await close();
  });

  test('is repaired, and each rewrite is accepted or rejected', async () => {
    const { page, close } = await open(sudoku.url);
    await choose(page, 'repair');
    await run(page);
    await page.waitForSelector('#rewrites li');
    assert.equal(await page.locator('#rewrites li').count(), 2);
    const text = () => page.textContent('#result');
    const [given, whole] = [await page.inputValue('#text'), await text()];
    assert.match(await page.textContent('.verdict'), /^✓/);
    await shot(page, 'repair');
    await page.locator('#rewrites li').first().getByText('Reject').click();
    await page.waitForFunction(
      (before) => document.querySelector('#result').textContent !== before,
      whole,
    );
    assert.equal(await text(), `${whole.slice(0, 38)}${given[38]}${whole.slice(39)}`);
    await page.click('#reject-all');
    await page.waitForFunction(
      (before) => document.querySelector('#result').textContent === before,
      given,
    );
    await page.click('#accept-all');
    await page.waitForFunction(
      (before) => document.querySelector('#result').textContent === before,
      whole,
    );
    await close();
  });

  test('is scored', async () => {
    const { page, close } = await open(sudoku.url);
    await choose(page, 'score');
    await run(page);
    assert.match(await page.textContent('.verdict'), /^\d tokens are doubtful\.$/);
    assert.ok((await page.locator('.cell.flagged').count()) >= 2);
    await shot(page, 'score');
    await close();
  });
});

describe('a text', () => {
  test('is the answer of a chat, whose next message follows it', async () => {
    const { page, close } = await open(toy.url);
    await choose(page, 'chat');
    await run(page);
    const answer = await page.textContent('#result');
    assert.match(answer, /judge my vow/);
    assert.ok((await count(page, 'erase')) > 0);
    assert.equal(await page.locator('#turns li').count(), 2);
    await page.fill('#message', 'Another one.');
    await run(page);
    assert.equal(await page.locator('#turns li').count(), 4);
    await shot(page, 'chat');
    await page.click('#new-chat');
    assert.equal(await page.locator('#turns li').count(), 0);
    await close();
  });

  test('of the demo model is repaired as the page gives it', async () => {
    const { page, close } = await open(toy.url);
    await choose(page, 'repair');
    await run(page);
    assert.equal(await page.textContent('#result'), ' sphinx of black quartz, judge my vow; then ');
    await close();
  });

  test('of a given shape shows what the shape gives', async () => {
    const { page, close } = await open(toy.url);
    await choose(page, 'prompt');
    await page.click('#settings > summary');
    const properties = { city: { type: 'string' }, people: { type: 'integer' } };
    const schema = { type: 'object', properties, required: ['city', 'people'] };
    const format = { type: 'json_schema', json_schema: { name: 'place', schema } };
    await page.fill('#extra', JSON.stringify({ response_format: format }));
    await run(page);
    assert.match((await cells(page)).join(''), /^\{"city":.*"people":.*\}/);
    assert.equal(await page.locator('.canvas .cell.blank').count(), 0);
    assert.ok((await page.locator('.canvas .cell.fixed').count()) > 10);
    await close();
  });

  test('is continued under every policy of the form', async () => {
    const { page, close } = await open(toy.url);
    await choose(page, 'prompt');
    await page.click('#settings > summary');
    const {
      data: [{ diffusion }],
    } = await (await fetch(`${toy.url}/v1/models`)).json();
    const form = page.locator('.policy').first();
    for (const [title, rules] of [
      ['Unmasking: order', diffusion.policies.unmasking],
      ['Unmasking: pace', diffusion.policies.paces],
      ['Remasking', diffusion.policies.remasking],
      ['Cache', diffusion.policies.caches],
    ]) {
      const select = form.getByLabel(title, { exact: true });
      const names = await select
        .locator('option')
        .evaluateAll((all) => all.map((one) => one.value));
      assert.deepEqual(names, ['', ...rules.map(({ name }) => name)]);
      const refused = await select
        .locator('option:disabled')
        .evaluateAll((all) => all.map((one) => one.value));
      assert.deepEqual(refused, title === 'Cache' ? ['prefix', 'dual', 'lock'] : [], title);
      for (const text of await select.locator('option:disabled').allTextContents())
        assert.match(
          text,
          /^\w+: keeps keys and values, which a model of the family "toy" does not$/,
        );
      for (const rule of rules.filter(({ name }) => !refused.includes(name))) {
        await select.selectOption(rule.name);
        const knobs = await form
          .locator('.field', { has: page.getByLabel(title, { exact: true }) })
          .locator('.knob > label')
          .allTextContents();
        assert.deepEqual(
          knobs,
          rule.knobs.map(({ name }) => name),
          `${title} ${rule.name}`,
        );
      }
      await select.selectOption('');
    }
    await form.getByLabel('Unmasking: pace').selectOption('threshold');
    await form.getByLabel('threshold', { exact: true }).fill('0.9');
    await form.getByLabel('Remasking').selectOption('quality');
    await form.getByLabel('budget').fill('3');
    await form.getByLabel('window from').fill('0.25');
    await form.getByLabel('window to').fill('1');
    const [request] = await Promise.all([page.waitForRequest('**/v1/completions'), run(page)]);
    assert.deepEqual(request.postDataJSON().diffusion, {
      return_quality: true,
      stream_edits: true,
      unmasking: { threshold: 0.9 },
      remasking: { policy: 'quality', budget: 3, window: [0.25, 1] },
    });
    assert.ok(!(await page.isVisible('#error')), await page.textContent('#error'));
    await shot(page, 'settings');
    await close();
  });
});

describe('the page', () => {
  for (const scheme of ['light', 'dark']) {
    test(`has no violations that axe finds, in the ${scheme} theme`, async () => {
      const { page, close } = await open(sudoku.url, { scheme, motion: 'reduce' });
      assert.deepEqual(await violations(page), []);
      await page.click('#settings > summary');
      await page.click('#template-box > summary');
      await page.click('#key-open');
      await run(page);
      await page.focus('.canvas');
      await page.keyboard.press('ArrowDown');
      for (const t of [20, 40, 52]) {
        await seek(page, t);
        assert.deepEqual(await violations(page), [], `at ${t}`);
      }
      await shot(page, `all-${scheme}`);
      await choose(page, 'repair');
      await run(page);
      assert.deepEqual(await violations(page), [], 'repair');
      await page.click('#code-open');
      assert.deepEqual(await violations(page), [], 'code');
      await close();
      const text = await open(toy.url, { scheme });
      await run(text.page);
      await seek(text.page, 20);
      assert.deepEqual(await violations(text.page), [], 'text');
      await shot(text.page, `text-${scheme}`);
      await text.close();
    });
  }

  test('chooses its theme by its button, and keeps it', async () => {
    const { page, close } = await open(toy.url, { scheme: 'light' });
    const colour = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await colour();
    await page.click('#theme');
    await page.click('#theme');
    assert.equal(await page.textContent('#theme'), 'Theme: dark');
    const dark = await colour();
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await colour(), dark);
    await close();
  });

  for (const width of [360, 768, 1440]) {
    test(`fits a window of ${width} pixels`, async () => {
      const { page, close } = await open(sudoku.url, { width, height: 800 });
      const fits = async (place) => {
        const [content, window] = await page.evaluate(() => [
          document.documentElement.scrollWidth,
          innerWidth,
        ]);
        assert.ok(content <= window, `${place}: ${content} pixels`);
      };
      await fits('at first');
      await page.check('#compare');
      await page.click('#settings > summary');
      await run(page);
      await fits('comparing');
      await shot(page, `width-${width}`);
      for (const mode of ['prompt', 'chat', 'score', 'repair']) {
        await choose(page, mode);
        await run(page);
        await fits(mode);
      }
      await page.click('#code-open');
      await fits('code');
      await close();
    });
  }
});
