// The models of the server: facts about each, and the choice between several.

import { byId, el, setText, show } from './dom.js';

/** Whether a model is the built-in one for Sudoku, also under another name. */
export const isSudoku = ({ diffusion, max_model_len }) =>
  diffusion.vocabulary === 11 && max_model_len === 89;

/** What a model is, in one line. */
function facts({ id, diffusion }) {
  const { family, parameters, has_quality_head: hasHead, device } = diffusion;
  const compact = new Intl.NumberFormat('en', { notation: 'compact' });
  const size = parameters ? `, ${compact.format(parameters)} parameters` : '';
  return [id, family + size, `${hasHead ? 'with' : 'without'} a quality head`, device].join(' · ');
}

/** Why a model refuses a mode, whose requests go to `path`; null if it does not. */
export const refusalOf = ({ diffusion }, path) => diffusion.refused[`/${path}`] ?? null;

/** What a rule of a model does, by its name. */
export function helpOf(model, name) {
  const { unmasking, paces, remasking, caches } = model.diffusion.policies;
  return [...remasking, ...unmasking, ...paces, ...caches].find((rule) => rule.name === name)?.help;
}

/** The choice between the models that `/v1/models` lists. It is hidden where there is one. */
export class Models {
  constructor(data, onChoose) {
    this.data = data;
    this.select = byId('models');
    this.select.replaceChildren(...data.map(({ id }) => el('option', { value: id }, id)));
    this.select.addEventListener('change', () => onChoose(this.chosen()));
    show(byId('models-box'), data.length > 1);
  }

  /** Chooses the model of this name, or else the first. */
  choose(name) {
    this.select.value = (this.data.find(({ id }) => id === name) ?? this.data[0]).id;
    return this.chosen();
  }

  chosen() {
    const model = this.data.find(({ id }) => id === this.select.value);
    setText(byId('model'), facts(model));
    return model;
  }
}
