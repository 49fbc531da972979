// The page: from its fields to requests, from streams to lanes. Each part has a file of its own.

import { cancel, getJson, newId } from './api.js';
import { Conversation } from './chat.js';
import { Dialogs } from './dialogs.js';
import { byId, counted, download, el, setText, show } from './dom.js';
import { ErrorBox } from './errors.js';
import { exported, imported } from './files.js';
import { inspect } from './inspector.js';
import { Lane } from './lane.js';
import { Models, helpOf, isSudoku } from './models.js';
import { Player } from './player.js';
import { PolicyForm, titlesOf } from './policies.js';
import { isOfPage, named, offered } from './puzzles.js';
import { requestOf } from './requests.js';
import { Review, markDoubtful } from './review.js';
import { run, score } from './run.js';
import {
  defaults,
  modeOf,
  offerModes,
  readSettings,
  showMode,
  turnsOf,
  writeSettings,
} from './settings.js';
import { legend } from './shade.js';
import { fragmentOf, isLink, settingsOf } from './share.js';
import { isPuzzle } from './sudoku.js';
import { themed } from './theme.js';
import { begin, startWith } from './trajectory.js';

let models = null; // the choice between them
let model = null; // as `/v1/models` lists it
let policies = null; // two forms: A and B
let underWay = []; // ids of the requests that run
let abort = null;
let picked = null; // a lane and a cell of it

const seek = (t) => {
  player.pause();
  player.seek(t);
};
const onPick = (lane, at) => {
  picked = { lane, at };
  inspect(byId('cell'), lane, at, seek);
};
const lanes = ['A', 'B'].map(
  (name) => new Lane({ name, onPick, onSeek: seek, helpOf: (rule) => helpOf(model, rule) }),
);
const player = new Player(onShow);
const errors = new ErrorBox({ again: () => byId('ask').requestSubmit() });
const review = new Review(showText);
const conversation = new Conversation(byId('turns'));

function onShow() {
  const [lane] = player.lanes;
  if (!lane?.state) return;
  setText(
    byId('narration'),
    player.lanes
      .map((one) => (player.lanes.length > 1 ? `${one.name}: ` : '') + one.sentence())
      .join(' '),
  );
  if (picked && player.lanes.includes(picked.lane))
    inspect(byId('cell'), picked.lane, picked.at, seek);
}

function showText(text) {
  setText(byId('result'), text);
  show(byId('result-box'), text !== '');
  byId('result-box').open = !player.lanes[0]?.view.isGrid;
}

/** Puts lanes on the stage, each with a trajectory and a title. */
function stage(trajectories, titles = titlesOf(trajectories)) {
  const used = lanes.slice(0, trajectories.length);
  used.forEach((lane, index) => lane.load(trajectories[index], titles[index]));
  byId('lanes').replaceChildren(...used.map(({ element }) => element));
  byId('lanes').classList.toggle('two', used.length === 2);
  document.querySelector('.show').classList.toggle('wide', used.length === 2);
  byId('corrections').replaceChildren(
    ...used.map(({ list, name }) => {
      const title = used.length > 1 ? el('h4', {}, name) : null;
      return el('div', {}, title, list);
    }),
  );
  picked = null;
  inspect(byId('cell'), used[0], -1, seek);
  review.hide();
  showText('');
  player.load(used);
  return used;
}

/** The first canvas of a puzzle, before anything is asked. */
function preview() {
  const { mode, template, blank } = readSettings();
  if (abort) return;
  const text = template.trim();
  const isShown = mode === 'infill' && blank === '.' && isPuzzle(text);
  const trajectory = begin({ mode, path: '', body: {}, model: '' });
  if (isShown) {
    const pinned = Array.from(text).flatMap((one, at) =>
      one === '.' ? [] : [{ at, token: null, text: one }],
    );
    startWith(trajectory, { canvas_length: text.length, pinned });
  }
  stage([trajectory]);
  setText(
    byId('narration'),
    isShown ? 'Press “Solve”, and watch the blank cells.' : 'The answer will appear here.',
  );
}

const tell = (text) => setText(byId('live'), text);

async function submit(event) {
  event.preventDefault();
  if (abort || !model) return;
  errors.hide();
  const settings = { ...readSettings(), model: model.id, turns: conversation.turns };
  const isCompared = settings.compare && ['infill', 'prompt', 'chat'].includes(settings.mode);
  const chosen = policies.slice(0, isCompared ? 2 : 1).map((form) => form.value());
  const hasHead = model.diffusion.has_quality_head;
  abort = new AbortController();
  busy(true);
  try {
    const requests = chosen.map((policy) => requestOf(settings, policy, { hasHead }));
    const trajectories = requests.map(({ path, body }) => ({
      ...begin({ mode: settings.mode, path, body, model: model.id }),
      prefix: settings.mode === 'prompt' ? settings.prompt : '',
    }));
    const used = stage(trajectories);
    const top = byId('lanes').getBoundingClientRect().top;
    if (top < 0 || top > innerHeight / 2) byId('lanes').scrollIntoView({ block: 'start' });
    tell('Running.');
    if (settings.mode === 'score') await runScore(used[0]);
    else await runAll(used, settings);
  } catch (cause) {
    errors.show(cause);
  } finally {
    abort = null;
    underWay = [];
    busy(false);
    player.grown({ isLive: false });
  }
}

async function runScore(lane, trajectory = lane.trajectory) {
  const id = newId();
  underWay.push(id);
  setText(byId('narration'), 'The model reads the text.');
  await score(trajectory, { id, signal: abort.signal });
  lane.load(trajectory, '');
  markDoubtful(lane);
  const isCancelled = trajectory.end.kind === 'cancelled';
  setText(byId('narration'), isCancelled ? 'Cancelled.' : lane.sentenceOfScore());
  tell(isCancelled ? 'Cancelled.' : lane.verdict.textContent);
}

async function runAll(used, settings) {
  const known = settings.mode === 'repair' ? await readKnown(settings) : [];
  player.grown({ isLive: true });
  player.start();
  const outcomes = await Promise.allSettled(used.map((lane) => runOne(lane, known)));
  player.grown({ isLive: false });
  const failed = outcomes.find(({ status }) => status === 'rejected');
  const [{ trajectory }] = used;
  const { end } = trajectory;
  if (end?.kind === 'done') {
    const counts = used
      .map((lane) => lane.trajectory.end?.answer?.diffusion)
      .filter(Boolean)
      .map(
        ({ steps, erased, replaced }) =>
          `${counted(steps, 'step')}, ${counted(erased + replaced, 'correction')}`,
      );
    tell(`Finished: ${counts.join('; ')}.`);
    if (settings.mode === 'chat') conversation.add(settings.message, end.text);
    if (settings.mode === 'repair') review.open(used[0]);
    else showText(end.text);
  } else if (end?.kind === 'cancelled') {
    tell('Cancelled.');
    errors.note('Cancelled. What came until then can be replayed.');
  }
  if (failed) throw failed.reason;
}

/** The tokens of the text to repair, with their qualities. */
async function readKnown(settings) {
  const { path, body } = requestOf({ ...settings, mode: 'score' }, {}, { hasHead: true });
  const reading = begin({ mode: 'score', path, body, model: model.id });
  await score(reading, { id: newId(), signal: abort.signal });
  return reading.cells;
}

async function runOne(lane, known) {
  const { trajectory } = lane;
  const id = newId();
  underWay.push(id);
  let [drawn, isBroken] = [0, false];
  const onEvent = () => {
    if (isBroken && !trajectory.end) errors.note('The connection broke. The stream was read on.');
    isBroken = false;
    if (trajectory.cells.length !== drawn) {
      drawn = trajectory.cells.length;
      lane.load(trajectory, lane.title.textContent);
    }
    player.grown({ isLive: abort !== null });
  };
  const onBreak = (attempt) => {
    isBroken = true;
    errors.note(`The connection broke. Reading on, attempt ${attempt} …`);
  };
  await run(trajectory, { id, signal: abort.signal, known, onEvent, onBreak });
  player.seek(player.t); // the answer may have qualities
}

function busy(isBusy) {
  byId('run').disabled = isBusy;
  byId('cancel').disabled = !isBusy;
  byId('models').disabled = isBusy;
  byId('puzzle').disabled = isBusy;
  byId('ask').setAttribute('aria-busy', String(isBusy));
}

function stop() {
  for (const id of underWay) cancel(id);
  abort?.abort();
}

/** All settings, for a link. */
function shared() {
  return {
    ...readSettings(),
    model: model.id,
    turns: conversation.turns,
    policies: policies.map((form) => form.value()),
  };
}

function apply(settings) {
  writeSettings(settings);
  if (settings.turns) conversation.set(turnsOf(settings.turns));
  const refused = (settings.policies?.slice?.(0, 2) ?? []).flatMap((policy, index) =>
    policy !== null && typeof policy === 'object' ? policies[index].set(policy) : [],
  );
  if (refused.length) errors.note(`${refused.join(' ')} The default was taken.`);
  changed();
}

/** Follows a change of the mode, or of what is compared. */
function changed() {
  showMode(modeOf());
  named();
  const isCompared = byId('compare').checked;
  show(byId('which'), isCompared);
  const isB = isCompared && document.querySelector('input[name="which"]:checked').value === 'B';
  policies.forEach((form, index) => show(form.element, (index === 1) === isB));
  const isGrid = modeOf() === 'infill' && isPuzzle(byId('template').value);
  const words = {
    repair: 'Repair',
    score: 'Score',
    chat: 'Send',
    infill: isGrid ? 'Solve' : 'Fill in',
  };
  setText(byId('run'), words[modeOf()] ?? 'Continue');
}

async function load() {
  const { data } = await getJson('v1/models');
  models = new Models(data, (chosen) => {
    use(chosen);
    preview();
  });
  follow();
}

/** Takes the settings of the address, if it is a link, and says what is wrong with them. */
function follow() {
  const settings = settingsOf(location.hash);
  use(models.choose(settings?.model ?? model?.id));
  try {
    if (isLink(location.hash)) apply(settings);
    if (typeof settings?.model === 'string' && settings.model !== model.id)
      errors.note(`The link is for the model “${settings.model}”, which is not served here.`);
  } catch {
    errors.note('The link is damaged. The settings that could be read were taken.');
    changed();
  }
  preview();
}

/** Works with a model from now on. Fields that hold the examples of the one before get its own. */
function use(chosen) {
  const before = model && defaults(model);
  const fields = model && readSettings();
  const values = model && policies.map((form) => form.value());
  model = chosen;
  policies = ['A', 'B'].map(() => new PolicyForm(model.diffusion, () => {}));
  byId('policies').replaceChildren(...policies.map(({ element }) => element));
  offerModes(model);
  const own = isSudoku(model);
  show(byId('puzzle-box'), own);
  byId('template-box').open = !own;
  const hasExample = !before || before.template === fields.template || isOfPage(fields.template);
  const isExample = ([name]) => {
    if (['template', 'blank'].includes(name)) return hasExample; // they belong together
    return !before || fields[name] === before[name];
  };
  const examples = Object.fromEntries(Object.entries(defaults(model)).filter(isExample));
  apply(before ? { ...examples, policies: values } : examples);
}

function wire() {
  themed(byId('theme'));
  byId('legend').append(...legend());
  offered(() => {
    changed();
    preview();
  });
  byId('ask').addEventListener('submit', submit);
  byId('cancel').addEventListener('click', stop);
  for (const name of ['mode', 'which']) {
    for (const one of document.querySelectorAll(`input[name="${name}"]`))
      one.addEventListener('change', changed);
  }
  for (const one of document.querySelectorAll('input[name="mode"]'))
    one.addEventListener('change', preview);
  for (const id of ['template', 'blank']) byId(id).addEventListener('change', preview);
  byId('compare').addEventListener('change', changed);
  byId('template').addEventListener('change', changed);
  byId('new-chat').addEventListener('click', () => conversation.set([]));
  new Dialogs({
    request() {
      const settings = { ...readSettings(), model: model.id, turns: conversation.turns };
      const isB =
        byId('compare').checked &&
        document.querySelector('input[name="which"]:checked').value === 'B';
      const policy = policies[isB ? 1 : 0].value();
      return requestOf(settings, policy, { hasHead: model.diffusion.has_quality_head });
    },
    fragment: () => fragmentOf(shared()),
    result: () => byId('result').textContent,
    onError: (cause) => errors.show(cause),
    onKey: loadOnce,
  });
  byId('export').addEventListener('click', () => {
    const full = player.lanes.map(({ trajectory }) => trajectory).filter(({ path }) => path);
    if (!full.length)
      return setText(byId('tool-note'), 'There is nothing to export yet: run something first.');
    return download(`${full[0].model}-${full[0].mode}.jsonl`, exported(full), 'application/jsonl');
  });
  addEventListener('hashchange', () => {
    if (isLink(location.hash) && model && !abort) follow();
  });
  byId('import').addEventListener('click', () => byId('file').click());
  byId('file').addEventListener('change', readFile);
}

async function readFile() {
  const [file] = byId('file').files;
  if (!file || abort) return;
  byId('file').value = '';
  errors.hide();
  try {
    const trajectories = imported(await file.text());
    const used = stage(trajectories, trajectories.length > 1 ? undefined : [file.name]);
    if (trajectories[0].mode === 'score') markDoubtful(used[0]);
    if (trajectories[0].mode === 'repair' && trajectories[0].end?.kind === 'done')
      review.open(used[0]);
    else showText(trajectories[0].end?.text ?? '');
    tell(`Imported: ${trajectories[0].events.length} events.`);
    player.start();
  } catch (cause) {
    errors.show(cause);
  }
}

/** Loads the model if it is not known yet. A server with keys tells it only with a key. */
async function loadOnce() {
  if (model) return;
  errors.hide();
  try {
    await load();
  } catch (cause) {
    setText(byId('model'), 'The server has not told its model.');
    errors.show(cause);
  }
}

wire();
loadOnce();
