// Takes the pictures of the playground in the README: `.ci/playground pictures`. PICTURES is the
// directory that they go to.

import assert from 'node:assert/strict';
import path from 'node:path';
import { launch, open, quit, run, serve } from './support.mjs';

const picture = (page, name) =>
  page.screenshot({ path: path.join(process.env.PICTURES, `${name}.png`) });

await launch();
const server = await serve();

// a puzzle, at the pass that takes back a digit
const puzzle = await open(server.url, { width: 1120, height: 866, motion: 'reduce' });
await run(puzzle.page);
await puzzle.page.locator('.corrections button').last().click();
assert.equal(await puzzle.page.locator('.now-erase').count(), 1);
await puzzle.page.evaluate(() => document.activeElement.blur());
await picture(puzzle.page, 'puzzle');
await puzzle.close();

// the same puzzle with corrections and without, at the end
const lanes = await open(server.url, { width: 1400, height: 864, scheme: 'dark', motion: 'reduce' });
await lanes.page.selectOption('#puzzle', { label: 'Second thoughts' });
await lanes.page.check('#compare');
await run(lanes.page);
assert.deepEqual(
  (await lanes.page.locator('.verdict').allTextContents()).map((verdict) => verdict[0]),
  ['✓', '✗'],
);
await picture(lanes.page, 'compare');
await lanes.close();

await Promise.all([quit(), server.stop()]);
