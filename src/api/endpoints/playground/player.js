// Time: a slider over the events of all lanes, with play, pause, steps and speed.

import { byId, setText } from './dom.js';

/** A step in which something is corrected is shown so many times longer. */
const DWELL = 5;

export class Player {
  /** `onShow` hears of every time that is shown. */
  constructor(onShow) {
    Object.assign(this, { lanes: [], t: 0, isPlaying: false, isLive: false, onShow, timer: null });
    this.slider = byId('time');
    this.play = byId('play');
    this.speed = byId('speed');
    this.slider.addEventListener('input', () => {
      const to = Number(this.slider.value); // `pause` sets it
      this.pause();
      this.seek(to);
    });
    this.play.addEventListener('click', () => (this.isPlaying ? this.pause() : this.start()));
    const jump = (id, to) =>
      byId(id).addEventListener('click', () => {
        this.pause();
        this.seek(to());
      });
    jump('to-start', () => 0);
    jump('back', () => this.t - 1);
    jump('forward', () => this.t + 1);
    jump('to-end', () => this.length);
    this.speed.addEventListener('change', () => this.schedule());
    document.addEventListener('keydown', (event) => this.onKey(event));
  }

  /** Shows other lanes from their beginning. */
  load(lanes) {
    this.pause();
    this.lanes = lanes;
    this.seek(0);
  }

  get length() {
    return Math.max(0, ...this.lanes.map((lane) => lane.length));
  }

  /** Events came, or the last one did. */
  grown({ isLive }) {
    this.isLive = isLive;
    this.update();
    if (this.isPlaying && this.timer === null) this.schedule();
  }

  seek(t) {
    this.t = Math.max(0, Math.min(t, this.length));
    for (const lane of this.lanes) lane.show(this.t);
    this.update();
    this.onShow();
  }

  start() {
    if (this.t >= this.length && !this.isLive) this.seek(0);
    this.isPlaying = true;
    this.update();
    this.schedule();
  }

  pause() {
    this.isPlaying = false;
    clearTimeout(this.timer);
    this.timer = null;
    this.update();
  }

  /** The time until the next event is shown, in ms; 0 to show all that came. */
  delay() {
    const speed = Number(this.speed.value);
    if (!speed) return 0;
    const hasNews = this.lanes.some((lane) =>
      lane.state?.edits.some((edit) => edit.kind !== 'fill'),
    );
    return (1000 / speed) * (hasNews ? DWELL : 1);
  }

  schedule() {
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.isPlaying) return;
    if (this.t >= this.length) {
      if (!this.isLive) this.pause();
      return; // `grown` goes on
    }
    const delay = this.delay();
    this.timer = setTimeout(() => {
      this.timer = null;
      this.seek(delay ? this.t + 1 : this.length);
      this.schedule();
    }, delay);
  }

  update() {
    this.slider.max = this.length;
    this.slider.value = this.t;
    this.slider.setAttribute('aria-valuetext', `event ${this.t} of ${this.length}`);
    setText(byId('clock'), `${this.t} / ${this.length}`);
    setText(this.play, this.isPlaying ? 'Pause' : 'Play');
    const isEmpty = this.length === 0;
    for (const button of [this.play, ...['to-start', 'back', 'forward', 'to-end'].map(byId)]) {
      button.disabled = isEmpty && !this.isLive;
    }
  }

  /** `,` and `.` step and `p` plays, where no text is being written. */
  onKey(event) {
    const isText =
      /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== 'range';
    if (isText || event.ctrlKey || event.metaKey || event.altKey) return;
    const button = { ',': 'back', '.': 'forward', p: 'play' }[event.key];
    if (button) byId(button).click();
  }
}
