// What the tests share: a server, a browser with a page that is watched, and a breakable connection.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { chromium } from 'playwright-core';

const { REMASK, CHROMIUM, SHOTS } = process.env;
/** How long a test waits for something on the page, in ms. */
export const PATIENCE = 60_000;

/** Starts a server on a free port, or on `port`. `stop` kills it at once. */
export async function serve(flags = [], port = 0) {
  const child = spawn(REMASK, ['serve', '--port', String(port), ...flags], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  const url = await new Promise((resolve, reject) => {
    child.stderr.on('data', (data) => {
      log += data;
      const address = /^serving .* on (http:\S+)$/m.exec(log);
      if (address) resolve(address[1]);
    });
    child.on('exit', () => reject(new Error(`the server ended: ${log}`)));
  });
  const stop = () =>
    new Promise((resolve) => {
      if (child.exitCode !== null || child.signalCode !== null) return resolve();
      child.once('exit', resolve);
      child.kill('SIGKILL');
      return null;
    });
  return { url, port: Number(new URL(url).port), stop };
}

/** A connection to `port` in between, which can be cut. */
export async function breakable(port) {
  const open = new Set();
  const server = net.createServer((near) => {
    const far = net.connect(port, '127.0.0.1');
    for (const [one, other] of [
      [near, far],
      [far, near],
    ]) {
      open.add(one);
      one.on('error', () => other.destroy());
      one.on('close', () => {
        open.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  });
  await new Promise((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const cut = () => {
    for (const socket of open) socket.destroy();
  };
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut,
    close: () => {
      cut();
      server.close();
    },
  };
}

let browser = null;

export async function launch() {
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
}

export async function quit() {
  await browser.close();
}

/**
 * Opens the page of a server. `faults` collects what must not happen: errors on the console, and
 * requests to other hosts. Errors that a test provokes match `expected`.
 */
export async function open(
  url,
  { width = 1280, height = 900, scheme = 'light', motion = 'no-preference' } = {},
) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: scheme,
    reducedMotion: motion,
    acceptDownloads: true,
  });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const faults = [];
  const host = new URL(url).host;
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) faults.push(message.text());
  });
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('request', (request) => {
    const address = new URL(request.url());
    if (/^https?:$/.test(address.protocol) && address.host !== host)
      faults.push(`asked ${request.url()}`);
  });
  await page.goto(url);
  await ready(page);
  return {
    page,
    async close(expected = null) {
      const unexpected = faults.filter((fault) => expected === null || !expected.test(fault));
      assert.deepEqual(unexpected, []);
      await context.close();
    },
  };
}

/** Waits until the page knows its model, or says why it does not. */
export const ready = (page) =>
  page.waitForFunction(
    () => document.querySelector('.canvas') || !document.querySelector('#error').hidden,
  );

/** Chooses a mode. */
export const choose = (page, mode) =>
  page.check(`input[name="mode"][value="${mode}"]`, { force: true });

/** Waits until the request has ended. */
export const ended = (page) => page.waitForFunction(() => !document.querySelector('#run').disabled);

/** Sends the request, and waits for its end. */
export async function run(page, speed = '0') {
  await page.selectOption('#speed', speed);
  await page.click('#run');
  await ended(page);
}

/** Moves the slider as a hand would. */
export const seek = (page, t) => page.locator('#time').fill(String(t));

/** A counter of a lane. */
export const count = async (page, kind, lane = 0) =>
  Number(await page.locator('.lane').nth(lane).locator(`.count.${kind} dd`).textContent());

/** The texts of the cells of a lane. */
export const cells = (page, lane = 0) =>
  page.locator('.lane').nth(lane).locator('.canvas .cell').allTextContents();

export async function shot(page, name) {
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: path.join(SHOTS, `${name}.png`), fullPage: true });
}
